"""The demo from start to end: a Kafka, the flights in it, the pipeline over them, a table; and
the late reports.
"""

from __future__ import annotations

import argparse
import shutil
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import trio
from trio_util import move_on_when, periodic, wait_any

from examples.flights.data import read_flights
from examples.flights.late import late_reports
from examples.flights.members import run_members, stop_at_end_of_input, tell
from examples.flights.pipeline import Rotations, run
from examples.flights.report import Progress, ProgressLines, Screen, summary
from examples.flights.state import States, findings
from examples.flights.topic import Producing, Topic
from trio_broadway_kafka import Pipeline
from trio_broadway_kafka.dashboard import Dashboard, open_dashboard
from trio_broadway_kafka.testing import open_kafka_broker

__all__ = ["demo", "member"]

_LOOK: Final = 0.2  # seconds between two looks at how far it is

_in_thread = trio.to_thread.run_sync


class Work(NamedTuple):
    """What there is to do, and where.

    Attributes:
        bootstrap: Kafka's address.
        topic: with the flights.
        group: the consumer group that goes with this folder. A new folder has a new group, so
            what is saved and what is committed are always about the same records.
        folder: where what is found is kept.
    """

    bootstrap: str
    topic: str
    group: str
    folder: Path


async def demo(options: argparse.Namespace, screen: Screen, stop: trio.Event) -> None:
    """The whole of it, until it is done or `stop`."""
    options.folder = options.folder.absolute()
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / ".gitignore").write_text("*\n")
    async with AsyncExitStack() as running:
        work = None
        async with move_on_when(stop.wait):
            work = await _prepare(options, screen, running)
        if work is None:
            screen.say("Stopped before all flights were in the topic: start again to go on.")
            return
        members = await _follow(work, options, screen, stop)
        screen.say()
        screen.say(await _in_thread(_result, work, options.flights, members))
        async with move_on_when(stop.wait):
            await _finish(work, options, screen)


async def _prepare(
    options: argparse.Namespace, screen: Screen, running: AsyncExitStack
) -> Work:
    """A Kafka with the flights in it."""
    bootstrap = options.bootstrap
    if bootstrap is None:
        data = options.folder / "kafka"
        screen.say(f"Starting Apache Kafka; its data is kept in {data} ...")
        broker = await running.enter_async_context(open_kafka_broker(folder=data))
        bootstrap = broker.bootstrap
    topic = Topic(bootstrap, options.topic)
    cluster = await _in_thread(topic.cluster)
    await _in_thread(topic.make)
    await _produce(topic, options.flights, screen)

    folder = options.folder / cluster / topic.name
    if options.reset:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True, parents=True)
    group = folder / "group"
    if not group.exists():
        group.write_text(f"{topic.name}-{uuid.uuid4().hex[:8]}")
    return Work(bootstrap, topic.name, group.read_text(), folder)


async def _produce(topic: Topic, flights: int, screen: Screen) -> None:
    """Put the flights into the topic unless they are there."""
    if sum(await _in_thread(topic.ends)) == flights:
        screen.say(f"Topic {topic.name} holds {flights:,} flights.")
        return
    screen.say(f"Producing {flights:,} flights to topic {topic.name} in order of time:")
    check = trio.from_thread.check_cancelled
    records = await _in_thread(partial(read_flights, flights, check=check))
    producing = await _in_thread(Producing, topic, records)
    lines = ProgressLines(screen, producing.total, before=producing.there)

    async def show() -> None:
        async for _ in periodic(_LOOK):
            lines.show_produced(producing.there)

    await wait_any(show, partial(_in_thread, producing.run, check))
    lines.show_produced(producing.there, last=True)


async def _follow(
    work: Work, options: argparse.Namespace, screen: Screen, stop: trio.Event
) -> Sequence[Progress]:
    """Run the pipeline, here or in several members; returns what each has done."""
    before = (await _in_thread(findings, work.folder)).records
    title = f"Going on after {before:,} flights" if before else "Following every aircraft"
    screen.say(f"{title} (group {work.group}):")
    lines = ProgressLines(screen, options.flights, before=before)
    members: Sequence[Progress]
    if options.members == 1:
        members = [
            await _run(work, options, stop, lambda one: lines.show_handled([one]), screen)
        ]
    else:
        members = await _run_members(work, options, lines, stop)
    lines.show_handled(members, last=True)
    return members


async def _run(
    work: Work,
    options: argparse.Namespace,
    stop: trio.Event,
    show: Callable[[Progress], None],
    screen: Screen | None = None,
) -> Progress:
    """Run the pipeline and show how far it is; returns how far it came.

    With a `screen` its dashboard is served too, and said there.
    """
    started = time.monotonic()

    def progress(partitions: int | None = None, committed: int = 0) -> Progress:
        handled, again, latest = rotations.handled, rotations.again, rotations.latest
        return Progress(handled, again, started, latest, partitions, committed)

    async def look(pipeline: Pipeline) -> None:
        nonlocal started
        show(progress())
        async with AsyncExitStack() as beside:
            if screen is not None:
                dashboard = await beside.enter_async_context(_dashboard(pipeline))
                screen.above(
                    f"Its dashboard: {dashboard.url} (--work 0.001 gives time to look)"
                )
            await pipeline.wait_assigned()
            started = time.monotonic()
            async for _ in periodic(_LOOK):
                partitions = pipeline.statistics().partitions
                committed = sum(one.committed or 0 for one in partitions)
                show(progress(len(partitions), committed))

    with closing(States(work.folder)) as states:
        rotations = Rotations(states, work=options.work)
        await run(
            rotations,
            kafka={
                "bootstrap.servers": work.bootstrap,
                "group.id": work.group,
                # How long the next start waits for one that was killed; 45 s by default.
                "session.timeout.ms": 10_000,
            },
            topic=work.topic,
            show=look,
            stop=stop,
            alone=not options.member,
        )
    return progress()


@asynccontextmanager
async def _dashboard(pipeline: Pipeline) -> AsyncGenerator[Dashboard]:
    """The dashboard at its usual port, or at any that is free."""
    async with AsyncExitStack() as stack:
        try:
            dashboard = await stack.enter_async_context(open_dashboard(pipeline))
        except OSError:
            dashboard = await stack.enter_async_context(open_dashboard(pipeline, port=0))
        yield dashboard


async def _run_members(
    work: Work, options: argparse.Namespace, lines: ProgressLines, stop: trio.Event
) -> Sequence[Progress]:
    topic = Topic(work.bootstrap, work.topic)

    async def show(members: Sequence[Progress]) -> None:
        async for _ in periodic(_LOOK):
            lines.show_handled(members)

    async def all_committed() -> None:
        # A member that has caught up may still be given partitions of another, so none of
        # them can tell when all is done. The group's committed offsets can.
        async for _ in periodic(2 * _LOOK):
            if await _in_thread(topic.committed, work.group) >= options.flights:
                return

    return await run_members(
        options.members,
        [
            f"--bootstrap={work.bootstrap}",
            f"--topic={work.topic}",
            f"--group={work.group}",
            f"--folder={work.folder}",
            f"--work={options.work}",
        ],
        show=show,
        until=partial(wait_any, all_committed, stop.wait),
    )


async def _finish(work: Work, options: argparse.Namespace, screen: Screen) -> None:
    """When all flights are handled, once: the late reports, and what is malformed in them."""
    told = work.folder / "late"
    topic = Topic(work.bootstrap, work.topic)
    if told.exists() or await _in_thread(topic.committed, work.group) < options.flights:
        return
    screen.say()
    await late_reports(work.bootstrap, f"{work.group}-late", screen)
    told.touch()


async def member(options: argparse.Namespace, stop: trio.Event) -> None:
    """One of several members, in its own process."""
    work = Work(options.bootstrap, options.topic, options.group, options.folder)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_at_end_of_input, stop)
        tell(await _run(work, options, stop, tell))
        nursery.cancel_scope.cancel()


def _result(work: Work, total: int, members: Sequence[Progress]) -> str:
    """The text at the end, with what Kafka and the folder say."""
    committed = Topic(work.bootstrap, work.topic).committed(work.group)
    found = findings(work.folder)
    table = summary(members=members, committed=committed, total=total, found=found)
    if committed < total:
        where = f"Stopped after {committed:,} of {total:,}: the next start goes on there."
        return f"{table}\n\n{where}"
    if not any(member.handled for member in members):
        return f"{table}\n\nThere was nothing left to do: --reset starts anew."
    return table
