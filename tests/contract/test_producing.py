"""The contract of `KafkaProducer`: records, and transactions with offsets."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace

import pytest
import trio

from tests.contract._recorder import Member, offset_of, values
from tests.contract._scene import Scene
from trio_broadway_kafka._kafka._producing import KafkaProducer
from trio_broadway_kafka._model._errors import FencedError, KafkaFailure
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._output_record import OutputRecord


class Answers:
    """What was answered, in order."""

    def __init__(self, patience: float) -> None:
        self.of: list[tuple[bytes | None, KafkaFailure | None]] = []
        self._patience = patience
        self._news = trio.lowlevel.ParkingLot()

    def ask(self, producer: KafkaProducer, record: OutputRecord) -> None:
        def answered(failure: KafkaFailure | None) -> None:
            self.of.append((record.value, failure))
            self._news.unpark_all()

        producer.produce(record, answered)

    async def wait(self, count: int) -> list[tuple[bytes | None, KafkaFailure | None]]:
        with trio.fail_after(self._patience):
            while len(self.of) < count:
                await self._news.park()
        return self.of


def record(topic: str, value: bytes | None, **options: object) -> OutputRecord:
    return OutputRecord(topic, value, **options)  # type: ignore[arg-type]


async def owner_and_output(kafka: Scene) -> tuple[Member, str]:
    """A member that owns a partition with three records, and a topic to produce to."""
    member = await kafka.start_owner(1)
    await kafka.produce(0, b"a", b"b", b"c")
    output = f"{kafka.topic}-out"
    await kafka.store.create_topic(output, 1)
    return member, output


# Without transactions.


async def test_a_record_is_delivered_as_it_was_given_and_then_answered(kafka: Scene) -> None:
    member, output = await owner_and_output(kafka)
    producer = await kafka.start_producer(member)
    answers = Answers(kafka.patience)
    headers = [("h", b"1"), ("h", None), ("é", b"")]
    answers.ask(producer, record(output, b"v", key=b"k", headers=headers, partition=0))
    answers.ask(producer, record(output, None, key=b"gone"))
    assert await answers.wait(2) == [(b"v", None), (None, None)]
    first, second = await kafka.store.read(output, 0)
    assert (first.key(), first.value(), first.headers()) == (b"k", b"v", headers)
    assert (second.key(), second.value()) == (b"gone", None)


async def test_records_of_a_partition_keep_the_order_of_the_calls(kafka: Scene) -> None:
    member, output = await owner_and_output(kafka)
    producer = await kafka.start_producer(member)
    answers = Answers(kafka.patience)
    sent = [b"%d" % number for number in range(1_000)]
    for value in sent:
        answers.ask(producer, record(output, value, partition=0))
    assert {failure for _, failure in await answers.wait(1_000)} == {None}
    assert values(await kafka.store.read(output, 0)) == sent


async def test_what_is_asked_for_before_it_runs_is_produced_first(kafka: Scene) -> None:
    member, output = await owner_and_output(kafka)
    answers = Answers(kafka.patience)
    producer = member.client.producer(Output())
    answers.ask(producer, record(output, b"early"))
    async with trio.open_nursery() as nursery:
        await nursery.start(producer.run)
        answers.ask(producer, record(output, b"late"))
        assert await answers.wait(2) == [(b"early", None), (b"late", None)]
        producer.stop()
    assert values(await kafka.store.read(output, 0)) == [b"early", b"late"]


async def test_a_missing_topic_is_waited_for_and_the_order_kept(kafka: Scene) -> None:
    member, _ = await owner_and_output(kafka)
    producer = await kafka.start_producer(member)
    answers = Answers(kafka.patience)
    missing = f"{kafka.topic}-later"
    for value in (b"1", b"2"):
        answers.ask(producer, record(missing, value))
    await trio.sleep(1)
    assert answers.of == []
    await kafka.store.create_topic(missing, 1)
    assert await answers.wait(2) == [(b"1", None), (b"2", None)]
    assert values(await kafka.store.read(missing, 0)) == [b"1", b"2"]


async def test_a_topic_that_stays_missing_is_a_failure_at_the_delivery_timeout(
    kafka: Scene,
) -> None:
    member, _ = await owner_and_output(kafka)
    producer = await kafka.start_producer(member, delivery_timeout=2.0)
    answers = Answers(kafka.patience)
    began_at = trio.current_time()
    answers.ask(producer, record("no-such-topic", b"1"))
    [(_, failure)] = await answers.wait(1)
    assert 1.9 < trio.current_time() - began_at < 3.0 + kafka.slack
    assert failure is not None
    assert "no-such-topic" in str(failure)


async def test_it_has_no_transactions(kafka: Scene) -> None:
    member, _ = await owner_and_output(kafka)
    producer = await kafka.start_producer(member)
    with pytest.raises(RuntimeError, match="without a transactional_id"):
        await producer.transact([], [])


# Transactions.


async def transactional(kafka: Scene, member: Member, name: str | None = None) -> KafkaProducer:
    return await kafka.start_producer(member, transactional_id=name or uuid.uuid4().hex)


async def test_a_transaction_delivers_its_records_and_commits_its_offsets(
    kafka: Scene,
) -> None:
    member, output = await owner_and_output(kafka)
    owned = await member.owns(1)
    producer = await transactional(kafka, member)
    offset = offset_of(owned[kafka.partition(0)], 2, "two are done")
    made = [record(output, b"1", partition=0), record(output, b"2", partition=0)]
    with trio.fail_after(kafka.patience):
        assert await producer.transact(made, [offset]) == [offset]
    assert values(await kafka.store.read(output, 0)) == [b"1", b"2"]
    assert await kafka.committed(0) == 2
    await member.stop()
    second = await kafka.start()
    owned = await second.owns(1)
    assigned = owned[kafka.partition(0)]
    assert (assigned.committed, assigned.metadata) == (2, "two are done")


async def test_one_transaction_follows_another(kafka: Scene) -> None:
    member, output = await owner_and_output(kafka)
    owned = await member.owns(1)
    producer = await transactional(kafka, member)
    with trio.fail_after(kafka.patience):
        for number in (1, 2, 3):
            offset = offset_of(owned[kafka.partition(0)], number)
            assert await producer.transact([record(output, b"%d" % number)], [offset]) == [
                offset
            ]
        # Records alone, and offsets alone.
        assert await producer.transact([record(output, b"4")], []) == []
        offset = offset_of(owned[kafka.partition(0)], 2)
        assert await producer.transact([], [offset]) == [offset]
    assert values(await kafka.store.read(output, 0)) == [b"1", b"2", b"3", b"4"]
    assert await kafka.committed(0) == 2


async def test_a_transaction_that_fails_leaves_nothing_and_the_next_one_works(
    kafka: Scene,
) -> None:
    member, output = await owner_and_output(kafka)
    owned = await member.owns(1)
    name = uuid.uuid4().hex
    producer = await kafka.start_producer(member, transactional_id=name, delivery_timeout=3.0)
    offset = offset_of(owned[kafka.partition(0)], 2)
    made = [record(output, b"1"), record("no-such-topic", b"2")]
    with trio.fail_after(kafka.patience), pytest.raises(KafkaFailure) as caught:
        await producer.transact(made, [offset])
    assert caught.value.retriable, repr(caught.value)
    assert await kafka.committed(0) is None
    assert values(await kafka.store.read(output, 0)) == []
    with trio.fail_after(kafka.patience):
        assert await producer.transact(made[:1], [offset]) == [offset]
    assert values(await kafka.store.read(output, 0)) == [b"1"]
    assert await kafka.committed(0) == 2


async def test_a_transaction_with_an_offset_of_an_ended_epoch_does_not_begin(
    kafka: Scene,
) -> None:
    """The next owner makes the records of that epoch again."""
    member, output = await owner_and_output(kafka)
    owned = await member.owns(1)
    producer = await transactional(kafka, member)
    ended = owned[kafka.partition(0)]
    stale = replace(offset_of(ended, 2), epoch=ended.epoch + 7)
    with trio.fail_after(kafka.patience), pytest.raises(KafkaFailure) as caught:
        await producer.transact([record(output, b"1")], [stale])
    assert (caught.value.code, caught.value.retriable) == ("ILLEGAL_GENERATION", True)
    assert await kafka.committed(0) is None
    assert values(await kafka.store.read(output, 0)) == []


async def test_offsets_are_committed_after_a_rebalance_in_which_the_partition_was_kept(
    kafka: Scene,
) -> None:
    """The group has a new generation, and the assignment goes on."""
    await kafka.create(partitions=2)
    await kafka.produce(0, b"a", b"b", b"c")
    await kafka.produce(1, b"a", b"b", b"c")
    first = await kafka.start()
    owned = await first.owns(2)
    producer = await transactional(kafka, first)
    first.events.release = lambda gone: first.client.release(gone, ())
    second = await kafka.start()
    await second.owns(1)
    [kept] = await first.owns(1)
    offset = offset_of(owned[kept], 2)
    with trio.fail_after(kafka.patience):
        assert await producer.transact([], [offset]) == [offset]
    assert await kafka.committed(kept.partition) == 2


async def test_who_takes_the_transactional_id_fences_who_had_it(kafka: Scene) -> None:
    member, output = await owner_and_output(kafka)
    first = await transactional(kafka, member, kafka.topic)
    with trio.fail_after(kafka.patience):
        await first.transact([record(output, b"1")], [])
        second = await transactional(kafka, member, kafka.topic)
        with pytest.raises(
            FencedError, match=f"transactional_id '{kafka.topic}'.*needs one of"
        ):
            await first.transact([record(output, b"2")], [])
        with pytest.raises(FencedError):
            await first.transact([record(output, b"2")], [])
        await second.transact([record(output, b"3")], [])
    assert values(await kafka.store.read(output, 0)) == [b"1", b"3"]


async def test_a_cancelled_transaction_was_not_made_or_says_that_it_was(
    kafka: Scene,
) -> None:
    """Cancelled at any moment, and made again until it says that it is done: each is there
    once."""
    member, output = await owner_and_output(kafka)
    producer = await transactional(kafka, member)
    rng = random.Random(1)
    with trio.fail_after(kafka.patience):
        for number in range(60):
            is_done = False
            while not is_done:
                with trio.move_on_after(rng.random() * 0.02):
                    await producer.transact([record(output, b"%d" % number)], [])
                    is_done = True
    assert values(await kafka.store.read(output, 0)) == [b"%d" % n for n in range(60)]


async def test_a_transaction_is_all_it_produces_in(kafka: Scene) -> None:
    member, output = await owner_and_output(kafka)
    producer = await transactional(kafka, member)
    with pytest.raises(RuntimeError, match="in transactions only"):
        producer.produce(record(output, b"1"), lambda failure: None)
