# /// script
# requires-python = ">=3.11"
# dependencies = ["faststream[confluent]==0.7.8"]
# ///
"""FastStream on confluent-kafka: a subscriber. It handles one message at a time."""

import asyncio
import logging

from _trial import Trial
from faststream import FastStream
from faststream.confluent import KafkaBroker

trial = Trial()
broker = KafkaBroker(trial.bootstrap, logger=logging.getLogger("quiet"))


@broker.subscriber(
    trial.topic, group_id=trial.group, auto_offset_reset="earliest", decoder=lambda it: it.body
)
async def handle(body: bytes) -> None:
    if trial.waits:
        await asyncio.sleep(trial.seconds())
    trial.note(body)


asyncio.run(FastStream(broker).run())
