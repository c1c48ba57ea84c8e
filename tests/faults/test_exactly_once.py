"""Cases 21 and 22: exactly once from topic to topic, whatever is killed, moved or stopped.

By default in a size that a CI bears; ``nox -s faults`` runs it in full.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.broker._facts import Facts, MemberProcess, show, until

IN_FULL = os.environ.get("FAULTS") == "in full"

RECORDS = 100_002 if IN_FULL else 7_002
KILLS = 10 if IN_FULL else 2
REBALANCES = 5 if IN_FULL else 1
WORK = 0.03 if IN_FULL else 0.04  # seconds a message, so that all deeds fall into the work
PARTITIONS = 6
KEYS = 60
SESSION = 3.0  # seconds
TEST_TIMEOUT = 900.0 if IN_FULL else 120.0


def copier(name: str, to: str, **options: object) -> dict[str, Any]:
    """What makes a member copy the topic, ten messages at a time."""
    return {
        "name": name,
        "to": to,
        "output": {"transactional_id": f"{to}-{name}", "transaction_interval": 0.2},
        "work": WORK,
        "stages": {"concurrency": 10},
        **options,
    }


def check_copied(copied: list[Any], expected: dict[bytes, list[bytes]]) -> None:
    """Each value once, and those of a key in order."""
    times = Counter(record.value() for record in copied)
    wanted = {value for values in expected.values() for value in values}
    assert times.keys() - wanted == set(), "what was never there"
    assert wanted - times.keys() == set(), "lost"
    assert {value for value, count in times.items() if count > 1} == set(), "duplicates"
    by_key: dict[bytes, list[bytes]] = defaultdict(list)
    for record in copied:
        by_key[record.key()].append(record.value())
    assert by_key == expected, "the order of a key"


@pytest.mark.slow
@pytest.mark.kafka_topic(partitions=PARTITIONS)
async def test_kills_and_rebalances_neither_lose_nor_repeat_nor_disorder_anything(
    facts: Facts, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    show(f"seed {seed}")
    to = await facts.make_topic(PARTITIONS, topic=f"{facts.topic}-out")
    each = RECORDS // PARTITIONS
    expected: dict[bytes, list[bytes]] = {}
    for partition in range(PARTITIONS):
        for number in range(each):
            # Keys of their own for each partition, so that the order of a key is known.
            key = b"key-%d-%d" % (partition, number % (KEYS // PARTITIONS))
            expected.setdefault(key, []).append(b"%d-%d" % (partition, number))
    await facts.produce_pairs(
        [
            (p, key, value)
            for key, values in expected.items()
            for value in values
            for p in [int(value.partition(b"-")[0])]
        ]
    )
    kafka = await facts.short_session(SESSION)
    names = ["a", "b", "c"]
    running: dict[str, MemberProcess] = {}
    stacks: dict[str, AsyncExitStack] = {}
    started = 0

    async def start(name: str) -> None:
        nonlocal started
        started += 1
        stacks[name] = stack = AsyncExitStack()
        # A file of its own for each process, and one transactional_id for each name.
        folder = tmp_path / f"{started}"
        folder.mkdir()
        running[name] = await stack.enter_async_context(
            MemberProcess.start(facts, folder, kafka=kafka, **copier(name, to))
        )

    def handled(name: str) -> int:
        return len(running[name].events("end"))

    deeds = ["kill"] * KILLS + ["rebalance"] * REBALANCES
    rng.shuffle(deeds)
    try:
        with trio.fail_after(TEST_TIMEOUT):
            for name in names:
                await start(name)
            for deed in deeds:
                if deed == "kill":
                    name = rng.choice(names)
                    before = handled(name)
                    await until(lambda: handled(name) > before + 50, within=60)  # noqa: B023
                    await trio.sleep(rng.random() * 0.5)
                    running[name].signal(signal.SIGKILL)
                    await stacks[name].aclose()
                    await start(name)
                else:
                    await start("visitor")
                    await until(lambda: handled("visitor") > 50, within=60)
                    running["visitor"].signal(signal.SIGTERM)
                    assert await running["visitor"].wait() == 0
                    await stacks.pop("visitor").aclose()
            await facts.wait_committed(dict.fromkeys(range(PARTITIONS), each), within=300)
            for name in names:
                running[name].signal(signal.SIGTERM)
            for name in names:
                assert await running[name].wait() == 0
            copied = await facts.read(to, PARTITIONS)
    finally:
        for stack in stacks.values():
            await stack.aclose()
    check_copied(copied, expected)
    facts.tell(
        "21",
        f"{len(copied):,} records through {started} processes, {KILLS} "
        f"killed, {REBALANCES} rebalances; 0 there twice, lost 0",
    )


@pytest.mark.faults
@pytest.mark.kafka_topic(partitions=PARTITIONS)
@pytest.mark.parametrize("replaced", [False, True], ids=["by others", "by its own successor"])
async def test_a_stopped_zombie_that_wakes_adds_nothing(
    facts: Facts, tmp_path: Path, replaced: bool
) -> None:
    """It has handled messages whose outputs wait for the next transaction."""
    to = await facts.make_topic(PARTITIONS, topic=f"{facts.topic}-out")
    expected = {
        b"key-%d" % partition: [b"%d-%d" % (partition, number) for number in range(200)]
        for partition in range(PARTITIONS)
    }
    await facts.produce_pairs(
        [(int(key[4:]), key, value) for key, values in expected.items() for value in values]
    )
    kafka = await facts.short_session(SESSION)
    folders = [tmp_path / "zombie", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    slow = copier("zombie", to, kafka=kafka)
    slow["output"]["transaction_interval"] = 1.0
    slow["work"] = 0.05
    with trio.fail_after(TEST_TIMEOUT):
        async with MemberProcess.start(facts, folders[0], **slow) as zombie:
            await until(lambda: len(zombie.events("end")) > 60)
            zombie.signal(signal.SIGSTOP)
            other = copier("zombie" if replaced else "other", to, kafka=kafka)
            async with MemberProcess.start(facts, folders[1], **other) as successor:
                everything = dict.fromkeys(range(PARTITIONS), 200)
                await facts.wait_committed(everything, within=60)
                zombie.signal(signal.SIGCONT)
                # It hears of its loss, and comes back as a new member.
                await until(lambda: "lost" in zombie.stderr)
                successor.signal(signal.SIGTERM)
                assert await successor.wait() == 0
            await facts.produce_pairs([(0, b"key-0", b"0-more")])
            expected[b"key-0"].append(b"0-more")
            if replaced:
                assert await zombie.wait() == 1
                assert "FencedError" in zombie.stderr
                assert "each process needs one of its own" in zombie.stderr
                async with MemberProcess.start(facts, folders[1], **other):
                    await facts.wait_committed({**everything, 0: 201})
            else:
                await facts.wait_committed({**everything, 0: 201})
                zombie.signal(signal.SIGTERM)
                assert await zombie.wait() == 0
        copied = await facts.read(to, PARTITIONS)
    check_copied(copied, expected)
    facts.tell("22", f"{len(copied):,} records, 1 zombie that wakes; 0 there twice, lost 0")
