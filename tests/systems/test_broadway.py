"""The rows of Broadway: what its users expect, this library does.

A test is named after the row and what it is about; Broadway's own name for it is in its
docstring where ours is another. What a row needs in depth is tested in tests/pipeline.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests._diary import Diary
from trio_broadway_kafka import (
    Batch,
    Batcher,
    Message,
    MessageFailed,
    RateLimit,
    Skip,
    Stages,
    Stop,
    open_pipeline,
)
from trio_broadway_kafka._model._policies import FailurePolicy
from trio_broadway_kafka.testing import FakeBroker, open_test_pipeline

# When what happened: seconds, and what it happened to.
Times = list[tuple[float, Any]]


def broker_with(*values: bytes, partitions: int = 1) -> FakeBroker:
    broker = FakeBroker(topics={"t": partitions})
    for index, value in enumerate(values):
        broker.produce("t", value, partition=index % partitions)
    return broker


def noting(times: Times, seconds: Callable[[Message], float] = lambda message: 0.0) -> Any:
    """A handler that notes when it was called, and takes so long."""

    async def handle(message: Message) -> None:
        times.append((trio.current_time(), message.offset))
        if takes := seconds(message):
            await trio.sleep(takes)

    return handle


def noting_batches(times: Times, seconds: float = 0.0) -> Any:
    async def handle_batch(batch: Batch) -> None:
        times.append((trio.current_time(), [message.data for message in batch]))
        await trio.sleep(seconds)

    return handle_batch


def batched(batcher: Batcher, handle: Any = None) -> Stages:
    return Stages(handle_message=handle, batchers={"default": batcher})


# Processors.


async def test_processors_concurrency_is_16_by_default_whatever_the_partitions(
    autojump_clock: MockClock,
) -> None:
    """Broadway's default is twice the cores. Handlers that wait are not bound to cores, nor
    ours to the number of partitions: it is the same number on every machine."""
    broker = broker_with(*[b"v"] * 40)
    times: Times = []
    stages = Stages(handle_message=noting(times, lambda message: 1.0), ordering="unordered")
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 40)
    seconds = [at for at, _ in times]
    assert seconds == [0.0] * 16 + [1.0] * 16 + [2.0] * 8


async def test_processors_max_demand_a_slow_one_holds_no_messages_but_its_own(
    autojump_clock: MockClock,
) -> None:
    """Broadway hands a processor up to ten at a time, which wait behind a slow one (its
    users set max_demand 1 for that). Ours take one at a time."""
    broker = broker_with(*[b"v"] * 11)
    times: Times = []
    handle = noting(times, lambda message: 100.0 if message.offset == 0 else 1.0)
    stages = Stages(handle_message=handle, ordering="unordered", concurrency=2)
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 11)
    assert times == [(0.0, 0), *((float(offset - 1), offset) for offset in range(1, 11))]


@pytest.mark.parametrize(
    "ordering", ["key", lambda message: message.key], ids=["key", "a function"]
)
async def test_processors_partition_by_keeps_the_order_within_a_key_and_only_there(
    autojump_clock: MockClock, ordering: Any
) -> None:
    """``partition_by`` is `ordering`: the message's key by default, or any function."""
    broker = FakeBroker(topics={"t": 1})
    for key in (b"a", b"a", b"b", b"a", b"b"):
        broker.produce("t", b"v", key=key)
    times: defaultdict[bytes | None, Times] = defaultdict(list)

    async def handle(message: Message) -> None:
        times[message.key].append((trio.current_time(), message.offset))
        await trio.sleep(1)

    stages = Stages(handle_message=handle, ordering=ordering)
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 5)
    assert times == {b"a": [(0.0, 0), (1.0, 1), (2.0, 3)], b"b": [(0.0, 2), (1.0, 4)]}


# Messages.


async def test_messages_have_data_and_metadata_and_data_is_the_handlers(
    autojump_clock: MockClock,
) -> None:
    """``message.metadata`` is the message's own fields here."""
    seen: list[tuple[object, ...]] = []

    async def handle(message: Message) -> None:
        assert message.data == message.value
        message.data = message.data.upper()
        fields = (message.topic, message.partition, message.offset, message.key)
        seen.append((*fields, message.headers, message.timestamp))

    async with open_test_pipeline(stages=Stages(handle_message=handle)) as pipeline:
        (message,), _ = await pipeline.push(b"v", key=b"k", headers=[("h", b"1")], timestamp=7)
    assert seen == [("test", 0, 0, b"k", [("h", b"1")], 7)]
    assert (message.value, message.data) == (b"v", b"V")


async def test_messages_put_batcher_put_batch_key_and_batch_mode_are_assigned(
    autojump_clock: MockClock,
) -> None:
    batches: list[tuple[str, Hashable, str, list[object]]] = []

    async def handle(message: Message) -> None:
        name, _, key = (message.value or b"").decode().partition("-")
        message.batcher, message.batch_key = name, key
        if key == "now":
            message.batch_mode = "flush"

    async def handle_batch(batch: Batch) -> None:
        values = [message.value for message in batch]
        batches.append((batch.batcher, batch.key, batch.trigger, values))

    stages = Stages(
        handle_message=handle,
        ordering="partition",
        batchers={name: Batcher(handle_batch=handle_batch) for name in ("x", "y")},
    )
    async with open_test_pipeline(stages=stages) as pipeline:
        await pipeline.push(b"x-1", b"x-2", b"y-1", b"x-1", b"y-now", batch_mode="bulk")
    assert batches[0] == ("y", "now", "flush", [b"y-now"])
    assert sorted(batches[1:], key=repr) == [
        ("x", "1", "timeout", [b"x-1", b"x-1"]),
        ("x", "2", "timeout", [b"x-2"]),
        ("y", "1", "timeout", [b"y-1"]),
    ]


async def test_messages_failed_with_a_reason_is_a_status_and_configure_ack_a_policy(
    autojump_clock: MockClock,
) -> None:
    """``Message.failed`` is `Message.fail`, the status `Message.failure`. What Broadway's
    ``configure_ack`` says per message, an `on_failure` function does."""
    broker = broker_with(b"good", b"bad", b"worse", b"after")

    async def handle(message: Message) -> None:
        assert message.failure is None
        if message.value != b"good":
            message.fail(f"is {(message.value or b'').decode()}")
            assert isinstance(message.failure, MessageFailed)

    def on_failure(message: Message) -> FailurePolicy:
        return Skip() if str(message.failure) == "is bad" else Stop()

    stages = Stages(handle_message=handle, ordering="partition", on_failure=on_failure)
    with pytest.RaisesGroup(pytest.RaisesExc(MessageFailed, match="is worse")):
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep_forever()
    assert broker.committed("t", 0) == 2


# Batchers.


async def test_batchers_defaults_are_100_messages_1_second_and_one_batch_at_a_time(
    autojump_clock: MockClock,
) -> None:
    times: Times = []

    async def handle_batch(batch: Batch) -> None:
        times.append((trio.current_time(), (batch.trigger, len(batch))))
        await trio.sleep(5)

    broker = broker_with(*[b"v"] * 250)
    stages = batched(Batcher(handle_batch=handle_batch))
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 250)
    assert times == [(0.0, ("size", 100)), (5.0, ("size", 100)), (10.0, ("timeout", 50))]


async def test_batchers_several_by_name_each_with_its_own_size_and_timeout(
    autojump_clock: MockClock,
) -> None:
    times: Times = []

    async def handle(message: Message) -> None:
        message.data = int(message.value or b"")
        message.batcher = "odd" if message.data % 2 else "even"

    stages = Stages(
        handle_message=handle,
        ordering="partition",
        batchers={
            "odd": Batcher(handle_batch=noting_batches(times), size=2, timeout=3),
            "even": Batcher(handle_batch=noting_batches(times), size=100, timeout=2),
        },
    )
    async with open_test_pipeline(stages=stages) as pipeline:
        await pipeline.push(*(b"%d" % n for n in range(1, 6)), batch_mode="bulk")
    assert times == [(0.0, [1, 3]), (2.0, [2, 4]), (3.0, [5])]


async def test_batchers_one_batch_for_each_batch_key(autojump_clock: MockClock) -> None:
    times: Times = []

    async def handle(message: Message) -> None:
        message.batch_key = (message.value or b"")[:1]

    batcher = Batcher(handle_batch=noting_batches(times), size=2)
    stages = Stages(handle_message=handle, ordering="partition", batchers={"default": batcher})
    async with open_test_pipeline(stages=stages) as pipeline:
        await pipeline.push(b"a1", b"b1", b"b2", b"a2", b"a3", batch_mode="bulk")
    assert times == [(0.0, [b"b1", b"b2"]), (0.0, [b"a1", b"a2"]), (1.0, [b"a3"])]


async def test_batchers_a_custom_weight_instead_of_the_number(
    autojump_clock: MockClock,
) -> None:
    """A ``batch_size`` of ``{0, splitter}`` is `size` and `weigh`."""
    times: Times = []
    batcher = Batcher(
        handle_batch=noting_batches(times), size=10, weigh=lambda message: len(message.data)
    )
    async with open_test_pipeline(stages=batched(batcher)) as pipeline:
        await pipeline.push(b"12345", b"67890", b"1234567", b"12345678", batch_mode="bulk")
    assert times == [(0.0, [b"12345", b"67890"]), (0.0, [b"1234567"]), (1.0, [b"12345678"])]


async def test_batchers_timeout_counts_from_the_first_message_and_is_never_extended(
    autojump_clock: MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1}, poll_interval=math.inf)
    times: Times = []
    stages = batched(Batcher(handle_batch=noting_batches(times)))
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        for second in (0.5, 1.0, 1.25):
            await trio.sleep(second - trio.current_time())
            broker.produce("t", b"%g" % second)
        await trio.sleep(5)
    assert times == [(1.5, [b"0.5", b"1", b"1.25"])]


async def test_batchers_flush_takes_the_batch_along_at_once(autojump_clock: MockClock) -> None:
    times: Times = []

    async def handle(message: Message) -> None:
        message.batch_mode = "flush" if message.value == b"now" else "bulk"

    batcher = Batcher(handle_batch=noting_batches(times), timeout=60)
    stages = Stages(handle_message=handle, ordering="partition", batchers={"default": batcher})
    async with open_test_pipeline(stages=stages) as pipeline:
        await pipeline.push(b"a", b"b", b"now", b"c")
    assert times == [(0.0, [b"a", b"b", b"now"]), (60.0, [b"c"])]


async def test_batchers_batch_info_is_batcher_key_size_and_trigger(
    autojump_clock: MockClock,
) -> None:
    info: list[tuple[str, Hashable, int, float, str]] = []

    async def handle(message: Message) -> None:
        message.batch_key = message.key

    async def handle_batch(batch: Batch) -> None:
        info.append((batch.batcher, batch.key, len(batch), batch.weight, batch.trigger))

    stages = Stages(
        handle_message=handle,
        batchers={"default": Batcher(handle_batch=handle_batch, size=2)},
    )
    async with open_test_pipeline(stages=stages) as pipeline:
        await pipeline.push(b"1", b"2", b"3", key=b"k", batch_mode="bulk")
        await pipeline.push(b"4")
    assert info == [
        ("default", b"k", 2, 2, "size"),
        ("default", b"k", 1, 1, "timeout"),
        ("default", None, 1, 1, "flush"),
    ]


async def test_batchers_max_demand_what_waits_for_a_slow_batch_is_bounded(
    autojump_clock: MockClock,
) -> None:
    """Broadway bounds what a batch processor holds by ``max_demand``; here `max_in_flight`
    bounds it for the pipeline, open batches included."""
    broker = broker_with(*[b"v"] * 1000)

    async def handle_batch(batch: Batch) -> None:
        await trio.sleep_forever()

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=batched(Batcher(handle_batch=handle_batch, size=10)),
        max_in_flight=50,
        drain_timeout=0,
    ) as pipeline:
        await trio.sleep(100)
        assert pipeline.statistics().in_flight == 50


async def test_batchers_a_handler_that_raises_fails_its_batch_and_no_other(
    autojump_clock: MockClock,
) -> None:
    async def handle_batch(batch: Batch) -> None:
        if any(message.value == b"bad" for message in batch):
            raise OSError("no space left")

    batcher = Batcher(handle_batch=handle_batch, size=2)
    async with open_test_pipeline(stages=batched(batcher)) as pipeline:
        acks = await pipeline.push(b"1", b"2", b"3", b"bad", b"5", batch_mode="bulk")
    assert [message.value for message in acks.succeeded] == [b"1", b"2", b"5"]
    assert [(m.value, str(m.failure)) for m in acks.failed] == [
        (b"3", "no space left"),
        (b"bad", "no space left"),
    ]


async def test_batchers_single_messages_of_a_batch_can_fail(autojump_clock: MockClock) -> None:
    async def handle_batch(batch: Batch) -> None:
        for message in batch:
            if message.value == b"bad":
                message.fail("alone")

    async with open_test_pipeline(
        stages=batched(Batcher(handle_batch=handle_batch, size=3))
    ) as pipeline:
        acks = await pipeline.push(b"1", b"bad", b"3", batch_mode="bulk")
    assert [message.value for message in acks.succeeded] == [b"1", b"3"]
    assert [(m.value, str(m.failure)) for m in acks.failed] == [(b"bad", "alone")]


# Failures.


async def test_handle_failed_gets_failed_messages_of_both_stages_before_they_are_acknowledged(
    autojump_clock: MockClock,
) -> None:
    broker = broker_with(b"in the processor", b"good", b"in the batch")
    failed: list[tuple[bytes | None, str, int | None]] = []

    async def handle(message: Message) -> None:
        if message.value == b"in the processor":
            raise ValueError("first")

    async def handle_batch(batch: Batch) -> None:
        for message in batch:
            if message.value == b"in the batch":
                message.fail("second")

    async def handle_failed(messages: list[Message]) -> None:
        await trio.sleep(5)  # longer than the commit's interval
        for message in messages:
            committed = broker.committed("t", 0)
            failed.append((message.value, str(message.failure), committed))

    stages = Stages(
        handle_message=handle,
        handle_failed=handle_failed,
        ordering="partition",
        batchers={"default": Batcher(handle_batch=handle_batch)},
        on_failure=Skip(),
    )
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 3)
    assert failed == [(b"in the processor", "first", None), (b"in the batch", "second", 2)]


# Rate limiting.


async def test_rate_limiting_one_limiter_for_the_pipeline_changed_while_it_runs(
    autojump_clock: MockClock,
) -> None:
    """``allowed_messages`` per ``interval`` is a `RateLimit`; ``update_rate_limiting`` is to
    assign another."""
    broker = broker_with(*[b"v"] * 12, partitions=2)
    times: Times = []
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=noting(times), ordering="partition"),
        rate_limit=RateLimit(messages=2, per=10),
    ) as pipeline:
        await trio.sleep(12)
        assert [at for at, _ in times] == [0.0, 0.0, 5.0, 10.0]
        pipeline.rate_limit = RateLimit(messages=1, per=1)
        await trio.sleep(4)
        assert [at for at, _ in times[4:]] == pytest.approx([12.6, 13.6, 14.6, 15.6])
        pipeline.rate_limit = None
        await pipeline.wait_caught_up()
    assert [at for at, _ in times[8:]] == [16.0] * 4


# Shutdown.


async def test_shutdown_stops_taking_finishes_what_is_in_flight_and_flushes_partial_batches(
    autojump_clock: MockClock,
) -> None:
    broker = broker_with(*[b"%d" % n for n in range(50)])
    times: Times = []
    batches: Times = []
    batcher = Batcher(handle_batch=noting_batches(batches), timeout=math.inf)
    stages = Stages(
        handle_message=noting(times, lambda message: 10.0),
        ordering="unordered",
        concurrency=5,
        batchers={"default": batcher},
    )
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await trio.sleep(15)
    assert trio.current_time() == pytest.approx(20.0, abs=0.2)
    assert times == [(0.0, n) for n in range(5)] + [(10.0, n) for n in range(5, 10)]
    ((at, values),) = batches
    assert (at, sorted(values)) == (20.0, [b"%d" % n for n in range(10)])
    assert broker.committed("t", 0) == 10


async def test_shutdown_is_bounded_by_30_seconds_unless_told_otherwise(
    autojump_clock: MockClock,
) -> None:
    """Broadway's ``shutdown`` is `drain_timeout`."""
    broker = broker_with(b"v")
    stages = Stages(handle_message=noting([], lambda message: math.inf))
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await trio.sleep(1)
    assert trio.current_time() == pytest.approx(31.0, abs=0.2)
    assert broker.committed("t", 0) is None


# Testing.


async def double(message: Message) -> None:
    message.data = 2 * int(message.value or b"")


def doubling_batches(triggers: list[tuple[str, int]]) -> Stages:
    async def handle_batch(batch: Batch) -> None:
        triggers.append((batch.trigger, len(batch)))
        for message in batch:
            if message.data > 8:
                message.fail("too much")

    batcher = Batcher(handle_batch=handle_batch, size=3, timeout=2)
    return Stages(handle_message=double, batchers={"default": batcher})


async def test_testing_test_message_is_flushed_at_once_and_acknowledged_by_one_answer(
    autojump_clock: MockClock,
) -> None:
    triggers: list[tuple[str, int]] = []
    async with open_test_pipeline(stages=doubling_batches(triggers)) as pipeline:
        succeeded, failed = await pipeline.push(b"4")
        assert ([message.data for message in succeeded], failed) == ([8], ())
        succeeded, failed = await pipeline.push(b"5")
        assert (succeeded, [str(message.failure) for message in failed]) == ((), ["too much"])
        succeeded, failed = await pipeline.push(b"five")
        assert (succeeded, [type(message.failure) for message in failed]) == ((), [ValueError])
        assert trio.current_time() == 0
    assert triggers == [("flush", 1), ("flush", 1)]


async def test_testing_test_batch_in_bulk_leaves_by_size_or_timeout_one_answer_for_each(
    autojump_clock: MockClock,
) -> None:
    triggers: list[tuple[str, int]] = []
    async with open_test_pipeline(stages=doubling_batches(triggers)) as pipeline:
        acks = await pipeline.push(b"1", b"2", b"3", b"4", b"5", batch_mode="bulk")
        assert trio.current_time() == 2
    assert triggers == [("size", 3), ("timeout", 2)]
    assert [message.data for message in acks.succeeded] == [2, 4, 6, 8]
    assert [message.data for message in acks.failed] == [10]


# Introspection.


async def test_introspection_statistics_tell_what_every_stage_has_and_did(
    autojump_clock: MockClock,
) -> None:
    broker = broker_with(*[b"v"] * 100)
    stages = Stages(
        handle_message=noting([], lambda message: 0.0 if message.offset < 30 else math.inf),
        ordering="unordered",
        concurrency=8,
        batchers={"default": Batcher(handle_batch=noting_batches([]), size=20, timeout=60)},
    )
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, drain_timeout=0
    ) as pipeline:
        await trio.sleep(2)
        now = pipeline.statistics()
    assert (now.received, now.succeeded, now.failed, now.skipped) == (64, 20, 0, 0)
    assert (now.in_flight, now.busy, now.queued) == (44, 8, 26)
    (batcher,) = now.batchers
    assert (batcher.name, batcher.open_batches, batcher.pending) == ("default", 1, 10)
    assert batcher.delivered == 20
    (partition,) = now.partitions
    assert (partition.committed, partition.end, partition.lag) == (20, 100, 80)


async def test_introspection_the_live_rate_limit(autojump_clock: MockClock) -> None:
    """``get_rate_limiting`` is an attribute."""
    async with open_pipeline(
        client=FakeBroker(topics={"t": 1}).client(),
        topics=["t"],
        stages=Stages(),
        rate_limit=RateLimit(messages=5),
    ) as pipeline:
        assert pipeline.rate_limit == RateLimit(messages=5, per=1.0)
        pipeline.rate_limit = None
        assert pipeline.rate_limit is None


async def test_introspection_all_running_or_all_being_shut_down(
    autojump_clock: MockClock,
) -> None:
    """``all_running`` lists what runs. Here an open block is a running pipeline, all of it:
    one task that fails ends the others, the body too, and calls say that it is closed."""
    broker = broker_with(b"good", b"bad", partitions=2)
    cancelled: list[str] = []

    async def handle(message: Message) -> None:
        if message.value == b"bad":
            await trio.sleep(3)
            raise ValueError("bad")
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append("handler")
            raise

    with pytest.RaisesGroup(ValueError):
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
        ) as pipeline:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                cancelled.append("body")
                raise
    assert sorted(cancelled) == ["body", "handler"]
    assert trio.current_time() == pytest.approx(3.0, abs=0.2)
    with pytest.raises(trio.ClosedResourceError):
        await pipeline.drain()


async def test_introspection_push_messages_is_push_of_a_test_pipeline(
    autojump_clock: MockClock,
) -> None:
    """A message that is not in Kafka has no offset to commit, so only a pipeline without
    Kafka takes one; a program that has something to add produces it to the topic."""
    times: Times = []
    stages = Stages(handle_message=noting(times))
    async with open_test_pipeline(stages=stages, topics={"t": 2}) as pipeline:
        await pipeline.push(b"v", b"w", partition=1)
        assert pipeline.statistics().partitions[1].in_flight == 0
    assert times == [(0.0, 0), (0.0, 1)]


async def test_introspection_stop_is_drain_from_any_task(autojump_clock: MockClock) -> None:
    broker = broker_with(*[b"v"] * 10)
    times: Times = []
    stages = Stages(handle_message=noting(times, lambda message: 4.0), ordering="partition")
    async with (
        open_pipeline(client=broker.client(), topics=["t"], stages=stages) as pipeline,
        trio.open_nursery() as nursery,
    ):
        await trio.sleep(1)
        nursery.start_soon(pipeline.drain)
        await pipeline.wait_finished()
        assert trio.current_time() == 4
        await trio.sleep(10)
    assert times == [(0.0, 0)]
    assert broker.committed("t", 0) == 1


# Telemetry, and what there is.


async def test_telemetry_start_stop_and_exception_of_each_stage_with_durations_and_counts(
    autojump_clock: MockClock,
) -> None:
    async def handle_message(message: Message) -> None:
        await trio.sleep(1)
        if message.offset == 1:
            raise ValueError("broken")

    async def handle_batch(batch: Batch) -> None:
        await trio.sleep(0.5)
        batch.messages[0].fail("no")

    broker = FakeBroker(topics={"t": 1}, poll_interval=math.inf)
    broker.produce("t", b"a", b"b", b"c")
    diary = Diary()
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(
            handle_message=handle_message,
            batchers={"default": Batcher(handle_batch=handle_batch, size=2, timeout=10)},
            ordering="partition",
            on_failure=Skip(),
        ),
        instruments=[diary],
        commit_interval=math.inf,
    ):
        await trio.sleep(5)
    assert diary.lines == [
        (0, "opened", ()),  # topology init
        (0, "assigned", ("t/0", 1, None)),
        (0, "received", ("t/0", 3, 3, 0, 2)),
        (1, "processed", ((0, 1, None),)),  # message and processor stop, with the duration
        (2, "processed", ((1, 1, "ValueError"),)),
        (2, "failed", (1, "ValueError", "Skip", "handle_message")),  # message exception
        (3, "processed", ((2, 1, None),)),
        (3.5, "batch", ("default", "size", 2, 0.5, 1)),  # batch processor stop
        (3.5, "failed", (0, "MessageFailed", "Skip", "handle_batch")),
        (5, "committed", ({("t", 0): 3}, 0)),
        (5, "closed", (None, 0)),
    ]


async def test_introspection_topology_tells_stages_and_whether_it_runs(
    autojump_clock: MockClock,
) -> None:
    async with open_test_pipeline(stages=doubling_batches([])) as pipeline:
        topology = pipeline.topology()
        assert (topology.name, topology.topics, topology.state) == ("test", ("test",), "open")
        (stages,) = topology.stages
        assert (stages.handle_message, stages.concurrency, stages.ordering) == (
            "double",
            16,
            "key",
        )
        (batcher,) = stages.batchers
        assert (batcher.name, batcher.size, batcher.timeout) == ("default", 3, 2)
    assert pipeline.topology().state == "closed"


async def test_processors_prepare_messages_gets_the_list_before_any_of_it_is_handled(
    autojump_clock: MockClock,
) -> None:
    lookups: list[list[bytes | None]] = []

    async def prepare(messages: list[Message]) -> None:
        lookups.append([message.value for message in messages])
        for message in messages:
            message.data = len(lookups)

    times: Times = []

    async def handle(message: Message) -> None:
        times.append((message.offset, message.data))

    broker = broker_with(b"a", b"b", b"c")
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(prepare_messages=prepare, handle_message=handle),
    ) as pipeline:
        await pipeline.wait_caught_up()
    assert lookups == [[b"a", b"b", b"c"]]
    assert times == [(0, 1), (1, 1), (2, 1)]
