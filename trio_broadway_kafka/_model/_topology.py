"""What `Pipeline.topology` returns: plain frozen values, what a pipeline consists of."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from trio_broadway_kafka._model._options import Stages

__all__ = ["BatcherTopology", "PipelineState", "StagesTopology", "Topology", "topology_of"]

PipelineState = Literal["opening", "open", "draining", "drained", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherTopology:
    """One batcher. See `Batcher`.

    Attributes:
        name: its name.
        handle_batch: the handler's name.
        size: the weight at which a batch leaves.
        weighs: whether `size` is a weight of the user's, not a number of messages.
        timeout: seconds after which it leaves.
        concurrency: how many batches are handled at once.
    """

    name: str
    handle_batch: str
    size: float
    weighs: bool
    timeout: float
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StagesTopology:
    """The stages over all partitions, or those of one partition. See `Stages`.

    Attributes:
        topic: the partition's topic, None if they are over all partitions.
        partition: the partition's number, None if they are over all partitions.
        prepare_messages: the handler's name, None if there is none.
        handle_message: the handler's name, None if there is none.
        handle_failed: the handler's name, None if there is none.
        ordering: ``"key"``, ``"partition"``, ``"unordered"``, or the function's name.
        concurrency: how many messages are handled at once; 0 without a handler.
        batchers: in the order in which they were given.
    """

    topic: str | None
    partition: int | None
    prepare_messages: str | None
    handle_message: str | None
    handle_failed: str | None
    ordering: str
    concurrency: int
    batchers: tuple[BatcherTopology, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """What a pipeline consists of, as of now.

    Attributes:
        name: the pipeline's.
        group: the consumer group's id; None with a test's client.
        topics: names, or patterns that start with ``^``.
        state: ``"opening"``, ``"open"``, ``"draining"``, ``"drained"`` (its block is still to
            be left), or ``"closed"``.
        per_partition: whether each assigned partition has stages of its own.
        stages: one over all partitions; or one for each assigned partition whose stages are
            there, by topic and number.
    """

    name: str
    group: str | None
    topics: tuple[str, ...]
    state: PipelineState
    per_partition: bool
    stages: tuple[StagesTopology, ...]


def topology_of(stages: Stages, address: tuple[str, int] | None = None) -> StagesTopology:
    """The topology of some stages: those of the partition at `address`, or of all."""
    topic, partition = (None, None) if address is None else address
    return StagesTopology(
        topic=topic,
        partition=partition,
        prepare_messages=_name_of(stages.prepare_messages),
        handle_message=_name_of(stages.handle_message),
        handle_failed=_name_of(stages.handle_failed),
        ordering=_name(stages.ordering) if callable(stages.ordering) else stages.ordering,
        concurrency=0 if stages.handle_message is None else stages.concurrency,
        batchers=tuple(
            BatcherTopology(
                name=name,
                handle_batch=_name(batcher.handle_batch),
                size=batcher.size,
                weighs=batcher.weigh is not None,
                timeout=batcher.timeout,
                concurrency=batcher.concurrency,
            )
            for name, batcher in stages.batchers.items()
        ),
    )


def _name_of(handler: Callable[..., Any] | None) -> str | None:
    return None if handler is None else _name(handler)


def _name(handler: Callable[..., Any]) -> str:
    """What a handler is called in its source; never a repr, which may show its arguments."""
    handler = inspect.unwrap(handler)
    while isinstance(handler, partial):
        handler = inspect.unwrap(handler.func)
    name: str = getattr(handler, "__qualname__", type(handler).__qualname__)
    return name
