"""Cases 19 and 20: what networks do between a pipeline and its Kafka loses nothing."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio

from tests.broker._facts import Log, show, until
from tests.faults._network import IN_FULL, Network
from trio_broadway_kafka import Message, Stages, open_pipeline

EACH = 15_000 if IN_FULL else 2_000  # records of each partition
IN_FLIGHT = 500
SESSION = 6.0 if IN_FULL else 3.0  # seconds
PARTITION = 30.0 if IN_FULL else 5.0  # seconds without a network
TROUBLES = 40 if IN_FULL else 8
TEST_TIMEOUT = 240.0


async def work(message: Message) -> None:
    # So that the records last for longer than the faults.
    await trio.sleep(0.03)


def check(log: Log, network: Network, faults: int) -> None:
    """Nothing is lost, and each lane is in order but where it began again."""
    times = Counter((partition, offset) for _, partition, offset in log.finished)
    wanted = {(p, offset) for p in range(network.partitions) for offset in range(EACH)}
    assert times.keys() == wanted
    again = times.total() - len(wanted)
    disorder = 0
    last: dict[tuple[int, int], int] = {}
    for _, partition, offset in log.started:
        lane = (partition, offset % 50)  # its key
        disorder += offset <= last.get(lane, -1)
        last[lane] = offset
    assert disorder <= again, "a lane goes back only where it begins again"
    show(f"{len(wanted)} records, {faults} faults, {again} handled again, lost 0")


async def produce(network: Network) -> None:
    for partition in range(network.partitions):
        await network.facts.produce(partition, EACH, keys=50)


@pytest.mark.faults
async def test_a_full_network_partition(network: Network) -> None:
    facts, proxy = network.facts, network.proxy
    await produce(network)
    log = Log()
    stages = Stages(handle_message=log.handler(work), concurrency=50)
    with trio.fail_after(TEST_TIMEOUT):
        kafka = await facts.short_session(SESSION)
        async with open_pipeline(
            kafka=kafka, topics=[facts.topic], stages=stages, max_in_flight=IN_FLIGHT
        ) as pipeline:
            await until(lambda: len(log.finished) > 500)
            committed = await facts.committed()
            started = len(log.started)
            proxy.swallow()
            await trio.sleep(PARTITION)
            proxy.heal()
            await facts.wait_committed(
                dict.fromkeys(range(network.partitions), EACH), within=TEST_TIMEOUT
            )
            assert pipeline.statistics().in_flight == 0
    # What was finished while nothing could be committed is handled again; nothing before.
    for _, partition, offset in log.started[started:]:
        assert offset >= committed.get(partition, 0)
    check(log, network, faults=1)


@pytest.mark.faults
async def test_latency_sliced_packets_resets_cuts_and_half_open_connections(
    network: Network,
) -> None:
    seed = random.randrange(10**6)
    show(f"seed {seed}")
    rng = random.Random(seed)
    facts, proxy = network.facts, network.proxy
    await produce(network)
    log = Log()
    stages = Stages(handle_message=log.handler(work), concurrency=50)
    counts: Counter[str] = Counter()

    async def trouble() -> None:
        for _ in range(TROUBLES):
            await trio.sleep(rng.random() * 0.4)
            kind = rng.choice(["latency", "slices", "reset", "cut", "half-open"])
            counts[kind] += 1
            match kind:
                case "latency":
                    proxy.delay = rng.random() * 0.5
                case "slices":
                    proxy.slice = rng.randint(1, 1_000)
                case "reset":
                    proxy.reset()
                case "cut":
                    proxy.cut()
                case "half-open":
                    proxy.swallow()
            await trio.sleep(rng.random())
            proxy.heal()

    with trio.fail_after(TEST_TIMEOUT):
        kafka = await facts.short_session(SESSION)
        async with open_pipeline(
            kafka=kafka, topics=[facts.topic], stages=stages, max_in_flight=IN_FLIGHT
        ) as pipeline:
            await until(lambda: len(log.finished) > 100)
            await trouble()
            await facts.wait_committed(
                dict.fromkeys(range(network.partitions), EACH), within=TEST_TIMEOUT
            )
            assert pipeline.statistics().in_flight == 0
    show(", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())))
    check(log, network, faults=TROUBLES)
