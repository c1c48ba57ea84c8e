"""Why partitions are paused."""

from __future__ import annotations

from tests._records import assignment
from trio_broadway_kafka._model._pauses import Pauses


def test_a_pause_has_every_reason_that_was_given_and_ends_with_the_last() -> None:
    pauses = Pauses()
    state = assignment()
    assert pauses.of(state) == ()
    pauses.entering.add(state)
    pauses.by_user("t", 0)
    pauses.sharing.add(state)
    assert pauses.of(state) == ("entering", "user", "share")
    pauses.entering.discard(state)
    assert pauses.of(state) == ("user", "share")
    assert pauses.end_by_user("t", 0)
    assert not pauses.end_by_user("t", 0)
    assert pauses.of(state) == ("share",)


def test_only_what_the_user_asked_for_outlives_the_assignment() -> None:
    pauses = Pauses()
    state = assignment()
    pauses.entering.add(state)
    pauses.sharing.add(state)
    pauses.by_user("t", 0)
    pauses.clear(state)
    assert pauses.of(state) == pauses.of(assignment(epoch=2)) == ("user",)
    assert pauses.of(assignment(1)) == ()
