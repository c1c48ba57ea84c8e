# /// script
# requires-python = ">=3.11"
# dependencies = ["quixstreams==3.28.1"]
# ///
"""quixstreams: a StreamingDataFrame. It handles one message at a time."""

import time

from _trial import Trial
from quixstreams import Application

trial = Trial()


def handle(value: bytes) -> None:
    if trial.waits:
        time.sleep(trial.seconds())
    trial.note(value)


app = Application(
    broker_address=trial.bootstrap,
    consumer_group=trial.group,
    auto_offset_reset="earliest",
    loglevel="ERROR",
)
topic = app.topic(trial.topic, value_deserializer="bytes", key_deserializer="bytes")
app.dataframe(topic).update(handle)
app.run()
