"""The processors, through the assignment that owns them. Times are exact: the clock jumps."""

from __future__ import annotations

import gc
import itertools
import logging
import random
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests._records import Record, arrive, assignment
from trio_broadway_kafka import ConfigError, Message, MessageFailed, Skip, Stages, Stop
from trio_broadway_kafka._assignment import Assignment
from trio_broadway_kafka._connect import make_lanes
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._segment import Segment
from trio_broadway_kafka.testing._scheduler import simulate

Handler = Callable[[Message], Awaitable[Any]]

ALL_ORDERINGS = ["unordered", "partition", "key", lambda message: message.key]
ORDERED = ALL_ORDERINGS[1:]
all_orderings = pytest.mark.parametrize(
    "ordering", ALL_ORDERINGS, ids=["unordered", "partition", "key", "function"]
)
ordered = pytest.mark.parametrize("ordering", ORDERED, ids=["partition", "key", "function"])


class Bench:
    """Processors on a bench: what arrives, and what is drained, is the test's to say."""

    def __init__(self, handle: Handler, states: Iterable[PartitionOffsets], **options: Any):
        share = options.pop("share", 10_000)
        want = options.pop("want", lambda: None)
        finished = options.pop("finished", None)
        clock = options.pop("clock", itertools.count().__next__)
        stages = Stages(handle_message=handle, **options)
        self.lanes = make_lanes(stages, share=share)
        self.assignment = Assignment(
            stages, self.lanes, want=want, finished=finished, clock=clock
        )
        self.processors = self.assignment.processors
        self.states = [*states]
        self.assignment.add(self.states)

    def arrive(
        self,
        offsets: Iterable[int],
        *,
        keys: str | None = None,
        key: Callable[[int], bytes | None] = lambda offset: b"K",
        state: PartitionOffsets | None = None,
    ) -> Segment:
        """Deliver messages; `keys` has one letter for each offset from 0 on."""
        if keys is not None:
            key = lambda offset: keys[offset].encode()  # noqa: E731
        segment = arrive(state or self.states[0], offsets, self.lanes, key=key)
        self.assignment.received([segment])
        return segment

    def next_epoch(self, old: PartitionOffsets) -> PartitionOffsets:
        old.live = False
        self.assignment.remove([old])
        new = assignment(old.partition, old.epoch + 1, old.prefix() or old.committed)
        self.assignment.add([new])
        return new

    async def wait_finished(self, *states: PartitionOffsets) -> None:
        while any(state.unfinished for state in states or self.states):
            await trio.sleep(0.125)
            await wait_all_tasks_blocked()
        assert self.processors.busy == 0


@asynccontextmanager
async def running(
    handle: Handler, *, states: Iterable[PartitionOffsets] | None = None, **options: Any
) -> AsyncIterator[Bench]:
    bench = Bench(handle, states or [assignment()], **options)
    async with trio.open_nursery() as nursery:
        bench.assignment.start(nursery)
        await wait_all_tasks_blocked()
        yield bench
        nursery.cancel_scope.cancel()


async def a_hundred_seconds(message: Message) -> None:
    await trio.sleep(100)


async def one_second(message: Message) -> None:
    await trio.sleep(1)


class Log:
    """What handlers did, in order."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.ended: list[int] = []
        self.cut_off: list[int] = []

    def handler(self, handle: Handler) -> Handler:
        async def logged(message: Message) -> Any:
            self.started.append(message.offset)
            try:
                result = await handle(message)
            except Exception:
                self.ended.append(message.offset)
                raise
            except BaseException:
                self.cut_off.append(message.offset)
                raise
            self.ended.append(message.offset)
            return result

        return logged


class TestConcurrency:
    @pytest.mark.parametrize(
        ("ordering", "concurrency", "keys", "seconds"),
        [
            ("unordered", 100, 1, 1.0),
            ("unordered", 10, 1, 10.0),
            ("unordered", 1, 1, 100.0),
            ("key", 100, 100, 1.0),
            ("key", 100, 10, 10.0),
            ("key", 5, 10, 20.0),
            ("key", 100, 1, 100.0),
            ("partition", 100, 100, 100.0),
            (lambda message: message.offset % 10, 100, 1, 10.0),
            (lambda message: message.offset, 100, 1, 1.0),
        ],
    )
    async def test_a_hundred_messages_of_a_second_take(
        self,
        autojump_clock: trio.testing.MockClock,
        ordering: Any,
        concurrency: int,
        keys: int,
        seconds: float,
    ) -> None:
        async with running(one_second, ordering=ordering, concurrency=concurrency) as bench:
            started = trio.current_time()
            bench.arrive(range(100), key=lambda offset: b"%d" % (offset % keys))
            await bench.wait_finished()
            assert trio.current_time() - started == seconds

    @pytest.mark.parametrize(("concurrency", "seconds"), [(1, 20.0), (2, 10.0), (9, 5.0)])
    async def test_partitions_side_by_side_take(
        self, autojump_clock: trio.testing.MockClock, concurrency: int, seconds: float
    ) -> None:
        states = [assignment(number) for number in range(4)]
        async with running(
            one_second, states=states, ordering="partition", concurrency=concurrency
        ) as bench:
            started = trio.current_time()
            for state in states:
                bench.arrive(range(5), state=state)
            await bench.wait_finished()
            assert trio.current_time() - started == seconds

    @all_orderings
    @pytest.mark.parametrize("count", [1, 2, 3, 8, 50])
    async def test_every_processor_is_busy_when_there_is_a_message_for_each(
        self, ordering: Any, count: int
    ) -> None:
        async def wait(message: Message) -> None:
            await trio.sleep_forever()

        states = [assignment(number) for number in range(count)]
        async with running(wait, states=states, ordering=ordering, concurrency=count) as bench:
            assert (bench.processors.busy, bench.processors.running) == (0, 0)
            for number, state in enumerate(states):
                bench.arrive([number], state=state, key=lambda offset: b"%d" % offset)
            await wait_all_tasks_blocked()
            assert (bench.processors.busy, bench.processors.running) == (count, count)

    @pytest.mark.parametrize("ordering", ["unordered", "key"])
    async def test_no_message_waits_behind_a_busy_processor(
        self, autojump_clock: trio.testing.MockClock, ordering: str
    ) -> None:
        """Of one segment, a slow message holds up its own lane and no other message."""
        ended: dict[int, float] = {}

        async def handle(message: Message) -> None:
            await trio.sleep(100 if message.offset == 0 else 1)
            ended[message.offset] = trio.current_time() - started

        async with running(handle, ordering=ordering, concurrency=2) as bench:
            started = trio.current_time()
            bench.arrive(range(10), keys="SABCDEFGHI")
            await bench.wait_finished()
        assert ended == {0: 100.0} | {offset: float(offset) for offset in range(1, 10)}

    async def test_a_slow_key_does_not_hold_up_the_others(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        ended: dict[int, float] = {}

        async def handle(message: Message) -> None:
            await trio.sleep(100 if message.key == b"S" else 1)
            ended[message.offset] = trio.current_time() - started

        async with running(handle, ordering="key", concurrency=3) as bench:
            started = trio.current_time()
            bench.arrive(range(8), keys="SASBSAAB")
            await bench.wait_finished()
        assert ended == {1: 1, 5: 2, 6: 3, 3: 1, 7: 2, 0: 100, 2: 200, 4: 300}

    async def test_what_is_let_go_as_more_is_wanted_is_taken(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        """Who finds nothing to take asks for more, and may get it at once."""

        def want() -> None:
            bench.lanes.let_go(bench.states[0])  # type: ignore[union-attr]

        async with running(one_second, ordering="unordered", concurrency=4) as bench:
            bench.processors._want = want
            started = trio.current_time()
            bench.arrive([0])
            await trio.sleep(0.5)
            bench.lanes.hold(bench.states[0])  # type: ignore[union-attr]
            bench.arrive(range(1, 4))
            await bench.wait_finished()
            assert trio.current_time() - started == 1.5

    async def test_nor_is_it_left_to_who_asked_for_more(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        """Who is at work asks for more as well, before it has taken all; the idle help."""

        def want() -> None:
            bench.lanes.let_go(bench.states[0])  # type: ignore[union-attr]

        async with running(one_second, ordering="unordered", concurrency=4) as bench:
            for offset in range(3):
                bench.arrive([offset])
            await trio.sleep(0.5)
            bench.lanes.hold(bench.states[0])  # type: ignore[union-attr]
            arrive(bench.states[0], range(3, 7), bench.lanes)  # nobody is told
            bench.processors._want = want
            await trio.sleep(0.75)
            assert bench.processors.busy == 4


class TestTurns:
    """A handler that never suspends leaves the others their turns."""

    @staticmethod
    async def turns_during(ordering: Any, clock: Callable[[], float], keys: str) -> int:
        """How many turns another task has while messages are handled."""
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        counts = []

        async def handle(message: Message) -> None:
            if message.key == b"S":
                await trio.sleep_forever()
            counts.append(turns)

        async with (
            running(
                handle, ordering=ordering, concurrency=2 if "S" in keys else 1, clock=clock
            ) as bench,
            trio.open_nursery() as nursery,
        ):
            bench.arrive(range(len(keys)), keys=keys)
            nursery.start_soon(count_turns)
            while len(counts) < len(keys) - keys.count("S"):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return counts[-1] - counts[0]

    @all_orderings
    async def test_whenever_their_deadline_is_past(self, ordering: Any) -> None:
        turns = await self.turns_during(ordering, itertools.count().__next__, "K" * 80)
        assert turns in (9, 10, 11)

    @all_orderings
    async def test_and_not_before(self, ordering: Any) -> None:
        assert await self.turns_during(ordering, lambda: 0.0, "K" * 80) == 0

    @pytest.mark.parametrize("of_eight", range(8))
    async def test_whichever_messages_are_parked(self, of_eight: int) -> None:
        keys = "".join("S" if n % 8 == of_eight else "K" for n in range(80))
        turns = await self.turns_during("key", itertools.count().__next__, keys)
        assert turns >= 8

    @pytest.mark.parametrize("of_eight", range(8))
    async def test_when_all_is_parked_on_one_lane(self, of_eight: int) -> None:
        opened = trio.Event()
        turns = 0
        handled: list[int] = []

        async def handle(message: Message) -> None:
            if message.offset == of_eight:
                await opened.wait()
            if message.key == b"K":
                handled.append(turns)

        async with running(handle, ordering="key", concurrency=2) as bench:
            bench.arrive(range(160), key=lambda n: b"K" if n % 8 == of_eight else b"L")
            await wait_all_tasks_blocked()
            opened.set()
            while len(handled) < 20:
                await trio.lowlevel.checkpoint()
                turns += 1
        assert handled[-1] - handled[0] in (1, 2, 3)


class TestOrder:
    """What a lane's messages must never do, each sequence as it once went wrong elsewhere."""

    def test_a_lane_whose_handler_raised_without_suspending_is_not_left(self) -> None:
        """K/0 fails for good while another processor is about to take K/2."""

        async def handle(message: Message) -> Any:
            started.append(message.offset)
            if message.offset == 0:
                await trio.lowlevel.checkpoint()
            return "unexpected" if message.offset == 1 else None

        async def main() -> None:
            async with running(
                handle, ordering="key", concurrency=2, clock=lambda: 0.0
            ) as bench:
                bench.arrive(range(3), keys="LKK")
                await trio.sleep(1)

        for seed in range(50):
            started: list[int] = []
            with pytest.RaisesGroup(TypeError, flatten_subgroups=True):
                simulate(main, random.Random(seed))
            assert started == [0, 1]

    @ordered
    def test_stop_lets_nothing_more_of_the_lane_start(self, ordering: Any) -> None:
        async def handle(message: Message) -> None:
            started.append(message.offset)
            if message.key == b"L":
                await trio.lowlevel.checkpoint()
            if message.offset == 2:
                raise ValueError

        async def main() -> None:
            async with running(
                handle, ordering=ordering, concurrency=3, clock=lambda: 0.0
            ) as bench:
                bench.arrive(range(6), keys="LLKKKK")
                await trio.sleep(1)

        for seed in range(50):
            started: list[int] = []
            with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
                simulate(main, random.Random(seed))
            assert set(started) <= {0, 1, 2}

    async def test_who_ends_does_not_clear_another_lane_that_is_hot(self) -> None:
        """K/0 ends while L/1 is suspended and not entered yet; L/2 must wait."""
        opened = [trio.Event() for _ in range(3)]
        log = Log()

        async def handle(message: Message) -> None:
            await opened[message.offset].wait()

        async with running(log.handler(handle), ordering="key", concurrency=3) as bench:
            bench.arrive([0, 1], keys="KL")
            await wait_all_tasks_blocked()
            opened[0].set()
            await wait_all_tasks_blocked()
            opened[2].set()
            bench.arrive([2], keys="KLL")
            await wait_all_tasks_blocked()
            assert (log.started, log.ended) == ([0, 1], [0])
            opened[1].set()
            await wait_all_tasks_blocked()
            assert (log.started, log.ended) == ([0, 1, 2], [0, 1, 2])

    @all_orderings
    async def test_a_cancellation_that_finds_its_handler_resuming_hits_no_other(
        self, ordering: Any
    ) -> None:
        opened = trio.Event()
        log = Log()

        async def handle(message: Message) -> None:
            if message.offset:
                await trio.lowlevel.checkpoint()
            if message.offset == 1:
                await opened.wait()

        async with running(log.handler(handle), ordering=ordering, concurrency=1) as bench:
            bench.arrive(range(4))
            await wait_all_tasks_blocked()
            opened.set()  # the handler is about to resume
            bench.processors.all[0].interrupt()
            await wait_all_tasks_blocked()
            assert log.started == log.ended == [0, 1, 2, 3]
            assert bench.states[0].prefix() == 4

    async def test_nor_one_that_is_parked_on_its_lane(self) -> None:
        opened = [trio.Event(), trio.Event()]
        log = Log()

        async def handle(message: Message) -> None:
            await trio.lowlevel.checkpoint()
            if message.offset < 2:
                await opened[message.offset].wait()

        async with running(log.handler(handle), ordering="key", concurrency=2) as bench:
            bench.arrive(range(4))
            await wait_all_tasks_blocked()
            opened[0].set()
            await wait_all_tasks_blocked()
            opened[1].set()
            bench.assignment.processors.handling(bench.states)[0].interrupt()
            await wait_all_tasks_blocked()
            assert log.started == log.ended == [0, 1, 2, 3]
            assert bench.states[0].prefix() == 4

    @all_orderings
    async def test_what_is_cut_off_of_a_live_partition_is_the_next_of_its_lane(
        self, ordering: Any
    ) -> None:
        log = Log()

        async def handle(message: Message) -> None:
            if message.offset == 1 and log.started.count(1) == 1:
                await trio.sleep_forever()

        async with running(log.handler(handle), ordering=ordering, concurrency=1) as bench:
            bench.arrive(range(4))
            await wait_all_tasks_blocked()
            assert (log.started, bench.states[0].prefix()) == ([0, 1], 1)
            bench.processors.all[0].interrupt()
            await wait_all_tasks_blocked()
            assert (log.started, log.cut_off) == ([0, 1, 1, 2, 3], [1])
            assert bench.states[0].prefix() == 4

    @ordered
    def test_a_pipeline_that_is_cancelled_lets_nothing_behind_the_cut_off_start(
        self, ordering: Any
    ) -> None:
        """Another processor may still be running as the lane's handler is cancelled."""
        opened = trio.Event()

        async def handle(message: Message) -> None:
            started.append(message.offset)
            if message.offset == 10:
                await opened.wait()
            elif message.offset == 0:
                await trio.sleep_forever()

        async def main() -> None:
            nonlocal opened
            opened = trio.Event()
            states = [assignment(0), assignment(1)]
            async with running(
                handle, states=states, ordering=ordering, concurrency=3, clock=lambda: 0.0
            ) as bench:
                bench.arrive([0, 1], key=lambda offset: b"K")
                bench.arrive([10, 11], key=lambda offset: b"L", state=states[1])
                await wait_all_tasks_blocked()
                opened.set()

        for seed in range(50):
            started: list[int] = []
            simulate(main, random.Random(seed))
            assert 1 not in started


class TestDraining:
    @all_orderings
    async def test_starts_nothing_and_waits_for_what_has_started(
        self, autojump_clock: trio.testing.MockClock, ordering: Any
    ) -> None:
        log = Log()
        async with running(log.handler(one_second), ordering=ordering, concurrency=2) as bench:
            bench.arrive(range(10), key=lambda offset: b"%d" % (offset % 2))
            bench.arrive(range(10, 20), key=lambda offset: b"%d" % (offset % 2))
            await trio.sleep(2.5)
            running_then = bench.processors.busy
            started = trio.current_time()
            assert await bench.assignment.drain(frozenset(bench.states), 10) == 0
            assert trio.current_time() - started == 0.5
            await trio.sleep(10)
            assert running_then == (1 if ordering == "partition" else 2)
            assert sorted(log.started) == sorted(log.ended) == [*range(3 * running_then)]
            assert bench.states[0].prefix() == 3 * running_then
            assert bench.states[0].unfinished == 0

    async def test_of_one_partition_leaves_the_others_alone(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        states = [assignment(0), assignment(1)]
        async with running(one_second, states=states, ordering="partition") as bench:
            for state in states:
                bench.arrive(range(5), state=state)
            await trio.sleep(0.5)
            assert await bench.assignment.drain(frozenset(states[:1]), 10) == 0
            await trio.sleep(10)
            assert (states[0].prefix(), states[1].prefix()) == (1, 5)

    async def test_of_everything_lets_nothing_start(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        async with running(one_second, states=[assignment(0), assignment(1)]) as bench:
            for state in bench.states:
                bench.arrive(range(5), state=state)
            await trio.sleep(0.5)
            assert await bench.assignment.drain(None, 10) == 0
            await trio.sleep(10)
            assert [state.prefix() for state in bench.states] == [1, 1]

    @all_orderings
    async def test_cancels_the_handlers_at_its_deadline(
        self, autojump_clock: trio.testing.MockClock, ordering: Any
    ) -> None:
        log = Log()
        async with running(
            log.handler(a_hundred_seconds), ordering=ordering, concurrency=2
        ) as bench:
            bench.arrive(range(10), key=lambda offset: b"%d" % (offset % 2))
            await trio.sleep(1)
            started = trio.current_time()
            left = await bench.assignment.drain(frozenset(bench.states), 3)
            assert trio.current_time() - started == 3
            assert left == len(log.started) == (1 if ordering == "partition" else 2)
            assert sorted(log.cut_off) == sorted(log.started)
            assert bench.states[0].prefix() is None
            # The lanes are free, and the processors alive.
            new = bench.next_epoch(bench.states[0])
            bench.arrive(range(2), key=lambda offset: b"%d" % (offset % 2), state=new)
            await trio.sleep(250)
            assert new.prefix() == 2

    @all_orderings
    async def test_does_not_wait_for_a_handler_that_resists(
        self, autojump_clock: trio.testing.MockClock, ordering: Any
    ) -> None:
        log = Log()

        async def resist(message: Message) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(100)

        async with running(log.handler(resist), ordering=ordering, concurrency=3) as bench:
            old = bench.states[0]
            bench.arrive(range(2))
            await trio.sleep(1)
            started = trio.current_time()
            left = await bench.assignment.drain(frozenset([old]), 3)
            assert trio.current_time() == started + 3 + 0.1
            assert left == len(log.started)
            # Its lane stays shut in the next epoch until it ends.
            new = bench.next_epoch(old)
            bench.arrive(range(2), state=new)
            await trio.sleep(50)
            assert len(log.started) == (3 if ordering == "unordered" else 1)
            await trio.sleep(400)
            assert new.prefix() == 2

    @all_orderings
    async def test_frees_the_lane_of_a_handler_with_a_nursery(
        self, autojump_clock: trio.testing.MockClock, ordering: Any
    ) -> None:
        """What leaves that is a group of cancellations."""

        async def handle(message: Message) -> None:
            if epoch == 1:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    await trio.sleep_forever()

        epoch = 1
        async with running(handle, ordering=ordering, concurrency=2) as bench:
            bench.arrive(range(3))
            await trio.sleep(1)
            left = bench.processors.busy
            assert await bench.assignment.drain(frozenset(bench.states), 1) == left
            epoch = 2
            new = bench.next_epoch(bench.states[0])
            bench.arrive(range(3), state=new)
            await trio.sleep(1)
            assert (new.prefix(), new.unfinished) == (3, 0)

    @pytest.mark.parametrize("nursery", [False, True])
    @all_orderings
    async def test_counts_for_nothing_what_a_handler_raises_as_it_is_cut_off(
        self,
        autojump_clock: trio.testing.MockClock,
        caplog: pytest.LogCaptureFixture,
        ordering: Any,
        nursery: bool,
    ) -> None:
        async def wait() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("secret")

        async def handle(message: Message) -> None:
            if nursery:
                async with trio.open_nursery() as children:
                    children.start_soon(wait)
                    await trio.sleep_forever()
            else:
                await wait()

        async with running(handle, ordering=ordering, concurrency=1) as bench:
            bench.arrive(range(3))
            await trio.sleep(1)
            assert await bench.assignment.drain(frozenset(bench.states), 1) == 1
            await trio.sleep(1)
            assert bench.states[0].prefix() is None
        assert "ValueError" in caplog.text
        assert "secret" not in caplog.text

    @all_orderings
    async def test_by_a_loss_waits_for_nothing(
        self, autojump_clock: trio.testing.MockClock, ordering: Any
    ) -> None:
        log = Log()
        async with running(
            log.handler(a_hundred_seconds), ordering=ordering, concurrency=1
        ) as bench:
            bench.arrive(range(3))
            await trio.sleep(1)
            bench.assignment.interrupt(bench.states)
            await wait_all_tasks_blocked()
            assert log.started == log.cut_off == [0]
            assert bench.processors.busy == 0

    async def test_logs_who_resists_every_ten_seconds(
        self, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def resist(message: Message) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(25)

        bench = Bench(resist, [assignment()], concurrency=2)
        async with trio.open_nursery() as nursery:
            bench.assignment.start(nursery)
            await wait_all_tasks_blocked()
            bench.arrive([7])
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                started = trio.current_time()
                await bench.assignment.wait_ended()
                assert trio.current_time() - started == 25
        assert [record.getMessage() for record in caplog.records] == [
            f"the handler of <Message t/0@7> goes on {seconds} s after it was cancelled"
            for seconds in (10, 20)
        ]


async def raise_value_error(message: Message) -> None:
    raise ValueError("told by the handler")


async def raise_later(message: Message) -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("told by the handler")


async def fail(message: Message) -> None:
    message.fail(ValueError("told by the handler"))


failing = pytest.mark.parametrize("handle", [raise_value_error, raise_later, fail])


class TestFailures:
    @all_orderings
    @failing
    async def test_stop_lets_the_handlers_own_exception_out(
        self, handle: Handler, ordering: Any
    ) -> None:
        log = Log()
        with pytest.RaisesGroup(
            pytest.RaisesExc(ValueError, match="^told by the handler"), flatten_subgroups=True
        ) as caught:
            async with running(
                log.handler(handle), states=[assignment(3)], ordering=ordering, concurrency=1
            ) as bench:
                bench.arrive([41, 42], key=lambda offset: b"secret key")
                await trio.sleep(1)
        error = next(iter(leaves(caught.value)))
        assert error.__notes__ == ["while handling t/3@41 (attempt 1)"]
        assert log.started == [41]
        assert bench.states[0].prefix() is None
        assert bench.assignment.failures.failed == 1

    @all_orderings
    @failing
    async def test_skip_acknowledges_and_goes_on(
        self, handle: Handler, ordering: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with running(handle, ordering=ordering, on_failure=Skip()) as bench:
            bench.arrive(range(5))
            await wait_all_tasks_blocked()
            state = bench.states[0]
            assert (state.prefix(), state.skipped) == (5, 5)
            assert bench.assignment.failures.failed == 5
        messages = sorted(record.getMessage() for record in caplog.records)
        assert messages == [f"skipped <Message t/0@{n}>: ValueError" for n in range(5)]

    async def test_a_text_becomes_a_message_failed(self) -> None:
        async def handle(message: Message) -> None:
            message.fail("no such account")

        with pytest.RaisesGroup(
            pytest.RaisesExc(MessageFailed, match="^no such account"), flatten_subgroups=True
        ):
            async with running(handle) as bench:
                bench.arrive([0])
                await trio.sleep(1)

    @all_orderings
    async def test_a_function_decides_by_the_message(self, ordering: Any) -> None:
        seen = []

        def policy(message: Message) -> Stop | Skip:
            seen.append((message.offset, type(message.failure)))
            return Stop() if message.offset == 3 else Skip()

        with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
            async with running(
                raise_value_error, ordering=ordering, on_failure=policy, concurrency=1
            ) as bench:
                bench.arrive(range(10))
                await trio.sleep(1)
        assert seen == [(offset, ValueError) for offset in range(4)]
        assert (bench.states[0].prefix(), bench.states[0].skipped) == (3, 3)

    @pytest.mark.parametrize("garbage", [None, True, "skip", Skip])
    async def test_a_function_that_returns_no_policy_is_a_config_error(
        self, garbage: Any
    ) -> None:
        with pytest.RaisesGroup(
            pytest.RaisesExc(ConfigError, match=r"on_failure returned .* for <Message t/0@0>"),
            flatten_subgroups=True,
        ) as caught:
            async with running(raise_value_error, on_failure=lambda message: garbage) as bench:
                bench.arrive(range(3))
                await trio.sleep(1)
        (error,) = leaves(caught.value)
        assert isinstance(error.__cause__, ValueError)
        assert bench.states[0].prefix() is None

    async def test_a_function_that_raises_ends_the_pipeline_with_its_own_exception(
        self,
    ) -> None:
        def policy(message: Message) -> Stop | Skip:
            raise LookupError("a bug in it")

        with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
            async with running(raise_value_error, on_failure=policy) as bench:
                bench.arrive(range(3))
                await trio.sleep(1)
        assert bench.states[0].prefix() is None

    @all_orderings
    @pytest.mark.parametrize("suspends", [False, True])
    @pytest.mark.parametrize("value", [0, False, "", [1, 2]])
    async def test_a_returned_value_is_a_type_error_even_under_skip(
        self, value: object, suspends: bool, ordering: Any
    ) -> None:
        async def handle(message: Message) -> object:
            if suspends:
                await trio.lowlevel.checkpoint()
            return value

        with pytest.RaisesGroup(
            pytest.RaisesExc(
                TypeError, match=f"handle_message returned a {type(value).__name__}; it must"
            ),
            flatten_subgroups=True,
        ) as caught:
            async with running(
                handle, ordering=ordering, on_failure=Skip(), concurrency=1
            ) as bench:
                bench.arrive(range(3), key=lambda offset: b"secret key")
                await trio.sleep(1)
        (error,) = leaves(caught.value)
        assert error.__notes__ == ["for <Message t/0@0>"]
        assert bench.states[0].prefix() is None

    async def test_one_that_failed_frees_its_lane_for_the_next(self) -> None:
        log = Log()

        async def handle(message: Message) -> None:
            await trio.lowlevel.checkpoint()
            if message.offset % 2:
                raise ValueError

        async with running(log.handler(handle), on_failure=Skip()) as bench:
            bench.arrive(range(6))
            await wait_all_tasks_blocked()
            assert log.ended == [*range(6)]
            assert (bench.states[0].prefix(), bench.states[0].skipped) == (6, 3)

    async def test_who_is_told_of_each_message_is_told_of_failed_ones_too(self) -> None:
        told = []

        async def handle(message: Message) -> None:
            if message.offset == 1:
                raise ValueError

        async with running(
            handle, on_failure=Skip(), finished=lambda: told.append(None), concurrency=1
        ) as bench:
            bench.arrive(range(3))
            await wait_all_tasks_blocked()
            assert len(told) == 3
            assert bench.states[0].prefix() == 3

    @all_orderings
    @pytest.mark.parametrize("way", ["returns", "raises"])
    def test_whatever_ends_the_pipeline_lets_nothing_more_start(
        self, way: str, ordering: Any
    ) -> None:
        """Not even what another processor would take before it is cancelled."""

        async def handle(message: Message) -> Any:
            started.append(message.offset)
            if message.offset == 0:
                await trio.lowlevel.checkpoint()
            if message.offset == 1:
                if way == "returns":
                    return "unexpected"
                raise SystemExit
            return None

        async def main() -> None:
            states = [assignment(0), assignment(1)]
            async with running(
                handle, states=states, ordering=ordering, concurrency=2, clock=lambda: 0.0
            ) as bench:
                first = [0, 2, 3] if ordering == "partition" else [0, 1, 2, 3]
                bench.arrive(first, key=lambda offset: b"%d" % offset)
                if ordering == "partition":
                    bench.arrive([1], state=states[1])
                await trio.sleep(1)

        expected = TypeError if way == "returns" else SystemExit
        for seed in range(50):
            started: list[int] = []
            with pytest.RaisesGroup(expected, flatten_subgroups=True):
                simulate(main, random.Random(seed))
            assert started[started.index(1) :] == [1]

    @all_orderings
    async def test_skip_does_not_acknowledge_what_failed_as_the_pipeline_was_cancelled(
        self, ordering: Any
    ) -> None:
        async def handle(message: Message) -> None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                raise ConnectionError("closed") from None

        async with running(handle, ordering=ordering, on_failure=Skip()) as bench:
            bench.arrive(range(3))
            await wait_all_tasks_blocked()
        assert bench.states[0].prefix() is None
        assert bench.states[0].skipped == 0


class TestOrderingFunctions:
    async def test_get_the_message_and_name_its_lane(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        log = Log()
        states = [assignment(0), assignment(1)]
        async with running(
            log.handler(one_second), states=states, ordering=lambda m: m.offset % 2
        ) as bench:
            bench.arrive([0, 1], state=states[0])
            bench.arrive([2, 3], state=states[1])
            started = trio.current_time()
            await bench.wait_finished()
            assert trio.current_time() - started == 2.0
        assert sorted(log.started[:2]) == [0, 1]
        assert sorted(log.started[2:]) == [2, 3]

    async def test_give_the_handler_the_message_that_they_saw(self) -> None:
        seen = []

        def lane(message: Message) -> int:
            message.data = "parsed"
            return 0

        async def handle(message: Message) -> None:
            seen.append(message.data)

        async with running(handle, ordering=lane) as bench:
            bench.arrive([0])
            await wait_all_tasks_blocked()
        assert seen == ["parsed"]

    @pytest.mark.parametrize("fault", ["raises", "is unhashable"])
    @pytest.mark.parametrize("suspends", [False, True])
    async def test_that_fail_fail_their_message_by_its_policy(
        self, fault: str, suspends: bool
    ) -> None:
        log = Log()

        def lane(message: Message) -> Any:
            if message.offset % 2:
                return [] if fault == "is unhashable" else [][0]
            return "lane"

        async def handle(message: Message) -> None:
            if suspends:
                await trio.lowlevel.checkpoint()

        async with running(
            log.handler(handle), ordering=lane, on_failure=Skip(), concurrency=2
        ) as bench:
            bench.arrive(range(6))
            await wait_all_tasks_blocked()
            state = bench.states[0]
            assert (log.ended, state.prefix(), state.skipped) == ([0, 2, 4], 6, 3)

    async def test_that_fail_stop_the_pipeline_under_stop(self) -> None:
        def lane(message: Message) -> Any:
            return [][message.offset]

        log = Log()
        with pytest.RaisesGroup(
            pytest.RaisesExc(IndexError, match="list index"), flatten_subgroups=True
        ) as caught:
            async with running(log.handler(one_second), ordering=lane) as bench:
                bench.arrive(range(3))
                await trio.sleep(1)
        (error,) = leaves(caught.value)
        assert error.__notes__ == ["while handling t/0@0 (attempt 1)"]
        assert (log.started, bench.states[0].prefix()) == ([], None)


class TestMemory:
    @all_orderings
    @pytest.mark.parametrize("manner", ["returns", "suspends", "fails"])
    async def test_parked_processors_keep_no_message_alive(
        self, ordering: Any, manner: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.CRITICAL, "trio_broadway_kafka")  # pytest keeps its records

        async def handle(message: Message) -> None:
            if manner == "suspends":
                await trio.lowlevel.checkpoint()
            if manner == "fails":
                message.fail("as planned")

        gc.collect()
        gc.disable()  # nor may a cycle
        try:
            async with running(
                handle, ordering=ordering, concurrency=4, on_failure=Skip(), share=3
            ) as bench:
                watched = []
                for start in range(0, 50, 10):
                    segment = bench.arrive(
                        range(start, start + 10), key=lambda offset: b"%d" % (offset % 3)
                    )
                    watched += watch(segment)
                    await wait_all_tasks_blocked()
                assert bench.states[0].unfinished == 0
                assert [ref for ref in watched if ref() is not None] == []
        finally:
            gc.enable()

    @all_orderings
    async def test_a_stuck_handler_keeps_no_other_message_alive(self, ordering: Any) -> None:
        """Were it the last message of its segment that is stuck: the rest is let go of."""

        async def handle(message: Message) -> None:
            if message.offset == 9:
                await trio.sleep_forever()

        states = [assignment(0), assignment(1)]
        async with running(handle, states=states, ordering=ordering, concurrency=2) as bench:
            watched = watch(bench.arrive(range(10), key=lambda offset: b"%d" % offset))
            await wait_all_tasks_blocked()
            for offset in (20, 21):
                bench.arrive([offset], key=lambda offset: b"%d" % offset, state=states[1])
                await wait_all_tasks_blocked()
            gc.collect()
            alive = [ref().offset() for ref in watched if ref() is not None]
            assert alive == ([*range(10)] if ordering == "partition" else [9])

    @pytest.mark.parametrize("ordering", ["unordered", "key"])
    async def test_finished_segments_behind_a_gap_keep_no_message_alive(
        self, ordering: Any
    ) -> None:
        async def handle(message: Message) -> None:
            if message.offset == 0:
                await trio.sleep_forever()

        async with running(handle, ordering=ordering, concurrency=2) as bench:
            watched = []
            for offset in range(20):
                watched += watch(bench.arrive([offset], key=lambda offset: b"%d" % offset))
                await wait_all_tasks_blocked()
            gc.collect()
            assert [ref().offset() for ref in watched if ref() is not None] == [0]
            assert bench.states[0].finished_behind_gap == 19


def watch(segment: Segment) -> list[weakref.ref[Record]]:
    """References to the messages of a segment of which none was taken yet."""
    messages = [raw for raw, _ in segment.items]
    segment._untaken = iter(range(len(messages)))
    segment.items = zip(messages, segment._untaken, strict=False)
    return [weakref.ref(raw) for raw in messages]


def leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [error]


async def test_counts_who_is_at_work(autojump_clock: trio.testing.MockClock) -> None:
    counts: Counter[int] = Counter()
    async with running(one_second, ordering="unordered", concurrency=5) as bench:
        assert (bench.processors.running, bench.processors.busy) == (0, 0)
        bench.arrive(range(3))
        await trio.sleep(0.5)
        counts[bench.processors.busy] += 1
        assert bench.processors.running == bench.processors.busy == 3
        await trio.sleep(1)
        assert (bench.processors.running, bench.processors.busy) == (0, 0)


async def test_more_is_wanted_while_two_are_left_for_each_handler_that_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """All of them may end at once: with fewer the next turn would find nothing to take."""
    wanted_at: list[int] = []

    async def handle(message: Message) -> None:
        await trio.sleep(1)

    async with running(handle, ordering="unordered", concurrency=8) as bench:
        segment = bench.arrive(range(64))
        bench.processors._want = lambda: wanted_at.append(segment.untaken)
        await bench.wait_finished()
    assert trio.current_time() == pytest.approx(8, abs=0.2), "eight at once, all the time"
    # Every eighth message is looked at, whenever its turn comes among the others.
    assert 8 <= wanted_at[0] <= 16, "two each for eight are 16"


async def test_more_is_wanted_when_nothing_is_left_to_take(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wanted = []
    async with running(
        one_second, ordering="unordered", concurrency=2, want=lambda: wanted.append(None)
    ) as bench:
        assert len(wanted) == 2
        bench.arrive(range(4))
        await trio.sleep(1.5)
        assert len(wanted) == 2
        await trio.sleep(1)
        assert len(wanted) == 4
