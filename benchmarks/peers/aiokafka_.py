# /// script
# requires-python = ">=3.11"
# dependencies = ["aiokafka==0.14.0"]
# ///
"""aiokafka: a loop over getmany(); handlers that wait run together, a fetch at a time."""

import asyncio

from _trial import Trial
from aiokafka import AIOKafkaConsumer, ConsumerRecord

trial = Trial()


async def handle(record: ConsumerRecord) -> None:
    if trial.waits:
        await asyncio.sleep(trial.seconds())
    trial.note(record.value)


async def main() -> None:
    async with AIOKafkaConsumer(
        trial.topic,
        bootstrap_servers=trial.bootstrap,
        group_id=trial.group,
        auto_offset_reset="earliest",
    ) as consumer:
        while True:
            fetched = await consumer.getmany(timeout_ms=1000, max_records=1000)
            for records in fetched.values():
                if trial.waits:
                    await asyncio.gather(*map(handle, records))
                else:
                    for record in records:
                        await handle(record)


asyncio.run(main())
