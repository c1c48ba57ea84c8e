"""This library, in the form that the trial's variant names."""

import trio
from _trial import Trial

from trio_broadway_kafka import Batch, Batcher, Message, Stages, open_pipeline

trial = Trial()


async def handle_message(message: Message) -> None:
    if trial.waits:
        await trio.sleep(trial.seconds())
    trial.note(message.value)


async def handle_batch(batch: Batch) -> None:
    trial.note(count=len(batch.raw_values()))


def stages_of(topic: str = "", partition: int = 0) -> Stages:
    if trial.variant == "batches":
        return Stages(batchers={"default": Batcher(handle_batch=handle_batch, size=1000)})
    ordering = "key" if trial.variant == "pipelines" else trial.variant
    return Stages(handle_message=handle_message, ordering=ordering, concurrency=trial.at_once)


async def main() -> None:
    async with open_pipeline(
        kafka={"bootstrap.servers": trial.bootstrap, "group.id": trial.group},
        start_from="earliest",
        topics=[trial.topic],
        stages=stages_of if trial.variant == "pipelines" else stages_of(),
    ):
        await trio.sleep_forever()


trio.run(main)
