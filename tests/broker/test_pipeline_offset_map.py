"""What is finished out of order outlives a kill, on a real Kafka."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from tests.broker._facts import Facts, Log, MemberProcess, until
from trio_broadway_kafka import Message, Stages, open_pipeline

TEST_TIMEOUT = 60.0


@pytest.mark.kafka_topic(partitions=1)
async def test_after_a_kill_with_one_message_stuck_and_1000_finished_behind_it_one_is_repeated(
    facts: Facts, tmp_path: Path
) -> None:
    await facts.produce(0, 1_101, keys=1_101)
    log = Log()

    async def work(message: Message) -> None:
        pass

    with trio.fail_after(TEST_TIMEOUT):
        options = {"stages": {"concurrency": 4}, "options": {"commit_interval": 0.2}}
        short = await facts.short_session(3)
        async with MemberProcess.start(
            facts, tmp_path, kafka=short, hangs=[100], **options
        ) as member:
            await until(lambda: len(member.events("end")) == 1_100)
            await facts.wait_committed({0: 100})
            while await facts.finished_beyond() != [(101, 1_101)]:  # noqa: ASYNC110
                await trio.sleep(0.05)
            member.signal(signal.SIGKILL)
            await member.wait()
        stages = Stages(handle_message=log.handler(work))
        async with open_pipeline(kafka=short, topics=[facts.topic], stages=stages):
            await facts.wait_committed({0: 1_101})
    assert sorted(member.events("start")) == [(0, offset) for offset in range(1_101)]
    assert log.started == [("", 0, 100)]
