"""The stages that a pipeline was given: one set for all partitions, or one for each."""

from __future__ import annotations

from collections.abc import Callable

from trio_broadway_kafka._assignment import Assignment
from trio_broadway_kafka._fan_out import FanOut
from trio_broadway_kafka._model._demand import CHUNK
from trio_broadway_kafka._model._keyed_lanes import KeyedLanes
from trio_broadway_kafka._model._lanes import UnorderedLanes
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import PipelineOptions, Stages, StagesFactory
from trio_broadway_kafka._model._partition_lanes import PartitionLanes
from trio_broadway_kafka._model._stage_times import Times
from trio_broadway_kafka._partition_pipelines import PartitionPipelines
from trio_broadway_kafka._stages._handlers import within_time
from trio_broadway_kafka._stages._limiter import Limiter
from trio_broadway_kafka._stages._outputs import Outputs

__all__ = ["chunk_of", "connect", "make_lanes"]


def make_lanes(
    stages: Stages, *, share: int, alone: bool = False
) -> KeyedLanes | PartitionLanes | UnorderedLanes:
    """The lanes for an ordering; `share` and `alone` as in `KeyedLanes`."""
    if stages.handle_message is None:
        return UnorderedLanes(whole=stages.prepare_messages is None, alone=alone)
    match stages.ordering:
        case "unordered":
            return UnorderedLanes(alone=alone)
        case "partition":
            return PartitionLanes()
        case "key":
            return KeyedLanes(share=share, alone=alone)
        case _:
            return KeyedLanes(share=share, per_partition=False, alone=alone)


def chunk_of(stages: Stages | StagesFactory) -> int:
    """How many messages of one fetch suit the stages.

    What is open of a batch lives beside the next chunk. Chunks that fill batches leave
    little open, and so keep what lives below what starts garbage collections.
    """
    size = CHUNK
    if isinstance(stages, Stages) and stages.handle_message is None and stages.batchers:
        batcher = stages.batchers["default"]
        if batcher.weigh is None:
            size = min(int(batcher.size), CHUNK)
    return CHUNK // size * size


def connect(
    stages: Stages | StagesFactory,
    options: PipelineOptions,
    *,
    want: Callable[[], None],
    entered: Callable[[PartitionOffsets], None],
    finished: Callable[[], None] | None,
    limiter: Limiter,
    told: FanOut,
    pause: Callable[[PartitionOffsets, float], None],
    outputs: Outputs,
    group: str | None,
    times: Times,
) -> Assignment | PartitionPipelines:
    """Make what handles the messages.

    Args:
        stages: what the user gave.
        options: of the pipeline.
        want: called when few messages are left.
        entered: called when a partition's own stages are there.
        finished: called after each message, None if nobody needs it.
        limiter: how many messages may be taken.
        told: the instruments.
        pause: called with an assignment that is to be paused, and for how many seconds.
        outputs: where the outputs of messages go.
        group: the consumer group's name, for dead letters.
        times: what the stages spend their time on is put down there.
    """

    def make(stages: Stages, failed: Callable[[], None] | None = None) -> Assignment:
        stages.check_bound(options.max_in_flight)
        stages = within_time(stages)
        return Assignment(
            told.watched(stages),
            make_lanes(stages, share=options.max_in_flight, alone=failed is not None),
            want=want,
            finished=finished,
            limiter=limiter,
            failed=failed,
            told=told.message_failed,
            pause=pause,
            outputs=outputs,
            group=group,
            times=times,
        )

    if isinstance(stages, Stages):
        return make(stages)
    return PartitionPipelines(
        stages, make=make, want=want, entered=entered, leave_timeout=options.close_timeout
    )
