"""Cases 23 to 26 and 28: what topics hold, and what becomes of it under a pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import trio
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions

from tests.broker._facts import PATIENCE, Facts, Log, until
from tests.faults._own import OwnBroker
from trio_broadway_kafka import KafkaFailure, Message, Stages, open_pipeline

TEST_TIMEOUT = 30.0


async def result_of(ask: Callable[[], dict[object, object]]) -> object:
    """The only answer to what an AdminClient is asked."""

    def wait() -> object:
        [future] = ask().values()
        return future.result()  # type: ignore[attr-defined]

    return await trio.to_thread.run_sync(wait)


async def nothing(message: Message) -> None: ...


# Case 23.


def _transactions(facts: Facts) -> None:
    """Aborted and committed ones in turn, with an aborted one at the end."""
    producer = Producer(
        {
            "bootstrap.servers": facts.bootstrap,
            "transactional.id": facts.group,
            "log_level": 0,
        }
    )
    producer.init_transactions(PATIENCE)
    for number in range(7):
        producer.begin_transaction()
        for _ in range(10):
            producer.produce(facts.topic, b"%d" % number, partition=0)
        assert producer.flush(PATIENCE) == 0
        if number % 2:
            producer.commit_transaction(PATIENCE)
        else:
            producer.abort_transaction(PATIENCE)


async def test_a_transactional_topic_that_was_read_to_its_end_shows_lag_0(
    facts: Facts,
) -> None:
    await trio.to_thread.run_sync(_transactions, facts)
    ends = {0: 7 * 11}  # with a control record for each
    with trio.fail_after(PATIENCE):
        # The broker writes the last one after it has answered the producer.
        while await facts.ends() != ends:  # noqa: ASYNC110
            await trio.sleep(0.01)
    values: list[bytes | None] = []

    async def handle(message: Message) -> None:
        values.append(message.value)

    with trio.fail_after(PATIENCE):
        async with open_pipeline(
            kafka=facts.kafka,
            topics=[facts.topic],
            stages=Stages(handle_message=handle),
            commit_interval=0.1,
        ) as pipeline:
            await facts.wait_committed(ends)
            await pipeline.wait_caught_up()
            await until(lambda: [p.lag for p in pipeline.statistics().partitions] == [0])
    assert values == [b"%d" % number for number in (1, 3, 5) for _ in range(10)]
    assert await facts.committed() == ends
    assert await facts.ends() == ends
    facts.tell(
        "23",
        "30 records, 4 transactions aborted and 7 control "
        "records, the last ones of the topic; lag 0, lost 0",
    )


# Case 24.


async def test_what_compaction_leaves_is_handled_and_its_gaps_are_passed(own: Facts) -> None:
    await own.make_topic(
        cleanup_policy="compact",
        segment_ms="50",
        min_cleanable_dirty_ratio="0.001",
        max_compaction_lag_ms="1",
    )
    # Ten keys with 61 values each, of which half are deleted in the end; then others, so that
    # the first segment is closed and may be compacted.
    last = [(0, b"key-%d" % n, b"last" if n % 2 else None) for n in range(10)]
    filler = (0, b"filler", b"x")  # of which one is left, so that there are gaps between
    await own.produce_pairs(
        [(0, b"key-%d" % (n % 10), b"%d" % n) for n in range(600)]
        + [record for one in last for record in (one, filler, filler)]
    )
    left: list[tuple[int, bytes | None, bytes | None]] = []
    with trio.fail_after(PATIENCE):
        while len(left) < 10 or len(left) > 100:
            await trio.sleep(0.1)
            await own.produce_pairs([(0, b"roll", b"x")])
            left = [
                (record.offset() or 0, record.key(), record.value())
                for record in await own.read(own.topic, 1)
            ]
    seen: list[tuple[int, bytes | None, bytes | None]] = []
    may_go_on = trio.Event()

    async def handle(message: Message) -> None:
        if len(seen) == 4:
            await may_go_on.wait()
        seen.append((message.offset, message.key, message.value))

    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=own.kafka,
            topics=[own.topic],
            stages=Stages(handle_message=handle, ordering="partition"),
            commit_interval=0.1,
        ) as pipeline:
            await until(lambda: len(seen) == 4)
            await own.wait_committed({0: seen[-1][0] + 1})  # not the fourth offset
            may_go_on.set()
            await pipeline.wait_caught_up()
            ends = await own.ends()
            await own.wait_committed(ends)
    # It may have been compacted further meanwhile.
    assert set(seen) <= set(left)
    final = {key: (offset, value) for offset, key, value in left}
    assert {(o, k, v) for k, (o, v) in final.items() if k != b"roll"} <= set(seen)
    deleted = {key for _, key, value in seen if value is None}
    assert deleted == {b"key-%d" % n for n in range(0, 10, 2)}, "tombstones are messages"
    own.tell(
        "24",
        f"{len(seen)} records of {ends[0]} left by compaction, "
        f"{len(deleted)} of them tombstones; committed to the end, lost 0",
    )


# Case 25.


async def _out_of_range(facts: Facts) -> None:
    """The group has committed 50, and what lies before 80 is deleted."""
    await facts.make_topic()
    await facts.produce(0, 100)
    offsets = [TopicPartition(facts.topic, 0, 50)]
    await result_of(
        lambda: facts.admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(facts.group, offsets)]
        )
    )
    await result_of(lambda: facts.admin.delete_records([TopicPartition(facts.topic, 0, 80)]))


async def test_offsets_that_are_gone_are_named_and_it_goes_on_with_the_first_that_is_there(
    own: Facts, caplog: pytest.LogCaptureFixture
) -> None:
    await _out_of_range(own)
    log = Log()
    with trio.fail_after(TEST_TIMEOUT), caplog.at_level(logging.WARNING):
        async with open_pipeline(
            kafka=own.kafka,
            topics=[own.topic],
            stages=Stages(handle_message=log.handler(nothing)),
            commit_interval=0.1,
        ):
            await own.wait_committed({0: 100})
    assert log.offsets(0) == list(range(80, 100))
    [line] = [line for line in caplog.messages if "out of range" in line.lower()]
    assert own.topic in line
    assert "50" in line
    own.tell(
        "25", f"20 of 100 records, 80 deleted of which 30 were never committed; told: {line}"
    )


async def test_with_auto_offset_reset_error_offsets_that_are_gone_end_the_pipeline(
    own: Facts,
) -> None:
    await _out_of_range(own)
    with (
        trio.fail_after(TEST_TIMEOUT),
        pytest.RaisesGroup(
            pytest.RaisesExc(
                KafkaFailure,
                match=own.topic,
                check=lambda error: error.code == "_AUTO_OFFSET_RESET",
            )
        ),
    ):
        async with open_pipeline(
            kafka={**own.kafka, "auto.offset.reset": "error"},
            topics=[own.topic],
            stages=Stages(handle_message=nothing),
        ):
            await trio.sleep_forever()
    assert await own.committed() == {0: 50}, "left as it was"
    own.tell("25", "auto.offset.reset=error ends with _AUTO_OFFSET_RESET")


# Case 26.


async def test_a_topic_made_anew_is_read_from_its_beginning_and_so_are_new_partitions(
    own: Facts, own_broker: OwnBroker
) -> None:
    broker, _ = own_broker
    await own.make_topic()
    await own.produce(0, 100)
    log = Log()
    values: list[bytes | None] = []

    async def note(message: Message) -> None:
        values.append(message.value)

    kafka = {**own.kafka, "topic.metadata.refresh.interval.ms": 200}
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=kafka,
            topics=[own.topic],
            stages=Stages(handle_message=log.handler(note)),
            commit_interval=0.1,
        ):
            await own.wait_committed({0: 100})
            await trio.to_thread.run_sync(broker.delete_topic, own.topic)
            await own.make_topic()
            await own.produce_pairs([(0, b"k", b"new-%d" % n) for n in range(30)])
            await until(lambda: b"new-29" in values, within=60)
            await own.wait_committed({0: 30})
            await result_of(lambda: own.admin.create_partitions([NewPartitions(own.topic, 3)]))
            with trio.fail_after(PATIENCE):
                while len(await own.ends(1)) < 1:  # noqa: ASYNC110
                    await trio.sleep(0.1)
            for number in (1, 2):
                await own.produce(number, 20)
            await own.wait_committed({0: 30, 1: 20, 2: 20}, within=60)
    assert values[:100] == [b"0-%d" % n for n in range(100)]
    assert sorted(values[100:130]) == sorted(b"new-%d" % n for n in range(30))
    assert log.offsets(1) == log.offsets(2) == list(range(20))
    own.tell(
        "26",
        f"170 records, topic made anew and 2 partitions added; "
        f"{len(values) - 170} handled again, lost 0",
    )


# Case 28.


async def test_a_record_larger_than_every_bound_is_handled(own: Facts) -> None:
    await own.make_topic()
    large = b"x" * 900_000
    await own.produce_pairs(
        [(0, b"k", large if n in (3, 4, 9) else b"small") for n in range(20)]
    )
    sizes: list[int] = []

    async def handle(message: Message) -> None:
        sizes.append(len(message.value or b""))

    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka={**own.kafka, "max.partition.fetch.bytes": 10_000},
            topics=[own.topic],
            stages=Stages(handle_message=handle),
            max_in_flight_bytes=50_000,
            commit_interval=0.1,
        ):
            await own.wait_committed({0: 20})
    assert sizes == [900_000 if n in (3, 4, 9) else 5 for n in range(20)]
    own.tell("28", "20 records, 3 of them larger than every bound; lost 0")


async def test_an_output_that_is_too_large_ends_the_pipeline_and_nothing_is_committed(
    own: Facts,
) -> None:
    await own.make_topic()
    await own.produce(0, 5)

    async def handle(message: Message) -> None:
        if message.offset == 2:
            message.produce(own.topic, value=b"x" * 3_000_000)

    with (
        trio.fail_after(TEST_TIMEOUT),
        pytest.RaisesGroup(
            pytest.RaisesExc(KafkaFailure, check=lambda e: e.code == "MSG_SIZE_TOO_LARGE")
        ),
    ):
        async with open_pipeline(
            kafka=own.kafka,
            topics=[own.topic],
            stages=Stages(handle_message=handle, ordering="partition"),
        ):
            await trio.sleep_forever()
    assert await own.committed() == {0: 2}
    own.tell(
        "28",
        "an output of 3 MB ends with MSG_SIZE_TOO_LARGE; the offset before it is committed",
    )


async def test_damaged_records_end_the_pipeline_and_nothing_is_committed_past_them(
    own: Facts, own_broker: OwnBroker
) -> None:
    broker, folder = own_broker
    await own.make_topic()
    for value in (b"good-0", b"DAMAGE", b"good-2", b"good-3"):
        await own.produce_pairs([(0, b"k", value)])  # each in a batch of its own
    await trio.to_thread.run_sync(broker.stop)
    [segment] = folder.glob(f"node-1/data/{own.topic}-0/*.log")
    data = segment.read_bytes()
    assert data.count(b"DAMAGE") == 1
    segment.write_bytes(data.replace(b"DAMAGE", b"damage"))
    await trio.to_thread.run_sync(broker.restart)
    values: list[bytes | None] = []

    async def handle(message: Message) -> None:
        values.append(message.value)

    stages = Stages(handle_message=handle, ordering="partition")
    with (
        trio.fail_after(TEST_TIMEOUT),
        pytest.RaisesGroup(
            pytest.RaisesExc(
                KafkaFailure,
                match=rf"{own.topic} \[0\].*offset 1\b.*\(_BAD_MSG\)",
                check=lambda error: error.code == "_BAD_MSG",
            )
        ) as caught,
    ):
        async with open_pipeline(kafka=own.kafka, topics=[own.topic], stages=stages):
            await trio.sleep_forever()
    # What came before it may have been handled by then.
    assert values == [b"good-0"] * len(values)
    assert await own.committed() == ({0: 1} if values else {})
    # As the error says: who decides so goes on behind it.
    offsets = [TopicPartition(own.topic, 0, 2)]
    await result_of(
        lambda: own.admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(own.group, offsets)]
        )
    )
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(kafka=own.kafka, topics=[own.topic], stages=stages):
            await own.wait_committed({0: 4})
    assert values[-2:] == [b"good-2", b"good-3"]
    [error] = caught.value.exceptions
    own.tell("28", f"4 records, 1 damaged on the broker's disk: {error}")
