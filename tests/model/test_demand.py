"""How much is asked for, so that both bounds hold and nothing waits in vain."""

from __future__ import annotations

import gc
import math
import sys

import pytest
from hypothesis import given, settings, strategies as st

from tests._records import arrive, assignment
from trio_broadway_kafka._model._demand import CHUNK, Demand
from trio_broadway_kafka._model._lanes import UnorderedLanes
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._partition_lanes import PartitionLanes
from trio_broadway_kafka._model._segment import Segment

HALF_A_SECOND = 0.5  # a client without a fetch for so long has paused its partitions


class Flow:
    """A pipeline's demand, and one partition that answers it."""

    def __init__(self, *, max_messages: int = 10_000, max_bytes: int = 2**20) -> None:
        self.demand = Demand(max_messages=max_messages, max_bytes=max_bytes, chunk=1000)
        self.lanes = UnorderedLanes()
        self.state = PartitionOffsets("t", 0, 1)
        self.now = 0.0

    @property
    def wanted(self) -> int:
        return self.demand.count([self.state], self.lanes, self.now)

    def answer(self, count: int, *, each: int = 1, take: bool = True) -> Segment:
        start = self.state.position or 0
        size = count * each
        segment = arrive(self.state, range(start, start + count), self.lanes, size=size)
        self.demand.received(count, size, self.now)
        if take:
            for _ in segment.items:
                pass
        return segment


def finish(segment: Segment, count: int | None = None) -> None:
    for index in range(len(segment) if count is None else count):
        segment.flags[index] = 1


def test_the_first_fetches_are_small_and_double() -> None:
    flow = Flow()
    asked = []
    for _ in range(7):
        asked.append(flow.wanted)
        finish(flow.answer(asked[-1]))
    assert asked == [64, 128, 256, 512, 1000, 1000, 1000]


def test_a_chunk_starts_no_garbage_collection() -> None:
    """On 3.11 and 3.12 the collector's first threshold is 700, from 3.13 on 2,000."""
    assert (1750 if sys.version_info >= (3, 13) else 612) == CHUNK
    assert gc.get_threshold()[0] > CHUNK


@pytest.mark.parametrize(("bound", "first"), [(1, 1), (3, 1), (4, 1), (40, 10), (10_000, 64)])
def test_no_fetch_is_larger_than_a_quarter_of_the_bound(bound: int, first: int) -> None:
    assert Flow(max_messages=bound).wanted == first


def test_no_more_messages_are_asked_for_than_are_free() -> None:
    flow = Flow(max_messages=100)
    segments = []
    while wanted := flow.wanted:
        segments.append(flow.answer(wanted))
    assert [len(segment) for segment in segments] == [25, 25, 25, 25]
    finish(segments[0], 7)
    assert flow.wanted == 7
    finish(segments[3])
    assert flow.wanted == 25


def test_no_more_bytes_are_asked_for_than_are_free_as_far_as_sizes_are_known() -> None:
    flow = Flow(max_messages=1000, max_bytes=10_000)
    segments = [flow.answer(flow.wanted, each=size) for size in (10, 30, 30)]
    assert [segment.size for segment in segments] == [640, 128 * 30, 184 * 30]
    assert flow.state.unfinished_bytes == 10_000
    assert flow.wanted == 0
    finish(segments[1], 20)
    assert flow.wanted == 20


def test_a_burst_of_large_messages_is_remembered_for_a_while() -> None:
    flow = Flow(max_messages=100_000, max_bytes=10_000)
    finish(flow.answer(64, each=100))
    assert flow.wanted == 100
    finish(flow.answer(100, each=1))
    assert flow.wanted == 110  # they are expected to have 90 bytes each
    for _ in range(60):
        finish(flow.answer(100, each=1))
    assert flow.wanted == 1000


@pytest.mark.parametrize("large", [100, 64, 40])
def test_a_message_larger_than_the_bound_passes(large: int) -> None:
    flow = Flow(max_bytes=64)
    segment = flow.answer(1, each=large)
    assert flow.wanted == (0 if large >= 64 else 1)
    finish(segment)
    assert flow.wanted == 1


def test_small_messages_pass_after_one_larger_than_the_bound() -> None:
    """What is expected of the next one's size must not stop it for ever."""
    flow = Flow(max_bytes=64)
    finish(flow.answer(1, each=100))
    assert flow.wanted == 1
    finish(flow.answer(1, each=1))
    assert flow.wanted == 1
    flow.answer(1, each=1)  # is never finished
    assert flow.wanted == 1


def test_the_bytes_in_flight_exceed_the_bound_by_less_than_one_message() -> None:
    flow = Flow(max_messages=1000, max_bytes=1000)
    flow.answer(1, each=300)
    while wanted := flow.wanted:
        flow.answer(wanted, each=300)
    assert 1000 <= flow.state.unfinished_bytes < 1300


def test_while_the_client_is_paused_nothing_is_asked_for_until_half_is_free() -> None:
    """Resuming fetches anew what pausing has thrown away."""
    flow = Flow(max_messages=100)
    segments = [flow.answer(flow.wanted, take=False) for _ in range(4)]
    assert flow.wanted == 0
    flow.now += HALF_A_SECOND
    finish(segments[0])
    assert flow.wanted == 0
    finish(segments[1], 24)
    assert flow.wanted == 0
    finish(segments[1])
    assert flow.wanted == 25
    assert flow.demand.filling
    # ... and then all of the bound is filled, however slow.
    segments.append(flow.answer(25, take=False))
    flow.now += HALF_A_SECOND
    assert flow.wanted == 25
    segments.append(flow.answer(25, take=False))
    assert flow.wanted == 0
    assert not flow.demand.filling
    flow.now += HALF_A_SECOND
    finish(segments[2])
    assert flow.wanted == 0


def test_the_same_holds_for_bytes() -> None:
    flow = Flow(max_messages=1000, max_bytes=1000)
    segment = flow.answer(10, each=100, take=False)
    assert flow.wanted == 0
    flow.now += HALF_A_SECOND
    finish(segment, 9)
    assert flow.wanted == 0  # all of it is held until all is taken
    finish(segment)
    assert flow.wanted > 0


def test_a_client_that_is_not_paused_is_asked_for_whatever_is_free() -> None:
    flow = Flow(max_messages=100)
    segments = [flow.answer(flow.wanted, take=False) for _ in range(4)]
    finish(segments[0], 1)
    flow.now += 0.3
    assert flow.wanted == 1


def test_nothing_waits_for_half_of_the_bound_when_what_fills_it_is_stuck() -> None:
    flow = Flow(max_messages=100)
    first = flow.answer(flow.wanted)  # taken, and never finished
    while wanted := flow.wanted:
        flow.answer(wanted)
    flow.now += HALF_A_SECOND
    assert flow.wanted == 0
    finish(first, 10)
    assert flow.wanted == 10


def test_a_partition_may_hold_its_share() -> None:
    demand = Demand(max_messages=1000, max_bytes=1)
    assert [demand.share(n) for n in (0, 1, 3, 1000, 5000)] == [1000, 1000, 333, 1, 1]


def test_the_bounds_press_from_half_of_them_on() -> None:
    flow = Flow(max_messages=100, max_bytes=1000)
    assert not flow.demand.pressed
    segments = [flow.answer(25), flow.answer(24)]
    assert not flow.demand.pressed
    segments.append(flow.answer(1))
    assert flow.demand.pressed
    for segment in segments:
        finish(segment)
    assert flow.demand.pressed  # until somebody counts
    assert flow.wanted
    assert not flow.demand.pressed
    flow.answer(1, each=500)
    assert flow.demand.pressed


@settings(max_examples=200, deadline=None)
@given(
    bound=st.integers(1, 60),
    byte_bound=st.integers(1, 400),
    stuck=st.integers(0, 100),
    sizes=st.lists(st.integers(0, 500), min_size=1, max_size=30),
    seed=st.randoms(use_true_random=False),
)
def test_messages_flow_for_ever_within_the_bounds(
    bound: int, byte_bound: int, stuck: int, sizes: list[int], seed: object
) -> None:
    """As long as the bounds are not full of messages that never finish."""
    stuck = min(stuck, bound - 1)
    flow = Flow(max_messages=bound, max_bytes=byte_bound)
    open_ones: list[Segment] = []
    handled = step = largest = 0
    while handled < 50:
        step += 1
        assert step < 5000, "nothing is asked for any more"
        flow.now += seed.choice([0.0, 0.1, 1.0])  # type: ignore[attr-defined]
        wanted = flow.wanted
        if wanted:
            size = sizes[step % len(sizes)]
            before = flow.state.unfinished_bytes
            # Stuck ones are small: full of them, the bound in bytes may stop the flow.
            if stuck:
                wanted, size, stuck = 1, 0, stuck - 1
            else:
                open_ones.append(None)  # type: ignore[arg-type]
            largest = max(largest, size)
            assert before < byte_bound
            segment = flow.answer(wanted, each=size)
            if open_ones and open_ones[-1] is None:
                open_ones[-1] = segment
            assert flow.state.unfinished <= bound
            if wanted == 1:
                assert flow.state.unfinished_bytes < byte_bound + largest + 1
        elif open_ones:
            segment = open_ones.pop(0)
            handled += len(segment)
            finish(segment)


def test_partitions_whose_owner_is_stuck_do_not_stop_the_others() -> None:
    """What a stuck partition holds beyond its share is forgotten, and then there is room."""
    demand = Demand(max_messages=100, max_bytes=1000)
    lanes = PartitionLanes()
    states = [assignment(number) for number in range(4)]
    for state in states[:2]:
        for start in (0, 25):
            arrive(state, range(start, start + 25), lanes, size=25)
            demand.received(25, 25, 0.0)
    for _ in range(2):  # two handlers that never return
        segment = lanes.acquire()
        assert segment is not None
        next(segment.items)
    assert demand.count(states, lanes, 9.0) == 0
    assert demand.pressed
    share = demand.share(len(states))
    for state in states[:2]:
        assert lanes.blocked(state) == 49
        lanes.truncate(state, share)
        assert lanes.blocked(state) == share == 25
    assert demand.count(states, lanes, 9.0) == 25


def test_a_commit_without_an_answer_is_waited_for_after_5_seconds() -> None:
    demand = Flow().demand
    assert not demand.awaits_commit(1e9)
    demand.unanswered(10.0)
    assert not demand.awaits_commit(14.9)
    assert demand.awaits_commit(15.0)
    demand.unanswered(20.0)  # it is tried again
    assert demand.awaits_commit(15.0), "since the first try"
    demand.unanswered(math.inf)
    assert not demand.awaits_commit(1e9)
    demand.unanswered(30.0)
    assert not demand.awaits_commit(34.9)
