"""What is finished out of order outlives a kill, on a real Kafka."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio
from confluent_kafka import Consumer, KafkaError, KafkaException

from tests.broker._facts import Facts, Log, MemberProcess, until
from trio_broadway_kafka import Message, Stages, open_pipeline
from trio_broadway_kafka._kafka import _opening

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


@pytest.mark.kafka_topic(partitions=2)
async def test_while_kafka_does_not_tell_what_is_committed_nothing_is_read(
    facts: Facts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One partition has a map, the other one has no committed offset yet."""
    await facts.produce(0, 100)
    log = Log()
    release = trio.Event()

    async def work(message: Message) -> None:
        if message.offset == 10 and not release.is_set():
            await trio.sleep_forever()

    stages = Stages(handle_message=log.handler(work), ordering="unordered")
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=facts.kafka, topics=[facts.topic], stages=stages, drain_timeout=0
        ):
            await until(lambda: len(log.finished) == 99)
        assert await facts.committed() == {0: 10}
    release.set()
    await facts.produce(1, 20)
    asked = 0

    class Silent(Consumer):
        """Its first two questions have no answer."""

        def committed(self, *args: object, **kwargs: object) -> object:
            nonlocal asked
            asked += 1
            if asked <= 2:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            return super().committed(*args, **kwargs)

    monkeypatch.setattr(_opening, "Consumer", Silent)
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(kafka=facts.kafka, topics=[facts.topic], stages=stages):
            await facts.wait_committed({0: 100, 1: 20})
    assert asked >= 3
    assert sorted(log.offsets(0)) == list(range(100)), "each once"
    assert sorted(log.offsets(1)) == list(range(20))
    assert len([line for line in caplog.messages if "nothing is read there" in line]) == 1
