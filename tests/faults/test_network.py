"""Cases 19 and 20: what networks do between a pipeline and its Kafka loses nothing."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio

from tests.broker._facts import Log, show, until
from tests.faults._ledger import check_lanes, settle
from tests.faults._network import IN_FULL, Network
from trio_broadway_kafka import Message, Stages, open_pipeline

EACH = 15_000 if IN_FULL else 6_000  # records of each partition
IN_FLIGHT = 500
# Seconds, and how many of them without a network. The session outlives the 5 s for which
# records are taken while no commit has an answer: else the client stops them by itself.
SESSION = 20.0 if IN_FULL else 10.0
PARTITION = 30.0 if IN_FULL else 12.0
TROUBLES = 40 if IN_FULL else 8
TROUBLED_SESSION = 3.0  # seconds: the longest troubles come near to it
TEST_TIMEOUT = 240.0


async def work(message: Message) -> None:
    # So that the records last for longer than the faults.
    await trio.sleep(0.03)


def check(case: int, log: Log, network: Network, faults: str, outages: int) -> None:
    """Nothing is lost, each lane is in order but where it began again, and what is handled
    twice is bounded."""
    again = settle(
        case,
        network.facts.protocol,
        dict.fromkeys(range(network.partitions), EACH),
        log.places,
        faults=faults,
        # Of each: what was in flight, and the work of 7 s, of 50 handlers at 0.03 s each.
        at_most=outages * (IN_FLIGHT + 7 * 1_700),
    )
    check_lanes([(partition, offset) for _, partition, offset in log.started], 50, again)


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
    check(19, log, network, f"{PARTITION:g} s without a network", outages=1)


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
        kafka = await facts.short_session(TROUBLED_SESSION)
        async with open_pipeline(
            kafka=kafka, topics=[facts.topic], stages=stages, max_in_flight=IN_FLIGHT
        ) as pipeline:
            await until(lambda: len(log.finished) > 100)
            await trouble()
            await facts.wait_committed(
                dict.fromkeys(range(network.partitions), EACH), within=TEST_TIMEOUT
            )
            assert pipeline.statistics().in_flight == 0
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    check(20, log, network, faults, outages=TROUBLES)
