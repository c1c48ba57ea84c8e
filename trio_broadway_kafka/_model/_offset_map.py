"""The offset map: which messages beyond the committed offset are finished, as text.

It travels in the commit's metadata, so that who reads the partition next handles only what is
unfinished. The text is ``tbk1:TOPIC_ID:BASE:KIND:BODY:CHECK``:

- ``tbk1`` tells whose it is, and the version of what follows;
- TOPIC_ID is Kafka's: a topic that is made anew under an old name has another;
- BASE is the offset that it is committed with: beside any other it is foreign;
- BODY is base64, by KIND of a bit for each offset from BASE on (``b``: 1 is finished, the
  highest comes first) or of the lengths of runs (``r``: unfinished first, then in turn, each in
  bytes of 7 bits, the lowest first), whichever is smaller;
- CHECK is the CRC-32 of all before it.

Offsets that were never delivered count as finished between finished ones. The broker takes 4096
characters of metadata by default
(https://kafka.apache.org/documentation/#brokerconfigs_offset.metadata.max.bytes), and
librdkafka adds a NUL. When all does not fit, the map is the longest beginning that does.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple
from zlib import crc32

from trio_broadway_kafka._model._segment import Segment

__all__ = ["MAX_LENGTH", "OffsetMap", "Run", "decode", "encode", "finished_runs"]

MAX_LENGTH: Final = 4095
"""Characters."""

Run = tuple[int, int]
"""Offsets from the first up to, and without, the second."""

_OURS: Final = "tbk"
_VERSION: Final = "tbk1"

_UNFINISHED: Final = re.compile(rb"\0+")
_ONES: Final = re.compile("1+")
_AS_DIGITS: Final = b"0" + b"1" * 255  # a segment's flags as digits


class OffsetMap(NamedTuple):
    """What `encode` makes.

    Attributes:
        text: empty where nothing is finished beyond the base.
        is_complete: whether all that is finished is in it.
        end: the offset below which all that is finished is in it.
    """

    text: str
    is_complete: bool
    end: int


def finished_runs(
    base: int, segments: Iterable[Segment], ahead: Iterable[Run] = ()
) -> Iterator[Run]:
    """The runs of finished offsets from `base` on, in order.

    Args:
        base: an offset below which everything is finished.
        segments: what arrived, in order.
        ahead: runs that reach beyond that, in order.
    """
    start, stop = -1, -1  # the run that may go on, if there is one
    for segment in segments:
        flags = segment.flags
        index = segment.index_of(base)
        if flags.find(0, index) >= 0:
            for match in _UNFINISHED.finditer(flags, index):
                first, behind = match.span()
                if first > index:
                    start = segment.offset_of(index) if start < 0 else start
                    stop = segment.offset_of(first - 1) + 1
                if start >= 0:
                    yield start, stop
                    start = -1
                index = behind
        if index < len(flags):
            start = segment.offset_of(index) if start < 0 else start
            stop = segment.last + 1
    for first, behind in ahead:
        if behind <= base:
            continue
        if start < 0 or first > stop:
            if start >= 0:
                yield start, stop
            start = max(first, base)
        stop = behind
    if start >= 0:
        yield start, stop


def encode(
    base: int, topic_id: str, segments: Sequence[Segment], ahead: Sequence[Run] = ()
) -> OffsetMap:
    """The map of what is finished from `base` on. Arguments as of `finished_runs`."""
    reach = _reach(segments, ahead)
    span = reach - base
    if span <= 0:
        return OffsetMap("", True, base)
    header = f"{_VERSION}:{topic_id}:{base}:"
    room = (MAX_LENGTH - len(header) - len("r:") - len(":01234567")) // 4 * 3
    size = (span + 7) // 8
    body, covered = _as_runs(base, finished_runs(base, segments, ahead), min(room, size))
    kind = "r"
    if covered < span and (size <= room or covered < 8 * room):
        digits = _digits(base, segments, ahead, min(span, 8 * room)).rstrip(b"0")
        body, covered, kind = _as_bits(digits), len(digits), "b"
    checked = f"{header}{kind}:{b64encode(body).decode()}"
    text = f"{checked}:{crc32(checked.encode()):08x}"
    return OffsetMap(text, covered >= span, base + covered)


def decode(text: str, committed: int | None, topic_id: str) -> list[Run]:
    """The runs of finished offsets of a map that was committed with the offset `committed`.

    Raises:
        ValueError: it is to be ignored; says why, and nothing of what is in the text.
    """
    if not text.startswith(_OURS):
        raise ValueError("it is not one of this library's")
    if not text.startswith(f"{_VERSION}:"):
        raise ValueError("it is of another version of this library")
    checked, _, check = text.rpartition(":")
    if not text.isascii() or f"{crc32(checked.encode()):08x}" != check:
        raise ValueError("it is damaged")
    try:
        _, of_topic, base_text, kind, body_text = checked.split(":")
        base, body = int(base_text), b64decode(body_text, validate=True)
    except ValueError:
        raise ValueError("it is damaged") from None
    if not topic_id:
        raise ValueError("the topic's id is not known, so it may be of another topic")
    if of_topic != topic_id:
        raise ValueError("it is of another topic of this name")
    if base != committed:
        raise ValueError("it does not belong to the committed offset")
    if kind == "b":
        digits = f"{int.from_bytes(body):0{8 * len(body)}b}"
        spans = (match.span() for match in _ONES.finditer(digits))
        return [(base + first, base + behind) for first, behind in spans]
    return list(_runs_of(base, body))


def _reach(segments: Sequence[Segment], ahead: Sequence[Run]) -> int:
    """The offset behind the last finished one, -1 if none is."""
    reach = ahead[-1][1] if ahead else -1
    for segment in reversed(segments):
        if finished := len(segment.flags.rstrip(b"\0")):
            return max(reach, segment.offset_of(finished - 1) + 1)
    return reach


def _as_runs(base: int, runs: Iterable[Run], room: int) -> tuple[bytes, int]:
    """The lengths of as many of the first `runs` as there is room for; how far they reach."""
    body = bytearray()
    at = base
    for first, behind in runs:
        size = len(body)
        for length in (first - at, behind - first):
            while length > 127:
                body.append(length & 127 | 128)
                length >>= 7
            body.append(length)
        if len(body) > room:
            del body[size:]
            break
        at = behind
    return bytes(body), at - base


def _runs_of(base: int, body: bytes) -> Iterator[Run]:
    at = first = base
    is_finished = False
    length = shift = 0
    for byte in body:
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            first, at = at, at + length
            if is_finished:
                yield first, at
            is_finished = not is_finished
            length = shift = 0


def _digits(
    base: int, segments: Iterable[Segment], ahead: Iterable[Run], count: int
) -> bytearray:
    """``0`` or ``1`` for each of `count` offsets from `base` on: what `finished_runs` tells.

    Nothing here is done for each message, nor, where offsets have no gaps, for each run.
    """
    digits = bytearray()
    for segment in segments:
        index = segment.index_of(base)
        if index == len(segment.flags):
            continue
        of_segment = _digits_of(segment, index, base + count)
        gap = segment.offset_of(index) - base - len(digits)
        is_finished = digits[-1:] == b"1" and of_segment[:1] == b"1"
        digits += (b"1" if is_finished else b"0") * min(gap, count)
        digits += of_segment
        if len(digits) >= count:
            break
    for first, behind in ahead:
        if len(digits) >= count:
            break
        digits += b"0" * min(first - base - len(digits), count)
        digits += b"1" * min(behind - base - len(digits), count)
    return digits[:count]


def _digits_of(segment: Segment, index: int, before: int) -> bytes | bytearray:
    """Those of a segment, from the message at `index` on, for offsets below `before`."""
    flags = segment.flags
    if not segment.has_gaps:
        return flags[index:].translate(_AS_DIGITS)
    base = segment.offset_of(index)
    digits = bytearray(b"1") * max(0, min(segment.last + 1, before) - base)
    for match in _UNFINISHED.finditer(flags, index):
        first, behind = match.span()
        start = 0 if first == index else segment.offset_of(first - 1) + 1 - base
        if start >= len(digits):
            break
        stop = len(digits)
        if behind < len(flags):
            stop = min(segment.offset_of(behind) - base, stop)
        digits[start:stop] = b"0" * (stop - start)
    return digits


def _as_bits(digits: bytes | bytearray) -> bytes:
    size = (len(digits) + 7) // 8
    return int(digits.ljust(8 * size, b"0") or b"0", 2).to_bytes(size)
