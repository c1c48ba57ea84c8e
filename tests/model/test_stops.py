"""Where the partitions of a pipeline that ends are left."""

from __future__ import annotations

import pytest

from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._model._stops import Stops
from trio_broadway_kafka.testing._fake_message import FakeMessage

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)


def messages(*offsets: int, timestamps: dict[int, int] | None = None) -> list[FakeMessage]:
    return [
        FakeMessage(
            topic="t",
            partition=0,
            offset=offset,
            key=None,
            value=b"v",
            headers=(),
            timestamp=(timestamps or {}).get(offset, 0),
        )
        for offset in offsets
    ]


def below(stops: Stops, *offsets: int, timestamps: dict[int, int] | None = None) -> list[int]:
    found = stops.below(P0, messages(*offsets, timestamps=timestamps))
    return [message.offset() for message in found]


def fixed(stop: int) -> Stops:
    stops = Stops()
    stops.fix({P0: stop}, {P0: stop}, {})
    return stops


@pytest.mark.parametrize(
    ("arrived", "kept"),
    [([3, 4], [3, 4]), ([3, 4, 5], [3, 4]), ([5, 6], []), ([2, 7, 9], [2]), ([8], [])],
)
def test_what_lies_at_the_stop_or_beyond_is_left(arrived: list[int], kept: list[int]) -> None:
    assert below(fixed(5), *arrived) == kept


def test_of_a_partition_that_came_later_nothing_is_handled() -> None:
    stops = fixed(5)
    assert stops.stop(P1) == 0
    assert stops.below(P1, messages(0, 1)) == []


def test_a_stop_that_was_found_goes_before_the_end() -> None:
    stops = Stops()
    stops.fix({P0: 8, P1: 8}, {P0: 9, P1: 9}, {P0: 3})
    assert (stops.stop(P0), stops.stop(P1)) == (3, 9)


def test_of_others_partitions_the_earlier_end_is_waited_for() -> None:
    stops = Stops()
    stops.fix({P0: 8, P1: 8}, {P0: 9, P1: 9}, {P0: 3})
    assert (stops.awaited(P0), stops.awaited(P1)) == (3, 8)


class TestBeforeTheTimeHasCome:
    def test_all_older_messages_are_handled(self) -> None:
        stops = Stops(1000)
        assert stops.stop(P0) is None
        assert below(stops, 0, 1, 2, timestamps={0: 5, 1: 999, 2: 0}) == [0, 1, 2]

    def test_the_first_message_that_is_not_older_is_the_stop(self) -> None:
        stops = Stops(1000)
        assert below(stops, 4, 5, 6, 7, timestamps={5: 999, 6: 1000, 7: 3}) == [4, 5]
        assert stops.stop(P0) == 6
        assert below(stops, 8, 9) == []
        stops.fix({P0: 20}, {P0: 20}, {})
        assert stops.stop(P0) == 6

    def test_what_was_looked_up_is_the_stop(self) -> None:
        stops = Stops(1000)
        stops.learn({P0: 5})
        assert below(stops, 4, 5, 6) == [4]

    def test_what_was_read_while_the_end_was_looked_up_lies_before_the_stop(self) -> None:
        stops = Stops(1000)
        below(stops, 0, 1, 2)
        stops.saw(P0, 7)
        below(stops, 7, 8)
        stops.fix({P0: 5, P1: 5}, {P0: 6, P1: 6}, {})
        assert (stops.stop(P0), stops.stop(P1)) == (9, 6)
        assert stops.awaited(P0) == 5


@pytest.mark.parametrize("first_sees_less", [True, False])
def test_no_two_members_each_wait_for_more_than_the_other_handles(
    first_sees_less: bool,
) -> None:
    # Two logs that grow at every look; the members' looks come in any order, but each
    # member's later look after its earlier one.
    from itertools import permutations

    for order in permutations(["a1", "a2", "b1", "b2"]):
        if order.index("a1") > order.index("a2") or order.index("b1") > order.index("b2"):
            continue
        ends = {look: dict.fromkeys((P0, P1), time) for time, look in enumerate(order)}
        a, b = Stops(), Stops()
        a.fix(ends["a1"], ends["a2"], {})
        b.fix(ends["b1"], ends["b2"], {})
        mine, others = (P0, P1) if first_sees_less else (P1, P0)
        a_waits_for_more = a.awaited(others) > (b.stop(others) or 0)
        b_waits_for_more = b.awaited(mine) > (a.stop(mine) or 0)
        assert not (a_waits_for_more and b_waits_for_more)
