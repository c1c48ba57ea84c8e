"""Cases 1, 2 and 3: processes that are killed, and members that come and go."""

from __future__ import annotations

import itertools
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.broker._facts import Facts, Log, MemberProcess, show, until
from tests.faults._ledger import check_lanes, settle, watch_commits
from tests.faults._network import IN_FULL
from trio_broadway_kafka import Message, Stages, open_pipeline

KILLED_RECORDS = 100_000 if IN_FULL else 8_000
KILLS = 20 if IN_FULL else 3
KILLED_PARTITIONS = 4
KEYS = 50
IN_FLIGHT = 500

MEMBERS = 12 if IN_FULL else 5
STORM_PARTITIONS = 80 if IN_FULL else 12
STORM_RECORDS = 100_000 if IN_FULL else 9_000
TOGGLES = 100 if IN_FULL else 20

TEST_TIMEOUT = 600.0


@pytest.mark.faults
@pytest.mark.kafka_topic(partitions=KILLED_PARTITIONS)
async def test_a_process_that_is_killed_again_and_again_loses_nothing(
    facts: Facts, tmp_path: Path
) -> None:
    """Case 1. Each next process takes up what the one before has left."""
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    show(f"seed {seed}")
    each = KILLED_RECORDS // KILLED_PARTITIONS
    for partition in range(KILLED_PARTITIONS):
        await facts.produce(partition, each, keys=KEYS)
    kafka = await facts.short_session(2)
    members: list[MemberProcess] = []

    def finished() -> list[list[tuple[int, int]]]:
        return [member.events("end") for member in members]

    def count() -> int:
        return sum(map(len, finished()))

    with trio.fail_after(TEST_TIMEOUT):
        async with watch_commits(facts, finished) as committed:
            for number in range(KILLS + 1):
                folder = tmp_path / f"{number}"
                folder.mkdir()
                async with MemberProcess.start(
                    facts,
                    folder,
                    kafka=kafka,
                    work=0.01,
                    jitter=0.02,
                    stages={"concurrency": 50},
                    options={"commit_interval": 0.2, "max_in_flight": IN_FLIGHT},
                ) as member:
                    members.append(member)
                    if number < KILLS:
                        # Somewhere on the way to its part of the work.
                        goal = KILLED_RECORDS * (number + rng.random()) / (KILLS + 1)
                        await until(lambda: count() >= goal, within=120)  # noqa: B023
                        member.signal(signal.SIGKILL)
                    else:
                        everything = dict.fromkeys(range(KILLED_PARTITIONS), each)
                        await facts.wait_committed(everything, within=120)
                        member.signal(signal.SIGTERM)
                        assert await member.wait() == 0
        assert committed == everything
    again = settle(
        1,
        facts.protocol,
        everything,
        itertools.chain.from_iterable(finished()),
        faults=f"processes killed: {KILLS}",
        at_most=KILLS * IN_FLIGHT,
    )
    for member in members:
        check_lanes(member.events("start"), KEYS, again)


@pytest.mark.kafka_topic(partitions=1)
async def test_what_was_finished_out_of_order_is_not_lost_by_a_kill_nor_is_what_was_not(
    facts: Facts, tmp_path: Path
) -> None:
    """Case 2. Every tenth record is never finished by the first process; all others are."""
    await facts.produce(0, 1_000)
    kafka = await facts.short_session(2)
    stuck = set(range(0, 1_000, 10))
    folders = [tmp_path / "killed", tmp_path / "next"]
    for folder in folders:
        folder.mkdir()
    with trio.fail_after(TEST_TIMEOUT):
        async with MemberProcess.start(
            facts,
            folders[0],
            kafka=kafka,
            hangs=sorted(stuck),
            stages={"ordering": "unordered", "concurrency": 200},
            options={"commit_interval": 0.1},
        ) as killed:
            await until(lambda: len(killed.events("end")) == 900)
            await until_mapped(facts, 900)
            killed.signal(signal.SIGKILL)
        assert await facts.committed() == {0: 0}, "the first record was never finished"
        async with MemberProcess.start(facts, folders[1], kafka=kafka) as following:
            await facts.wait_committed({0: 1_000})
            following.signal(signal.SIGTERM)
            assert await following.wait() == 0
    assert {offset for _, offset in following.events("start")} == stuck
    settle(
        2,
        facts.protocol,
        {0: 1_000},
        [*killed.events("end"), *following.events("end")],
        faults="killed with 100 of 1,000 records unfinished among the others: 1",
        at_most=0,
    )


async def until_mapped(facts: Facts, count: int) -> None:
    """Wait until the commit tells of so many records beyond its offset."""
    while True:
        if await facts.committed():
            runs = await facts.finished_beyond()
            if sum(end - start for start, end in runs) >= count:
                return
        await trio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.kafka_topic(partitions=STORM_PARTITIONS)
async def test_a_storm_of_members_that_join_and_leave_loses_nothing(facts: Facts) -> None:
    """Case 3. Up to 60 % of them change every 0 to 500 ms, in order and by a cancellation."""
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    show(f"seed {seed}")
    each = STORM_RECORDS // STORM_PARTITIONS
    await facts.produce_pairs(
        [
            (partition, b"key-%d" % (offset % 5), b"%d" % offset)
            for offset in range(each)
            for partition in range(STORM_PARTITIONS)
        ]
    )
    log = Log()
    everything = dict.fromkeys(range(STORM_PARTITIONS), each)
    deeds: Counter[str] = Counter()
    ends: dict[int, Callable[[], None]] = {}  # of members that run

    async def work(message: Message) -> None:
        await trio.sleep(rng.random() * 0.1)

    async def live(number: int, life: int, *, task_status: trio.TaskStatus[None]) -> None:
        """A member, until it is told to go: then it drains or is cancelled, as it comes."""
        stages = Stages(handle_message=log.handler(work, member=f"{number}.{life}"))
        may_go = trio.Event()
        with trio.CancelScope() as scope:
            deed = rng.choice(["left", "cancelled"])

            def end() -> None:
                deeds[deed] += 1
                (may_go.set if deed == "left" else scope.cancel)()

            ends[number] = end
            task_status.started()
            async with open_pipeline(
                kafka=facts.kafka, topics=[facts.topic], stages=stages, commit_interval=0.1
            ):
                await may_go.wait()
        running.discard(number)

    running: set[int] = set()
    with trio.fail_after(TEST_TIMEOUT):
        async with watch_commits(facts, lambda: [log.finished]), trio.open_nursery() as nursery:

            async def start(number: int) -> None:
                running.add(number)
                deeds["joined"] += 1
                await nursery.start(live, number, deeds["joined"])

            for number in range(MEMBERS):
                await start(number)
            await until(lambda: log.finished)
            for _ in range(TOGGLES):
                await trio.sleep(rng.random() * 0.5)
                chosen = rng.sample(range(MEMBERS), rng.randint(1, int(MEMBERS * 0.6)))
                for number in chosen:
                    if number in ends:
                        ends.pop(number)()
                    elif number not in running:  # else it is still leaving
                        await start(number)
            if not ends:
                await start(MEMBERS)
            await facts.wait_committed(everything, within=300)
            for end in ends.values():
                end()
    settle(
        3,
        facts.protocol,
        everything,
        log.places,
        faults=f"{deeds['joined']} joined, {deeds['left']} left, "
        f"{deeds['cancelled']} were cancelled",
        at_most=STORM_RECORDS // 5,
    )
