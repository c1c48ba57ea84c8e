"""A service: a pipeline that adds up numbers, and beside it a TCP server and a log of the lag.

    python examples/service.py 127.0.0.1:9092 numbers --port 9999
    bash -c 'exec 3<>/dev/tcp/127.0.0.1/9999; echo >&3; head -n 1 <&3'

Records are whole numbers as text. Each line that a client sends is answered with a line of
JSON: the sum so far, and the pipeline's statistics.

All of it runs in one nursery, so it ends together. Ctrl-C (or SIGTERM) drains the pipeline,
while the server still answers, and then ends the rest; a second one cancels. When one part
fails, a record that is no number say, the others are cancelled, what is finished is committed,
and the exit code is 1.
"""

import argparse
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from functools import partial
from signal import SIGINT, SIGTERM

import trio
from trio_util import periodic

from trio_broadway_kafka import (
    BroadwayKafkaError,
    Message,
    Pipeline,
    Stages,
    open_pipeline,
)


class NotANumber(Exception):
    """A record that does not belong into the topic."""


class Sum:
    """What the service is there for."""

    def __init__(self) -> None:
        self.value = 0

    async def add(self, message: Message) -> None:
        try:
            self.value += int(message.value or b"")
        except ValueError:  # its text has the record's value: not for logs
            raise NotANumber(f"{message!r} is not a whole number") from None


async def serve(options: argparse.Namespace) -> None:
    total = Sum()
    with trio.open_signal_receiver(SIGINT, SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            opened, stop = trio.Event(), trio.Event()
            nursery.start_soon(obey, signals, opened, stop, nursery.cancel_scope)
            async with open_pipeline(
                kafka={"bootstrap.servers": options.bootstrap, "group.id": options.group},
                topics=[options.topic],
                stages=Stages(handle_message=total.add),
            ) as pipeline:
                opened.set()
                listen = partial(trio.serve_tcp, host="127.0.0.1")
                listeners = await nursery.start(
                    listen, partial(answer, total, pipeline), options.port
                )
                port = listeners[0].socket.getsockname()[1]
                print(f"listening on 127.0.0.1:{port}", flush=True)
                nursery.start_soon(log_lag, pipeline, options.log_every)
                await stop.wait()
            # Drained and closed here. The other tasks would run for ever.
            nursery.cancel_scope.cancel()
    print(f"the sum is {total.value}", flush=True)


async def obey(
    signals: AsyncIterator[int],
    opened: trio.Event,
    stop: trio.Event,
    everything: trio.CancelScope,
) -> None:
    async for _ in signals:
        if stop.is_set() or not opened.is_set():  # there is nothing yet to drain
            everything.cancel()
        stop.set()


async def answer(total: Sum, pipeline: Pipeline, client: trio.SocketStream) -> None:
    """Answer one client's lines. What it does must not end the service: it may just go away."""
    try:
        async for received in client:
            for _ in range(received.count(b"\n")):
                reply = {"sum": total.value, **asdict(pipeline.statistics())}
                await client.send_all(f"{json.dumps(reply)}\n".encode())
    except trio.BrokenResourceError:
        pass


async def log_lag(pipeline: Pipeline, seconds: float) -> None:
    await pipeline.wait_assigned()
    async for _ in periodic(seconds):
        partitions = pipeline.statistics().partitions
        lag = sum(partition.lag or 0 for partition in partitions)
        print(f"{len(partitions)} partitions, lag {lag}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bootstrap", metavar="HOST:PORT", help="of Kafka")
    parser.add_argument("topic")
    parser.add_argument("--group", default="sum", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=9999, help="0 takes a free one")
    parser.add_argument("--log-every", type=float, default=10, metavar="SECONDS")
    options = parser.parse_args()
    wrong: list[str] = []
    try:
        trio.run(serve, options)
    except* NotANumber as group:
        wrong += [f"stopped at {error}" for error in leaves(group)]
    except* BroadwayKafkaError as group:
        wrong += [f"{type(error).__name__}: {error}" for error in leaves(group)]
    except* OSError as group:
        wrong += [f"port {options.port}: {error}" for error in leaves(group)]
    # Not in the clauses: two of them may have run, and two SystemExits end in a traceback.
    if wrong:
        sys.exit("\n".join(wrong))


def leaves(group: BaseExceptionGroup) -> Iterator[BaseException]:
    """The errors themselves: a group may hold groups, one for each nursery on the way."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


if __name__ == "__main__":
    main()
