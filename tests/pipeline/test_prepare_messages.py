"""prepare_messages: what arrived together of one partition, once, before any of it starts."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
import trio.testing

from trio_broadway_kafka import (
    Batch,
    Batcher,
    ConfigError,
    Message,
    Pipeline,
    Skip,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka.testing import FakeBroker

all_orderings = pytest.mark.parametrize(
    "ordering",
    ["unordered", "partition", "key", lambda message: message.data],
    ids=["unordered", "partition", "key", "function"],
)


class Calls:
    """What was called, when, and with what."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.prepared: list[tuple[float, int, list[int]]] = []
        self.handled: list[tuple[float, int, int]] = []
        self.seconds = seconds

    async def prepare(self, messages: list[Message]) -> None:
        offsets = [message.offset for message in messages]
        self.prepared.append((trio.current_time(), messages[0].partition, offsets))
        if self.seconds:
            await trio.sleep(self.seconds)

    async def handle(self, message: Message) -> None:
        self.handled.append((trio.current_time(), message.partition, message.offset))


def _broker(*counts: int) -> FakeBroker:
    broker = FakeBroker(topics={"t": len(counts)})
    for partition, count in enumerate(counts):
        for number in range(count):
            broker.produce("t", b"%d" % number, key=b"%d" % (number % 3), partition=partition)
    return broker


def _open(
    broker: FakeBroker, stages: Stages, **options: Any
) -> AbstractAsyncContextManager[Pipeline]:
    return open_pipeline(client=broker.client(), topics=["t"], stages=stages, **options)


@all_orderings
async def test_it_gets_what_arrived_together_of_a_partition_before_any_of_it_starts(
    ordering: Any, autojump_clock: trio.testing.MockClock
) -> None:
    calls = Calls(seconds=2)
    broker = _broker(3, 2)
    stages = Stages(
        prepare_messages=calls.prepare, handle_message=calls.handle, ordering=ordering
    )
    async with _open(broker, stages) as pipeline:
        await pipeline.wait_caught_up()
        broker.produce("t", b"7", b"8", partition=1)
        await pipeline.wait_caught_up()
    # Those of several partitions side by side.
    assert sorted(calls.prepared[:2]) == [(0.0, 0, [0, 1, 2]), (0.0, 1, [0, 1])]
    assert [(partition, offsets) for _, partition, offsets in calls.prepared[2:]] == [
        (1, [2, 3])
    ]
    assert {at for at, _, offset in calls.handled[:5]} == {2.0}
    assert sorted((partition, offset) for _, partition, offset in calls.handled) == [
        *((0, offset) for offset in range(3)),
        *((1, offset) for offset in range(4)),
    ]


async def test_lists_of_one_partition_are_prepared_one_after_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = Calls(seconds=5)
    broker = _broker(1)
    stages = Stages(prepare_messages=calls.prepare, handle_message=calls.handle)
    async with _open(broker, stages):
        await trio.sleep(1)
        broker.produce("t", b"1", b"2")
        await trio.sleep(1)
        broker.produce("t", b"3")
        await broker.wait_committed("t", 0, 4)
    assert [(at, offsets) for at, _, offsets in calls.prepared] == [
        (0.0, [0]),
        (5.0, [1, 2]),
        (10.0, [3]),
    ]
    assert [(at, offset) for at, _, offset in calls.handled] == [
        (5.0, 0),
        (10.0, 1),
        (10.0, 2),
        (15.0, 3),
    ]


@all_orderings
async def test_the_handler_finds_what_was_made_of_the_message(
    ordering: Any, autojump_clock: trio.testing.MockClock
) -> None:
    seen: list[tuple[Any, ...]] = []

    async def prepare(messages: list[Message]) -> None:
        for message in messages:
            message.data = int(message.value or b"") * 10
            message.batcher = "even" if message.data % 20 == 0 else "odd"
            message.batch_key = message.data

    async def handle(message: Message) -> None:
        seen.append((message.offset, message.data, message.value, message.key))
        message.data += 1

    async def handle_batch(batch: Batch) -> None:
        batches[batch.batcher, batch.key] = [message.data for message in batch]

    batches: dict[tuple[str, object], list[int]] = {}
    batcher = Batcher(handle_batch=handle_batch)
    stages = Stages(
        prepare_messages=prepare,
        handle_message=handle,
        ordering=ordering,
        batchers={"even": batcher, "odd": batcher},
    )
    async with _open(_broker(4), stages) as pipeline:
        await pipeline.wait_caught_up()
    assert sorted(seen) == [(n, n * 10, b"%d" % n, b"%d" % (n % 3)) for n in range(4)]
    assert batches == {
        ("even", 0): [1],
        ("odd", 10): [11],
        ("even", 20): [21],
        ("odd", 30): [31],
    }


async def test_an_ordering_function_sees_what_was_made_of_the_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    order: list[tuple[str, str]] = []

    async def prepare(messages: list[Message]) -> None:
        for message in messages:
            message.data = json.loads(message.value or b"")

    async def handle(message: Message) -> None:
        order.append(("start", message.data["of"]))
        await trio.sleep(1)
        order.append(("end", message.data["of"]))

    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b'{"of": "A"}', b'{"of": "A"}', b'{"of": "B"}')
    stages = Stages(
        prepare_messages=prepare,
        handle_message=handle,
        ordering=lambda message: message.data["of"],
    )
    async with _open(broker, stages) as pipeline:
        await pipeline.wait_caught_up()
    assert sorted(order[:2]) == [("start", "A"), ("start", "B")]
    of_a = [what for what, of in order if of == "A"]
    assert of_a == ["start", "end", "start", "end"]


async def test_it_sees_the_batch_key_too(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[object] = []

    async def prepare(messages: list[Message]) -> None:
        for message in messages:
            message.batch_key = message.offset % 2

    def ordering(message: Message) -> Hashable:
        seen.append(message.batch_key)
        return message.batch_key

    calls = Calls()
    stages = Stages(prepare_messages=prepare, handle_message=calls.handle, ordering=ordering)
    async with _open(_broker(4), stages) as pipeline:
        await pipeline.wait_caught_up()
    assert seen == [0, 1, 0, 1]


@pytest.mark.parametrize("how", ["fails them", "raises"])
async def test_a_message_that_failed_keeps_its_reason_where_no_lane_can_be_found_for_it(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    reasons: list[str] = []
    calls = Calls()

    async def prepare(messages: list[Message]) -> None:
        if how == "raises":
            raise ValueError("no JSON")
        for message in messages:
            message.fail("no JSON")

    async def handle_failed(messages: list[Message]) -> None:
        reasons.extend(str(message.failure) for message in messages)

    stages = Stages(
        prepare_messages=prepare,
        handle_message=calls.handle,
        handle_failed=handle_failed,
        ordering=lambda message: message.data["of"],
        on_failure=Skip(),
    )
    async with _open(_broker(3), stages) as pipeline:
        await pipeline.wait_caught_up()
    assert reasons == ["no JSON"] * 3
    assert calls.handled == []


async def test_without_a_handler_they_go_to_the_batcher_in_their_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    batches: list[list[Any]] = []

    async def prepare(messages: list[Message]) -> None:
        for message in messages:
            message.data = -message.offset

    async def handle_batch(batch: Batch) -> None:
        batches.append([message.data for message in batch])
        assert batch.raw_values() == [b"%d" % -message.data for message in batch]

    batcher = Batcher(handle_batch=handle_batch, size=50)
    stages = Stages(prepare_messages=prepare, batchers={"default": batcher})
    async with _open(_broker(200), stages) as pipeline:
        await pipeline.wait_caught_up()
    assert batches == [[-n for n in range(first, first + 50)] for first in range(0, 200, 50)]


async def test_alone_it_is_all_that_is_done(autojump_clock: trio.testing.MockClock) -> None:
    calls = Calls(seconds=1)
    broker = _broker(10)
    async with _open(broker, Stages(prepare_messages=calls.prepare), commit_interval=0):
        await trio.sleep(0.9)
        assert broker.commits == []
        await broker.wait_committed("t", 0, 10)
    assert calls.prepared == [(0.0, 0, [*range(10)])]


@all_orderings
async def test_a_message_that_it_fails_is_not_handled_and_settled_by_the_policy(
    ordering: Any, autojump_clock: trio.testing.MockClock
) -> None:
    handled: list[int] = []
    failed: list[tuple[int, str]] = []

    async def prepare(messages: list[Message]) -> None:
        for message in messages:
            if message.offset % 2:
                message.fail("odd")

    async def handle(message: Message) -> None:
        handled.append(message.offset)

    async def handle_failed(messages: list[Message]) -> None:
        failed.extend((message.offset, str(message.failure)) for message in messages)

    stages = Stages(
        prepare_messages=prepare,
        handle_message=handle,
        handle_failed=handle_failed,
        ordering=ordering,
        on_failure=Skip(),
    )
    broker = _broker(4)
    async with _open(broker, stages) as pipeline:
        await pipeline.wait_caught_up()
        assert pipeline.statistics().skipped == 2
    assert sorted(handled) == [0, 2]
    assert sorted(failed) == [(1, "odd"), (3, "odd")]
    assert broker.committed("t", 0) == 4


async def test_raising_fails_all_of_them_each_settled_by_the_policy(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = Calls()

    async def prepare(messages: list[Message]) -> None:
        if messages[0].partition == 0:
            raise LookupError("no such table")

    stages = Stages(prepare_messages=prepare, handle_message=calls.handle, on_failure=Skip())
    broker = _broker(3, 2)
    async with _open(broker, stages) as pipeline:
        await pipeline.wait_caught_up()
        statistics = pipeline.statistics()
    assert (statistics.failed, statistics.skipped, statistics.succeeded) == (3, 3, 2)
    assert [offset for _, partition, offset in calls.handled if partition == 0] == []


async def test_what_it_has_failed_keeps_its_reason_when_it_raises_afterwards(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reasons: list[str] = []

    async def prepare(messages: list[Message]) -> None:
        messages[1].fail("odd")
        raise LookupError("no such table")

    async def handle_failed(messages: list[Message]) -> None:
        reasons.extend(str(message.failure) for message in messages)

    stages = Stages(
        prepare_messages=prepare,
        handle_failed=handle_failed,
        ordering="partition",
        on_failure=Skip(),
    )
    async with _open(_broker(3), stages) as pipeline:
        await pipeline.wait_caught_up()
    assert reasons == ["no such table", "odd", "no such table"]


async def test_what_it_does_to_its_list_loses_no_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = Calls()

    async def prepare(messages: list[Message]) -> None:
        messages.clear()

    stages = Stages(prepare_messages=prepare, handle_message=calls.handle, ordering="partition")
    async with _open(_broker(3), stages) as pipeline:
        await pipeline.wait_caught_up()
    assert [offset for _, _, offset in calls.handled] == [0, 1, 2]


async def test_under_stop_its_own_exception_leaves_the_block_and_names_the_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def prepare(messages: list[Message]) -> None:
        raise LookupError("no such table")

    broker = _broker(3)
    with pytest.RaisesGroup(pytest.RaisesExc(LookupError, match="no such table")) as raised:
        async with _open(broker, Stages(prepare_messages=prepare)) as pipeline:
            await pipeline.wait_finished()
    assert raised.value.exceptions[0].__notes__ == ["while handling t/0@0 (attempt 1)"]
    assert broker.committed("t", 0) is None


async def test_a_returned_value_stops_the_pipeline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def prepare(messages: list[Message]) -> list[Message]:
        return messages

    stages = Stages(prepare_messages=prepare, on_failure=Skip())  # type: ignore[arg-type]
    broker = _broker(3)
    with pytest.RaisesGroup(
        pytest.RaisesExc(TypeError, match="prepare_messages returned a list")
    ) as raised:
        async with _open(broker, stages) as pipeline:
            await pipeline.wait_finished()
    assert raised.value.exceptions[0].__notes__ == ["for 3 messages of t/0"]
    assert broker.committed("t", 0) is None


async def test_what_is_being_prepared_has_not_started_and_leaving_drops_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = Calls(seconds=math.inf)
    broker = _broker(5)
    stages = Stages(prepare_messages=calls.prepare, handle_message=calls.handle)
    async with _open(broker, stages) as pipeline:
        await trio.sleep(1)
        statistics = pipeline.statistics()
        assert (statistics.in_flight, statistics.queued, statistics.busy) == (5, 5, 0)
        assert await pipeline.drain() == 0
        assert trio.current_time() == 1
        assert pipeline.statistics().in_flight == 0
    assert calls.handled == []
    assert broker.committed("t", 0) is None


async def test_a_revoke_cancels_it_and_the_next_owner_prepares_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    first, second = Calls(seconds=100), Calls()
    broker = _broker(5)
    one, two = broker.client(), broker.client()
    async with (
        open_pipeline(
            client=one,
            topics=["t"],
            stages=Stages(prepare_messages=first.prepare, handle_message=first.handle),
        ),
        open_pipeline(
            client=two,
            topics=["t"],
            stages=Stages(prepare_messages=second.prepare, handle_message=second.handle),
        ),
    ):
        await trio.sleep(3)
        broker.rebalance(one, to=two)
        await broker.wait_committed("t", 0, 5)
        assert trio.current_time() < 5
    assert first.handled == []
    assert [offset for _, _, offset in second.handled] == [*range(5)]


async def test_a_task_of_it_that_fails_as_a_revoke_cancels_it_counts_for_nothing(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls()

    async def fail_at_the_end() -> None:
        try:
            await trio.sleep(math.inf)
        finally:
            raise OSError("connection closed")

    async def prepare(messages: list[Message]) -> None:
        if trio.current_time() < 1:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_at_the_end)
                await trio.sleep(math.inf)

    broker = _broker(5)
    one = broker.client()
    stages = Stages(prepare_messages=prepare, handle_message=calls.handle, on_failure=Skip())
    async with open_pipeline(client=one, topics=["t"], stages=stages) as pipeline:
        await trio.sleep(1)
        broker.rebalance(one)
        await broker.wait_committed("t", 0, 5)
        assert pipeline.statistics().failed == 0
    assert [offset for _, _, offset in calls.handled] == [*range(5)]
    assert "failed as it was cancelled: OSError" in caplog.text


async def test_one_that_resists_its_cancellation_has_no_effect_and_holds_the_block_open(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls()

    async def prepare(messages: list[Message]) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(25)

    broker = _broker(5)
    async with _open(broker, Stages(prepare_messages=prepare, handle_message=calls.handle)):
        await trio.sleep(1)
    assert trio.current_time() == pytest.approx(25, abs=0.2)
    assert calls.handled == []
    assert broker.committed("t", 0) is None
    assert [
        record.getMessage() for record in caplog.records if "goes on" in record.getMessage()
    ] == [
        f"prepare_messages goes on for <t/0 epoch 1>, {seconds} s after it was cancelled"
        for seconds in (10, 20)
    ]


async def test_failing_as_the_pipeline_is_cancelled_acknowledges_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def prepare(messages: list[Message]) -> None:
        try:
            await trio.sleep(math.inf)
        finally:
            raise OSError("connection closed")

    broker = _broker(5)
    stages = Stages(prepare_messages=prepare, on_failure=Skip())
    with trio.move_on_after(1):
        async with _open(broker, stages):
            await trio.sleep(100)
    assert trio.current_time() == pytest.approx(1, abs=0.2)
    assert broker.commits == []


async def test_a_slow_one_does_not_stop_the_other_partitions(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def prepare(messages: list[Message]) -> None:
        if messages[0].partition == 3:
            await trio.sleep(math.inf)

    broker = _broker(*[2000] * 10)
    stages = Stages(prepare_messages=prepare)
    async with _open(broker, stages, max_in_flight=1000) as pipeline:
        for partition in range(10):
            if partition != 3:
                await broker.wait_committed("t", partition, 2000)
        assert pipeline.statistics().in_flight <= 1000
        assert trio.current_time() < 30


async def test_what_is_forgotten_of_a_slow_partition_is_not_prepared_before_it_comes_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = Calls()

    async def prepare(messages: list[Message]) -> None:
        await calls.prepare(messages)
        await trio.sleep(0.05 if messages[0].partition else 3)

    async def handle(message: Message) -> None:
        if message.partition:
            await trio.sleep(0.01)

    broker = _broker(*[500] * 5)
    stages = Stages(prepare_messages=prepare, handle_message=handle, ordering="unordered")
    async with _open(broker, stages, max_in_flight=100) as pipeline:
        await pipeline.wait_caught_up()
    for partition in range(5):
        of_it = [offsets for _, number, offsets in calls.prepared if number == partition]
        assert [offset for offsets in of_it for offset in offsets] == [*range(500)]


async def test_draining_from_inside_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    pipeline: Pipeline

    async def prepare(messages: list[Message]) -> None:
        with pytest.raises(RuntimeError, match="inside a handler"):
            await pipeline.drain()

    broker = _broker(5)
    async with _open(broker, Stages(prepare_messages=prepare)) as pipeline:
        await broker.wait_committed("t", 0, 5)


async def test_partitions_with_stages_of_their_own_leave_them_after_it_has_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls = Calls(seconds=10)
    broker = _broker(5, 5)

    def stages(topic: str, partition: int) -> Stages:
        return Stages(
            prepare_messages=calls.prepare if partition else None, handle_message=calls.handle
        )

    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 5)
        assert trio.current_time() < 2
        await broker.wait_committed("t", 1, 5)
        assert trio.current_time() == pytest.approx(10, abs=2)


def test_it_must_be_an_async_function() -> None:
    with pytest.raises(ConfigError, match="prepare_messages must be an async function"):
        Stages(prepare_messages=lambda messages: None)  # type: ignore[arg-type,return-value]
