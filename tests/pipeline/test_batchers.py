"""Batchers in a pipeline: when a batch leaves, what it holds, and what is committed of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from trio_broadway_kafka import (
    Batch,
    Batcher,
    ConfigError,
    Message,
    Skip,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka.testing import FakeBroker

Handle = Callable[[Message], Awaitable[None]]


class Delivered:
    """A batch handler that notes what it gets.

    Attributes:
        batches: (time, batcher, key, trigger, offsets) of each, when it started.
    """

    def __init__(self, *, takes: float = 0.0) -> None:
        self.batches: list[tuple[float, str, object, str, list[int]]] = []
        self.running = 0
        self.most = 0
        self._takes = takes

    async def __call__(self, batch: Batch) -> None:
        offsets = [message.offset for message in batch]
        now = round(trio.current_time(), 3)
        self.batches.append((now, batch.batcher, batch.key, batch.trigger, offsets))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(self._takes)
        finally:
            self.running -= 1

    @property
    def sizes(self) -> list[int]:
        return [len(offsets) for *_, offsets in self.batches]

    @property
    def triggers(self) -> list[str]:
        return [trigger for *_, trigger, _ in self.batches]


def _broker(messages: int, *, partitions: int = 1) -> FakeBroker:
    broker = FakeBroker(topics={"t": partitions})
    for index in range(messages):
        broker.produce("t", b"v%d" % index, key=b"k%d" % index, partition=index % partitions)
    return broker


async def _nothing(message: Message) -> None: ...


BOTH = pytest.mark.parametrize("handle", [None, _nothing], ids=["whole lists", "by message"])


@BOTH
async def test_a_batch_leaves_when_it_is_full_and_the_rest_after_its_timeout(
    autojump_clock: trio.testing.MockClock, handle: Handle | None
) -> None:
    broker = _broker(25)
    delivered = Delivered()
    stages = Stages(
        handle_message=handle,
        ordering="partition",
        batchers={"default": Batcher(handle_batch=delivered, size=10, timeout=2)},
    )
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages) as pipeline:
        await pipeline.wait_assigned()
        await trio.sleep(1.9)
        assert delivered.batches == [
            (0.0, "default", None, "size", [*range(10)]),
            (0.0, "default", None, "size", [*range(10, 20)]),
        ]
        await broker.wait_committed("t", 0, 25)
    assert delivered.batches[2:] == [(2.0, "default", None, "timeout", [20, 21, 22, 23, 24])]


async def test_the_timeout_counts_from_the_first_message_and_is_never_extended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(0)
    delivered = Delivered()
    stages = Stages(batchers={"default": Batcher(handle_batch=delivered, timeout=1)})
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages) as pipeline:
        await pipeline.wait_assigned()
        for at in (0.3, 0.9, 1.2, 1.4):
            await trio.sleep(at - trio.current_time())
            broker.produce("t", b"v")
        await trio.sleep(3)
    assert delivered.batches == [
        (1.3, "default", None, "timeout", [0, 1, 2]),
        (2.4, "default", None, "timeout", [3]),
    ]


async def test_messages_go_to_the_batcher_and_the_key_they_name(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(12)
    delivered = Delivered()

    async def handle(message: Message) -> None:
        message.batcher = "even" if message.offset % 2 == 0 else "odd"
        message.batch_key = message.offset % 3

    stages = Stages(
        handle_message=handle,
        batchers={
            "even": Batcher(handle_batch=delivered, size=2),
            "odd": Batcher(handle_batch=delivered, size=50, timeout=0.5),
        },
    )
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages) as pipeline:
        await broker.wait_committed("t", 0, 12)
        told = {batcher.name: batcher for batcher in pipeline.statistics().batchers}
    assert sorted(delivered.batches, key=str) == [
        (0.0, "even", 0, "size", [0, 6]),
        (0.0, "even", 1, "size", [4, 10]),
        (0.0, "even", 2, "size", [2, 8]),
        (0.5, "odd", 0, "timeout", [3, 9]),
        (0.5, "odd", 1, "timeout", [1, 7]),
        (0.5, "odd", 2, "timeout", [5, 11]),
    ]
    assert [told["odd"].delivered, told["odd"].open_batches, told["odd"].pending] == [6, 0, 0]


async def test_a_flushing_message_takes_its_batch_along_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(5)
    delivered = Delivered()

    async def handle(message: Message) -> None:
        if message.offset == 3:
            message.batch_mode = "flush"

    batchers = {"default": Batcher(handle_batch=delivered)}
    stages = Stages(handle_message=handle, batchers=batchers)
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 5)
    assert delivered.batches == [
        (0.0, "default", None, "flush", [0, 1, 2, 3]),
        (1.0, "default", None, "timeout", [4]),
    ]


@BOTH
async def test_a_batch_is_never_heavier_than_its_size(
    autojump_clock: trio.testing.MockClock, handle: Handle | None
) -> None:
    broker = FakeBroker(topics={"t": 1})
    for size in (40, 40, 40, 10, 10, 150, 5):
        broker.produce("t", b"x" * size, key=b"k")
    weights: list[tuple[float, int]] = []

    async def handle_batch(batch: Batch) -> None:
        weights.append((batch.weight, len(batch)))

    batcher = Batcher(
        handle_batch=handle_batch, size=100, weigh=lambda message: len(message.data)
    )
    stages = Stages(handle_message=handle, batchers={"default": batcher})
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 7)
    assert weights == [(80, 2), (60, 3), (150, 1), (5, 1)]


@pytest.mark.parametrize(("ordering", "most"), [("key", 1), ("unordered", 4)])
async def test_batches_of_one_key_do_not_overlap_unless_unordered(
    autojump_clock: trio.testing.MockClock, ordering: str, most: int
) -> None:
    broker = _broker(40)
    delivered = Delivered(takes=1)
    batcher = Batcher(handle_batch=delivered, size=10, concurrency=4)
    stages = Stages(
        handle_message=_nothing,
        batchers={"default": batcher},
        ordering=ordering,  # type: ignore[arg-type]
    )
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 40)
    assert delivered.most == most
    assert [offsets[0] for *_, offsets in delivered.batches] == [0, 10, 20, 30]


async def test_batches_of_different_keys_run_side_by_side(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(40)
    delivered = Delivered(takes=1)

    async def handle(message: Message) -> None:
        message.batch_key = message.offset % 4

    batcher = Batcher(handle_batch=delivered, size=5, concurrency=3)
    stages = Stages(handle_message=handle, batchers={"default": batcher})
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 40)
    assert delivered.most == 3
    assert delivered.batches[-1][0] == 2.0  # eight batches of a second, three at once


@BOTH
async def test_a_batch_handler_that_raises_fails_its_batch_and_stops(
    autojump_clock: trio.testing.MockClock, handle: Handle | None
) -> None:
    broker = _broker(30)

    async def handle_batch(batch: Batch) -> None:
        if batch.messages[0].offset == 10:
            raise LookupError("no such table")

    batchers = {"default": Batcher(handle_batch=handle_batch, size=10)}
    stages = Stages(handle_message=handle, batchers=batchers, ordering="partition")
    with pytest.RaisesGroup(pytest.RaisesExc(LookupError)) as raised:
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep_forever()
    assert raised.value.exceptions[0].__notes__ == ["while handling t/0@10 (attempt 1)"]
    assert broker.committed("t", 0) == 10


@BOTH
async def test_skip_acknowledges_a_failed_batch_and_a_batcher_may_have_its_own_policy(
    autojump_clock: trio.testing.MockClock,
    handle: Handle | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = _broker(20)

    async def handle_batch(batch: Batch) -> None:
        if batch.messages[0].offset == 0:
            raise LookupError("no such table")
        for message in batch:
            if message.offset == 15:
                message.fail("odd one out")

    batcher = Batcher(handle_batch=handle_batch, size=10, on_failure=Skip())
    stages = Stages(handle_message=handle, batchers={"default": batcher}, ordering="partition")
    with caplog.at_level(logging.WARNING, "trio_broadway_kafka"):
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages) as opened:
            await broker.wait_committed("t", 0, 20)
            told = opened.statistics()
    assert (told.succeeded, told.skipped, told.failed) == (9, 11, 11)
    assert "skipped <Message t/0@15>: MessageFailed" in caplog.text


async def test_one_failed_message_of_a_batch_stops_and_the_others_are_done(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(10)

    async def handle_batch(batch: Batch) -> None:
        batch.messages[4].fail(LookupError("this one"))

    stages = Stages(batchers={"default": Batcher(handle_batch=handle_batch, size=10)})
    with pytest.RaisesGroup(LookupError):
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep_forever()
    assert broker.committed("t", 0) == 4


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("batcher", "nowhere", "no batcher named 'nowhere': there are 'default'"),
        ("batch_mode", "now", "batch_mode must be 'bulk' or 'flush', not 'now'"),
        ("batch_key", [], "unhashable type: 'list'"),
    ],
)
async def test_a_message_that_no_batcher_can_take_fails_with_a_clear_error(
    autojump_clock: trio.testing.MockClock, field: str, value: object, says: str
) -> None:
    broker = _broker(3)

    async def handle(message: Message) -> None:
        if message.offset == 1:
            setattr(message, field, value)

    batchers = {"default": Batcher(handle_batch=Delivered())}
    stages = Stages(handle_message=handle, batchers=batchers, ordering="partition")
    with pytest.RaisesGroup(pytest.RaisesExc(Exception, match=says)):
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep_forever()
    # Its batch had started, but the pipeline is cancelled at once.
    assert broker.committed("t", 0) is None


async def test_a_weigh_that_raises_fails_the_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"1", b"x", b"3")
    delivered = Delivered()
    batcher = Batcher(handle_batch=delivered, weigh=lambda message: int(message.data))
    stages = Stages(batchers={"default": batcher}, on_failure=Skip())
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 3)
    assert delivered.batches == [(1.0, "default", None, "timeout", [0, 2])]


async def test_a_weigh_that_raises_stops_the_pipeline_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(1)
    batcher = Batcher(handle_batch=Delivered(), weigh=lambda message: int(message.data))
    with pytest.RaisesGroup(ValueError) as raised:
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(batchers={"default": batcher})
        ) as pipeline:
            await trio.sleep_forever()
    assert raised.value.exceptions[0].__notes__ == ["while handling t/0@0 (attempt 1)"]
    assert pipeline.statistics().failed == 1


async def test_a_returned_value_stops_the_pipeline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(3)

    async def handle_batch(batch: Batch) -> object:
        return [*batch][:1]

    batcher = Batcher(handle_batch=handle_batch, size=3)  # type: ignore[arg-type]
    with pytest.RaisesGroup(pytest.RaisesExc(TypeError, match="it must return None")):
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(batchers={"default": batcher})
        ):
            await trio.sleep_forever()
    assert broker.committed("t", 0) is None


@BOTH
async def test_leaving_flushes_and_commits_what_is_in_batches(
    autojump_clock: trio.testing.MockClock, handle: Handle | None
) -> None:
    broker = _broker(25)
    delivered = Delivered(takes=3)
    batchers = {"default": Batcher(handle_batch=delivered, timeout=math.inf)}
    stages = Stages(handle_message=handle, batchers=batchers)
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await trio.sleep(1)
    assert delivered.batches == [(1.0, "default", None, "drain", [*range(25)])]
    assert broker.committed("t", 0) == 25
    assert 4.0 <= trio.current_time() <= 4.3


@BOTH
async def test_a_drain_that_takes_too_long_cuts_batches_off_and_raises_nothing(
    autojump_clock: trio.testing.MockClock, handle: Handle | None
) -> None:
    broker = _broker(25)

    async def handle_batch(batch: Batch) -> None:
        await trio.sleep(0 if batch.messages[0].offset == 0 else math.inf)

    batchers = {"default": Batcher(handle_batch=handle_batch, size=10)}
    stages = Stages(handle_message=handle, batchers=batchers, ordering="partition")
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages) as pipeline:
        await trio.sleep(2)
        assert await pipeline.drain(timeout=4) == 15
    assert broker.committed("t", 0) == 10
    assert 6.0 <= trio.current_time() <= 6.3


async def test_leaving_by_an_exception_starts_no_batch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(25)
    delivered = Delivered(takes=3)
    stages = Stages(batchers={"default": Batcher(handle_batch=delivered, size=10)})
    with pytest.RaisesGroup(LookupError):
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep(4)
            raise LookupError
    assert delivered.sizes == [10, 10]
    assert broker.committed("t", 0) == 10
    assert trio.current_time() <= 4.3


async def test_drain_called_in_a_batch_handler_raises(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(3)

    async def handle_batch(batch: Batch) -> None:
        await pipeline.drain()

    stages = Stages(batchers={"default": Batcher(handle_batch=handle_batch, size=3)})
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="wait for itself")):
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=stages
        ) as pipeline:
            await trio.sleep_forever()


@BOTH
async def test_a_revoke_flushes_what_waits_of_its_partition(
    autojump_clock: trio.testing.MockClock, handle: Handle | None
) -> None:
    broker = _broker(20, partitions=2)
    delivered = Delivered(takes=1)
    batchers = {"default": Batcher(handle_batch=delivered, timeout=math.inf)}
    stages = Stages(handle_message=handle, batchers=batchers, ordering="partition")
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await trio.sleep(5)
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep(3)
            assert delivered.triggers == ["revoke"]
            assert delivered.batches[0][0] == 5.0
            assert sorted(delivered.batches[0][-1]) == sorted([*range(10)] * 2)
            assert broker.committed("t", 0) == broker.committed("t", 1) == 10


async def test_at_the_revokes_deadline_a_batch_is_cut_off_and_the_others_come_first_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(20, partitions=2)
    seen: list[list[tuple[int, int]]] = []

    async def handle_batch(batch: Batch) -> None:
        seen.append([(message.partition, message.offset) for message in batch])
        await trio.sleep(math.inf if len(seen) == 1 else 0)

    batcher = Batcher(handle_batch=handle_batch, size=20)
    stages = Stages(batchers={"default": batcher})
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, revoke_timeout=4
    ) as first:
        await trio.sleep(5)
        second = broker.client()
        other = Stages(batchers={"default": Batcher(handle_batch=Delivered(takes=math.inf))})
        async with open_pipeline(
            client=second, topics=["t"], stages=other, drain_timeout=0
        ) as taker:
            await trio.sleep(4.5)
            (kept,) = [p.partition for p in first.statistics().partitions]
            (gone,) = [p.partition for p in taker.statistics().partitions]
            await broker.wait_committed("t", kept, 10)
    assert len(seen[0]) == 20
    assert seen[1] == [place for place in seen[0] if place[0] == kept]
    assert [place for batch in seen[2:] for place in batch if place[0] == gone] == [
        (gone, offset) for offset in range(10)
    ]


async def test_nothing_of_a_lost_partition_is_delivered_or_committed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(5)
    delivered = Delivered()
    stages = Stages(batchers={"default": Batcher(handle_batch=delivered, timeout=3)})
    client = broker.client()
    async with open_pipeline(client=client, topics=["t"], stages=stages) as pipeline:
        await pipeline.wait_assigned()
        await trio.sleep(1)
        broker.lose(client)
        await trio.sleep(0.5)
        again_at = trio.current_time()
        await broker.wait_committed("t", 0, 5)
    # All five once, a timeout after they came for the second time.
    assert delivered.sizes == [5]
    assert again_at < delivered.batches[0][0] <= 4.6


@BOTH
async def test_when_all_room_is_in_open_batches_the_oldest_leaves(
    autojump_clock: trio.testing.MockClock, handle: Handle | None
) -> None:
    broker = _broker(100)
    delivered = Delivered()

    async def by_key(message: Message) -> None:
        message.batch_key = message.offset % 2

    batcher = Batcher(
        handle_batch=delivered,
        size=1000,
        weigh=lambda message: 1,
        timeout=math.inf,
    )
    stages = Stages(
        handle_message=handle and by_key, batchers={"default": batcher}, ordering="partition"
    )
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, max_in_flight=30
    ):
        await trio.sleep(5)
    assert sum(delivered.sizes) == 100
    assert set(delivered.triggers[:-2]) == {"pressure"}
    assert broker.committed("t", 0) == 100


async def test_silent_keys_are_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    broker = _broker(500)
    delivered = Delivered()

    async def handle(message: Message) -> None:
        message.batch_key = message.offset

    batchers = {"default": Batcher(handle_batch=delivered)}
    stages = Stages(handle_message=handle, batchers=batchers)
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages) as pipeline:
        await broker.wait_committed("t", 0, 500)
        batches = pipeline._assignment.batchers.stages["default"].batches
        assert not batches._open
        assert not batches._later
        assert not batches.ready
        assert not batches.running


async def test_without_handlers_everything_is_acknowledged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(500)
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(), commit_interval=0
    ):
        await broker.wait_committed("t", 0, 500)
        assert trio.current_time() < 0.25


@BOTH
async def test_with_no_interval_a_batch_is_committed_as_it_ends(
    autojump_clock: trio.testing.MockClock, handle: Handle | None
) -> None:
    broker = _broker(20)
    batchers = {"default": Batcher(handle_batch=Delivered(takes=2), size=10)}
    stages = Stages(handle_message=handle, batchers=batchers, ordering="partition")
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, commit_interval=0
    ):
        await broker.wait_committed("t", 0, 20)
    assert [commit.offset for commit in broker.commits] == [10, 20]
    assert [round(commit.time, 0) for commit in broker.commits] == [2.0, 4.0]


async def test_raw_values_and_keys_are_read_without_making_messages(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(5)
    read: list[object] = []

    async def handle_batch(batch: Batch) -> None:
        read.append((batch.raw_keys(), batch.raw_values(), batch._messages))

    stages = Stages(batchers={"default": Batcher(handle_batch=handle_batch, size=5)})
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 5)
    assert read == [
        ([b"k0", b"k1", b"k2", b"k3", b"k4"], [b"v0", b"v1", b"v2", b"v3", b"v4"], None)
    ]


def test_a_batch_that_could_never_be_full_is_refused() -> None:
    stages = Stages(batchers={"default": Batcher(handle_batch=Delivered(), size=200)})
    with pytest.raises(
        ConfigError, match="size=200 of batcher 'default' is above max_in_flight"
    ):
        open_pipeline(
            client=FakeBroker().client(), topics=["t"], stages=stages, max_in_flight=100
        )


async def test_what_a_cut_off_batch_leaves_comes_before_what_waited_behind_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2})
    for key in (b"a", b"b"):
        for partition in (0, 1):
            broker.produce("t", *(b"%d" % n for n in range(5)), key=key, partition=partition)
    seen: list[tuple[object, set[int], int]] = []

    async def handle(message: Message) -> None:
        message.batch_key = message.key

    async def handle_batch(batch: Batch) -> None:
        seen.append((batch.key, {message.partition for message in batch}, len(batch)))
        await trio.sleep(math.inf if len(seen) == 1 else 1)

    batcher = Batcher(handle_batch=handle_batch, size=10)
    stages = Stages(handle_message=handle, batchers={"default": batcher}, ordering="partition")
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, revoke_timeout=4
    ) as first:
        await trio.sleep(5)
        async with open_pipeline(client=broker.client(), topics=["t"], stages=Stages()):
            await trio.sleep(8)
            (kept,) = [p.partition for p in first.statistics().partitions]
    assert seen == [(b"a", {0, 1}, 10), (b"a", {kept}, 5), (b"b", {kept}, 5)]


async def test_a_batch_that_resists_and_ends_after_all_is_not_repeated_for_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(20, partitions=2)
    delivered = Delivered()

    async def handle_batch(batch: Batch) -> None:
        await delivered(batch)
        with trio.CancelScope(shield=True):
            await trio.sleep(12)

    stages = Stages(batchers={"default": Batcher(handle_batch=handle_batch, size=20)})
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, revoke_timeout=4
    ) as first:
        await trio.sleep(5)
        slow = Stages(batchers={"default": Batcher(handle_batch=Delivered(takes=math.inf))})
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=slow, drain_timeout=0
        ) as second:
            await trio.sleep(9.5)
            (kept,) = [p.partition for p in first.statistics().partitions]
            (gone,) = [p.partition for p in second.statistics().partitions]
            assert broker.committed("t", kept) == 10
            assert broker.committed("t", gone) is None  # its outcome is dropped
    assert delivered.sizes[0] == 20
    assert not any(kept_again for kept_again in delivered.batches[1:] if kept_again[0] < 14.5)


async def test_a_message_whose_handler_resisted_its_revoke_gets_into_no_batch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(1)
    delivered = Delivered()
    started: list[float] = []

    async def handle(message: Message) -> None:
        started.append(trio.current_time())
        if len(started) == 1:
            with trio.CancelScope(shield=True):
                await trio.sleep(20)

    stages = Stages(
        handle_message=handle, batchers={"default": Batcher(handle_batch=delivered)}
    )
    client = broker.client()
    async with open_pipeline(client=client, topics=["t"], stages=stages, revoke_timeout=4):
        await trio.sleep(5)
        broker.rebalance(client)
        await trio.sleep(30)
    # Once, from the next assignment: its lane was shut until the first handler had ended.
    assert [round(time) for time in started] == [0, 20]
    assert [(round(time), offsets) for time, *_, offsets in delivered.batches] == [(21, [0])]


async def test_a_batch_that_fails_as_it_is_cancelled_is_not_acknowledged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(10)

    async def handle_batch(batch: Batch) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError("the connection is gone")

    batcher = Batcher(handle_batch=handle_batch, size=10)
    stages = Stages(batchers={"default": batcher}, on_failure=Skip())
    with trio.move_on_after(3):
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep_forever()
    assert broker.committed("t", 0) is None


async def test_once_the_pipeline_fails_no_batch_starts() -> None:
    broker = _broker(11)
    sizes: list[int] = []

    async def handle(message: Message) -> None:
        if message.offset == 10:
            raise LookupError

    async def handle_batch(batch: Batch) -> None:
        sizes.append(len(batch))

    stages = Stages(
        handle_message=handle,
        batchers={"default": Batcher(handle_batch=handle_batch, size=10)},
        ordering="partition",
    )
    with pytest.RaisesGroup(LookupError):
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep_forever()
    assert not sizes


async def test_what_is_not_in_a_batch_yet_has_not_started_and_a_drain_leaves_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(5000)
    delivered = Delivered(takes=1)
    stages = Stages(batchers={"default": Batcher(handle_batch=delivered, size=10)})
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages) as pipeline:
        await trio.sleep(2.5)
        assert pipeline.statistics().in_flight > 500
        assert await pipeline.drain() == 0
    assert broker.committed("t", 0) == sum(delivered.sizes) < 100
