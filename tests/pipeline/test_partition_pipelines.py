"""A pipeline of its own for every assigned partition: entered, worked with, drained, left."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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
from trio_broadway_kafka._assignment import Assignment
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._partition_pipeline import PartitionPipeline
from trio_broadway_kafka._partition_pipelines import PartitionPipelines
from trio_broadway_kafka.testing import FakeBroker
from trio_broadway_kafka.testing._fake_client import FakeClient

Handler = Callable[[Message], Awaitable[None]]
Factory = Callable[[str, int], Stages | AbstractAsyncContextManager[Stages]]


def _open(
    client: FakeClient, stages: Factory, **options: Any
) -> AbstractAsyncContextManager[Pipeline]:
    return open_pipeline(client=client, topics=["t"], stages=stages, **options)


class Diary:
    """What happened when, and contexts of stages that write it down."""

    def __init__(
        self, handle: Handler | None = None, *, entering: float = 0.0, leaving: float = 0.0
    ) -> None:
        self.lines: list[tuple[float, str, int]] = []
        self.handle = handle
        self.entering = entering
        self.leaving = leaving

    def note(self, what: str, partition: int) -> None:
        self.lines.append((trio.current_time(), what, partition))

    def of(self, *what: str) -> list[tuple[float, str, int]]:
        return [line for line in self.lines if line[1] in what]

    @asynccontextmanager
    async def stages(self, topic: str, partition: int) -> AsyncIterator[Stages]:
        async def handle(message: Message) -> None:
            if self.handle is not None:
                await self.handle(message)
            self.note(f"handled {message.offset}", message.partition)

        self.note("entering", partition)
        try:
            await trio.sleep(self.entering)
            self.note("entered", partition)
            yield Stages(handle_message=handle, ordering="partition")
            self.note("leaving", partition)
            await trio.sleep(self.leaving)
            self.note("left", partition)
        except trio.Cancelled:
            self.note("cancelled", partition)
            raise


def sleeping(seconds: Callable[[Message], float]) -> Handler:
    """A handler that takes so long."""

    async def handle(message: Message) -> None:
        await trio.sleep(seconds(message))

    return handle


def _broker(partitions: int = 1, each: int = 3) -> FakeBroker:
    broker = FakeBroker(topics={"t": partitions})
    for partition in range(partitions):
        broker.produce("t", *[b"v"] * each, partition=partition)
    return broker


async def test_each_partition_is_handled_by_stages_of_its_own_which_may_differ(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(2)
    handled: dict[str, list[tuple[int, int]]] = {"messages": [], "batches": []}

    async def handle_message(message: Message) -> None:
        handled["messages"].append((message.partition, message.offset))

    async def handle_batch(batch: Batch) -> None:
        handled["batches"] += [(message.partition, message.offset) for message in batch]

    def stages(topic: str, partition: int) -> Stages:
        assert topic == "t"
        if partition == 0:
            return Stages(handle_message=handle_message)
        return Stages(batchers={"default": Batcher(handle_batch=handle_batch, size=3)})

    async with _open(broker.client(), stages) as pipeline:
        await pipeline.wait_caught_up()
        (batcher,) = pipeline.statistics().batchers
        assert (batcher.name, batcher.delivered) == ("default", 3)
    assert handled == {
        "messages": [(0, 0), (0, 1), (0, 2)],
        "batches": [(1, 0), (1, 1), (1, 2)],
    }
    assert [broker.committed("t", partition) for partition in (0, 1)] == [3, 3]


async def test_a_partition_is_paused_until_its_stages_are_entered_and_others_are_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(2, each=1)
    diary = Diary()

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        diary.entering = 5.0 if partition == 0 else 0.0
        async with diary.stages(topic, partition) as made:
            yield made

    async with _open(broker.client(), stages) as pipeline:
        await trio.sleep(4)
        assert [p.paused for p in pipeline.statistics().partitions] == [("entering",), ()]
        assert diary.of("handled 0") == [(0.0, "handled 0", 1)]
        await trio.sleep(2)
        assert [p.paused for p in pipeline.statistics().partitions] == [(), ()]
        assert diary.of("handled 0") == [
            (0.0, "handled 0", 1),
            (pytest.approx(5.0, abs=0.11), "handled 0", 0),
        ]


async def test_leaving_the_block_drains_then_leaves_the_stages_then_commits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    diary = Diary(sleeping(lambda message: 2), leaving=1)
    async with _open(broker.client(), diary.stages, commit_interval=math.inf):
        await trio.sleep(1)
    assert diary.lines == [
        (0.0, "entering", 0),
        (0.0, "entered", 0),
        (2.0, "handled 0", 0),
        (2.0, "leaving", 0),
        (3.0, "left", 0),
    ]
    (commit,) = broker.commits
    assert commit.offset == 1
    assert trio.current_time() == pytest.approx(3.0, abs=0.2)


async def test_a_revoke_drains_leaves_and_then_commits_and_others_go_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(2, each=10)
    diary = Diary(sleeping(lambda message: 2), leaving=3)
    one, two = broker.client(), broker.client()
    async with _open(one, diary.stages, commit_interval=math.inf):
        await trio.sleep(1)
        async with _open(two, diary.stages):
            await trio.sleep(3.5)
            assert diary.of("left") == []
            assert [broker.committed("t", partition) for partition in (0, 1)] == [None] * 2
            await trio.sleep(2)
            ((left_at, _, moved),) = diary.of("left")
            assert left_at == 5.0
            assert broker.committed("t", moved) == 1
            handled = [line for line in diary.lines if line[1].startswith("handled")]
            assert (4.0, "handled 1", 1 - moved) in handled
            assert [at for at, _, partition in handled if partition == moved] == [2.0]
            # The next owner starts exactly there, with stages of its own.
            await trio.sleep(2)
            assert (pytest.approx(7.0, abs=0.2), "handled 1", moved) in diary.lines


async def test_stages_that_are_left_too_late_are_cancelled_and_nothing_is_committed(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = _broker()
    diary = Diary(leaving=100)
    one = broker.client()
    options = {"commit_interval": math.inf, "revoke_timeout": 10}
    async with _open(one, diary.stages, **options) as pipeline:
        await pipeline.wait_caught_up()
        await trio.sleep(1)
        at = trio.current_time()
        broker.rebalance(one)
        await trio.sleep(11)
        assert diary.of("leaving", "cancelled") == [
            (pytest.approx(at, abs=0.2), "leaving", 0),
            (pytest.approx(at + 10, abs=0.2), "cancelled", 0),
        ]
        assert broker.commits == []
        # So all of it is handled again, by the stages of the next assignment.
        assert [what for _, what, _ in diary.lines].count("handled 0") == 2
        diary.leaving = 0


async def test_a_drain_that_comes_during_a_revoke_gives_its_leaving_no_more_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    diary = Diary(leaving=100)
    one = broker.client()
    options = {"commit_interval": math.inf, "revoke_timeout": 10}
    async with _open(one, diary.stages, **options) as pipeline:
        await trio.sleep(1)
        broker.rebalance(one)
        await trio.sleep(1)
        assert await pipeline.drain(timeout=60) == 0
    assert diary.of("cancelled") == [(11.0, "cancelled", 0)]
    assert broker.commits == []


async def test_an_error_in_leaving_ends_the_pipeline_and_nothing_of_it_is_committed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(2)

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        yield Stages()
        if partition == 0:
            raise OSError("disk full")

    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="disk full")) as raised:
        async with _open(broker.client(), stages, commit_interval=math.inf) as pipeline:
            await pipeline.wait_caught_up()
    (error,) = raised.value.exceptions
    assert error.__notes__ == ["leaving the stages of t/0"]
    assert [broker.committed("t", partition) for partition in (0, 1)] == [None, 3]


async def test_an_error_in_leaving_at_a_revoke_ends_the_pipeline_and_is_not_committed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        yield Stages()
        raise OSError("disk full")

    one = broker.client()
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="disk full")):
        async with _open(one, stages, commit_interval=math.inf) as pipeline:
            await pipeline.wait_caught_up()
            broker.rebalance(one)
            await trio.sleep(100)
    assert trio.current_time() < 1
    assert broker.commits == []


async def test_an_error_in_entering_ends_the_pipeline_and_says_where(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(2)
    diary = Diary()

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        if partition == 1:
            await trio.sleep(1)
            raise OSError("no such file")
        async with diary.stages(topic, partition) as made:
            yield made

    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="no such file")) as raised:
        async with _open(broker.client(), stages):
            await trio.sleep(100)
    assert raised.value.exceptions[0].__notes__ == ["entering the stages of t/1"]
    assert diary.lines[-1] == (1.0, "left", 0)
    assert broker.committed("t", 0) == 3


async def test_a_revoke_cancels_the_entering(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    diary = Diary(entering=100)
    one, two = broker.client(), broker.client()
    async with _open(one, diary.stages):
        await trio.sleep(1)
        diary.entering = 0
        async with _open(two, diary.stages):
            broker.rebalance(one, to=two)
            await trio.sleep(1)
            assert diary.lines[:4] == [
                (0.0, "entering", 0),
                (1.0, "cancelled", 0),
                (1.0, "entering", 0),
                (1.0, "entered", 0),
            ]


async def test_an_entering_that_resists_is_left_at_once_and_nothing_is_kept_of_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    made: list[PartitionPipeline] = []
    entered: list[tuple[int, bool]] = []

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        made.extend(pipelines._of.values())
        with trio.CancelScope(shield=True):
            await trio.sleep(8 if len(made) == 1 else 0)
        try:
            yield Stages()
        except trio.Cancelled:
            entered.append((made[0].state.epoch, made[0].assignment is not None))
            raise

    one = broker.client()
    async with _open(one, stages) as pipeline:
        pipelines = pipeline._assignment
        assert isinstance(pipelines, PartitionPipelines)
        await trio.sleep(1)
        broker.lose(one)
        await broker.wait_committed("t", 0, 3)
        assert entered == [(1, False)]
        assert [state.epoch for state in pipelines.intake.of] == [2]
        assert pipelines._everyone() == made[1:]


async def test_after_a_loss_the_stages_are_left_cancelled_and_nothing_is_committed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    diary = Diary(sleeping(lambda message: 2 if message.offset == 1 else 0))
    one, two = broker.client(), broker.client()
    async with _open(one, diary.stages, commit_interval=math.inf), _open(two, diary.stages):
        await trio.sleep(1)
        broker.lose(one, to=two)
        await trio.sleep(0.5)
        assert diary.of("leaving", "left") == []
        assert diary.of("cancelled") == [(1.0, "cancelled", 0)]
        assert diary.of("handled 0") == [(0.0, "handled 0", 0), (1.0, "handled 0", 0)]
        assert broker.commits == []


async def test_the_stages_of_the_next_assignment_wait_until_the_old_ones_are_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    open_at_once: list[tuple[str, float]] = []

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        open_at_once.append(("entered", trio.current_time()))
        try:
            yield Stages()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(8)
            open_at_once.append(("left", trio.current_time()))

    one = broker.client()
    async with _open(one, stages, commit_interval=math.inf, close_timeout=20) as pipeline:
        await pipeline.wait_caught_up()
        await trio.sleep(1)
        broker.lose(one)
        await trio.sleep(9)
        assert open_at_once == [
            ("entered", 0.0),
            ("left", pytest.approx(9.0, abs=0.2)),
            ("entered", pytest.approx(9.0, abs=0.2)),
        ]


async def test_they_wait_for_all_old_ones_though_those_in_between_were_never_entered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    lines: list[tuple[float, str]] = []

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        lines.append((trio.current_time(), "entered"))
        try:
            yield Stages()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(8)
            lines.append((trio.current_time(), "left"))

    one = broker.client()
    async with _open(one, stages, commit_interval=math.inf, close_timeout=20):
        for _ in range(3):
            await trio.sleep(1)
            broker.lose(one)
        await trio.sleep(7)
        assert lines == [(0.0, "entered"), (9.0, "left"), (9.0, "entered")]


async def test_a_handler_that_resists_keeps_its_stages_open_and_not_the_revoke(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(each=1)
    lines: list[tuple[str, float]] = []

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        is_open = True

        async def handle(message: Message) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(30)
            lines.append(("handled while open" if is_open else "too late", trio.current_time()))

        lines.append(("entered", trio.current_time()))
        try:
            yield Stages(handle_message=handle)
        finally:
            is_open = False
            lines.append(("left", trio.current_time()))

    one, two = broker.client(), broker.client()
    async with _open(one, stages, revoke_timeout=5), _open(two, lambda t, p: Stages()):
        await trio.sleep(1)
        broker.rebalance(one, to=two)
        await trio.sleep(7)
        assert broker.committed("t", 0) == 1  # the other one's
        await trio.sleep(30)
    assert lines[:3] == [("entered", 0.0), ("handled while open", 30.0), ("left", 30.0)]


@pytest.mark.parametrize("resisting", [False, True])
async def test_without_a_context_a_revoke_commits_the_prefix_of_what_was_cut_off(
    resisting: bool, autojump_clock: trio.testing.MockClock
) -> None:
    broker = _broker()

    async def handle(message: Message) -> None:
        if message.offset == 1:
            with trio.CancelScope(shield=resisting):
                await trio.sleep(30)

    def stages(topic: str, partition: int) -> Stages:
        return Stages(handle_message=handle, ordering="partition")

    one, two = broker.client(), broker.client()
    options = {"commit_interval": math.inf, "revoke_timeout": 5}
    async with _open(one, stages, **options), _open(two, lambda t, p: Stages()):
        await trio.sleep(1)
        broker.rebalance(one, to=two)
        await trio.sleep(6)
        assert broker.commits[0].offset == 1


async def test_at_drain_timeout_handlers_are_cancelled_and_the_stages_still_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    diary = Diary(sleeping(lambda message: math.inf if message.offset == 1 else 0), leaving=2)
    options = {"commit_interval": math.inf, "drain_timeout": 10}
    async with _open(broker.client(), diary.stages, **options):
        await trio.sleep(1)
    assert diary.of("leaving", "left") == [
        (pytest.approx(11, abs=0.2), "leaving", 0),
        (pytest.approx(13, abs=0.2), "left", 0),
    ]
    assert broker.committed("t", 0) == 1


async def test_a_handlers_error_stops_all_partitions_and_each_prefix_is_committed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(3)
    diary = Diary()

    async def handle(message: Message) -> None:
        if message.offset == 2 and message.partition == 1:
            raise LookupError("broken")
        if message.offset == 1:
            await trio.sleep(1 if message.partition == 1 else 2)

    diary.handle = handle
    with pytest.RaisesGroup(pytest.RaisesExc(LookupError, match="broken")):
        async with _open(broker.client(), diary.stages, commit_interval=math.inf):
            await trio.sleep(100)
    assert sorted(diary.of("left")) == [(1.0, "left", partition) for partition in range(3)]
    assert [broker.committed("t", partition) for partition in range(3)] == [1, 2, 1]


async def test_a_cancellation_cancels_the_handlers_and_leaves_the_stages_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    diary = Diary(sleeping(lambda message: 1), leaving=2)
    with trio.move_on_after(1.5):
        async with _open(broker.client(), diary.stages, commit_interval=math.inf):
            await trio.sleep(100)
    assert diary.of("leaving", "left", "cancelled") == [(1.5, "leaving", 0), (3.5, "left", 0)]
    assert broker.committed("t", 0) == 1


async def test_a_cancellation_gives_leaving_no_more_than_close_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    diary = Diary(leaving=100)
    with trio.move_on_after(1.5):
        async with _open(broker.client(), diary.stages, commit_interval=math.inf):
            await trio.sleep(100)
    assert trio.current_time() == pytest.approx(6.5, abs=0.3)
    assert diary.lines[-1][1] == "cancelled"
    assert broker.commits == []


@pytest.mark.parametrize("resisting", [False, True])
async def test_stages_that_are_left_too_late_do_not_cost_the_others_their_commit(
    resisting: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = _broker(2)

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        yield Stages()
        if partition == 0:
            with trio.CancelScope(shield=resisting):
                await trio.sleep(20)

    with trio.move_on_after(1):
        async with _open(broker.client(), stages, commit_interval=math.inf):
            await trio.sleep(100)
    assert [broker.committed("t", partition) for partition in (0, 1)] == [None, 3]
    assert broker.commits[0].time == pytest.approx(6, abs=0.3)
    assert trio.current_time() == pytest.approx(21 if resisting else 6, abs=0.3)
    assert ("have not been left in time" in caplog.text) == resisting
    assert "no answer from Kafka" not in caplog.text


async def test_a_task_of_the_context_that_fails_ends_the_pipeline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()

    async def fail() -> None:
        await trio.sleep(3)
        raise OSError("connection closed")

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            yield Stages()

    with pytest.RaisesGroup(pytest.RaisesGroup(OSError)) as raised:
        async with _open(broker.client(), stages, commit_interval=math.inf) as pipeline:
            await pipeline.wait_caught_up()
            await trio.sleep(100)
    assert broker.commits == []
    assert raised.value.exceptions[0].__notes__ == ["in the context of the stages of t/0"]
    assert trio.current_time() == pytest.approx(3, abs=0.2)


async def test_a_context_that_ends_though_nobody_left_it_ends_the_pipeline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()

    async def watch(scope: trio.CancelScope) -> None:
        await trio.sleep(3)
        scope.cancel()

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, nursery.cancel_scope)
            yield Stages()

    with pytest.RaisesGroup(
        pytest.RaisesExc(RuntimeError, match="the context ended though nobody left it")
    ) as raised:
        async with _open(broker.client(), stages):
            await trio.sleep(100)
    assert raised.value.exceptions[0].__notes__ == ["in the context of the stages of t/0"]
    assert trio.current_time() == pytest.approx(3, abs=0.2)


async def test_what_a_context_swallowed_as_it_was_entered_is_named_as_the_cause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Any]:
        with contextlib.suppress(Exception):
            yield "no stages"

    with pytest.RaisesGroup(RuntimeError) as raised:
        async with _open(_broker().client(), stages):
            await trio.sleep(100)
    assert isinstance(raised.value.exceptions[0].__cause__, ConfigError)


async def test_a_context_that_swallows_its_cancellation_is_left_and_not_committed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    entered: list[float] = []

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        entered.append(trio.current_time())
        with contextlib.suppress(trio.Cancelled):
            yield Stages()
            await trio.sleep(100)

    one = broker.client()
    options = {"commit_interval": math.inf, "revoke_timeout": 5, "close_timeout": 1}
    async with _open(one, stages, **options):
        await trio.sleep(1)
        broker.rebalance(one)
        await trio.sleep(6)
        assert entered == [0.0, pytest.approx(6.0, abs=0.2)]
        broker.lose(one)
        await trio.sleep(1)
        assert entered[2:] == [pytest.approx(7.0, abs=0.2)]
        assert broker.commits == []


@pytest.mark.parametrize("made", [None, "stages", Stages])
async def test_what_is_no_stages_is_refused_naming_the_partition(
    made: object, autojump_clock: trio.testing.MockClock
) -> None:
    broker = _broker()
    with pytest.RaisesGroup(
        pytest.RaisesExc(ConfigError, match="must return a Stages")
    ) as raised:
        async with _open(broker.client(), lambda topic, partition: made):  # type: ignore[arg-type,return-value]
            await trio.sleep(100)
    assert raised.value.exceptions[0].__notes__ == ["entering the stages of t/0"]


async def test_a_batch_that_could_never_fill_is_refused_there_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handle_batch(batch: Batch) -> None: ...

    def stages(topic: str, partition: int) -> Stages:
        return Stages(batchers={"default": Batcher(handle_batch=handle_batch, size=11)})

    with pytest.RaisesGroup(pytest.RaisesExc(ConfigError, match="max_in_flight=10")):
        async with _open(_broker().client(), stages, max_in_flight=10):
            await trio.sleep(100)


def test_an_async_function_is_refused_at_once() -> None:
    async def stages(topic: str, partition: int) -> Stages:
        return Stages()

    async def generator(topic: str, partition: int) -> AsyncIterator[Stages]:
        yield Stages()

    for wrong in (stages, generator):
        with pytest.raises(ConfigError, match="asynccontextmanager"):
            _open(_broker().client(), wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="or a function of topic and partition"):
        _open(_broker().client(), Stages)  # type: ignore[arg-type]


@pytest.mark.parametrize("ordering", ["key", "partition", "unordered"])
async def test_one_handler_that_never_returns_does_not_stop_the_other_partitions(
    ordering: Any, autojump_clock: trio.testing.MockClock
) -> None:
    broker = _broker(10, each=3000)

    async def handle(message: Message) -> None:
        if message.partition == 3:
            await trio.sleep(math.inf)

    def stages(topic: str, partition: int) -> Stages:
        return Stages(handle_message=handle, ordering=ordering, concurrency=2)

    async with _open(broker.client(), stages, max_in_flight=1000, drain_timeout=1) as pipeline:
        for partition in range(10):
            if partition != 3:
                await broker.wait_committed("t", partition, 3000)
        stuck = pipeline.statistics().partitions[3]
        assert stuck.in_flight <= 1000
        assert trio.current_time() < 60


async def test_a_slow_partition_with_a_backlog_leaves_room_for_one_that_was_idle(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(2, each=0)
    broker.produce("t", *[b"v"] * 5000, partition=0)
    late: list[float] = []

    async def handle(message: Message) -> None:
        if message.partition == 0:
            await trio.sleep(10)
        else:
            late.append(trio.current_time())

    def stages(topic: str, partition: int) -> Stages:
        return Stages(handle_message=handle, concurrency=1, ordering="unordered")

    async with _open(broker.client(), stages, max_in_flight=100, drain_timeout=0):
        await trio.sleep(100)
        broker.produce("t", *[b"v"] * 500, partition=1)
        await broker.wait_committed("t", 1, 500)
        assert late[-1] < 110


async def test_the_oldest_open_batch_of_all_partitions_leaves_when_nothing_else_can(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(2, each=60)
    batches: list[tuple[int, int, str]] = []

    async def handle_batch(batch: Batch) -> None:
        batches.append((batch.messages[0].partition, len(batch), batch.trigger))

    def stages(topic: str, partition: int) -> Stages:
        batcher = Batcher(handle_batch=handle_batch, size=100, timeout=math.inf)
        return Stages(batchers={"default": batcher})

    async with _open(broker.client(), stages, max_in_flight=100):
        await trio.sleep(5)
        assert [trigger for _, _, trigger in batches] == ["pressure"]
    assert sum(count for _, count, _ in batches) == 120
    assert [broker.committed("t", partition) for partition in (0, 1)] == [60, 60]


async def test_draining_from_inside_a_context_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    pipeline: Pipeline

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        await trio.sleep(1)
        with pytest.raises(RuntimeError, match="inside a handler"):
            await pipeline.drain()
        yield Stages()

    async with _open(broker.client(), stages) as pipeline:
        await broker.wait_committed("t", 0, 3)


async def test_drain_leaves_the_stages_and_a_partition_that_comes_later_is_not_entered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()
    diary = Diary()
    async with _open(broker.client(), diary.stages) as pipeline:
        await pipeline.wait_caught_up()
        assert await pipeline.drain() == 0
        assert [what for _, what, _ in diary.lines][-2:] == ["leaving", "left"]
        before = len(diary.lines)
        one = pipeline._client
        assert isinstance(one, FakeClient)
        broker.rebalance(one)
        await trio.sleep(5)
        assert len(diary.lines) == before


async def test_a_pipeline_that_is_drained_does_nothing_more(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _open(_broker(2).client(), lambda t, p: Stages()) as pipeline:
        await pipeline.wait_caught_up()
        await pipeline.drain()
        asked: list[float] = []
        want = pipeline._source.want

        def watched() -> None:
            asked.append(trio.current_time())
            want()

        monkeypatch.setattr(pipeline._source, "want", watched)
        await trio.sleep(10)
        assert len(asked) <= 1


async def test_what_is_cancelled_before_it_has_begun_asks_for_no_stages() -> None:
    asked: list[int] = []

    def stages(topic: str, partition: int) -> Stages:
        asked.append(partition)
        return Stages()

    def begin(state: PartitionOffsets, stages: Stages) -> Assignment:
        raise AssertionError

    one = PartitionPipeline(PartitionOffsets("t", 0, 1), stages, (), begin)
    one.cancel()
    await one.run()
    assert asked == []
    assert one.left.is_set()


async def test_a_partition_that_comes_as_the_pipeline_is_closing_is_not_entered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(2)
    diary = Diary(leaving=3)
    one, two = broker.client(), broker.client()

    async def give_back() -> None:
        await trio.sleep(1.5)
        broker.rebalance(two, to=one)

    async with _open(two, lambda t, p: Stages()), trio.open_nursery() as nursery:
        await trio.sleep(1)
        with trio.move_on_after(1):
            async with _open(one, diary.stages, close_timeout=5) as pipeline:
                await pipeline.wait_caught_up()
                nursery.start_soon(give_back)
                await trio.sleep(100)
        assert [what for _, what, _ in diary.lines].count("entering") == 1
    assert trio.current_time() == pytest.approx(5, abs=0.3)


async def test_nothing_is_kept_of_assignments_that_have_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(2)
    one = broker.client()
    async with _open(one, Diary().stages) as pipeline:
        pipelines = pipeline._assignment
        assert isinstance(pipelines, PartitionPipelines)
        for move in (broker.rebalance, broker.lose):
            await trio.sleep(1)
            move(one)
        await trio.sleep(1)
        assert sorted(state.epoch for state in pipelines.intake.of) == [5, 6]
        assert sorted(one.state.epoch for one in pipelines._everyone()) == [5, 6]


async def test_a_handler_of_a_lost_partition_that_resists_is_logged_as_the_block_waits(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = _broker(each=1)

    async def handle(message: Message) -> None:
        if trio.current_time() < 1:
            with trio.CancelScope(shield=True):
                await trio.sleep(25)

    one, two = broker.client(), broker.client()
    async with (
        _open(one, lambda t, p: Stages(handle_message=handle)),
        _open(two, lambda t, p: Stages()),
    ):
        await trio.sleep(1)
        broker.lose(one, to=two)
        await trio.sleep(1)
    assert trio.current_time() == pytest.approx(25, abs=0.3)
    logged = [line for line in caplog.messages if "goes on" in line]
    assert logged == [
        f"the handler of <Message t/0@0> goes on {seconds} s after it was cancelled"
        for seconds in (10, 20)
    ]


async def test_once_a_handler_has_failed_no_partition_starts_another_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(20, each=3)
    lines: list[str] = []
    go_on = trio.Event()

    async def handle(message: Message) -> None:
        lines.append("starts")
        if message.offset == 1:  # after the first one there is a checkpoint
            await go_on.wait()  # all are awake when one fails
            if message.partition == 7:
                lines.append("fails")
                raise LookupError

    def stages(topic: str, partition: int) -> Stages:
        return Stages(handle_message=handle, ordering="partition")

    with pytest.RaisesGroup(LookupError):
        async with _open(broker.client(), stages):
            await trio.sleep(1)
            go_on.set()
            await trio.sleep(100)
    assert lines[-1] == "fails"


async def test_the_batch_that_makes_room_is_the_oldest_and_leaves_when_nothing_runs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(3, each=0)
    batches: list[tuple[float, int, str]] = []

    async def handle_batch(batch: Batch) -> None:
        batches.append((trio.current_time(), batch.messages[0].partition, batch.trigger))

    async def handle(message: Message) -> None:
        await trio.sleep(10)

    def stages(topic: str, partition: int) -> Stages:
        if partition == 2:
            return Stages(handle_message=handle)
        batcher = Batcher(handle_batch=handle_batch, size=100, timeout=math.inf)
        return Stages(batchers={"default": batcher})

    async with _open(broker.client(), stages, max_in_flight=100):
        await trio.sleep(1)
        broker.produce("t", *[b"v"] * 50, partition=1)
        await trio.sleep(1)
        broker.produce("t", *[b"v"] * 45, partition=0)
        await trio.sleep(1)
        broker.produce("t", b"v", partition=2)
        await trio.sleep(1)
        broker.produce("t", *[b"v"] * 40, partition=0)
        await trio.sleep(5)
        assert batches == []
        await trio.sleep(10)
        assert batches == [(pytest.approx(13, abs=0.3), 1, "pressure")]


async def test_failures_and_batches_of_assignments_that_have_ended_are_still_counted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(each=4)

    async def handle(message: Message) -> None:
        if message.offset == 0:
            raise ValueError

    async def handle_batch(batch: Batch) -> None: ...

    def stages(topic: str, partition: int) -> Stages:
        return Stages(
            handle_message=handle,
            batchers={"default": Batcher(handle_batch=handle_batch, size=1)},
            on_failure=Skip(),
        )

    one = broker.client()
    async with _open(one, stages) as pipeline:
        await pipeline.wait_caught_up()
        broker.rebalance(one)
        await trio.sleep(1)
        broker.produce("t", b"v")
        await pipeline.wait_caught_up()
        statistics = pipeline.statistics()
        assert (statistics.failed, statistics.skipped, statistics.succeeded) == (1, 1, 4)
        assert [batcher.delivered for batcher in statistics.batchers] == [4]
