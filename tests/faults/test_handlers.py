"""Cases 10, 11 and 29: handlers that fail, records that can't be handled, and a slow sink."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import trio

from tests.broker._facts import Facts, Log, MemberProcess, until
from tests.faults._ledger import settle, watch_commits
from tests.faults._network import IN_FULL
from trio_broadway_kafka import (
    DeadLetter,
    FailurePolicy,
    KafkaFailure,
    Message,
    Output,
    PausePartition,
    Retry,
    Skip,
    Stages,
    open_pipeline,
)

PARTITIONS = 3
EACH = 100
RECORD = 1_000  # bytes, of case 29
BACKLOG = 500_000 if IN_FULL else 60_000
WATCHED = 60.0 if IN_FULL else 8.0  # seconds
MIB = 2**20
TEST_TIMEOUT = 60.0


class Mishap(Exception):
    """What the handlers of these tests raise."""


# Case 10.


@pytest.mark.kafka_topic(partitions=PARTITIONS)
async def test_under_stop_each_run_ends_with_the_handlers_error_and_the_next_goes_on(
    facts: Facts,
) -> None:
    for partition in range(PARTITIONS):
        await facts.produce(partition, EACH, keys=7)
    log = Log()
    mended: set[tuple[int, int]] = set()

    async def work(message: Message) -> None:
        await trio.sleep(0.001)
        place = (message.partition, message.offset)
        if message.offset % 33 == 5 and place not in mended:
            mended.add(place)
            raise Mishap

    everything = dict.fromkeys(range(PARTITIONS), EACH)
    runs = 0
    with trio.fail_after(TEST_TIMEOUT):
        async with watch_commits(facts, lambda: [log.finished]) as committed:
            while committed != everything:
                runs += 1
                try:
                    async with open_pipeline(
                        kafka=facts.kafka,
                        topics=[facts.topic],
                        stages=Stages(handle_message=log.handler(work)),
                        commit_interval=0.1,
                    ):
                        await facts.wait_committed(everything)
                except* Mishap:
                    pass
    assert 2 <= runs <= 10
    settle(
        10,
        facts.protocol,
        everything,
        log.places,
        faults=f"Stop, handlers that raised once: {len(mended)} in {runs - 1} runs",
        at_most=runs * 16 * PARTITIONS,
    )


@pytest.mark.kafka_topic(partitions=PARTITIONS)
@pytest.mark.parametrize("policy", ["Skip", "Retry", "DeadLetter", "PausePartition"])
async def test_under_each_other_policy_all_is_settled_once(facts: Facts, policy: str) -> None:
    for partition in range(PARTITIONS):
        await facts.produce(partition, EACH, keys=7)
    letters = await facts.make_topic(topic=f"{facts.topic}-letters")
    log = Log()
    failed: Counter[tuple[int, int]] = Counter()
    chosen: FailurePolicy = {
        "Skip": Skip(),
        "Retry": Retry(attempts=3, wait_initial=0.01),
        "DeadLetter": DeadLetter(letters),
        "PausePartition": PausePartition(seconds=0.1),
    }[policy]
    fails = {"Skip": 1_000, "Retry": 2, "DeadLetter": 1_000, "PausePartition": 1}[policy]

    async def work(message: Message) -> None:
        await trio.sleep(0.001)
        place = (message.partition, message.offset)
        if message.offset % 33 == 5 and failed[place] < fails:
            failed[place] += 1
            raise Mishap

    everything = dict.fromkeys(range(PARTITIONS), EACH)
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=facts.kafka,
            topics=[facts.topic],
            stages=Stages(handle_message=log.handler(work), on_failure=chosen),
            commit_interval=0.1,
        ) as pipeline:
            await facts.wait_committed(everything)
            now = pipeline.statistics()
    bad = {(p, offset) for p in range(PARTITIONS) for offset in (5, 38, 71)}
    assert failed.keys() == bad
    finished = log.places
    if policy in ("Skip", "DeadLetter"):
        assert set(finished).isdisjoint(bad)
        finished += bad
        assert (now.skipped, now.dead_lettered) == (
            (len(bad), 0) if policy == "Skip" else (0, len(bad))
        )
    assert failed.total() == len(bad) * min(fails, 2 if policy == "Retry" else 1)
    dead = await facts.read(letters, 1)
    wanted = {b"%d-%d" % place for place in bad} if policy == "DeadLetter" else set()
    assert len(dead) == len(wanted)
    assert {letter.value() for letter in dead} == wanted
    settle(
        10,
        facts.protocol,
        everything,
        finished,
        faults=f"{policy}, handlers that raised: {failed.total()}",
        at_most=0,
    )


# Case 11.


async def test_a_poison_record_is_a_dead_letter_before_its_offset_is_committed(
    facts: Facts,
) -> None:
    await facts.produce(0, 100)
    letters = await facts.make_topic(topic=f"{facts.topic}-letters")
    dead = Facts(facts.bootstrap, letters, facts.group, facts.protocol)
    looked = 0

    async def handle(message: Message) -> None:
        await trio.sleep(0.005)
        if message.offset % 10 == 3:
            raise Mishap

    async def look() -> None:
        """What is committed, and then what is delivered: there must be as many letters."""
        nonlocal looked
        while True:
            committed = (await facts.committed()).get(0, 0)
            delivered = (await dead.ends())[0]
            assert delivered >= len(range(3, committed, 10))
            looked += 1

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            async with open_pipeline(
                kafka=facts.kafka,
                topics=[facts.topic],
                stages=Stages(
                    handle_message=handle, ordering="partition", on_failure=DeadLetter(letters)
                ),
                commit_interval=0,
            ):
                await facts.wait_committed({0: 100})
            nursery.cancel_scope.cancel()
    dead.close()
    assert looked > 20
    facts.tell("11", f"100 records, 10 poisoned; looked {looked} times: each dead letter was "
               "delivered before its offset was committed; lost 0")  # fmt: skip


async def test_while_the_dead_letter_topic_is_away_nothing_is_committed_past_the_poison(
    facts: Facts,
) -> None:
    await facts.produce(0, 20)
    letters = f"{facts.topic}-letters"
    log = Log()

    async def work(message: Message) -> None:
        if message.offset == 7:
            raise Mishap

    stages = Stages(
        handle_message=log.handler(work), ordering="partition", on_failure=DeadLetter(letters)
    )
    with (
        trio.fail_after(TEST_TIMEOUT),
        pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match=letters)),
    ):
        async with open_pipeline(
            kafka=facts.kafka,
            topics=[facts.topic],
            stages=stages,
            commit_interval=0.1,
            output=Output(delivery_timeout=3),
        ):
            await trio.sleep_forever()
    assert await facts.committed() == {0: 7}
    await facts.make_topic(topic=letters)
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(kafka=facts.kafka, topics=[facts.topic], stages=stages):
            await facts.wait_committed({0: 20})
    [letter] = await facts.read(letters, 1)
    assert letter.value() == b"0-7"
    settle(
        11,
        facts.protocol,
        {0: 20},
        [(0, 7), *log.places],
        faults="dead-letter topics away: 1",
        at_most=12,
    )


# Case 29.


def resident(pid: int) -> float:
    """MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / MIB


@pytest.mark.faults
@pytest.mark.kafka_topic(partitions=4)
async def test_a_slow_sink_does_not_make_memory_grow(facts: Facts, tmp_path: Path) -> None:
    async def produce(count: int) -> None:
        value = b"x" * RECORD
        await facts.produce_pairs([(n % 4, b"key-%d" % (n % 100), value) for n in range(count)])

    # librdkafka's own queue is small here: what grows is ours.
    kafka = {**facts.kafka, "queued.max.messages.kbytes": 4096, "fetch.max.bytes": 2**20}
    options = {"max_in_flight": 1_000}
    with trio.fail_after(WATCHED + TEST_TIMEOUT):
        async with MemberProcess.start(
            facts, tmp_path, kafka=kafka, work=0.05, options=options
        ) as member:
            await produce(200)
            await until(lambda: len(member.events("end")) >= 200)
            # Before the backlog: what is taken in without bound is taken in at once.
            before = resident(member.pid)
            await produce(BACKLOG)
            figures: list[float] = []
            for _ in range(int(WATCHED * 2)):
                await trio.sleep(0.5)
                figures.append(resident(member.pid))
            handled = len(member.events("end"))
    assert handled < BACKLOG, "there was more to come all the time"
    growth = max(figures) - before
    facts.tell(
        "29",
        f"{BACKLOG:,} records of {RECORD:,} bytes, {handled:,} handled in {WATCHED:g} s; "
        f"{before:.0f} MiB, and {growth:+.1f} at the most",
    )
    assert growth < 24
