"""What can't be read goes to the dead letters, and is sent back when it can.

A dozen reports come late. Some are malformed: they write "12 min" where a number belongs. The
first pipeline sets those aside, so that the others go on; the second one, with the reading
mended, handles them once they are sent back. The command that people use for it is

    python -m trio_broadway_kafka dead-letters list|show|redrive TOPIC --bootstrap ...
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

import trio
from confluent_kafka import Producer

from examples.flights.report import Screen
from examples.flights.rotations import Flight
from trio_broadway_kafka import DeadLetter, Message, Stages, open_pipeline
from trio_broadway_kafka.dead_letters import read, redrive
from trio_broadway_kafka.testing import KafkaBroker

__all__ = ["late_reports"]

_AIRCRAFT: Final = ("N14228", "N24211", "N619AA")
_COUNT: Final = 12


def _reports() -> list[dict[str, object]]:
    """Flights of New Year's Eve; every fourth one is malformed."""
    return [
        {
            "tailnum": _AIRCRAFT[number % len(_AIRCRAFT)],
            "time_hour": f"2013-12-31T{10 + number}:00:00Z",
            "minute": 15,
            "dep_delay": f"{number} min" if number % 4 == 3 else number,
            "air_time": 150,
            "distance": 1028,
        }
        for number in range(_COUNT)
    ]


def as_it_was(record: str) -> Flight:
    """Read a report."""
    return Flight.from_json(record)


def mended(record: str) -> Flight:
    """Read a report, also one that writes minutes as text."""
    row = json.loads(record)
    if isinstance(row["dep_delay"], str):
        row["dep_delay"] = int(row["dep_delay"].removesuffix(" min"))
    return Flight.from_json(json.dumps(row))


async def late_reports(bootstrap: str, topic: str, screen: Screen) -> None:
    """Handle a dozen late reports in a topic of their own, the malformed ones twice.

    Args:
        bootstrap: Kafka's address.
        topic: made for them.
        screen: where it is told.
    """
    dead = f"{topic}-dead"
    await trio.to_thread.run_sync(_prepare, bootstrap, topic, dead)
    screen.say(f"{_COUNT} reports came late, to topic {topic}:")
    handled = await _handle(bootstrap, topic, dead, as_it_was)
    why: Counter[str] = Counter()
    async with read(dead, kafka={"bootstrap.servers": bootstrap}) as letters:
        async for letter in letters:
            why[letter.exception_type or "?"] += 1
    reasons = ", ".join(f"{count} with a {kind}" for kind, count in why.items())
    screen.say(f"  {handled} handled; to the dead letters went {reasons}")
    result = await redrive(dead, kafka={"bootstrap.servers": bootstrap})
    screen.say(f'  "12 min" can be read now: {result.count} sent back')
    again = await _handle(bootstrap, topic, dead, mended)
    screen.say(f"  {again} handled: {handled + again} of {_COUNT}")


async def _handle(
    bootstrap: str, topic: str, dead: str, read_report: Callable[[str], Flight]
) -> int:
    """Handle what is there. Returns how many reports could be read."""

    async def handle(message: Message) -> None:
        assert message.value is not None
        read_report(message.value.decode())

    async with open_pipeline(
        kafka={"bootstrap.servers": bootstrap, "group.id": topic},
        topics=[topic],
        stages=Stages(handle_message=handle, on_failure=DeadLetter(dead)),
        stop_at="end",
    ) as pipeline:
        await pipeline.wait_finished()
        return pipeline.statistics().succeeded


def _prepare(bootstrap: str, topic: str, dead: str) -> None:
    broker = KafkaBroker(bootstrap)
    for name in (topic, dead):
        broker.create_topic(name, partitions=1)
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    produce = partial(producer.produce, topic)
    for report in _reports():
        produce(json.dumps(report), str(report["tailnum"]))
    producer.flush(30)
