"""The contract of `commit`: what reaches the group's offsets, and what never does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contract._recorder import offset_of
from tests.contract._scene import Scene
from trio_broadway_kafka._model._errors import KafkaFailure


async def test_a_commit_is_visible_to_others_once_it_has_returned(kafka: Scene) -> None:
    member = await kafka.start_owner(2)
    owned = await member.owns(2)
    await kafka.produce(0, b"a", b"b")
    assert await kafka.committed(0) is None
    sent = offset_of(owned[kafka.partition(0)], 2)
    assert list(await member.client.commit([sent])) == [sent]
    assert await kafka.committed(0) == 2
    assert await kafka.committed(1) is None


async def test_several_partitions_are_committed_together(kafka: Scene) -> None:
    member = await kafka.start_owner(2)
    owned = await member.owns(2)
    await kafka.produce(0, b"a")
    await kafka.produce(1, b"b", b"c")
    sent = [
        offset_of(owned[kafka.partition(0)], 1, "one"),
        offset_of(owned[kafka.partition(1)], 2, "two"),
    ]
    assert list(await member.client.commit(sent)) == sent
    assert [await kafka.committed(0), await kafka.committed(1)] == [1, 2]


async def test_later_commits_replace_earlier_ones_in_the_order_sent(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    owned = await member.owns(1)
    await kafka.produce(0, b"a", b"b", b"c")
    for offset in (1, 2, 3):
        await member.commit(owned[kafka.partition(0)], offset)
        assert await kafka.committed(0) == offset


async def test_a_commit_is_answered_while_a_fetch_is_open(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    owned = await member.owns(1)
    await kafka.produce(0, b"a")
    await member.read(1)
    member.open_fetch()
    await member.commit(owned[kafka.partition(0)], 1)
    assert await kafka.committed(0) == 1


async def test_what_is_of_an_ended_epoch_is_dropped_and_the_rest_committed(
    kafka: Scene,
) -> None:
    first = await kafka.start_owner(2)
    owned = await first.owns(2)
    first.release_at_once()
    await kafka.produce(0, b"a")
    await kafka.produce(1, b"b")
    second = await kafka.start()
    await second.owns(1)
    [moved] = second.events.owned
    [kept] = await first.owns(1)

    ended = offset_of(owned[moved], 1)
    live = offset_of(owned[kept], 1)
    assert list(await first.client.commit([ended])) == []
    assert list(await first.client.commit([ended, live])) == [live]
    assert await kafka.committed(moved.partition) is None
    assert await kafka.committed(kept.partition) == 1


async def test_a_partition_that_was_never_ours_is_not_committed(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    await kafka.produce(0, b"a")
    [assigned] = (await member.owns(1)).values()
    never = replace(offset_of(assigned, 1), epoch=assigned.epoch + 1)
    assert list(await member.client.commit([never])) == []
    assert await kafka.committed(0) is None


async def test_a_commit_without_metadata_leaves_none(kafka: Scene) -> None:
    first = await kafka.start_owner(1)
    [assigned] = (await first.owns(1)).values()
    await kafka.produce(0, b"a", b"b")
    await first.commit(assigned, 1, "to be replaced")
    await first.commit(assigned, 2)
    await first.stop()
    [again] = (await (await kafka.start()).owns(1)).values()
    assert (again.committed, again.metadata) == (2, None)


async def test_metadata_too_long_for_the_broker_is_refused(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    [assigned] = (await member.owns(1)).values()
    await kafka.produce(0, b"a")
    await member.commit(assigned, 1, "é" * 4095)
    with pytest.raises(KafkaFailure) as caught:
        await member.commit(assigned, 1, "é" * 4096)
    assert caught.value.code == "OFFSET_METADATA_TOO_LARGE"
    assert not caught.value.retriable
