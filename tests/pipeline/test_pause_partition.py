"""PausePartition: the partition waits with its failed message, and others go on."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import trio
import trio.testing

from trio_broadway_kafka import (
    Batch,
    Batcher,
    BroadwayKafkaError,
    FailurePolicy,
    Message,
    PausePartition,
    Retry,
    Stages,
    open_pipeline,
)
from trio_broadway_kafka._kafka._client import Chunk
from trio_broadway_kafka._model import _offset_map
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka.testing import FakeBroker

ALL = pytest.mark.parametrize("ordering", ["key", "partition", "unordered"])


def broker_with(*counts: int) -> FakeBroker:
    broker = FakeBroker(topics={"t": len(counts), "out": 1})
    for partition, count in enumerate(counts):
        for index in range(count):
            broker.produce("t", b"v", key=b"k%d" % index, partition=partition)
    return broker


class Handler:
    """Fails at some messages until a time, and keeps a diary of (seconds, partition, offset).

    Args:
        bad: partition and offset, and until when it fails.
    """

    def __init__(self, bad: dict[tuple[int, int], float], *, takes: float = 0) -> None:
        self.bad = bad
        self.takes = takes
        self.diary: list[tuple[float, int, int]] = []

    async def __call__(self, message: Message) -> None:
        place = (message.partition, message.offset)
        self.diary.append((round(trio.current_time(), 1), *place))
        if self.takes and place not in self.bad:
            await trio.sleep(self.takes)
        if trio.current_time() < self.bad.get(place, 0):
            raise LookupError(f"{place} does not work yet")

    async def batch(self, batch: Batch) -> None:
        for message in batch:
            try:
                await self(message)
            except LookupError as error:
                message.fail(error)

    def of(self, partition: int) -> list[int]:
        return [offset for _, number, offset in self.diary if number == partition]


def opened(broker: FakeBroker, stages: Any, **options: Any) -> Any:
    options = {"commit_interval": 0, "client": broker.client(), **options}
    return open_pipeline(topics=["t"], stages=stages, **options)


def pausing(handle: Handler, policy: Any = None, **options: Any) -> Stages:
    policy = PausePartition(seconds=10) if policy is None else policy
    return Stages(handle_message=handle, on_failure=policy, **options)


@ALL
async def test_it_is_tried_again_when_the_pause_is_over_and_what_is_finished_is_not(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with(5)
    handle = Handler({(0, 2): 15})
    async with opened(broker, pausing(handle, ordering=ordering, concurrency=2)) as pipeline:
        await trio.sleep(5)
        assert broker.committed("t", 0) == 2
        [state] = pipeline.statistics().partitions
        assert (state.paused, state.in_flight) == (("policy",), 0)
        await broker.wait_committed("t", 0, 5)
        assert trio.current_time() == pytest.approx(20, abs=0.5)
        figures = pipeline.statistics()
    times = [time for time, _, offset in handle.diary if offset == 2]
    assert times == [0, pytest.approx(10, abs=0.2), pytest.approx(20, abs=0.4)]
    assert sorted({*handle.of(0)}) == [0, 1, 2, 3, 4]
    assert len(handle.diary) == 5 + 2, "only what failed is handled again"
    assert (figures.failed, figures.succeeded, figures.in_flight) == (2, 5, 0)


@ALL
async def test_nothing_more_of_it_starts_and_other_partitions_go_on(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    broker = broker_with(1, 1)
    handle = Handler({(0, 0): 5}, takes=0.1)
    stages = pausing(handle, ordering=ordering, concurrency=1)
    async with opened(broker, stages) as pipeline:
        await trio.sleep(1)
        broker.produce("t", *[b"v"] * 3, partition=0)
        broker.produce("t", *[b"v"] * 3, partition=1)
        await trio.sleep(1)
        assert broker.committed("t", 1) == 4
        assert handle.of(0) == [0]
        paused = {p.partition: p.paused for p in pipeline.statistics().partitions}
        assert paused == {0: ("policy",), 1: ()}
        await broker.wait_committed("t", 0, 4)
        assert trio.current_time() == pytest.approx(10.4, abs=0.3)
    assert handle.of(0) == [0, 0, 1, 2, 3]


@ALL
async def test_what_has_started_is_finished_and_not_handled_again(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    """More than one of a partition at once, but in partition order."""
    broker = broker_with(4)
    handle = Handler({(0, 1): 5}, takes=3)
    stages = pausing(handle, ordering=ordering, concurrency=2)
    async with opened(broker, stages) as pipeline:
        await trio.sleep(4)
        assert broker.committed("t", 0) == 1
        await broker.wait_committed("t", 0, 4)
        assert pipeline.statistics().succeeded == 4
    assert handle.of(0).count(0) == 1
    assert handle.of(0)[:3] == [0, 1, 1]
    assert sorted(handle.of(0)) == [0, 1, 1, 2, 3]


async def test_key_order_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    broker = FakeBroker(topics={"t": 1})
    for index in range(100):
        broker.produce("t", b"v", key=b"k%d" % (index % 7))
    done: list[int] = []

    class Noting(Handler):
        async def __call__(self, message: Message) -> None:
            await super().__call__(message)
            await trio.sleep(0.01 * (message.offset % 3))
            done.append(message.offset)

    bad = {(0, offset): 25.0 + offset for offset in (3, 31, 32, 60)}
    async with opened(broker, pausing(Noting(bad), concurrency=5)):
        await broker.wait_committed("t", 0, 100)
    assert sorted(done) == [*range(100)], "each is finished once"
    for key in range(7):
        mine = [offset for offset in done if offset % 7 == key]
        assert mine == sorted(mine)


async def test_the_longest_of_several_pauses_counts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)
    seconds = {0: 10, 1: 30, 2: 20}

    def choose(message: Message) -> PausePartition:
        return PausePartition(seconds=seconds[message.offset])

    async def handle(message: Message) -> None:
        started.append((round(trio.current_time()), message.offset))
        await trio.sleep(1)
        if trio.current_time() < 20:
            raise LookupError

    started: list[tuple[int, int]] = []
    stages = Stages(handle_message=handle, on_failure=choose, concurrency=3)
    async with opened(broker, stages):
        await broker.wait_committed("t", 0, 3)
    assert sorted(started) == [(0, 0), (0, 1), (0, 2), (31, 0), (31, 1), (31, 2)]


async def test_resume_ends_it_early_and_without_seconds_nothing_else_does(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)
    handle = Handler({(0, 1): 5000})
    async with opened(broker, pausing(handle, PausePartition())) as pipeline:
        await trio.sleep(4000)
        pipeline.resume("t", 0)
        await trio.sleep(2000)
        assert [time for time, _, offset in handle.diary if offset == 1] == [
            0,
            pytest.approx(4000, abs=0.2),
        ]
        pipeline.resume("t", 0)
        await broker.wait_committed("t", 0, 3)
        assert trio.current_time() == pytest.approx(6000, abs=1)


async def test_a_pause_of_the_user_outlives_it(autojump_clock: trio.testing.MockClock) -> None:
    broker = broker_with(3)
    handle = Handler({(0, 1): 5})
    async with opened(broker, pausing(handle)) as pipeline:
        await trio.sleep(1)
        pipeline.pause("t", 0)
        [state] = pipeline.statistics().partitions
        assert state.paused == ("user", "policy")
        await trio.sleep(100)
        [state] = pipeline.statistics().partitions
        assert state.paused == ("user",)
        assert handle.of(0).count(1) == 1
        pipeline.resume("t", 0)
        await broker.wait_committed("t", 0, 3)
    assert sorted(handle.of(0)) == [0, 1, 1, 2]


async def test_it_comes_after_the_last_attempt_of_a_retry(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(2)
    handle = Handler({(0, 0): 15})
    policy = Retry(attempts=2, wait_initial=1, wait_jitter=0, then=PausePartition(seconds=10))
    async with opened(broker, pausing(handle, policy)):
        await broker.wait_committed("t", 0, 2)
    times = [time for time, _, offset in handle.diary if offset == 0]
    # Attempts are counted anew.
    assert times == [0, 1, *(pytest.approx(t, abs=0.3) for t in (11, 12, 22))]


async def test_another_message_that_waits_for_a_retry_is_read_again_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(2)
    handle = Handler({(0, 0): 5, (0, 1): 5})

    def choose(message: Message) -> FailurePolicy:
        if message.offset == 0:
            return Retry(wait_initial=1000, wait_max=1000)
        return PausePartition(seconds=10)

    async with opened(broker, pausing(handle, choose)):
        await broker.wait_committed("t", 0, 2)
        assert trio.current_time() < 12
    assert sorted(handle.of(0)) == [0, 0, 1, 1]


@pytest.mark.parametrize("forwarded", [False, True], ids=["handler", "no handler"])
async def test_messages_of_a_batch(
    autojump_clock: trio.testing.MockClock, forwarded: bool
) -> None:
    broker = broker_with(5, 2)
    handle = Handler({(0, 1): 5})

    async def passes(message: Message) -> None:
        pass

    batcher = Batcher(handle_batch=handle.batch, size=4, timeout=1)
    stages = Stages(
        handle_message=None if forwarded else passes,
        batchers={"default": batcher},
        on_failure=PausePartition(seconds=10),
    )
    async with opened(broker, stages):
        await trio.sleep(5)
        assert broker.committed("t", 1) == 2
        assert broker.committed("t", 0) == 1
        await broker.wait_committed("t", 0, 5)
    assert sorted(handle.of(0)) == [0, 1, 1, 2, 3, 4]
    assert handle.of(1) == [0, 1]


async def test_outputs_of_what_is_finished_are_produced_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(6)
    broker.delay("produce", 3)

    async def handle(message: Message) -> None:
        message.produce("out", value=b"%d" % message.offset)
        if message.offset == 2 and trio.current_time() < 5:
            raise LookupError

    stages = Stages(
        handle_message=handle, on_failure=PausePartition(seconds=1), ordering="unordered"
    )
    async with opened(broker, stages):
        await broker.wait_committed("t", 0, 6)
    assert sorted(record.value() or b"" for record in broker.records("out")) == [
        b"%d" % offset for offset in range(6)
    ]


async def test_the_stages_of_a_partition_are_not_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(4, 4)
    handle = Handler({(0, 2): 15})
    made: list[int] = []

    def stages(topic: str, partition: int) -> Stages:
        made.append(partition)
        return pausing(handle)

    async with opened(broker, stages) as pipeline:
        await broker.wait_committed("t", 1, 4)
        await broker.wait_committed("t", 0, 4)
        assert pipeline.statistics().succeeded == 8
    assert sorted(made) == [0, 1]
    assert sorted(handle.of(0)) == [0, 1, 2, 2, 2, 3]


async def test_what_failed_while_it_was_prepared(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)
    handle = Handler({})

    async def prepare(messages: list[Message]) -> None:
        if trio.current_time() < 5:
            messages[1].fail("not yet")

    async with opened(broker, pausing(handle, prepare_messages=prepare)):
        await broker.wait_committed("t", 0, 3)
    assert sorted(handle.of(0)) == [0, 1, 2]


# Ends.


async def test_a_revoke_does_not_wait_for_it_and_the_next_owner_tries_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(5)
    handle = Handler({(0, 2): 5})
    client = broker.client()
    async with opened(broker, pausing(handle, PausePartition()), client=client) as pipeline:
        await trio.sleep(6)
        broker.rebalance(client)
        await broker.wait_committed("t", 0, 5)
        assert trio.current_time() < 7
        assert pipeline.statistics().partitions[0].paused == ()
    assert sorted(handle.of(0)) == [0, 1, 2, 2, 3, 4]


@pytest.mark.parametrize("how", ["rebalance", "lose"])
async def test_a_pause_that_ends_as_the_partition_goes_is_no_matter(
    autojump_clock: trio.testing.MockClock, how: str
) -> None:
    """A handler holds the revoke up beyond the pause's end."""
    broker = broker_with(5)
    handle = Handler({(0, 1): 5}, takes=20)
    client = broker.client()
    stages = pausing(handle, PausePartition(seconds=4), concurrency=2)
    async with opened(broker, stages, client=client, revoke_timeout=60):
        await trio.sleep(1)
        getattr(broker, how)(client)
        await broker.wait_committed("t", 0, 5)
    assert handle.of(0).count(0) == (1 if how == "rebalance" else 2)


async def test_leaving_does_not_wait_for_it(autojump_clock: trio.testing.MockClock) -> None:
    broker = broker_with(5)
    handle = Handler({(0, 2): 5})
    async with opened(broker, pausing(handle)) as pipeline:
        await trio.sleep(2)
        assert await pipeline.drain() == 0
    assert trio.current_time() == pytest.approx(2, abs=0.2)
    assert broker.committed("t", 0) == 2
    assert handle.of(0).count(2) == 1


async def test_a_cancelled_pipeline_ends_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(5)
    with trio.move_on_after(2):
        async with opened(broker, pausing(Handler({(0, 2): 5}))):
            await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(2, abs=0.2)
    assert broker.committed("t", 0) == 2


async def test_a_finite_job_ends_with_an_error_that_names_what_nothing_will_resume(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(5, 5)
    handle = Handler({(0, 2): 5}, takes=1)
    stages = pausing(handle, PausePartition(), concurrency=1)
    with pytest.RaisesGroup(
        pytest.RaisesExc(
            BroadwayKafkaError,
            match=r"all that is left waits in t/0, paused by a PausePartition\(\)",
        )
    ):
        async with opened(broker, stages, stop_at="end") as pipeline:
            await pipeline.wait_finished()
    assert broker.committed("t", 1) == 5, "all else was finished first"
    assert broker.committed("t", 0) == 2


async def test_a_finite_job_lets_what_has_started_beside_it_end_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(3)
    handle = Handler({(0, 2): math.inf}, takes=30)
    stages = pausing(handle, PausePartition(), ordering="unordered", concurrency=3)
    with pytest.RaisesGroup(pytest.RaisesExc(BroadwayKafkaError, match="waits in t/0")):
        async with opened(broker, stages, stop_at="end") as pipeline:
            await pipeline.wait_finished()
    assert trio.current_time() == pytest.approx(30, abs=0.5)
    again = Handler({})
    async with opened(broker, Stages(handle_message=again)):
        await broker.wait_committed("t", 0, 3)
    assert again.of(0) == [2]


async def test_a_finite_job_waits_for_a_pause_that_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_with(5, 5)
    stages = pausing(Handler({(0, 2): 5}))
    async with opened(broker, stages, stop_at="end") as pipeline:
        await pipeline.wait_finished()
    assert broker.committed("t", 0) == 5


async def test_the_log_names_the_message_and_not_what_is_in_it(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"secret", key=b"secret")

    async def handle(message: Message) -> None:
        raise LookupError("secret")

    for policy in (PausePartition(), PausePartition(seconds=90)):
        async with opened(broker, Stages(handle_message=handle, on_failure=policy)):
            await trio.sleep(1)
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert said == [
        "pausing <t/0 epoch 1> until it is resumed for <Message t/0@0>: LookupError",
        "pausing <t/0 epoch 1> for 90 s for <Message t/0@0>: LookupError",
    ]
    assert "secret" not in caplog.text


# What arrives around it.


async def test_what_was_polled_before_the_pause_and_comes_after_it_is_asked_for_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As from a real client's thread: it begins beyond the message that failed."""
    broker = broker_with(2)
    handled: list[int] = []

    async def handle(message: Message) -> None:
        await trio.sleep(0.5)  # meanwhile the next fetch has begun
        if message.offset == 0 and trio.current_time() < 5:
            raise LookupError
        handled.append(message.offset)

    stages = Stages(handle_message=handle, on_failure=PausePartition(seconds=10))
    client = broker.client()
    async with opened(broker, stages, client=client) as pipeline:
        await trio.sleep(1)
        [late] = broker.produce("t", b"v", partition=0)
        end = pipeline._policy_pauses._end

        def end_and_hear_of_it(state: PartitionOffsets) -> None:
            end(state)
            client._reader._reserved, client._reader._count = False, 0  # it is answered
            pipeline._source.fetched([Chunk("t", 0, state.epoch, [late], 1)], ())

        pipeline._policy_pauses._end = end_and_hear_of_it
        await broker.wait_committed("t", 0, 3)
    assert sorted(handled) == [0, 1, 2]


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.3])
async def test_nothing_is_lost_where_pauses_are_short_and_messages_arrive_all_the_time(
    autojump_clock: trio.testing.MockClock, seconds: float
) -> None:
    broker = FakeBroker(topics={"t": 2})
    finished: list[tuple[int, int]] = []
    failures = 0

    async def handle(message: Message) -> None:
        nonlocal failures
        await trio.sleep(0.01)
        if (message.offset + failures) % 5 == 0:
            failures += 1
            raise LookupError
        finished.append((message.partition, message.offset))

    stages = Stages(
        handle_message=handle, on_failure=PausePartition(seconds=seconds), ordering="unordered"
    )
    async with opened(broker, stages, max_in_flight=20):
        for number in range(300):
            broker.produce("t", b"v", partition=number % 2)
            await trio.sleep(0.01)
        for partition in (0, 1):
            await broker.wait_committed("t", partition, 150)
    assert sorted(finished) == [(p, o) for p in (0, 1) for o in range(150)]


async def test_a_full_map_does_not_keep_it_from_being_read_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second message does not work yet: more than the metadata hold."""
    monkeypatch.setattr(_offset_map, "MAX_LENGTH", 500)
    broker = FakeBroker(topics={"t": 1})
    count = 4_000
    broker.produce("t", *[b"v"] * count)

    async def handle(message: Message) -> None:
        if message.offset % 2 == 0 and trio.current_time() < 15:
            await trio.sleep(10)
            raise LookupError

    stages = Stages(
        handle_message=handle,
        on_failure=PausePartition(seconds=20),
        ordering="unordered",
        concurrency=count,
    )
    async with opened(broker, stages, max_in_flight=count, commit_interval=1) as pipeline:
        await trio.sleep(5)
        assert pipeline.statistics().partitions[0].paused == ("share",)
        await broker.wait_committed("t", 0, count)
        assert trio.current_time() == pytest.approx(31, abs=1)
        assert pipeline.statistics().succeeded == count
