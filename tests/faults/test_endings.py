"""Cases 9 and 30: however it ends, what is finished is committed, by the deadline."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from tests.broker._facts import (
    Facts,
    Log,
    MemberProcess,
    our_threads,
    prefix_end,
    show,
    until,
    wait_gone,
)
from tests.faults._ledger import settle
from tests.faults._own import OwnBroker
from trio_broadway_kafka import KafkaFailure, Message, Stages, open_pipeline

SEED = int(os.environ.get("CANCELLATION_SEED") or random.randrange(10**6))
RECORDS = 300
DRAIN, CLOSE = 1.0, 1.5  # seconds
MARGIN = 0.7
TEST_TIMEOUT = 60.0


async def work(message: Message) -> None:
    await trio.sleep(0.02)


async def finish(
    own: Facts, log: Log, faults: str, *, at_most: int, before: Sequence[tuple[int, int]] = ()
) -> None:
    """Another pipeline does what is left; then nothing is lost."""
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=await own.short_session(3),
            topics=[own.topic],
            stages=Stages(handle_message=log.handler(work)),
            commit_interval=0.1,
        ):
            await own.wait_committed({0: RECORDS}, within=TEST_TIMEOUT)
    handled = [*before, *log.places]
    settle(30, own.protocol, {0: RECORDS}, handled, faults=faults, at_most=at_most)


# Case 9.


@pytest.mark.slow
@pytest.mark.kafka_topic(partitions=3)
async def test_cancelled_at_50_random_moments_exactly_the_finished_prefix_is_committed(
    facts: Facts,
) -> None:
    show(f"CANCELLATION_SEED={SEED}")
    moments, works = random.Random(SEED), random.Random(SEED)
    # A new partition's first offset is asked for behind the fetch that waits for another's
    # end, 500 ms by default: longer than a run.
    settings = {**facts.kafka, "fetch.wait.max.ms": 20}
    produced = {0: 8_000, 1: 6_000, 2: 4_000}
    max_in_flight = 400
    for partition, count in produced.items():
        await facts.produce(partition, count, keys=20)
    handled: Counter[tuple[int, int]] = Counter()
    in_flight = at_work = 0

    async def run(seconds: float, *, last: bool = False) -> None:
        """One run of the pipeline, and the check of what is committed after it."""
        nonlocal in_flight, at_work
        log = Log()

        async def work(message: Message) -> None:
            if message.offset % 3 and not last:
                await trio.sleep(0.015 * works.random())

        before = await facts.committed()
        with trio.move_on_after(seconds):
            async with open_pipeline(
                kafka=settings,
                topics=[facts.topic],
                stages=Stages(handle_message=log.handler(work)),
                max_in_flight=max_in_flight,
                commit_interval=0.05,
            ):
                if last:
                    await facts.wait_committed(produced)
                else:
                    await trio.sleep_forever()
        expected = {}
        for partition in produced:
            start = before.get(partition, 0)
            finished = log.offsets(partition)
            assert len(finished) == len(set(finished)), "within a run nothing is repeated"
            assert min(finished, default=start) >= start, "nor what was committed before it"
            # What earlier runs have finished beyond their committed offsets is passed over.
            ever = {offset for number, offset in handled if number == partition}
            assert not ever.intersection(finished)
            ever.update(finished)
            end = prefix_end(start, ever)
            if ever or partition in before:
                expected[partition] = end
            in_flight += sum(offset >= end for _, p, offset in log.started if p == partition)
        assert await facts.committed() == expected
        handled.update((partition, offset) for _, partition, offset in log.finished)
        at_work += bool(log.cancelled)

    with trio.fail_after(100):
        for _ in range(50):
            await run(moments.uniform(0, 0.45))
        await run(60, last=True)
    assert set(handled) == {(p, o) for p, count in produced.items() for o in range(count)}
    assert handled.total() == len(handled), "what was finished is not handled again"
    assert in_flight <= 50 * max_in_flight
    assert at_work >= 10, "the moments are all too early to be of use"
    facts.tell(
        "9",
        f"{handled.total():,} records, 50 cancellations, {at_work} of handlers at work; "
        "0 handled again, lost 0",
    )


# Case 30.


@pytest.mark.parametrize(
    "broker_is", [pytest.param("killed", marks=pytest.mark.faults), "stopped"]
)
@pytest.mark.parametrize("left_by", ["a drain", "a cancellation"])
async def test_leaving_without_a_broker_takes_no_longer_than_its_deadlines(
    own: Facts, own_broker: OwnBroker, broker_is: str, left_by: str
) -> None:
    broker = own_broker.broker
    await own.make_topic()
    await own.produce(0, RECORDS, keys=20)
    kafka = await own.short_session(3)
    log = Log()
    left_at = 0.0
    with trio.fail_after(TEST_TIMEOUT), trio.CancelScope() as scope:
        async with open_pipeline(
            kafka=kafka,
            topics=[own.topic],
            stages=Stages(handle_message=log.handler(work), concurrency=4),
            commit_interval=0.1,
            drain_timeout=DRAIN,
            close_timeout=CLOSE,
        ):
            await until(lambda: len(log.finished) > 30)
            if broker_is == "killed":
                broker.kill()
            else:
                broker.pause()
            before = len(log.finished)
            await until(lambda: len(log.finished) > before + 5)
            left_at = trio.current_time()
            if left_by == "a cancellation":
                scope.cancel()
                await trio.sleep_forever()
    took = trio.current_time() - left_at
    broker.resume()
    if broker_is == "killed":
        await trio.to_thread.run_sync(broker.restart)
    assert took < (DRAIN + CLOSE if left_by == "a drain" else CLOSE) + MARGIN
    await finish(
        own,
        log,
        f"left by {left_by} with the broker {broker_is}, in {took:.2f} s: 1",
        at_most=RECORDS,
    )


async def test_a_fatal_error_ends_the_block_within_close_timeout(own: Facts) -> None:
    """A second member with the same group.instance.id makes the first one's client useless."""
    await own.make_topic()
    await own.produce(0, RECORDS, keys=20)
    log = Log()
    kafka = {**await own.short_session(3), "group.instance.id": "the same"}

    failures: list[KafkaFailure] = []
    ended = trio.Event()

    async def live() -> None:
        try:
            async with open_pipeline(
                kafka=kafka,
                topics=[own.topic],
                stages=Stages(handle_message=log.handler(work), concurrency=4),
                commit_interval=0.1,
                close_timeout=CLOSE,
            ):
                await trio.sleep_forever()
        except* KafkaFailure as group:
            failures.extend(group.exceptions)  # type: ignore[arg-type]
        ended.set()

    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live)
            await until(lambda: len(log.finished) > 30)
            began = trio.current_time()
            if own.protocol == "classic":
                # The broker takes the newcomer, and sends the one before away.
                nursery.start_soon(live)
                await ended.wait()
            else:
                # Here it sends the newcomer away.
                await live()
            took = trio.current_time() - began
            nursery.cancel_scope.cancel()
    [failure] = failures
    # To join, and to hear of it with a heartbeat, takes some of it.
    assert took < CLOSE + 3
    assert failure.code in ("_FATAL", "FENCED_INSTANCE_ID", "UNRELEASED_INSTANCE_ID")
    await finish(own, log, f"fatal errors ({failure.code}): 1", at_most=RECORDS)


async def test_it_may_be_drained_twice_and_left_while_it_drains(own: Facts) -> None:
    await own.make_topic()
    await own.produce(0, RECORDS, keys=20)
    log = Log()
    with trio.fail_after(TEST_TIMEOUT):
        async with (
            open_pipeline(
                kafka=await own.short_session(3),
                topics=[own.topic],
                stages=Stages(handle_message=log.handler(work), concurrency=4),
                commit_interval=0.1,
                close_timeout=CLOSE,
            ) as pipeline,
            trio.open_nursery() as nursery,
        ):
            await until(lambda: len(log.finished) > 30)
            nursery.start_soon(pipeline.drain)
            nursery.start_soon(pipeline.drain)
            await pipeline.drain()
            assert await pipeline.drain() == 0
    with pytest.raises(trio.ClosedResourceError):
        await pipeline.drain()
    assert wait_gone(our_threads, within=1.0) == []
    [reached] = (await own.committed()).values()
    assert reached == len(log.finished)
    await finish(own, log, "drains: 4", at_most=0)


@pytest.mark.parametrize("broker_is", ["there", "stopped"])
async def test_on_sigint_the_program_ends_by_its_deadline(
    own: Facts, own_broker: OwnBroker, tmp_path: Path, broker_is: str
) -> None:
    await own.make_topic()
    await own.produce(0, RECORDS, keys=20)
    kafka = await own.short_session(3)
    log = Log()
    options = {"drain_timeout": DRAIN, "close_timeout": CLOSE, "commit_interval": 0.1}
    with trio.fail_after(TEST_TIMEOUT):
        async with MemberProcess.start(
            own, tmp_path, kafka=kafka, work=0.1, stages={"concurrency": 4}, options=options
        ) as member:
            await until(lambda: len(member.events("end")) > 20)
            if broker_is == "stopped":
                own_broker.broker.pause()
            asked_at = trio.current_time()
            member.signal(signal.SIGINT)
            assert await member.wait() == 0
            took = trio.current_time() - asked_at
            own_broker.broker.resume()
            assert "Traceback" not in member.stderr
    # And the interpreter's own end.
    assert took < DRAIN + CLOSE + MARGIN + 0.5
    await finish(
        own,
        log,
        f"SIGINT with the broker {broker_is}, ended after {took:.2f} s: 1",
        at_most=0 if broker_is == "there" else RECORDS,
        before=member.events("end"),
    )
