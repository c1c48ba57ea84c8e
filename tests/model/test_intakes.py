"""Lanes of its own for each partition: whatever nobody has taken waits for its stages."""

from __future__ import annotations

import pytest

from tests._records import arrive, assignment
from trio_broadway_kafka._model._intakes import PartitionIntakes
from trio_broadway_kafka._model._keyed_lanes import KeyedLanes
from trio_broadway_kafka._model._lanes import UnorderedLanes
from trio_broadway_kafka._model._partition_lanes import PartitionLanes


@pytest.mark.parametrize(
    "lanes", [UnorderedLanes(alone=True), KeyedLanes(share=100, alone=True)], ids=["un", "key"]
)
def test_alone_what_is_not_taken_is_blocked_and_can_be_forgotten_from_its_end(
    lanes: UnorderedLanes,
) -> None:
    state = assignment()
    first = arrive(state, range(6), lanes)
    arrive(state, range(6, 10), lanes)
    assert lanes.acquire() is first
    assert [next(first.items)[1] for _ in range(2)] == [0, 1]
    assert lanes.blocked(state) == 8
    lanes.truncate(state, 3)
    assert (lanes.blocked(state), state.position) == (3, 5)
    lanes.hold(state)
    assert (lanes.blocked(state), lanes.is_empty()) == (3, True)
    lanes.truncate(state, 1)
    lanes.let_go(state)
    assert (lanes.blocked(state), state.position) == (1, 3)
    assert [index for _, index in first.items] == [2]


def test_with_others_nothing_that_an_idle_processor_could_take_is_blocked() -> None:
    lanes = UnorderedLanes()
    state = assignment()
    arrive(state, range(6), lanes)
    assert lanes.blocked(state) == 0
    lanes.truncate(state, 0)
    assert state.position == 6


def test_each_partition_has_its_own_intake() -> None:
    intake = PartitionIntakes()
    one, two = assignment(0), assignment(1)
    assert intake.is_empty()
    intake.of[one] = by_key = KeyedLanes(share=10, alone=True)
    intake.of[two] = whole = UnorderedLanes(whole=True, alone=True)
    assert (intake.by_key(one), intake.by_key(two)) == (True, False)
    assert (intake.takes_whole(one), intake.takes_whole(two)) == (False, True)
    arrive(two, range(5), intake)
    assert (by_key.is_empty(), whole.is_empty(), intake.is_empty()) == (True, False, False)
    assert (intake.blocked(one), intake.blocked(two)) == (0, 5)
    intake.truncate(two, 4)
    assert two.position == 4
    intake.hold(two)
    assert intake.is_empty()
    intake.let_go(two)
    assert not intake.is_empty()


def test_a_partition_that_has_no_intake_yet_has_nothing_blocked() -> None:
    intake = PartitionIntakes()
    state = assignment()
    assert intake.blocked(state) == 0
    intake.truncate(state, 0)


def test_in_partition_order_nothing_is_ever_held() -> None:
    lanes = PartitionLanes()
    state = assignment()
    arrive(state, range(3), lanes)
    lanes.hold(state)
    assert not lanes.is_empty()
    assert not state.held
    lanes.let_go(state)
