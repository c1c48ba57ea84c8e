"""The commits of one fake client that wait or are on their way to the broker."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence

import trio

from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._kafka._producing import stale_epoch
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka.testing._fake_cluster import Cluster
from trio_broadway_kafka.testing._fake_group import Member

__all__ = ["Answer", "Commit", "CommitQueue"]

_log = logging.getLogger("trio_broadway_kafka")

Answer = Sequence[OffsetCommit] | Exception
"""What was committed, or why it was not."""


class Commit:
    """Offsets to commit, and who is to be told.

    Attributes:
        wanted: False once nobody waits; if it has not been sent by then, it never is.
    """

    __slots__ = ("answered", "offsets", "wanted")

    def __init__(
        self, offsets: Sequence[OffsetCommit], answered: Callable[[Answer], None]
    ) -> None:
        self.offsets = offsets
        self.answered = answered
        self.wanted = True


class CommitQueue:
    """Commits in the order asked for, of which at most one is on its way.

    So a later one never overtakes an earlier one, whatever the delays.

    Args:
        live: those of some offsets whose epoch has not ended.
        done: told of what was committed.
    """

    def __init__(
        self,
        cluster: Cluster,
        group: str,
        live: Callable[[Sequence[OffsetCommit]], list[OffsetCommit]],
        done: Callable[[Sequence[OffsetCommit]], None],
    ) -> None:
        self._cluster = cluster
        self._group = group
        self._live = live
        self._done = done
        self._waiting: deque[Commit] = deque()
        self._sent: Commit | None = None
        self._sent_offsets: list[OffsetCommit] = []
        self._sent_at = 0.0
        self._gone: set[str] = set()

    def __bool__(self) -> bool:
        """Whether a commit has no answer yet."""
        return self._sent is not None or bool(self._waiting)

    def submit(self, commit: Commit) -> None:
        """Queue a commit; `serve` sends it."""
        self._waiting.append(commit)

    def arrival(self) -> float:
        """When the next answer comes as things are now; inf if none is to be expected."""
        if self._sent is None:
            return math.inf
        return self._cluster.arrival("commit", self._sent_at)

    def serve(self, member: Member) -> None:
        """Send what can be sent, and pass on the answers that have come."""
        while self._sent is not None or self._send_next():
            if self.arrival() > trio.current_time():
                return
            commit, self._sent = self._sent, None
            assert commit is not None
            try:
                done = self._cluster.commit(self._group, member, self._sent_offsets)
            except KafkaFailure as failure:
                commit.answered(failure)
            else:
                self._log_gone({offset.topic for offset in self._sent_offsets})
                self._done(done)
                commit.answered(done)

    def commit_at_once(
        self, member: Callable[[], Member], offsets: Sequence[OffsetCommit]
    ) -> Sequence[OffsetCommit]:
        """Commit in a transaction that ends now.

        Raises:
            KafkaFailure: the broker refused, or an epoch has ended.
        """
        if not offsets:
            return []
        if len(self._live(offsets)) != len(offsets):
            raise stale_epoch()
        done = self._cluster.commit(self._group, member(), offsets)
        self._done(done)
        return done

    def _log_gone(self, topics: set[str]) -> None:
        for topic in topics - self._cluster.topics.keys() - self._gone:
            self._gone.add(topic)
            _log.warning("topic %r is gone: what was finished of it can't be committed", topic)

    def close(self) -> None:
        """Answer what is left: nobody will know what became of it."""
        left = [*([self._sent] if self._sent else []), *self._waiting]
        self._sent = None
        self._waiting.clear()
        for commit in left:
            commit.answered(trio.ClosedResourceError())

    def _send_next(self) -> bool:
        while self._waiting:
            commit = self._waiting.popleft()
            offsets = self._live(commit.offsets) if commit.wanted else []
            if offsets:
                self._sent, self._sent_offsets = commit, offsets
                self._sent_at = trio.current_time()
                return True
            commit.answered([])
        return False
