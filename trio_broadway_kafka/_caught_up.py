"""Waiting until what the partitions held at a moment is finished."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from trio_broadway_kafka._kafka._client import KafkaClient, TopicPartition
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._offsets import PartitionOffsets

__all__ = ["wait_caught_up"]

# Seconds between two looks at whether a partition is caught up, at first and after a while:
# what is finished is a flag that nobody is told of.
_LOOK = 0.01
_LOOK_MOST = 0.1

# Seconds between two tries of asking for the partitions' ends.
_ASK_AGAIN = 0.1


async def wait_caught_up(
    client: KafkaClient,
    partitions: Mapping[TopicPartition, PartitionOffsets],
    open_timeout: float,
) -> None:
    """Wait until these have finished what lies before their ends, as of now.

    Assignments that end meanwhile are no longer waited for.

    Raises:
        KafkaFailure: the broker does not tell the ends.
    """
    waiting = dict(partitions)
    ends = await _ends(client, list(waiting), open_timeout)
    look = _LOOK
    while waiting:
        for address, state in [*waiting.items()]:
            if not state.live or state.reached >= ends.get(address, 0):
                del waiting[address]
        if waiting:
            await trio.sleep(look)
            look = min(1.5 * look, _LOOK_MOST)


async def _ends(
    client: KafkaClient, partitions: list[TopicPartition], open_timeout: float
) -> dict[TopicPartition, int]:
    """The partitions' ends now. A topic that is new may need some tries."""
    deadline = trio.current_time() + open_timeout
    while True:
        try:
            return await client.end_offsets(partitions)
        except KafkaFailure as failure:
            if not failure.retriable or trio.current_time() >= deadline:
                raise
        await trio.sleep(_ASK_AGAIN)
