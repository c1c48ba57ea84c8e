"""A pipeline as a program: run until a signal."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TypedDict, Unpack

import trio

from trio_broadway_kafka._kafka._client import KafkaClient
from trio_broadway_kafka._model._moments import StartFrom, StopAtOption
from trio_broadway_kafka._model._options import Stages, StagesFactory
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._rate import RateLimit
from trio_broadway_kafka._open import Opening, open_pipeline
from trio_broadway_kafka._pipeline import Pipeline
from trio_broadway_kafka.instruments import Instrument

__all__ = ["PipelineArguments", "run_opening", "run_pipeline"]

_log = logging.getLogger("trio_broadway_kafka")


class _Needed(TypedDict):
    topics: Iterable[str]
    stages: Stages | StagesFactory


class PipelineArguments(_Needed, total=False):
    """The arguments of `open_pipeline`."""

    kafka: Mapping[str, object] | None
    name: str | None
    output: Output | None
    rate_limit: RateLimit | None
    start_from: StartFrom
    stop_at: StopAtOption | None
    create_topics: bool
    max_in_flight: int
    max_in_flight_bytes: int
    commit_interval: float
    open_timeout: float
    drain_timeout: float
    revoke_timeout: float
    close_timeout: float
    instruments: Iterable[Instrument]
    client: KafkaClient | None


async def run_pipeline(
    *,
    drain_signals: Iterable[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    **arguments: Unpack[PipelineArguments],
) -> None:
    """Open a pipeline and run it until a signal, or until it is where ``stop_at`` says.

    The arguments are `open_pipeline`'s.

    The first of `drain_signals` drains the pipeline: what has started is finished and
    committed, within ``drain_timeout``. The second cancels its handlers at once; what is
    finished is committed all the same. A signal while the pipeline is being opened ends
    that. Either way this returns normally. With no `drain_signals` it takes none.

    Raises:
        ConfigError: an option is wrong.
        ExceptionGroup: what `open_pipeline` lets out; catch it with ``except*``.
    """
    opening = open_pipeline(**arguments)
    assert isinstance(opening, Opening)
    await run_opening(opening, drain_signals)


async def run_opening(
    opening: Opening,
    drain_signals: Iterable[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    *,
    beside: Callable[[Pipeline], AbstractAsyncContextManager[object]] | None = None,
) -> bool:
    """As `run_pipeline`, of what `open_pipeline` has returned.

    Args:
        opening: not entered yet.
        drain_signals: as there.
        beside: what is to be open while the pipeline is.

    Returns:
        Whether a signal cancelled it.
    """
    pipeline = opening.pipeline
    signals = tuple(drain_signals)
    cancelled = trio.Event()
    with trio.open_signal_receiver(*signals) if signals else nullcontext() as received:
        async with pipeline._lifetime() as nursery:
            if received is not None:
                nursery.start_soon(_obey, received, pipeline, cancelled)
            await pipeline._open()
            async with nullcontext() if beside is None else beside(pipeline):
                await pipeline.wait_finished()
                await pipeline.drain()
    return cancelled.is_set()


async def _obey(
    received: AsyncIterator[int], pipeline: Pipeline, cancelled: trio.Event
) -> None:
    """The first signal drains, the second cancels; one while opening cancels that."""
    draining = False
    async for number in received:
        name = signal.Signals(number).name
        if draining or pipeline._state.value == "opening":
            _log.warning("%s: %s: cancelling", pipeline.name, name)
            cancelled.set()
            pipeline._nursery.cancel_scope.cancel()
        else:
            draining = True
            _log.info("%s: %s: draining; once more cancels", pipeline.name, name)
            pipeline._nursery.start_soon(pipeline.drain)
