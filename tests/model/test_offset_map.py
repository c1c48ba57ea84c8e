"""The offset map: what is finished beyond the committed offset, as text."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable, Sequence
from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import example, given, settings, strategies as st

from tests._records import arrive, assignment
from trio_broadway_kafka._model._offset_map import (
    MAX_LENGTH,
    OffsetMap,
    Run,
    decode,
    encode,
    finished_runs,
)
from trio_broadway_kafka._model._segment import SUCCEEDED, Segment

TOPIC_ID = "lDLsxmbqSaCyMN4gPKvUKQ"  # as long as Kafka's


def segments_of(
    delivered: Sequence[int], finished: Iterable[int], cuts: Iterable[int] = ()
) -> list[Segment]:
    """Messages as they arrive, with a new segment at each of these indices."""
    state = assignment()
    edges = sorted({0, len(delivered), *(cut % (len(delivered) + 1) for cut in cuts)})
    finished = set(finished)
    made = []
    for start, stop in pairwise(edges):
        segment = arrive(state, delivered[start:stop])
        for index, offset in enumerate(delivered[start:stop]):
            if offset in finished:
                segment.flags[index] = SUCCEEDED
        made.append(segment)
    return made


def offsets_in(runs: Iterable[Run]) -> set[int]:
    return {offset for first, behind in runs for offset in range(first, behind)}


@st.composite
def partitions(
    draw: st.DrawFn, max_size: int = 60
) -> tuple[list[int], set[int], list[int], int]:
    """Offsets that were delivered, which of them are finished, cuts, and the base."""
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 1, 2, 9]), min_size=1, max_size=max_size))
    first = draw(st.sampled_from([0, 1, 10**12]))
    delivered, at = [], first
    for step in steps:
        at += step
        delivered.append(at)
    flags = draw(st.lists(st.booleans(), min_size=len(steps), max_size=len(steps)))
    finished = {offset for offset, is_in in zip(delivered, flags, strict=True) if is_in}
    base = next((offset for offset in delivered if offset not in finished), at + 1)
    return delivered, finished, draw(st.lists(st.integers(0, max_size), max_size=5)), base


class TestARoundTrip:
    @given(partitions())
    @settings(max_examples=500)
    def test_tells_of_all_that_is_finished_and_of_nothing_that_was_delivered_and_is_not(
        self, partition: tuple[list[int], set[int], list[int], int]
    ) -> None:
        delivered, finished, cuts, base = partition
        made = encode(base, TOPIC_ID, segments_of(delivered, finished, cuts))
        beyond = {offset for offset in finished if offset > base}
        assert made.is_complete
        assert made.end == max(beyond, default=base - 1) + 1
        assert bool(made.text) == bool(beyond)
        if made.text:
            told = offsets_in(decode(made.text, base, TOPIC_ID))
            assert told & set(delivered) == beyond
            # What was never delivered is finished between finished ones, and nowhere else.
            for offset in told.difference(delivered):
                assert offset - 1 in told
                assert offset + 1 in told

    @given(partitions(max_size=30), st.lists(st.integers(1, 20), max_size=9))
    @settings(max_examples=300)
    def test_tells_of_what_has_not_arrived_again_too(
        self, partition: tuple[list[int], set[int], list[int], int], lengths: list[int]
    ) -> None:
        delivered, finished, cuts, base = partition
        at = delivered[-1] + 1
        ahead = []
        for gap, length in zip(lengths[::2], lengths[1::2], strict=False):
            ahead.append((at + gap, at + gap + length))
            at += gap + length
        made = encode(base, TOPIC_ID, segments_of(delivered, finished, cuts), ahead)
        told = offsets_in(decode(made.text, base, TOPIC_ID)) if made.text else set()
        expected = {offset for offset in finished if offset > base} | offsets_in(ahead)
        assert {o for o in told if o in delivered or o > delivered[-1]} == expected

    @given(partitions())
    def test_is_the_same_however_the_messages_arrived(
        self, partition: tuple[list[int], set[int], list[int], int]
    ) -> None:
        delivered, finished, cuts, base = partition
        parted = segments_of(delivered, finished, cuts)
        whole = segments_of(delivered, finished)
        assert encode(base, TOPIC_ID, parted) == encode(base, TOPIC_ID, whole)
        assert [*finished_runs(base, parted)] == [*finished_runs(base, whole)]

    def test_of_nothing_is_no_text(self) -> None:
        assert encode(7, TOPIC_ID, []) == OffsetMap("", True, 7)
        assert encode(7, TOPIC_ID, segments_of(range(7, 20), [])) == OffsetMap("", True, 7)


def kind_of(text: str) -> str:
    return text.split(":")[3]


class TestTheFormThatIsTaken:
    def test_is_runs_where_few_long_ones_are_finished(self) -> None:
        made = encode(0, TOPIC_ID, segments_of(range(10_000), range(1, 10_000)))
        assert kind_of(made.text) == "r"
        assert len(made.text) < 60

    def test_is_bits_where_the_finished_are_scattered(self) -> None:
        made = encode(0, TOPIC_ID, segments_of(range(1_000), range(1, 1_000, 2)))
        assert kind_of(made.text) == "b"
        assert len(made.text) < 220  # 125 bytes, not the 1,000 of runs

    @given(partitions(max_size=300))
    @settings(max_examples=200)
    def test_is_never_longer_than_the_other_would_be(
        self, partition: tuple[list[int], set[int], list[int], int]
    ) -> None:
        delivered, finished, _, base = partition
        segments = segments_of(delivered, finished)
        made = encode(base, TOPIC_ID, segments)
        if not made.text:
            return
        lengths, at = [], base
        for first, behind in finished_runs(base, segments):
            lengths += [first - at, behind - first]
            at = behind
        in_runs = sum(max(1, (length.bit_length() + 6) // 7) for length in lengths)
        in_bits = (at - base + 7) // 8
        body = made.text.split(":")[4]
        assert len(body) == (min(in_runs, in_bits) + 2) // 3 * 4

    def test_is_plain_text_with_its_parts_in_their_places(self) -> None:
        """What is on the broker stays readable for who comes after: this is version 1."""
        scattered = encode(10, "T", segments_of(range(10, 20), [12, 13, 17]))
        assert scattered.text == "tbk1:T:10:b:MQ==:" + _check("tbk1:T:10:b:MQ==")
        assert f"{b64decode('MQ==')[0]:08b}" == "00110001"
        long = encode(5, "T", segments_of(range(5, 500), range(6, 306)))
        assert long.text == "tbk1:T:5:r:AawC:" + _check("tbk1:T:5:r:AawC")  # 1, then 300


def _check(text: str) -> str:
    return f"{crc32(text.encode()):08x}"


class TestWhenItDoesNotFit:
    @pytest.mark.parametrize("topic_id", ["T", TOPIC_ID])
    @pytest.mark.parametrize("base", [0, 2**62])
    @pytest.mark.parametrize("step", [2, 3, 7])
    def test_it_is_the_longest_beginning_that_does(
        self, step: int, base: int, topic_id: str
    ) -> None:
        count = 50_000
        finished = range(base + step - 1, base + count, step)
        made = encode(base, topic_id, segments_of(range(base, base + count), finished))
        assert len(made.text) <= MAX_LENGTH
        assert len(made.text) > MAX_LENGTH - 40, "room is left"
        assert not made.is_complete
        told = offsets_in(decode(made.text, base, topic_id))
        assert told == {offset for offset in finished if offset < made.end}
        assert made.end < finished[-1]

    def test_what_fits_is_whole(self) -> None:
        """Half of 24,000 messages in any order, or 1,500 stuck ones among any number."""
        made = encode(0, TOPIC_ID, segments_of(range(24_000), range(1, 24_000, 2)))
        assert made.is_complete
        finished = [o for o in range(150_000) if o % 100]
        made = encode(0, TOPIC_ID, segments_of(range(150_000), finished))
        assert made.is_complete
        assert offsets_in(decode(made.text, 0, TOPIC_ID)) == set(finished)


class TestWhatIsRead:
    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "not one of this library's"),
            ("offset 5 of my own", "not one of this library's"),
            ("tbk2:T:5:r:AQE=:00000000", "of another version"),
            ("tbk1", "of another version"),
            ("tbk1:", "damaged"),
            ("tbk1:T:5:r:AQE=:00000000", "damaged"),
            ("tbk1:T:5:r:AQE=:é", "damaged"),
        ],
    )
    def test_is_ignored_unless_it_is_one_of_ours(self, text: str, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            decode(text, 5, "T")

    @pytest.mark.parametrize(
        "body", ["T:5:r", "T:five:r:AQE=", "T:5:r:A", "T:5:r:AQE=:more", "T:5:r:%%%%"]
    )
    def test_is_ignored_if_it_makes_no_sense_though_its_check_is_right(self, body: str) -> None:
        text = f"tbk1:{body}"
        with pytest.raises(ValueError, match="damaged"):
            decode(f"{text}:{_check(text)}", 5, "T")

    @pytest.mark.parametrize(
        ("committed", "topic_id", "why"),
        [
            (6, "T", "does not belong to the committed offset"),
            (4, "T", "does not belong to the committed offset"),
            (None, "T", "does not belong to the committed offset"),
            (5, "U", "another topic of this name"),
            (5, "", "the topic's id is not known"),
        ],
    )
    def test_is_ignored_beside_another_offset_or_topic(
        self, committed: int | None, topic_id: str, why: str
    ) -> None:
        text = encode(5, "T", segments_of(range(5, 9), [7])).text
        assert decode(text, 5, "T") == [(7, 8)]
        with pytest.raises(ValueError, match=why):
            decode(text, committed, topic_id)

    @given(
        partitions(),
        st.integers(0, 4095),
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(["replaced", "inserted", "removed"]),
    )
    @example(([5, 6], {6}, [], 5), 0, "é", "inserted")
    @settings(max_examples=500)
    def test_is_never_taken_for_another_if_a_character_is_wrong(
        self,
        partition: tuple[list[int], set[int], list[int], int],
        place: int,
        character: str,
        damage: str,
    ) -> None:
        delivered, finished, _, base = partition
        text = encode(base, TOPIC_ID, segments_of(delivered, finished)).text
        if not text:
            return
        place %= len(text)
        rest = text[place + (damage != "inserted") :]
        damaged = text[:place] + (character if damage != "removed" else "") + rest
        if damaged == text:
            return
        with pytest.raises(ValueError, match=r"^it (is|does)"):
            decode(damaged, base, TOPIC_ID)

    def test_is_never_repeated_in_what_is_said_of_it(self) -> None:
        for text in ("secret", "tbk1:secret", "tbk2:secret", "tbk1:secret:5:r:secret:00000000"):
            with pytest.raises(ValueError, match=r"\A(?!.*secret)") as caught:
                decode(text, 5, "T")
            assert re.search("secret", str(caught.value)) is None
