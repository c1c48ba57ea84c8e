"""Leaving on a real Kafka: what is committed is what was finished, and nothing lives on."""

from __future__ import annotations

import os
import random
import signal
import statistics
from pathlib import Path

import pytest
import trio

from tests.broker._facts import (
    PATIENCE,
    Facts,
    Log,
    MemberProcess,
    librdkafka_threads,
    our_threads,
    prefix_end,
    show,
    until,
    wait_gone,
)
from trio_broadway_kafka import Message, Stages, open_pipeline

SEED = int(os.environ.get("CANCELLATION_SEED") or random.randrange(10**6))


async def _nothing(message: Message) -> None: ...


async def test_a_pipeline_cancelled_while_it_joins_leaves_no_member_behind(
    facts: Facts,
) -> None:
    show(f"CANCELLATION_SEED={SEED}")
    moments = random.Random(SEED)
    for _ in range(30):
        with trio.move_on_after(PATIENCE) as patience:
            async with open_pipeline(
                kafka=facts.kafka, topics=[facts.topic], stages=Stages(handle_message=_nothing)
            ):
                patience.deadline = trio.current_time() + moments.uniform(0, 0.13)
                await trio.sleep_forever()
        # The broker would keep it until its session times out, with all of the partitions.
        assert await facts.members() == []


async def test_leaving_an_idle_pipeline_takes_less_than_half_a_second(facts: Facts) -> None:
    await facts.produce(0, 10)
    took = []
    for _ in range(3):
        with trio.fail_after(PATIENCE):
            async with open_pipeline(
                kafka=facts.kafka, topics=[facts.topic], stages=Stages(handle_message=_nothing)
            ) as pipeline:
                await pipeline.wait_caught_up()
                left_at = trio.current_time()
        took.append(trio.current_time() - left_at)
    show(f"leaving an idle pipeline: {', '.join(f'{t * 1000:.0f}' for t in took)} ms")
    assert statistics.median(took) < 0.5


async def test_the_first_message_is_handled_within_a_second_of_opening(facts: Facts) -> None:
    await facts.produce(0, 10)
    took = []
    for _ in range(3):
        first = trio.Event()

        async def handle(message: Message, first: trio.Event = first) -> None:
            first.set()
            raise LookupError("the next time it is the first one again")

        opened_at = trio.current_time()
        with trio.fail_after(PATIENCE), pytest.RaisesGroup(LookupError):
            async with open_pipeline(
                kafka=facts.kafka, topics=[facts.topic], stages=Stages(handle_message=handle)
            ):
                await first.wait()
                took.append(trio.current_time() - opened_at)
                await trio.sleep_forever()
    show(f"first message: {', '.join(f'{t * 1000:.0f}' for t in took)} ms after opening")
    assert statistics.median(took) < 1.0
    assert await facts.committed() == {}


async def test_after_the_block_no_thread_is_alive_and_no_callback_comes(facts: Facts) -> None:
    await facts.produce(0, 100)
    await facts.committed()
    before = librdkafka_threads()
    reports: list[str] = []
    settings = {
        **facts.kafka,
        "statistics.interval.ms": 20,
        "stats_cb": reports.append,
    }
    log = Log()
    with trio.fail_after(PATIENCE):
        async with open_pipeline(
            kafka=settings,
            topics=[facts.topic],
            stages=Stages(handle_message=log.handler(_nothing)),
        ) as pipeline:
            await pipeline.wait_assigned()
            await pipeline.wait_caught_up()
            await until(lambda: len(reports) > 3)
            assert our_threads()
            assert librdkafka_threads() - before
    assert our_threads() == []
    assert wait_gone(lambda: librdkafka_threads() - before, within=0.5) == []
    seen = len(reports), len(log.started)
    await facts.produce(0, 100)
    await trio.sleep(0.3)
    assert (len(reports), len(log.started)) == seen


# Ctrl-C: the program is a process of its own.


async def test_one_ctrl_c_drains_and_the_program_ends_well(
    facts: Facts, tmp_path: Path
) -> None:
    await facts.produce(0, 500, keys=50)
    async with MemberProcess.start(facts, tmp_path, work=0.3) as member:
        await until(lambda: len(member.events("end")) > 20)
        member.signal(signal.SIGINT)
        assert await member.wait() == 0
        started, finished = member.events("start"), member.events("end")
        assert set(started) == set(finished), "what had started was finished"
        assert len(finished) < 500
        assert "draining" in member.stderr
        assert "Traceback" not in member.stderr
    assert await facts.committed() == {0: len(finished)}


async def test_a_second_ctrl_c_cancels_and_what_is_finished_is_committed(
    facts: Facts, tmp_path: Path
) -> None:
    await facts.produce(0, 100, keys=50)
    async with MemberProcess.start(facts, tmp_path, stuck=20) as member:
        await until(lambda: len(member.events("start")) == 20 + 16)
        member.signal(signal.SIGINT)
        await until(lambda: "draining" in member.stderr)
        assert member.events("cancelled") == []
        member.signal(signal.SIGINT)
        asked_at = trio.current_time()
        assert await member.wait() == 0
        assert trio.current_time() - asked_at < 5
        assert sorted(member.events("cancelled")) == [(0, n) for n in range(20, 36)]
        assert sorted(member.events("end")) == [(0, n) for n in range(20)]
        assert "Traceback" not in member.stderr
    assert await facts.committed() == {0: 20}


@pytest.mark.parametrize("work", [0.1, 0.0])
async def test_keyboard_interrupt_out_of_a_plain_block_commits_what_is_finished(
    facts: Facts, tmp_path: Path, work: float
) -> None:
    await facts.produce(0, 20_000, keys=50)
    async with MemberProcess.start(facts, tmp_path, how="open_pipeline", work=work) as member:
        await until(lambda: len(member.events("end")) > 30)
        member.signal(signal.SIGINT)
        assert await member.wait() == 0
        started, finished = member.events("start"), member.events("end")
        assert len(finished) < 20_000
        assert "interrupted" in member.stderr
        assert "Traceback" not in member.stderr
    [reached] = (await facts.committed()).values()
    if work:
        assert reached == prefix_end(0, (offset for _, offset in finished))
    else:
        # It may have come in the very handler, after its last line that we see: what it
        # interrupts is not finished.
        interrupted = started[-1]
        assert reached in {
            prefix_end(0, (offset for _, offset in finished)),
            prefix_end(0, (offset for _, offset in finished if (0, offset) != interrupted)),
        }
