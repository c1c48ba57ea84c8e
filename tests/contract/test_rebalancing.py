"""The contract of rebalances: `revoking`, `release`, epochs, and what the others get."""

from __future__ import annotations

import trio

from tests.contract._recorder import address, offset_of, values
from tests.contract._scene import Scene
from trio_broadway_kafka._kafka._client import OffsetCommit


async def test_when_another_member_joins_only_what_moves_is_revoked(kafka: Scene) -> None:
    first = await kafka.start_owner(4)
    before = await first.owns(4)
    first.release_at_once()
    second = await kafka.start()
    moved = await second.owns(2)
    kept = await first.owns(2)

    assert set(moved) | set(kept) == set(before)
    revoked = [assigned for revoke in first.events.revocations for assigned in revoke]
    assert {address(assigned) for assigned in revoked} == set(moved)
    assert all(assigned == before[address(assigned)] for assigned in revoked)
    # What stayed has the epoch it had.
    assert kept == {partition: before[partition] for partition in kept}
    assert first.events.losses == []


async def test_the_offsets_of_a_release_are_where_the_next_owner_starts(
    kafka: Scene,
) -> None:
    first = await kafka.start_owner(2)
    await kafka.produce(0, b"a0", b"a1", b"a2")
    await kafka.produce(1, b"b0", b"b1", b"b2")
    first.events.release = lambda partitions: first.client.release(
        partitions, [offset_of(assigned, 2, "two are done") for assigned in partitions]
    )
    second = await kafka.start()
    [(moved, assigned)] = (await second.owns(1)).items()
    assert (assigned.committed, assigned.metadata) == (2, "two are done")
    assert await kafka.committed(moved.partition) == 2
    assert await kafka.committed(1 - moved.partition) is None
    [message] = await second.read(1)
    assert (message.partition(), message.offset()) == (moved.partition, 2)


async def test_a_release_is_answered_with_what_was_committed(kafka: Scene) -> None:
    first = await kafka.start_owner(2)
    await kafka.produce(0, b"a0", b"a1")
    await kafka.produce(1, b"b0", b"b1")
    second = await kafka.start()
    [moving] = await first.revoked()
    answers: list[object] = []
    stale = OffsetCommit(moving.topic, moving.partition, moving.epoch - 100, 2)
    first.client.release([moving], [offset_of(moving, 1), stale], answers.append)
    await second.owns(1)
    await first.commands_applied()
    assert answers == [[offset_of(moving, 1)]]
    # One that comes too late is ignored.
    first.client.release([moving], [offset_of(moving, 2)], answers.append)
    await first.commands_applied()
    assert len(answers) == 1


async def test_commits_are_answered_while_a_revoke_waits_for_its_release(
    kafka: Scene,
) -> None:
    first = await kafka.start_owner(2)
    await kafka.produce(0, b"a0", b"a1")
    await kafka.produce(1, b"b0", b"b1")
    second = await kafka.start()
    [moving] = await first.revoked()
    [kept] = first.events.owned.values()

    assert await first.commit(moving, 1) == [offset_of(moving, 1)]
    assert await kafka.committed(moving.partition) == 1
    assert await first.commit(kept, 2) == [offset_of(kept, 2)]
    assert await kafka.committed(kept.partition) == 2
    assert second.events.assignments == []

    first.client.release([moving], [offset_of(moving, 2)])
    [taken] = (await second.owns(1)).values()
    assert (address(taken), taken.committed) == (address(moving), 2)


async def test_the_epoch_of_a_released_partition_has_ended(kafka: Scene) -> None:
    first = await kafka.start_owner(2)
    await kafka.produce(0, b"a0", b"a1")
    await kafka.produce(1, b"b0", b"b1")
    second = await kafka.start()
    [moving] = await first.revoked()
    first.client.release([moving], [offset_of(moving, 1)])
    await second.owns(1)
    assert list(await first.commit(moving, 2)) == []
    # A release that comes too late neither commits nor disturbs.
    first.client.release([moving], [offset_of(moving, 2)])
    await first.commands_applied()
    assert await kafka.committed(moving.partition) == 1


async def test_a_revoke_that_is_never_released_ends_by_itself(kafka: Scene) -> None:
    await kafka.create(partitions=2)
    first = await kafka.start(revoke_timeout=2.0)
    await first.owns(2)
    await kafka.produce(0, b"a")
    await kafka.produce(1, b"b")
    second = await kafka.start()
    [moving] = await first.revoked()
    revoked_at = trio.current_time()
    await second.owns(1)
    # From when the callback began, which was a moment before we heard of it.
    assert 1.9 <= trio.current_time() - revoked_at <= 3.0 + kafka.slack
    assert list(await first.commit(moving, 1)) == []
    assert await kafka.committed(moving.partition) is None


async def test_partitions_come_back_in_a_newer_epoch_when_the_other_leaves(
    kafka: Scene,
) -> None:
    first = await kafka.start_owner(2)
    before = await first.owns(2)
    first.release_at_once()
    second = await kafka.start()
    [moved] = await second.owns(1)
    await kafka.produce(moved.partition, b"a", b"b", b"c")
    await second.read(1)
    await second.commit(second.events.owned[moved], 1)
    await second.stop()

    after = await first.owns(2)
    assert after[moved].epoch > max(assigned.epoch for assigned in before.values())
    assert after[moved].committed == 1
    assert values(await first.read(2)) == [b"b", b"c"]
    assert {chunk.epoch for chunk in first.events.chunks} == {after[moved].epoch}


async def test_a_partition_that_was_paused_comes_back_unpaused(kafka: Scene) -> None:
    first = await kafka.start_owner(2)
    first.release_at_once()
    first.client.pause([kafka.partition(0), kafka.partition(1)])
    second = await kafka.start()
    [moved] = await second.owns(1)
    await second.stop()
    await first.owns(2)
    await kafka.produce(1 - moved.partition, b"still paused")
    await kafka.produce(moved.partition, b"unpaused")
    assert values(await first.read(1)) == [b"unpaused"]


async def test_an_open_fetch_outlives_a_rebalance(kafka: Scene) -> None:
    first = await kafka.start_owner(2)
    first.release_at_once()
    first.open_fetch()
    second = await kafka.start()
    await second.owns(1)
    [kept] = await first.owns(1)
    assert first.events.answers == []
    await kafka.produce(kept.partition, b"after")
    await first.events.until(lambda: first.events.answers)
    assert values(first.events.messages()) == [b"after"]


async def test_the_group_reads_every_message_once_across_a_rebalance(kafka: Scene) -> None:
    first = await kafka.start_owner(2)
    for number in range(2):
        await kafka.produce(number, *(b"%d-%d" % (number, n) for n in range(50)))
    await first.read(30)

    def release_what_was_read() -> None:
        read = {
            partition: [m.offset() for m in first.events.messages(partition)]
            for partition in before
        }
        first.events.release = lambda partitions: first.client.release(
            partitions,
            [offset_of(a, len(read[address(a)])) for a in partitions if read[address(a)]],
        )

    before = await first.owns(2)
    release_what_was_read()
    second = await kafka.start()
    [moved] = await second.owns(1)
    by_first = len(first.events.messages(moved))
    await second.read(50 - by_first)
    await first.read(50 - len(first.events.messages(kafka.partition(1 - moved.partition))))
    together = values([*first.events.messages(), *second.events.messages()])
    assert sorted(v or b"" for v in together) == sorted(
        b"%d-%d" % (number, n) for number in range(2) for n in range(50)
    )


async def test_a_member_that_owns_nothing_leaves_its_group_all_the_same(kafka: Scene) -> None:
    # One left behind holds up every rebalance until its session expires (45 s here, longer
    # than `has_members` waits), and the others' commits with it.
    owner = await kafka.start_owner(1)
    owner.release_at_once()
    idle = await kafka.start()
    await kafka.has_members(2)
    idle.client.stop()
    with trio.fail_after(kafka.patience):
        await idle.closed.wait()
    await kafka.has_members(1)
