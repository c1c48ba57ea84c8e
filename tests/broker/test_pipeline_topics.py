"""Topics that come and go under a pipeline, on a real Kafka."""

from __future__ import annotations

import logging
from collections import defaultdict
from functools import partial

import pytest
import trio

from tests.broker._facts import Facts, until
from trio_broadway_kafka import Message, Stages, open_pipeline
from trio_broadway_kafka._kafka import _subscribing
from trio_broadway_kafka.testing import KafkaBroker

TEST_TIMEOUT = 60.0


async def _in_thread(function: object, *args: object, **keywords: object) -> None:
    await trio.to_thread.run_sync(partial(function, *args, **keywords))  # type: ignore[arg-type]


class Seen:
    def __init__(self) -> None:
        self.offsets: dict[str, list[int]] = defaultdict(list)

    async def handle(self, message: Message) -> None:
        self.offsets[message.topic].append(message.offset)


async def test_a_topic_that_is_deleted_ends_and_the_others_go_on(
    facts: Facts,
    kafka_broker: KafkaBroker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_subscribing, "LOOK_EVERY", 0.1)
    gone = Facts(facts.bootstrap, f"{facts.topic}-gone", facts.group, facts.protocol)
    await _in_thread(kafka_broker.create_topic, gone.topic)
    await gone.produce(0, 3)
    await facts.produce(0, 3)
    seen = Seen()
    with trio.fail_after(TEST_TIMEOUT), caplog.at_level(logging.INFO):
        async with open_pipeline(
            kafka=facts.kafka,
            topics=[facts.topic, gone.topic],
            stages=Stages(handle_message=seen.handle),
            commit_interval=0.1,
        ) as pipeline:
            await pipeline.wait_caught_up()
            await until(lambda: len(seen.offsets) == 2)
            await _in_thread(kafka_broker.delete_topic, gone.topic)
            await until(lambda: f"{gone.topic!r} does not exist any more" in caplog.text)
            await facts.produce(0, 3)
            await facts.wait_committed({0: 6})
    assert dict(seen.offsets) == {facts.topic: [*range(6)], gone.topic: [*range(3)]}
    gone.close()


async def test_a_pattern_finds_a_topic_that_is_made_later_and_changes_while_it_runs(
    facts: Facts, kafka_broker: KafkaBroker
) -> None:
    seen = Seen()
    topics = [f"{facts.topic}-{name}" for name in ("a", "b", "c")]
    others = [Facts(facts.bootstrap, t, facts.group, facts.protocol) for t in topics]
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=facts.kafka,
            topics=[f"^{facts.topic}-[ab]$"],
            stages=Stages(handle_message=seen.handle),
        ) as pipeline:
            for topic, other in zip(topics, others, strict=True):
                await _in_thread(kafka_broker.create_topic, topic)
                await other.produce(0, 2)
            await until(lambda: len(seen.offsets) == 2)
            await pipeline.subscribe([facts.topic, f"^{facts.topic}-[bc]$"])
            await facts.produce(0, 2)
            await until(lambda: len(seen.offsets) == 4)
            await others[0].wait_committed({0: 2})
            have = {p.topic for p in pipeline.statistics().partitions}
            assert have == {facts.topic, topics[1], topics[2]}
    assert dict(seen.offsets) == {topic: [0, 1] for topic in (facts.topic, *topics)}
    for other in others:
        other.close()
        await _in_thread(kafka_broker.delete_topic, other.topic)
