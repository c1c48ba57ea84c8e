"""Retry: a failed message is tried again after a while, its lane held, without a worker."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from trio_broadway_kafka import (
    Batch,
    Batcher,
    ConfigError,
    Message,
    RateLimit,
    Retry,
    Skip,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka.testing import FakeBroker, open_test_pipeline

Handle = Callable[[Message], Awaitable[None]]

# Without jitter: 1, 2, 4, ... seconds.
DOUBLING = Retry(attempts=4, wait_initial=1, wait_max=100, wait_jitter=0)


def broker_with(keys: str, *, partitions: int = 1) -> FakeBroker:
    broker = FakeBroker(topics={"t": partitions})
    for index, key in enumerate(keys):
        broker.produce(
            "t", b"v%d" % index, key=key.encode(), partition=index % partitions, timestamp=0
        )
    return broker


class Failing:
    """Fails the first attempts at some offsets, and keeps a diary.

    Args:
        times: how many attempts at an offset fail.
    """

    def __init__(self, times: dict[int, float], *, takes: float = 0) -> None:
        self.times = times
        self.takes = takes
        self.diary: list[tuple[float, int, int]] = []  # seconds, offset, attempt

    async def __call__(self, message: Message) -> None:
        self.diary.append((round(trio.current_time(), 1), message.offset, message.attempt))
        if self.takes:
            await trio.sleep(self.takes)
        if message.attempt <= self.times.get(message.offset, 0):
            raise LookupError(f"attempt {message.attempt}")


@asynccontextmanager
async def running(
    broker: FakeBroker, handle: Any, *, max_in_flight: int = 10_000, **options: Any
) -> AsyncGenerator[Any]:
    stages = Stages(handle_message=handle, **options)
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=stages,
        commit_interval=0,
        max_in_flight=max_in_flight,
    ) as pipeline:
        yield pipeline


ALL = pytest.mark.parametrize("ordering", ["key", "partition", "unordered"])


@ALL
async def test_it_waits_longer_after_each_attempt(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with("A")
    handle = Failing({0: 3})
    async with running(broker, handle, on_failure=DOUBLING, ordering=ordering) as pipeline:
        await broker.wait_committed("t", 0, 1)
        figures = pipeline.statistics()
    assert handle.diary == [(0.0, 0, 1), (1.0, 0, 2), (3.0, 0, 3), (7.0, 0, 4)]
    assert (figures.failed, figures.retried, figures.succeeded) == (3, 3, 1)


@ALL
async def test_after_the_last_attempt_the_next_policy_decides(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with("AB")
    handle = Failing({0: math.inf})
    policy = Retry(attempts=2, wait_initial=1, wait_jitter=0, then=Skip())
    async with running(broker, handle, on_failure=policy, ordering=ordering) as pipeline:
        await broker.wait_committed("t", 0, 2)
        figures = pipeline.statistics()
    assert (figures.failed, figures.retried, figures.skipped) == (2, 1, 1)
    assert [entry for entry in handle.diary if entry[1] == 0] == [(0.0, 0, 1), (1.0, 0, 2)]


async def test_stop_after_the_last_attempt_names_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with("A")
    with pytest.RaisesGroup(LookupError) as raised:
        async with running(broker, Failing({0: math.inf}), on_failure=DOUBLING):
            await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(7, abs=0.2)
    assert raised.value.exceptions[0].__notes__ == ["while handling t/0@0 (attempt 4)"]
    assert broker.committed("t", 0) is None


async def test_retries_of_different_policies_count_all_attempts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with("A")
    handle = Failing({0: math.inf})
    slowly = Retry(attempts=4, wait_initial=10, wait_exp_base=1, wait_jitter=0, then=Skip())
    policy = Retry(attempts=2, wait_initial=1, wait_jitter=0, then=slowly)
    async with running(broker, handle, on_failure=policy):
        await broker.wait_committed("t", 0, 1)
    assert [(time, attempt) for time, _, attempt in handle.diary] == [
        (0.0, 1),
        (1.0, 2),
        (11.0, 3),
        (21.0, 4),
    ]


async def test_key_order_holds_the_key_and_lets_the_others_go_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with("ABABA")
    handle = Failing({0: 1}, takes=0.1)
    async with running(broker, handle, on_failure=DOUBLING, concurrency=2):
        await broker.wait_committed("t", 0, 5)
    assert [offset for _, offset, _ in handle.diary] == [0, 1, 3, 0, 2, 4]
    assert [time for time, offset, _ in handle.diary if offset in (0, 2, 4)] == [
        0.0,
        1.1,
        1.2,
        1.3,
    ]


async def test_partition_order_holds_the_partition_and_lets_the_others_go_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with("ABCDEF", partitions=2)
    handle = Failing({0: 1})
    diary: list[tuple[int, int, int]] = []

    async def note(message: Message) -> None:
        diary.append((message.partition, message.offset, message.attempt))
        if message.partition == 0:
            await handle(message)

    async with running(broker, note, on_failure=DOUBLING, ordering="partition", concurrency=2):
        await broker.wait_committed("t", 1, 3)
        assert trio.current_time() < 0.5
        await broker.wait_committed("t", 0, 3)
        assert trio.current_time() == pytest.approx(1, abs=0.2)
    assert [entry[1:] for entry in diary if entry[0] == 0] == [(0, 1), (0, 2), (1, 1), (2, 1)]


async def test_an_unordered_one_holds_up_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with("AAAA")
    handle = Failing({0: 1, 1: 1})
    async with running(
        broker, handle, on_failure=DOUBLING, ordering="unordered", concurrency=1
    ) as pipeline:
        await trio.sleep(0.5)
        assert [offset for _, offset, _ in handle.diary] == [0, 1, 2, 3]
        (partition,) = pipeline.statistics().partitions
        assert (partition.in_flight, partition.committed) == (2, 0)
        await broker.wait_committed("t", 0, 4)
    assert handle.diary[4:] == [(1.0, 0, 2), (1.0, 1, 2)]


@ALL
async def test_a_waiting_message_has_no_worker(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    """With one processor, and a message in each of ten partitions that waits."""
    broker = broker_with("ABCDEFGHIJ", partitions=10)
    handle = Failing({0: 1})
    async with running(
        broker, handle, on_failure=DOUBLING, ordering=ordering, concurrency=1
    ) as pipeline:
        await trio.sleep(0.5)
        assert len(handle.diary) == 10
        assert pipeline.statistics().busy == 0
        await trio.sleep(1)
        assert [attempt for _, _, attempt in handle.diary] == [1] * 10 + [2] * 10
        assert pipeline.statistics().in_flight == 0


@ALL
async def test_leaving_does_not_wait_for_a_waiting_message(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with("AB")
    handle = Failing({1: math.inf})
    policy = Retry(attempts=math.inf, wait_initial=1000, wait_max=1000)
    async with running(broker, handle, on_failure=policy, ordering=ordering) as pipeline:
        await trio.sleep(2)
        assert await pipeline.drain() == 0
        assert trio.current_time() == pytest.approx(2, abs=0.2)
    assert broker.committed("t", 0) == 1
    assert trio.current_time() == pytest.approx(2, abs=0.3)
    again = Failing({})
    async with running(broker, again, ordering=ordering):
        await broker.wait_committed("t", 0, 2)
    assert [(offset, attempt) for _, offset, attempt in again.diary] == [(1, 1)]


@ALL
async def test_an_attempt_under_way_is_finished_by_a_drain_and_not_tried_again(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with("A")
    handle = Failing({0: math.inf}, takes=2)
    async with running(broker, handle, on_failure=DOUBLING, ordering=ordering) as pipeline:
        await trio.sleep(3.5)  # the second attempt lasts until 5
        await pipeline.drain()
        assert trio.current_time() == pytest.approx(5, abs=0.2)
    assert [attempt for _, _, attempt in handle.diary] == [1, 2]
    assert broker.committed("t", 0) is None


@ALL
async def test_a_revoke_frees_the_lane(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with("AA")
    handle = Failing({0: 1})
    client = broker.client()
    policy = Retry(wait_initial=1000, wait_max=1000)
    stages = Stages(handle_message=handle, on_failure=policy, ordering=ordering)
    async with open_pipeline(client=client, topics=["t"], stages=stages):
        await trio.sleep(1)
        broker.rebalance(client)  # comes back in the same poll
        handle.times = {}
        await broker.wait_committed("t", 0, 2)
    assert trio.current_time() < 3
    # Without an order, 1 was finished behind 0, and the commit's metadata have told of it.
    again = [0] if ordering == "unordered" else [0, 1]
    assert handle.diary[-len(again) - 1 :][0][0] < 0.5
    assert handle.diary[-len(again) :] == [
        (pytest.approx(1, abs=0.2), offset, 1) for offset in again
    ]


async def test_a_lane_over_partitions_goes_on_when_one_of_them_is_revoked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with("AB", partitions=2)
    diary: list[int] = []

    async def handle(message: Message) -> None:
        diary.append(message.partition)
        if message.partition == 0:
            raise LookupError

    ours, theirs = broker.client(), broker.client()
    policy = Retry(wait_initial=1000, wait_max=1000)
    stages = Stages(handle_message=handle, on_failure=policy, ordering=lambda message: 0)
    async with open_pipeline(client=ours, topics=["t"], stages=stages):
        await trio.sleep(0.5)
        assert diary == [0]
        idle = Stages(handle_message=Failing({}))
        async with open_pipeline(client=theirs, topics=["t"], stages=idle):
            await trio.sleep(0.5)
            if broker.committed("t", 1) is None:
                broker.rebalance(ours, [("t", 0)], to=theirs)
            await broker.wait_committed("t", 1, 1)
    assert trio.current_time() < 10


@ALL
async def test_every_attempt_starts_from_the_record(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with("A")
    seen: list[Any] = []

    async def handle(message: Message) -> None:
        seen.append((message.data, message.batcher, message.batch_key, message.failure))
        message.data = "changed"
        message.batch_key = "changed"
        if message.attempt == 1:
            message.fail("not yet")

    batched: list[tuple[Any, int]] = []

    async def handle_batch(batch: Batch) -> None:
        batched.extend((message.data, message.attempt) for message in batch)

    async with running(
        broker,
        handle,
        on_failure=DOUBLING,
        ordering=ordering,
        batchers={"default": Batcher(handle_batch=handle_batch, size=1)},
    ):
        await broker.wait_committed("t", 0, 1)
    assert seen == [(b"v0", "default", None, None)] * 2
    assert batched == [("changed", 1)]


@ALL
async def test_what_failed_in_preparing_is_prepared_again_alone(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with("ABC")
    prepared: list[list[int]] = []
    handled: list[tuple[int, Any, int]] = []
    failing = Failing({0: 3})

    async def prepare(messages: list[Message]) -> None:
        prepared.append([message.offset for message in messages])
        for message in messages:
            message.data = "prepared"
            if message.offset == 0 and len(prepared) < 3:
                message.fail("not yet")

    async def handle(message: Message) -> None:
        handled.append((message.offset, message.data, message.attempt))
        message.data = "handled"
        await failing(message)

    async with running(
        broker, handle, prepare_messages=prepare, on_failure=DOUBLING, ordering=ordering
    ):
        await broker.wait_committed("t", 0, 3)
    assert prepared == [[0, 1, 2], [0], [0]]
    assert [entry for entry in handled if entry[0] == 0] == [
        (0, "prepared", 3),
        (0, "prepared", 4),
    ]


async def test_a_message_without_a_lane_is_tried_again_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with("AB")
    asked: list[tuple[float, int]] = []

    def lane(message: Message) -> bytes | None:
        asked.append((round(trio.current_time(), 1), message.attempt))
        if message.offset == 0 and message.attempt < 3:
            raise LookupError("no lane")
        return message.key

    handle = Failing({})
    async with running(broker, handle, on_failure=DOUBLING, ordering=lane):
        await broker.wait_committed("t", 0, 2)
    assert asked == [(0.0, 1), (0.0, 1), (1.0, 2), (3.0, 3)]
    assert handle.diary == [(0.0, 1, 1), (3.0, 0, 3)]


async def test_retries_cost_no_tokens(autojump_clock: trio.testing.MockClock) -> None:
    broker = broker_with("ABC")
    handle = Failing({0: 2})
    stages = Stages(handle_message=handle, on_failure=DOUBLING)
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=stages,
        rate_limit=RateLimit(messages=1, per=10),
    ):
        await broker.wait_committed("t", 0, 3)
    assert [(time, offset) for time, offset, _ in handle.diary] == [
        (0.0, 0),
        (1.0, 0),
        (3.0, 0),
        (10.0, 1),
        (20.0, 2),
    ]


async def test_the_policy_may_be_chosen_by_the_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with("AB")
    handle = Failing({0: math.inf, 1: math.inf})

    def choose(message: Message) -> Retry | Skip:
        assert isinstance(message.failure, LookupError)
        return Skip() if message.offset else Retry(attempts=2, wait_jitter=0, then=Skip())

    async with running(broker, handle, on_failure=choose) as pipeline:
        await broker.wait_committed("t", 0, 2)
        assert (pipeline.statistics().skipped, pipeline.statistics().retried) == (2, 1)


# Batches


class FailingBatches:
    """Fails the first attempts at some offsets, or whole batches, and keeps a diary."""

    def __init__(self, times: dict[int, float], *, whole: bool = False) -> None:
        self.times = times
        self.whole = whole
        self.diary: list[tuple[float, Any, list[tuple[int, int]]]] = []

    async def __call__(self, batch: Batch) -> None:
        messages = [(message.offset, message.attempt) for message in batch]
        self.diary.append((round(trio.current_time(), 1), batch.key, messages))
        for message in batch:
            if message.attempt <= self.times.get(message.offset, 0):
                if self.whole:
                    raise LookupError
                message.fail("not yet")


async def passes(message: Message) -> None:
    message.data = f"handled {message.offset}"
    message.batch_key = message.key


BOTH = pytest.mark.parametrize("handle", [None, passes], ids=["no handler", "handler"])


@BOTH
async def test_failed_messages_of_a_batch_are_a_batch_of_their_own(
    autojump_clock: trio.testing.MockClock, handle: Handle | None
) -> None:
    broker = broker_with("AAAA")
    handle_batch = FailingBatches({1: 2, 3: 1})
    batchers = {"default": Batcher(handle_batch=handle_batch, size=4, on_failure=DOUBLING)}
    async with running(broker, handle, batchers=batchers) as pipeline:
        await broker.wait_committed("t", 0, 4)
        figures = pipeline.statistics()
    assert [(time, messages) for time, _, messages in handle_batch.diary] == [
        (0.0, [(0, 1), (1, 1), (2, 1), (3, 1)]),
        (1.0, [(1, 2), (3, 2)]),
        (3.0, [(1, 3)]),
    ]
    assert (figures.retried, figures.succeeded, figures.batchers[0].delivered) == (3, 4, 7)


@BOTH
async def test_a_batch_that_raised_is_tried_again_as_a_whole(
    autojump_clock: trio.testing.MockClock, handle: Handle | None
) -> None:
    broker = broker_with("AA")
    handle_batch = FailingBatches({0: 1}, whole=True)
    batchers = {"default": Batcher(handle_batch=handle_batch, size=2)}
    async with running(broker, handle, batchers=batchers, on_failure=DOUBLING):
        await broker.wait_committed("t", 0, 2)
    assert [(time, messages) for time, _, messages in handle_batch.diary] == [
        (0.0, [(0, 1), (1, 1)]),
        (1.0, [(0, 2), (1, 2)]),
    ]


@pytest.mark.parametrize("ordering", ["key", "unordered"])
async def test_no_later_batch_of_its_key_starts_meanwhile_unless_unordered(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with("ABA")
    handle_batch = FailingBatches({0: 1})
    batcher = Batcher(handle_batch=handle_batch, size=1, concurrency=3)
    async with running(
        broker,
        passes,
        batchers={"default": batcher},
        on_failure=DOUBLING,
        ordering=ordering,
    ):
        await broker.wait_committed("t", 0, 3)
    starts = [(time, messages[0][0]) for time, _, messages in handle_batch.diary]
    if ordering == "key":
        assert starts == [(0.0, 0), (0.0, 1), (1.0, 0), (1.0, 2)]
    else:
        assert starts == [(0.0, 0), (0.0, 1), (0.0, 2), (1.0, 0)]


async def test_a_batch_waits_while_an_open_one_has_a_later_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with("AB")
    handle_batch = FailingBatches({0: 1})

    async def handle(message: Message) -> None:
        message.batch_key = message.key
        if message.offset == 0:
            message.batch_mode = "flush"

    batcher = Batcher(handle_batch=handle_batch, size=10, timeout=50)
    async with running(broker, handle, batchers={"default": batcher}, on_failure=DOUBLING):
        await broker.wait_committed("t", 0, 2)
    assert [(time, messages) for time, _, messages in handle_batch.diary] == [
        (0.0, [(0, 1)]),
        (1.0, [(0, 2)]),
        (50.0, [(1, 1)]),
    ]


async def test_a_batch_leaves_in_time_while_another_one_waits_much_longer_to_be_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with("A")
    handle_batch = FailingBatches({0: 1})

    async def handle(message: Message) -> None:
        message.batch_key = message.key

    batcher = Batcher(handle_batch=handle_batch, size=10, timeout=3)
    policy = Retry(wait_initial=50, wait_max=50, wait_jitter=0)
    async with running(broker, handle, batchers={"default": batcher}, on_failure=policy):
        await trio.sleep(4)
        broker.produce("t", b"v1", key=b"B")
        await broker.wait_committed("t", 0, 2)
    assert [(time, messages) for time, _, messages in handle_batch.diary] == [
        (3.0, [(0, 1)]),
        (pytest.approx(7, abs=0.2), [(1, 1)]),
        (53.0, [(0, 2)]),
    ]


async def test_messages_of_a_batch_start_from_what_the_handler_made_of_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with("A")
    seen: list[tuple[Any, Any]] = []

    async def handle_batch(batch: Batch) -> None:
        (message,) = batch
        seen.append((message.data, message.batch_key))
        message.data = "changed"
        if message.attempt < 3:
            message.fail("not yet")

    batcher = Batcher(handle_batch=handle_batch, size=1)
    async with running(broker, passes, batchers={"default": batcher}, on_failure=DOUBLING):
        await broker.wait_committed("t", 0, 1)
    assert seen == [("handled 0", b"A")] * 3


async def test_raw_values_of_what_is_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with("AB")
    seen: list[list[bytes | None]] = []

    async def handle_batch(batch: Batch) -> None:
        seen.append(batch.raw_values())
        if len(seen) == 1:
            batch.messages[1].fail("not yet")
        assert len(seen) < 3

    batcher = Batcher(handle_batch=handle_batch, size=2)
    async with running(broker, None, batchers={"default": batcher}, on_failure=DOUBLING):
        await broker.wait_committed("t", 0, 2)
    assert seen == [[b"v0", b"v1"], [b"v1"]]


@BOTH
async def test_leaving_does_not_wait_for_a_waiting_batch(
    autojump_clock: trio.testing.MockClock, handle: Handle | None
) -> None:
    broker = broker_with("AAA")
    handle_batch = FailingBatches({0: math.inf})
    batcher = Batcher(handle_batch=handle_batch, size=2, timeout=math.inf)
    policy = Retry(attempts=math.inf, wait_initial=1000, wait_max=1000)
    async with running(
        broker, handle, batchers={"default": batcher}, on_failure=policy
    ) as pipeline:
        await trio.sleep(2)
        assert await pipeline.drain() == 0
        assert trio.current_time() == pytest.approx(2, abs=0.2)
    # What waited behind it for its key has started, and is flushed.
    assert [messages for _, _, messages in handle_batch.diary] == [
        [(0, 1), (1, 1)],
        [(2, 1)],
    ]
    # The metadata of this offset tell of the two that are finished behind it.
    assert broker.committed("t", 0) == 0


@BOTH
async def test_a_revoke_drops_a_waiting_batch_and_frees_its_key(
    autojump_clock: trio.testing.MockClock, handle: Handle | None
) -> None:
    broker = broker_with("AA")
    handle_batch = FailingBatches({0: 1})
    client = broker.client()
    batcher = Batcher(handle_batch=handle_batch, size=2)
    policy = Retry(wait_initial=1000, wait_max=1000)
    stages = Stages(handle_message=handle, batchers={"default": batcher}, on_failure=policy)
    async with open_pipeline(client=client, topics=["t"], stages=stages):
        await trio.sleep(1)
        handle_batch.times = {}
        broker.rebalance(client)
        await broker.wait_committed("t", 0, 2)
    assert trio.current_time() < 4
    # 1 was finished, and is not handled again.
    assert [messages for _, _, messages in handle_batch.diary] == [[(0, 1), (1, 1)], [(0, 1)]]


# handler_timeout


@pytest.mark.parametrize("where", ["prepare", "message", "batch"])
async def test_a_handler_that_takes_too_long_fails_with_a_too_slow_error(
    autojump_clock: trio.testing.MockClock, where: str
) -> None:
    broker = broker_with("A")
    failures: list[tuple[float, BaseException | None]] = []

    async def slow_at_first(messages: Any) -> None:
        (message,) = messages
        if message.attempt == 1:
            await trio.sleep_forever()

    async def slow_message(message: Message) -> None:
        await slow_at_first([message])

    def choose(message: Message) -> Retry:
        failures.append((round(trio.current_time(), 1), message.failure))
        return DOUBLING

    handlers: dict[str, dict[str, Any]] = {
        "prepare": {"prepare_messages": slow_at_first},
        "message": {"handle_message": slow_message},
        "batch": {"batchers": {"default": Batcher(handle_batch=slow_at_first, size=1)}},
    }
    stages = Stages(handler_timeout=5, on_failure=choose, **handlers[where])
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, commit_interval=0
    ):
        await broker.wait_committed("t", 0, 1)
        assert trio.current_time() == pytest.approx(6, abs=0.2)
    ((time, failure),) = failures
    assert time == 5.0
    assert isinstance(failure, trio.TooSlowError)


async def test_a_handler_in_time_is_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    broker = broker_with("AB")
    handle = Failing({}, takes=4.9)
    async with running(broker, handle, handler_timeout=5) as pipeline:
        await broker.wait_committed("t", 0, 2)
        assert pipeline.statistics().failed == 0


@pytest.mark.parametrize("seconds", [0, -1, math.nan, "5", True])
def test_a_wrong_handler_timeout_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="handler_timeout must be seconds above 0"):
        Stages(handle_message=passes, handler_timeout=seconds)


# Bounds


@ALL
async def test_waiting_messages_do_not_take_the_room_of_other_partitions(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    """One partition whose messages all fail for ever, nine with more than fits at once."""
    broker = FakeBroker(topics={"t": 10})
    for partition in range(10):
        for index in range(500):
            broker.produce("t", b"v", key=b"%d" % index, partition=partition)

    async def handle(message: Message) -> None:
        if message.partition == 0:
            raise LookupError

    policy = Retry(attempts=math.inf, wait_initial=5, wait_jitter=0)
    async with running(
        broker, handle, on_failure=policy, ordering=ordering, max_in_flight=1000
    ) as pipeline:
        with trio.fail_after(60):
            for partition in range(1, 10):
                await broker.wait_committed("t", partition, 500)
        assert pipeline.statistics().in_flight <= 1000


async def test_a_test_pipeline_tells_what_became_of_what_was_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    handle = Failing({0: 1, 1: math.inf})
    stages = Stages(handle_message=handle, on_failure=DOUBLING)
    async with open_test_pipeline(stages=stages) as pipeline:
        acks = await pipeline.push(b"0", b"1")
    assert [message.value for message in acks.succeeded] == [b"0"]
    assert [message.value for message in acks.failed] == [b"1"]
    assert isinstance(acks.failed[0].failure, LookupError)
    assert [attempt for _, offset, attempt in handle.diary if offset == 1] == [1, 2, 3, 4]
