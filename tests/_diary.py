"""An instrument that writes down what it is told, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from trio_broadway_kafka import (
    Batch,
    FailurePolicy,
    Instrument,
    KafkaFailure,
    Message,
    Pipeline,
)


def _kinds(error: BaseException | None) -> str | None:
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(sorted({_kinds(inner) or "" for inner in error.exceptions}))
    return None if error is None else type(error).__name__


class Diary(Instrument):
    """What it was told, in order: (seconds, event, what was told of it).

    Seconds are rounded to hundredths, for sums of them are not exact.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[float, str, object]] = []
        self.pipelines: set[str] = set()

    def of(self, *events: str) -> list[tuple[float, str, object]]:
        return [line for line in self.lines if line[1] in events]

    def told(self, *events: str) -> list[object]:
        return [line[2] for line in self.of(*events)]

    def note(self, pipeline: Pipeline, event: str, *what: object) -> None:
        self.pipelines.add(pipeline.name)
        figures = tuple(round(one, 2) if isinstance(one, float) else one for one in what)
        self.lines.append((round(trio.current_time(), 2), event, figures))

    def pipeline_opened(self, pipeline: Pipeline) -> None:
        self.note(pipeline, "opened")

    def pipeline_closed(
        self, pipeline: Pipeline, *, error: BaseException | None, unfinished: int
    ) -> None:
        self.note(pipeline, "closed", _kinds(error), unfinished)

    def partition_assigned(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        epoch: int,
        committed: int | None,
    ) -> None:
        self.note(pipeline, "assigned", f"{topic}/{partition}", epoch, committed)

    def partition_revoked(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        epoch: int,
        unfinished: int,
        lost: bool,
        duration: float,
    ) -> None:
        how = "lost" if lost else "revoked"
        self.note(pipeline, how, f"{topic}/{partition}", epoch, unfinished, duration)

    def messages_received(
        self,
        pipeline: Pipeline,
        topic: str,
        partition: int,
        *,
        count: int,
        size: int,
        first: int,
        last: int,
    ) -> None:
        self.note(pipeline, "received", f"{topic}/{partition}", count, size, first, last)

    def messages_processed(
        self, pipeline: Pipeline, messages: Sequence[Message], durations: Sequence[float]
    ) -> None:
        self.note(
            pipeline,
            "processed",
            *[
                (message.offset, round(duration, 2), _kinds(message.failure))
                for message, duration in zip(messages, durations, strict=True)
            ],
        )

    def message_failed(
        self, pipeline: Pipeline, message: Message, policy: FailurePolicy, *, stage: str
    ) -> None:
        kind = type(policy).__name__
        self.note(pipeline, "failed", message.offset, _kinds(message.failure), kind, stage)

    def batch_processed(
        self, pipeline: Pipeline, batch: Batch, *, duration: float, failed: int
    ) -> None:
        self.note(pipeline, "batch", batch.batcher, batch.trigger, len(batch), duration, failed)

    def committed(
        self,
        pipeline: Pipeline,
        offsets: Mapping[tuple[str, int], int],
        *,
        duration: float,
    ) -> None:
        self.note(pipeline, "committed", dict(offsets), duration)

    def commit_failed(
        self,
        pipeline: Pipeline,
        offsets: Mapping[tuple[str, int], int],
        failure: KafkaFailure,
        *,
        duration: float,
    ) -> None:
        self.note(pipeline, "refused", dict(offsets), failure.code, failure.retriable, duration)
