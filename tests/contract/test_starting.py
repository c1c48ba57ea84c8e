"""The contract of ``start_from``: where the first assignment of a partition starts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.contract._recorder import Member, offset_of, values
from tests.contract._scene import Scene
from trio_broadway_kafka._model._moments import StartFrom

MIDDAY = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def _produce(kafka: Scene) -> None:
    """A record each second from midday on; the first partition has ten, the second two."""
    for partition, count in ((0, 10), (1, 2)):
        for second in range(count):
            timestamp = round(MIDDAY.timestamp() + second) * 1000
            await kafka.store.produce(kafka.topic, partition, b"v", timestamp=timestamp)


async def _commit(kafka: Scene, offsets: dict[int, int]) -> None:
    """Let a member commit these, and leave."""
    member = await kafka.start()
    owned = await member.owns(2)
    for partition, offset in offsets.items():
        await member.commit(owned[kafka.partition(partition)], offset)
    await member.stop()


async def _read(kafka: Scene, member: Member) -> list[list[int]]:
    """The offsets of each partition, to the ends."""
    for partition, end in ((0, 10), (1, 2)):
        await member.end_at(kafka.partition(partition), end)
    return [
        [message.offset() for message in member.events.messages(kafka.partition(number))]
        for number in (0, 1)
    ]


@pytest.mark.parametrize(
    ("start_from", "starts"),
    [
        ("earliest", (0, 0)),
        ("latest", (10, 2)),
        (MIDDAY + timedelta(seconds=1), (1, 1)),
        (MIDDAY + timedelta(seconds=1.0001), (2, 2)),
        # A time after the last record means the end.
        (MIDDAY + timedelta(seconds=5), (5, 2)),
        (MIDDAY - timedelta(days=30_000), (0, 0)),
        (MIDDAY + timedelta(days=30_000), (10, 2)),
    ],
)
async def test_the_assignment_says_where_it_starts_and_reads_from_there(
    kafka: Scene, start_from: StartFrom, starts: tuple[int, int]
) -> None:
    await kafka.create(2)
    await _produce(kafka)
    await _commit(kafka, {0: 7})
    member = await kafka.start(start_from=start_from)
    owned = await member.owns(2)
    assert [owned[kafka.partition(n)].committed for n in (0, 1)] == [7, None]
    assert [owned[kafka.partition(n)].start for n in (0, 1)] == list(starts)
    read = await _read(kafka, member)
    assert read == [list(range(starts[0], 10)), list(range(starts[1], 2))]


async def test_an_assignment_from_committed_has_no_start(kafka: Scene) -> None:
    await kafka.create(2)
    await _produce(kafka)
    await _commit(kafka, {0: 7})
    member = await kafka.start()
    owned = await member.owns(2)
    assert [owned[kafka.partition(n)].start for n in (0, 1)] == [None, None]
    assert await _read(kafka, member) == [[7, 8, 9], [0, 1]]


async def test_a_lower_offset_than_before_may_be_committed(kafka: Scene) -> None:
    await kafka.create(2)
    await _produce(kafka)
    await _commit(kafka, {0: 7})
    member = await kafka.start(start_from="earliest")
    owned = await member.owns(2)
    await member.commit(owned[kafka.partition(0)], 3)
    assert await kafka.committed(0) == 3


async def test_later_assignments_start_from_the_committed_offset(kafka: Scene) -> None:
    await kafka.create(2)
    await _produce(kafka)
    first = await kafka.start(start_from="earliest")
    await first.owns(2)
    first.events.release = lambda partitions: first.client.release(
        partitions, [offset_of(assigned, 1) for assigned in partitions]
    )
    second = await kafka.start()
    [moved] = await second.owns(1)
    await second.stop()
    again = (await first.owns(2))[moved]
    assert (again.committed, again.start) == (1, None)
    seen = len(first.events.messages(moved))
    assert seen == 0
    await _read(kafka, first)
    assert first.events.messages(moved)[0].offset() == 1


async def test_each_member_applies_it_to_its_own_first_assignment(kafka: Scene) -> None:
    await kafka.create(2)
    await _produce(kafka)
    first = await kafka.start(start_from="earliest")
    await first.owns(2)
    first.events.release = lambda partitions: first.client.release(
        partitions, [offset_of(assigned, 1) for assigned in partitions]
    )
    second = await kafka.start(start_from="latest")
    [(moved, assigned)] = (await second.owns(1)).items()
    end = {0: 10, 1: 2}[moved.partition]
    assert (assigned.committed, assigned.start) == (1, end)
    await kafka.produce(moved.partition, b"after")
    assert values(await second.read(1)) == [b"after"]
