"""message.produce: a message is finished when it is acknowledged and its outputs are there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from trio_broadway_kafka import (
    Batch,
    Batcher,
    ConfigError,
    FencedError,
    KafkaFailure,
    Message,
    Output,
    Retry,
    Skip,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka._model import _offset_map
from trio_broadway_kafka._model._offset_map import decode
from trio_broadway_kafka.testing import FakeBroker

Handle = Callable[[Message], Awaitable[None]]


def broker_with(messages: int, *, partitions: int = 1) -> FakeBroker:
    broker = FakeBroker(topics={"t": partitions, "out": 1})
    for index in range(messages):
        broker.produce("t", b"v%d" % index, key=b"k%d" % index, partition=index % partitions)
    return broker


def outputs(broker: FakeBroker, topic: str = "out") -> list[bytes | None]:
    return [record.value() for record in broker.records(topic)]


async def forwards(message: Message) -> None:
    message.produce("out", value=message.value, key=message.key)


def forwarding(handled: list[int]) -> Callable[[Message], Awaitable[None]]:
    """A handler that forwards, and notes what it was given."""

    async def handle(message: Message) -> None:
        handled.append(message.offset)
        await forwards(message)

    return handle


def opened(broker: FakeBroker, stages: Stages, **options: Any) -> Any:
    options = {"commit_interval": 0, **options}
    client = options.pop("client", None) or broker.client()
    return open_pipeline(client=client, topics=["t"], stages=stages, **options)


ALL = pytest.mark.parametrize("ordering", ["key", "partition", "unordered"])


@ALL
async def test_it_is_finished_once_its_outputs_are_delivered(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with(3)
    broker.delay("produce", 5)
    stages = Stages(handle_message=forwards, ordering=ordering)
    async with opened(broker, stages) as pipeline:
        await trio.sleep(4.9)
        figures = pipeline.statistics()
        assert (figures.in_flight, figures.succeeded, figures.busy) == (3, 0, 0)
        assert figures.in_flight_bytes == 3 * 2 + 3 * (2 + 2)  # values; values and keys
        assert broker.committed("t", 0) is None
        await broker.wait_committed("t", 0, 3)
        assert trio.current_time() == pytest.approx(5, abs=0.2)
        assert pipeline.statistics().succeeded == 3
        assert pipeline.statistics().in_flight_bytes == 0
    assert outputs(broker) == [b"v0", b"v1", b"v2"]


async def test_a_record_is_produced_as_it_was_given(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(1)
    broker.create_topic("other", 3)

    async def handle(message: Message) -> None:
        message.produce("other", value=None, key=b"k", headers=[("h", b"1"), ("h", None)])
        message.produce("other", value=b"x", partition=2)

    async with opened(broker, Stages(handle_message=handle)):
        await broker.wait_committed("t", 0, 1)
    first, second = sorted(broker.records("other"), key=lambda record: record.value() or b"")
    assert (first.key(), first.value()) == (b"k", None)
    assert first.headers() == [("h", b"1"), ("h", None)]
    assert (second.partition(), second.key(), second.value()) == (2, None, b"x")


async def test_outputs_of_all_stages_leave_with_the_acknowledgement(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(2)

    async def prepare(messages: list[Message]) -> None:
        for message in messages:
            message.produce("out", value=b"prepared %d" % message.offset)

    async def handle(message: Message) -> None:
        message.produce("out", value=b"handled %d" % message.offset)

    async def handle_batch(batch: Batch) -> None:
        await trio.sleep(5)
        assert outputs(broker) == []
        for message in batch:
            message.produce("out", value=b"batched %d" % message.offset)

    stages = Stages(
        prepare_messages=prepare,
        handle_message=handle,
        batchers={"default": Batcher(handle_batch=handle_batch, size=2)},
    )
    async with opened(broker, stages):
        await broker.wait_committed("t", 0, 2)
    assert outputs(broker) == [
        b"prepared 0",
        b"handled 0",
        b"batched 0",
        b"prepared 1",
        b"handled 1",
        b"batched 1",
    ]


async def test_outputs_of_records_that_go_straight_to_a_batch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(2)

    async def handle_batch(batch: Batch) -> None:
        for message in batch:
            message.produce("out", value=message.value)

    stages = Stages(batchers={"default": Batcher(handle_batch=handle_batch, size=2)})
    async with opened(broker, stages):
        await broker.wait_committed("t", 0, 2)
    assert outputs(broker) == [b"v0", b"v1"]


@pytest.mark.parametrize("stage", ["message", "batch"])
async def test_outputs_of_a_failed_message_are_dropped_and_those_of_handle_failed_leave(
    autojump_clock: trio.testing.MockClock, stage: str
) -> None:
    broker = broker_with(2)

    async def fails(messages: Any) -> None:
        for message in messages:
            message.produce("out", value=b"dropped")
            if message.offset == 0:
                message.fail("as planned")

    async def handle(message: Message) -> None:
        await fails([message])

    async def handle_failed(messages: list[Message]) -> None:
        for message in messages:
            message.produce("out", value=b"failed %d" % message.offset)

    options: dict[str, Any] = {"handle_message": handle}
    if stage == "batch":
        options = {"batchers": {"default": Batcher(handle_batch=fails, size=2)}}
    stages = Stages(handle_failed=handle_failed, on_failure=Skip(), **options)
    async with opened(broker, stages) as pipeline:
        await broker.wait_committed("t", 0, 2)
        assert (pipeline.statistics().skipped, pipeline.statistics().succeeded) == (1, 1)
    # That of the second message has left: it has not failed.
    assert sorted(map(bytes, outputs(broker))) == [b"dropped", b"failed 0"]


@pytest.mark.parametrize("stage", ["message", "batch"])
async def test_an_attempt_starts_without_the_outputs_of_the_failed_one(
    autojump_clock: trio.testing.MockClock, stage: str
) -> None:
    broker = broker_with(1)

    async def handle(message: Message) -> None:
        message.produce("out", value=b"message, attempt %d" % message.attempt)
        if stage == "message" and message.attempt < 3:
            raise LookupError

    async def handle_batch(batch: Batch) -> None:
        for message in batch:
            message.produce("out", value=b"batch, attempt %d" % message.attempt)
            if stage == "batch" and message.attempt < 3:
                message.fail("not yet")

    stages = Stages(
        handle_message=handle,
        batchers={"default": Batcher(handle_batch=handle_batch, size=1)},
        on_failure=Retry(wait_jitter=0),
    )
    async with opened(broker, stages):
        await broker.wait_committed("t", 0, 1)
    last = (3, 1) if stage == "message" else (1, 3)
    assert outputs(broker) == [
        b"message, attempt %d" % last[0],
        b"batch, attempt %d" % last[1],
    ]


async def test_a_delivery_that_fails_for_now_runs_no_handler_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)
    broker.fail_next("produce", "NOT_LEADER_FOR_PARTITION", times=5)
    handled: list[int] = []
    handle = forwarding(handled)

    async with opened(broker, Stages(handle_message=handle)):
        await broker.wait_committed("t", 0, 3)
    assert handled == [0, 1, 2]
    assert outputs(broker) == [b"v0", b"v1", b"v2"]


async def test_a_delivery_that_fails_for_good_ends_the_pipeline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)

    async def handle(message: Message) -> None:
        message.produce("missing" if message.offset == 1 else "out", value=b"x")

    with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match="'missing'")):
        async with opened(
            broker, Stages(handle_message=handle), output=Output(delivery_timeout=7)
        ):
            await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(7, abs=0.2)
    assert broker.committed("t", 0) == 1  # nothing past it


async def test_a_missing_topic_may_be_made_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)

    async def handle(message: Message) -> None:
        message.produce("late", value=message.value)

    async with opened(broker, Stages(handle_message=handle)):
        await trio.sleep(5)
        broker.create_topic("late")
        await broker.wait_committed("t", 0, 3)
    assert outputs(broker, "late") == [b"v0", b"v1", b"v2"]


async def test_a_drain_waits_for_deliveries(autojump_clock: trio.testing.MockClock) -> None:
    broker = broker_with(3)
    broker.delay("produce", 5)
    async with opened(broker, Stages(handle_message=forwards)) as pipeline:
        await trio.sleep(1)
        assert await pipeline.drain() == 0
        assert trio.current_time() == pytest.approx(5, abs=0.2)
    assert broker.committed("t", 0) == 3


async def test_at_the_deadline_of_a_drain_what_is_not_delivered_is_left_unfinished(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)
    broker.delay("produce", 500)
    async with opened(broker, Stages(handle_message=forwards), close_timeout=2) as pipeline:
        await trio.sleep(1)
        assert await pipeline.drain(timeout=3) == 3
    assert broker.committed("t", 0) is None
    assert trio.current_time() <= 1 + 3 + 2 + 0.3


async def test_a_revoke_waits_for_deliveries(autojump_clock: trio.testing.MockClock) -> None:
    broker = broker_with(2)
    broker.delay("produce", 5)
    handled: list[int] = []
    handle = forwarding(handled)

    client = broker.client()
    async with opened(broker, Stages(handle_message=handle), client=client):
        await trio.sleep(1)
        broker.rebalance(client)
        await broker.wait_committed("t", 0, 2)
        await trio.sleep(10)
    assert handled == [0, 1]
    assert outputs(broker) == [b"v0", b"v1"]


async def test_an_exception_lets_leave_what_is_under_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(2)
    broker.delay("produce", 2)
    with pytest.RaisesGroup(LookupError):
        async with opened(broker, Stages(handle_message=forwards)):
            await trio.sleep(1)
            raise LookupError
    assert trio.current_time() == pytest.approx(2, abs=0.2)
    assert broker.committed("t", 0) == 2


async def test_bytes_of_outputs_count_against_the_bound(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(2000)
    broker.delay("produce", 1)
    most = 0

    async def handle(message: Message) -> None:
        nonlocal most
        message.produce("out", value=bytes(1000))
        figures = pipeline.statistics()
        most = max(most, figures.in_flight_bytes)

    async with opened(
        broker,
        Stages(handle_message=handle, ordering="unordered"),
        max_in_flight_bytes=100_000,
    ) as pipeline:
        with trio.fail_after(200):
            await broker.wait_committed("t", 0, 2000)
    # Of two million. The first fetches come before anything is known of the outputs: how many
    # depends on how long handlers go on before others have their turn, which is real time.
    assert most < 600_000


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"topic": b"out", "value": b""}, "takes a topic's name, not bytes"),
        ({"topic": "", "value": b""}, "needs a topic's name"),
        ({"topic": "out", "value": "secret"}, "takes bytes or None as value, not str: encode"),
        ({"topic": "out", "value": b"", "key": 5}, "takes bytes or None as key, not int"),
        ({"topic": "out", "value": b"", "partition": "1"}, "a partition's number, not str"),
        ({"topic": "out", "value": b"", "partition": -1}, "a partition of 0 or more, not -1"),
        ({"topic": "out", "value": b"", "headers": [("h", "secret")]}, "pairs of a name"),
        ({"topic": "out", "value": b"", "headers": {"h": b""}}, "pairs of a name"),
    ],
)
async def test_a_record_that_makes_no_sense_fails_the_handler(
    autojump_clock: trio.testing.MockClock, arguments: dict[str, Any], complaint: str
) -> None:
    broker = broker_with(1)

    async def handle(message: Message) -> None:
        message.produce(arguments["topic"], **rest)

    rest = {name: given for name, given in arguments.items() if name != "topic"}
    mistake = ValueError if complaint.endswith(("name", "not -1")) else TypeError
    if complaint.startswith("pairs"):
        mistake = TypeError
    with pytest.RaisesGroup(mistake) as raised:
        async with opened(broker, Stages(handle_message=handle)):
            await trio.sleep_forever()
    text = str(raised.value.exceptions[0])
    assert complaint in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"transactional_id": ""}, "transactional_id must be a text"),
        ({"transactional_id": 5}, "transactional_id must be a text"),
        ({"transaction_interval": 0}, "transaction_interval must be seconds above 0"),
        ({"delivery_timeout": -1}, "delivery_timeout must be seconds above 0"),
        ({"kafka": "localhost"}, "kafka must be a dict"),
    ],
)
def test_a_wrong_output_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Output(**options)


def test_an_output_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"output must be an Output\(...\), not str"):
        opened(broker_with(0), Stages(handle_message=forwards), output="out")


# Transactions

EXACTLY_ONCE = Output(transactional_id="one", transaction_interval=1)


async def test_outputs_and_offsets_are_committed_together(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)
    async with opened(broker, Stages(handle_message=forwards), output=EXACTLY_ONCE):
        await trio.sleep(0.9)
        assert (outputs(broker), broker.committed("t", 0)) == ([], None)
        await broker.wait_committed("t", 0, 3)
        assert trio.current_time() == pytest.approx(1, abs=0.2)
        assert outputs(broker) == [b"v0", b"v1", b"v2"]


@pytest.mark.parametrize("ordering", ["key", "unordered"])
async def test_what_is_finished_behind_an_unfinished_message_leaves_with_the_map(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with(4)
    handled: list[int] = []
    may_go_on = False

    async def handle(message: Message) -> None:
        handled.append(message.offset)
        if message.offset == 1 and not may_go_on:
            await trio.sleep_forever()
        await forwards(message)

    stages = Stages(handle_message=handle, ordering=ordering)
    options = {"output": EXACTLY_ONCE, "drain_timeout": 0}
    async with opened(broker, stages, **options):
        await trio.sleep(4)
        assert (outputs(broker), broker.committed("t", 0)) == ([b"v0", b"v2", b"v3"], 1)
    may_go_on = True
    async with opened(broker, stages, **options):
        await broker.wait_committed("t", 0, 4)
    assert handled == [0, 1, 2, 3, 1]
    assert outputs(broker) == [b"v0", b"v2", b"v3", b"v1"], "each once"


async def test_what_the_map_has_no_room_for_waits(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second message is stuck; outputs of the rest leave as far as it tells of them."""
    broker = FakeBroker(topics={"t": 1, "out": 1})
    count = 4_000
    monkeypatch.setattr(_offset_map, "MAX_LENGTH", 500)
    broker.produce("t", *[b"v"] * count)

    async def handle(message: Message) -> None:
        if message.offset % 2 == 0:
            await trio.sleep_forever()
        message.produce("out", value=b"%d" % message.offset)

    stages = Stages(handle_message=handle, ordering="unordered", concurrency=count)
    options = {"output": EXACTLY_ONCE, "drain_timeout": 0, "max_in_flight": count}
    async with opened(broker, stages, **options):
        await trio.sleep(4)
        sent = len(outputs(broker))
    assert 1_300 < sent < 1_500
    assert len(outputs(broker)) == sent
    text = broker.commits[-1].metadata
    told = decode(text, 0, text.split(":")[1])
    assert [b"%d" % offset for offset, _ in told] == outputs(broker)
    assert [behind - offset for offset, behind in told] == [1] * sent


async def test_what_was_told_of_is_not_taken_back_when_the_map_overflows_later(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block is unfinished, and what lies behind it is told of in one run. Then every second
    message of the block finishes: there is no room for them and for what was told before."""
    monkeypatch.setattr(_offset_map, "MAX_LENGTH", 300)  # bits for 1,400 offsets
    broker = FakeBroker(topics={"t": 1, "out": 1})
    block, count = 2_000, 3_000
    broker.produce("t", *[b"v"] * count)
    may_go_on = trio.Event()
    is_stuck = True

    async def handle(message: Message) -> None:
        if message.offset < block and is_stuck:
            await may_go_on.wait()
            if message.offset % 2 == 0:
                await trio.sleep_forever()
        message.produce("out", value=b"%d" % message.offset)

    stages = Stages(handle_message=handle, ordering="unordered", concurrency=count)
    options = {"output": EXACTLY_ONCE, "drain_timeout": 0, "max_in_flight": count}
    async with opened(broker, stages, **options):
        await trio.sleep(4)
        assert len(outputs(broker)) == count - block
        may_go_on.set()
        await trio.sleep(4)
    is_stuck = False
    async with opened(broker, stages, **options):
        await broker.wait_committed("t", 0, count)
    found = outputs(broker)
    assert sorted(found, key=lambda value: int(value or b"")) == [
        b"%d" % offset for offset in range(count)
    ], "each once"


async def test_a_revoke_does_not_wait_for_a_transaction_beyond_its_deadline(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What was in it is the next owner's to make again."""
    broker = broker_with(3)
    client = broker.client()
    output = Output(transactional_id="one", transaction_interval=1000)
    options = {"output": output, "revoke_timeout": 5}
    async with opened(broker, Stages(handle_message=forwards), client=client, **options):
        await trio.sleep(1)
        broker.delay("transaction", 30)
        broker.rebalance(client)
        await trio.sleep(6.5)
        assert (outputs(broker), broker.committed("t", 0)) == ([], None)
        assert any("no transaction could be committed" in line for line in caplog.messages)
        broker.delay("transaction", 0)
        await trio.sleep(5)
    assert sorted(outputs(broker)) == [b"v0", b"v1", b"v2"]  # type: ignore[type-var]


async def test_a_transaction_that_is_committed_late_is_not_made_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """An outage is longer than the 30 s that a commit waits."""
    broker = broker_with(3)
    handled: list[int] = []
    handle = forwarding(handled)

    broker.delay("end_transaction", 45)
    async with opened(broker, Stages(handle_message=handle), output=EXACTLY_ONCE) as pipeline:
        await broker.wait_committed("t", 0, 3)
        assert trio.current_time() == pytest.approx(46, abs=0.3), "the first interval, and 45"
        broker.delay("end_transaction", 0)
        broker.produce("t", b"v3")
        await broker.wait_committed("t", 0, 4)
        await trio.sleep(2)
        assert pipeline.statistics().in_flight == 0
    assert handled == [0, 1, 2, 3]
    assert outputs(broker) == [b"v0", b"v1", b"v2", b"v3"]
    assert [commit.offset for commit in broker.commits] == [3, 4]


async def test_a_transaction_that_is_aborted_late_is_made_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)
    broker.delay("end_transaction", 45)
    broker.fail_next("end_transaction", "NOT_COORDINATOR")
    async with opened(broker, Stages(handle_message=forwards), output=EXACTLY_ONCE):
        await trio.sleep(40)
        broker.delay("end_transaction", 0)
        await broker.wait_committed("t", 0, 3)
    assert outputs(broker) == [b"v0", b"v1", b"v2"]


async def test_a_transaction_whose_partition_goes_meanwhile_is_committed_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """That of the partition that stays, too."""
    broker = broker_with(20, partitions=2)
    client = broker.client()
    options = {"output": EXACTLY_ONCE, "revoke_timeout": 2}
    broker.delay("end_transaction", 8)
    async with opened(broker, Stages(handle_message=forwards), client=client, **options):
        await trio.sleep(4)  # under way since 1
        broker.rebalance(client)
        await broker.wait_committed("t", 0, 10)
        await broker.wait_committed("t", 1, 10)
        broker.delay("end_transaction", 0)
        await trio.sleep(20)
    assert len(outputs(broker)) == len(set(outputs(broker))) == 20


async def test_after_an_abort_the_same_outputs_go_into_the_next_transaction(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)
    broker.fail_next("transaction", "REBALANCE_IN_PROGRESS", times=3)
    handled: list[int] = []
    handle = forwarding(handled)

    async with opened(broker, Stages(handle_message=handle), output=EXACTLY_ONCE):
        await broker.wait_committed("t", 0, 3)
    assert handled == [0, 1, 2]
    assert outputs(broker) == [b"v0", b"v1", b"v2"]


async def test_leaving_commits_a_last_transaction(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)
    output = Output(transactional_id="one", transaction_interval=1000)
    async with opened(broker, Stages(handle_message=forwards), output=output):
        await trio.sleep(1)
    assert (outputs(broker), broker.committed("t", 0)) == ([b"v0", b"v1", b"v2"], 3)
    assert trio.current_time() == pytest.approx(1, abs=0.3)


async def test_a_revoke_commits_a_transaction_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)
    handled: list[int] = []
    handle = forwarding(handled)

    client = broker.client()
    output = Output(transactional_id="one", transaction_interval=1000)
    async with opened(broker, Stages(handle_message=handle), client=client, output=output):
        await trio.sleep(1)
        broker.rebalance(client)
        await broker.wait_committed("t", 0, 3)
        assert trio.current_time() == pytest.approx(1, abs=0.3)
        await trio.sleep(5)
    assert handled == [0, 1, 2]
    assert outputs(broker) == [b"v0", b"v1", b"v2"]


async def test_outputs_of_a_lost_partition_never_leave(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)
    client = broker.client()
    output = Output(transactional_id="one", transaction_interval=10)
    async with opened(broker, Stages(handle_message=forwards), client=client, output=output):
        await trio.sleep(1)
        broker.lose(client)
        await broker.wait_committed("t", 0, 3)
        await trio.sleep(20)
    assert outputs(broker) == [b"v0", b"v1", b"v2"]  # those of the second assignment


async def test_a_second_process_of_one_transactional_id_fences_the_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(2, partitions=2)
    stages = Stages(handle_message=forwards)
    with pytest.RaisesGroup(
        pytest.RaisesExc(FencedError, match="each process needs one of its own")
    ):
        async with opened(broker, stages, output=EXACTLY_ONCE):
            await broker.wait_committed("t", 0, 1)
            async with opened(broker, stages, output=EXACTLY_ONCE):
                await trio.sleep(3)
                broker.produce("t", b"more", partition=0)
                broker.produce("t", b"more", partition=1)
                await trio.sleep(10)


async def test_a_topic_that_stays_missing_ends_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(1)

    async def handle(message: Message) -> None:
        message.produce("missing", value=b"x")

    output = Output(transactional_id="one", delivery_timeout=5)
    with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match="'missing'")):
        async with opened(broker, Stages(handle_message=handle), output=output):
            await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(5, abs=0.5)
    assert broker.committed("t", 0) is None


async def test_transactions_without_outputs_commit_offsets(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)

    async def handle(message: Message) -> None: ...

    async with opened(broker, Stages(handle_message=handle), output=EXACTLY_ONCE):
        await broker.wait_committed("t", 0, 3)
