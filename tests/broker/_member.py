"""A member of a group, as a program: ``python -m tests.broker._member '{...}'``.

What its handler does goes to a file, a line for each event, which is there even if the
program is killed at once after it. The options, as one object of JSON:

    kafka, topic, events    the settings, the topic, and the file
    how                     "run_pipeline", or "open_pipeline" under a plain trio.run
    stages, options         more arguments of Stages and of open_pipeline
    work                    seconds that a message takes
    jitter                  up to so many seconds more
    stuck                   offsets from this one on never finish
    hangs                   these offsets never finish
    output                  arguments of Output; each message is produced again, key and all,
    to                      to this topic
    failing                 the part of messages whose first attempt fails
    letters                 the topic for what fails three times: one value of 500 does
    batch                   this many messages are finished together
    block                   [partition, offset, path]: at this message trio's loop is
                            blocked until the file is there, the first time
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import trio

from trio_broadway_kafka import (
    Batch,
    Batcher,
    DeadLetter,
    Message,
    Output,
    Retry,
    Stages,
    open_pipeline,
    run_pipeline,
)


def main() -> None:
    settings: dict[str, Any] = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    file = os.open(settings["events"], os.O_WRONLY | os.O_APPEND)
    work = settings.get("work", 0.0)
    jitter = settings.get("jitter", 0.0)
    stuck = settings.get("stuck")
    hangs = settings.get("hangs", ())
    to = settings.get("to")
    block = settings.get("block")
    failing = settings.get("failing", 0.0)
    letters = settings.get("letters")
    batch = settings.get("batch", 0)
    me = f"{os.getpid()} {{}}/{{}}"

    def note(what: str, message: Message) -> None:
        os.write(file, f"{what} {message.partition} {message.offset}\n".encode())

    async def handle(message: Message) -> None:
        nonlocal block
        note("start", message)
        try:
            if block and [message.partition, message.offset] == block[:2]:
                path, block = Path(block[2]), None
                while not path.exists():  # noqa: ASYNC240 - this is what is tested
                    time.sleep(0.05)  # noqa: ASYNC251
                await trio.lowlevel.checkpoint()
            elif message.offset in hangs or (stuck is not None and message.offset >= stuck):
                await trio.sleep_forever()
            elif work or jitter:
                await trio.sleep(work + random.random() * jitter)
        except trio.Cancelled:
            note("cancelled", message)
            raise
        if random.random() < failing and message.attempt == 1:
            raise LookupError("this time")
        if letters is not None and zlib.crc32(message.value or b"") % 500 == 0:
            raise LookupError("each time")
        if not batch:
            finish(message)

    def finish(message: Message) -> None:
        if to is not None:
            message.produce(
                to,
                value=message.value,
                key=message.key,
                headers=[("by", me.format(message.partition, message.offset).encode())],
            )
        note("end", message)

    async def handle_batch(messages: Batch) -> None:
        await trio.sleep(work)
        for message in messages:
            finish(message)

    stages = dict(settings.get("stages", {}))
    if batch:
        stages["batchers"] = {"default": Batcher(handle_batch=handle_batch, size=batch)}
    if letters is not None:
        stages["on_failure"] = Retry(
            attempts=3, wait_initial=0.02, wait_max=0.1, then=DeadLetter(letters)
        )
    arguments = {
        "kafka": settings["kafka"],
        "topics": [settings["topic"]],
        "stages": Stages(handle_message=handle, **stages),
        **settings.get("options", {}),
    }
    if "output" in settings:
        arguments["output"] = Output(**settings["output"])

    async def until_interrupted() -> None:
        async with open_pipeline(**arguments):
            await trio.sleep_forever()

    async def until_signalled() -> None:
        await run_pipeline(**arguments)

    if settings.get("how", "run_pipeline") == "run_pipeline":
        trio.run(until_signalled)
    else:
        try:
            trio.run(until_interrupted)
        except* KeyboardInterrupt:
            sys.stderr.write("interrupted\n")


if __name__ == "__main__":
    main()
