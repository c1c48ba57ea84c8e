# /// script
# requires-python = ">=3.11"
# dependencies = ["sentry-arroyo==2.48.0"]
# ///
"""sentry-arroyo: RunTask, or RunTaskInThreads for handlers that wait."""

import time

from _trial import Trial
from arroyo.backends.kafka import KafkaConsumer, build_kafka_consumer_configuration
from arroyo.processing import StreamProcessor, strategies as s
from arroyo.types import Topic

trial = Trial()


def handle(message):
    trial.note(message.payload.value)


def wait(message):
    time.sleep(trial.seconds())
    return message.payload


class Factory(s.ProcessingStrategyFactory):
    def create_with_partitions(self, commit, partitions):
        handled = s.RunTask(handle, s.CommitOffsets(commit))
        if trial.waits:
            return s.RunTaskInThreads(wait, trial.at_once, 2 * trial.at_once, handled)
        return handled


settings = build_kafka_consumer_configuration(
    {}, group_id=trial.group, auto_offset_reset="earliest", bootstrap_servers=[trial.bootstrap]
)
StreamProcessor(KafkaConsumer(settings), Topic(trial.topic), Factory()).run()
