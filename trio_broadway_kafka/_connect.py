"""The stages that a pipeline was given: one set for all partitions, or one for each."""

from __future__ import annotations

from collections.abc import Callable

from trio_broadway_kafka._assignment import Assignment, make_lanes
from trio_broadway_kafka._model._offsets import PartitionOffsets
from trio_broadway_kafka._model._options import PipelineOptions, Stages, StagesFactory
from trio_broadway_kafka._partition_pipelines import PartitionPipelines

__all__ = ["connect"]


def connect(
    stages: Stages | StagesFactory,
    options: PipelineOptions,
    *,
    want: Callable[[], bool],
    entered: Callable[[PartitionOffsets], None],
    finished: Callable[[], None] | None,
) -> Assignment | PartitionPipelines:
    """Make what handles the messages.

    Args:
        stages: what the user gave.
        options: of the pipeline.
        want: called when few messages are left; returns whether a fetch is open.
        entered: called when a partition's own stages are there.
        finished: called after each message, None if nobody needs it.
    """

    def make(stages: Stages, failed: Callable[[], None] | None = None) -> Assignment:
        stages.check_bound(options.max_in_flight)
        return Assignment(
            stages,
            make_lanes(stages, share=options.max_in_flight, alone=failed is not None),
            want=want,
            finished=finished,
            failed=failed,
        )

    if isinstance(stages, Stages):
        return make(stages)
    return PartitionPipelines(
        stages, make=make, want=want, entered=entered, leave_timeout=options.close_timeout
    )
