"""Where the partitions of one fake client start that do not start from the committed offset."""

from __future__ import annotations

from collections.abc import Sequence

from trio_broadway_kafka._kafka._client import OffsetCommit, TopicPartition
from trio_broadway_kafka._model._moments import StartFrom
from trio_broadway_kafka.testing._fake_cluster import Cluster
from trio_broadway_kafka.testing._fake_group import Group

__all__ = ["Starts"]


class Starts:
    """``start_from``, for the first assignment of each partition; see `Session`."""

    def __init__(self, cluster: Cluster, group: Group) -> None:
        self._cluster = cluster
        self._group = group
        # Where each has started and what was committed then; None once a commit counts.
        self._begun: dict[TopicPartition, tuple[int | None, int | None] | None] = {}

    def start(self, partition: TopicPartition, start_from: StartFrom) -> int | None:
        """Where it starts, None for the committed offset.

        Raises:
            KafkaFailure: the broker did not tell.
        """
        if start_from == "committed":
            return None
        stored = self._group.committed.get(partition)
        committed = stored.offset if stored else None
        if partition in self._begun:
            begun = self._begun[partition]
            return begun[0] if begun is not None and begun[1] == committed else None
        if failure := self._cluster.failures.next("offsets"):
            raise failure
        start = self._cluster.log(partition).start(start_from)
        self._begun[partition] = (start, committed)
        return start

    def committed(self, offsets: Sequence[OffsetCommit]) -> None:
        """From now on the committed offset is where these start."""
        for commit in offsets:
            self._begun[TopicPartition(commit.topic, commit.partition)] = None
