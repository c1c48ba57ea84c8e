"""A pipeline beside an asyncio application, which stays in charge and handles the messages.

    python examples/beside_asyncio.py 127.0.0.1:9092 greetings

trio runs in a thread of its own. Its other way, guest mode on asyncio's loop, needs no thread,
but there asyncio's end is trio's end too: an ``asyncio.run`` that returns while the guest still
drains drops it where it stands, uncommitted, and so does an error that nobody awaited. A thread
finishes what it does whatever happens on the other side, and `run_in_thread` waits for it.

- A message is handed over by calling your coroutine function in asyncio's loop. Only when that
  has returned is the message finished: what is committed was handled by asyncio. There is no
  queue between the two: `concurrency` calls at once, and the pipeline waits.
- Setting `stop` drains the pipeline; cancelling `run_in_thread` cancels the calls that run,
  waits for their ends, and commits what is finished.
- An error in your function stops the pipeline and leaves `run_in_thread`, as a KafkaFailure
  does; in a TaskGroup it then cancels the rest of the application. An error there cancels
  `run_in_thread` in turn.

Ctrl-C drains, a second one cancels.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from trio_broadway_kafka import BroadwayKafkaError, Message, Stages, open_pipeline

Handle = Callable[[Message], Coroutine[Any, Any, None]]


async def run_in_thread(
    handle: Handle, *, stop: asyncio.Event, concurrency: int = 16, **arguments: Any
) -> None:
    """Run a pipeline in a thread of its own, and `handle` in this loop for each message.

    Args:
        handle: called at most `concurrency` times at once.
        stop: set it to drain the pipeline and end.
        concurrency: as in `Stages`.
        arguments: those of `open_pipeline`, but for ``stages``.

    Raises:
        ExceptionGroup: what left the pipeline: an error of `handle`, a KafkaFailure.
        asyncio.CancelledError: it was cancelled, and the pipeline has ended.
    """
    loop = asyncio.get_running_loop()
    stages = Stages(handle_message=partial(call_asyncio, loop, handle), concurrency=concurrency)
    block = open_pipeline(stages=stages, **arguments)  # a ConfigError comes from here
    everything, leave = trio.CancelScope(), trio.Event()
    running: asyncio.Future[trio.lowlevel.TrioToken] = loop.create_future()
    opened = False

    async def run() -> None:
        nonlocal opened
        loop.call_soon_threadsafe(running.set_result, trio.lowlevel.current_trio_token())
        with everything:
            async with block:
                opened = True
                await leave.wait()

    def drain() -> None:
        leave.set()
        if not opened:  # there is nothing yet to drain
            everything.cancel()

    def tell(call: Callable[[], None]) -> None:
        """Have trio's thread call it, as soon as it is there."""

        def told(token: asyncio.Future[trio.lowlevel.TrioToken]) -> None:
            with suppress(trio.RunFinishedError):
                token.result().run_sync_soon(call)

        running.add_done_callback(told)

    # Not asyncio's own executor: its threads may all be taken.
    executor = ThreadPoolExecutor(1, thread_name_prefix="pipeline")
    thread = loop.run_in_executor(executor, trio.run, run)
    stopping = asyncio.ensure_future(stop.wait())
    cancelled = None
    while not thread.done():
        # Not `await thread`: that would cancel the future, and leave the thread alone.
        waited: set[asyncio.Future[Any]] = {thread}
        if not stopping.done():
            waited.add(stopping)
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as error:
            cancelled = error
            tell(everything.cancel)
        else:
            if stopping.done():
                tell(drain)
    stopping.cancel()
    executor.shutdown()
    thread.result()
    if cancelled is not None:
        raise cancelled


async def call_asyncio(
    loop: asyncio.AbstractEventLoop, handle: Handle, message: Message
) -> None:
    """In trio's thread: have asyncio's call `handle`, and wait until that has ended."""
    token = trio.lowlevel.current_trio_token()
    ended = trio.Event()
    task: asyncio.Task[None]

    def start() -> None:
        nonlocal task
        task = loop.create_task(handle(message))
        task.add_done_callback(lambda _: token.run_sync_soon(ended.set))

    loop.call_soon_threadsafe(start)
    try:
        await ended.wait()
    except trio.Cancelled:
        loop.call_soon_threadsafe(lambda: task.cancel())
        with trio.CancelScope(shield=True):  # it may have cleaning up to do, or be done
            await ended.wait()
        if task.cancelled():
            raise
    if task.cancelled():
        raise RuntimeError("somebody in asyncio cancelled the handling of a message")
    task.result()


# An application of asyncio's.


async def greet(message: Message) -> None:
    await asyncio.sleep(0.01)  # an HTTP request of aiohttp's, say
    print((message.value or b"").decode(), flush=True)


async def tick(seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        print("still here", file=sys.stderr, flush=True)


async def application(options: argparse.Namespace) -> None:
    stop, me = asyncio.Event(), asyncio.current_task()
    assert me is not None

    def on_signal() -> None:
        if stop.is_set():
            me.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    async with asyncio.TaskGroup() as tasks:
        others = [tasks.create_task(tick(10))]
        await run_in_thread(
            greet,
            stop=stop,
            kafka={"bootstrap.servers": options.bootstrap, "group.id": options.group},
            topics=[options.topic],
        )
        for other in others:
            other.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bootstrap", metavar="HOST:PORT", help="of Kafka")
    parser.add_argument("topic")
    parser.add_argument("--group", default="beside-asyncio", help="default: %(default)s")
    options = parser.parse_args()
    wrong: list[str] = []
    try:
        asyncio.run(application(options))
    except* BroadwayKafkaError as group:
        wrong = [f"{type(error).__name__}: {error}" for error in leaves(group)]
    except* asyncio.CancelledError:
        wrong = ["cancelled: what was being handled is handled again at the next start"]
    if wrong:
        sys.exit("\n".join(wrong))


def leaves(group: BaseExceptionGroup) -> Iterator[BaseException]:
    """The errors themselves: trio's group comes in that of the TaskGroup."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


if __name__ == "__main__":
    main()
