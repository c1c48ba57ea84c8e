"""One member of a group of the fake broker: the `KafkaClient` protocol on trio's clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import trio

from trio_broadway_kafka._kafka._client import (
    Answered,
    AssignedPartition,
    ClientEvents,
    OffsetCommit,
    Session,
    TopicPartition,
)
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka.testing._fake_cluster import Cluster
from trio_broadway_kafka.testing._fake_commits import Answer, Commit, CommitQueue
from trio_broadway_kafka.testing._fake_group import Group, Member
from trio_broadway_kafka.testing._fake_producer import FakeProducer
from trio_broadway_kafka.testing._fake_questions import Questions
from trio_broadway_kafka.testing._fake_reader import Reader
from trio_broadway_kafka.testing._fake_starts import Starts

__all__ = ["FakeClient"]


class FakeClient(Questions):
    """A consumer of `FakeBroker`: made by ``broker.client()``, for ``client=``.

    It does what the consumer of a real Kafka does, where that does it: everything
    happens inside polls of ``poll_interval`` and commands are applied between them. So a
    commit, pause or stop that comes while a fetch is open waits for the poll to end; a
    message for the open fetch ends it at once, a rebalance is served inside it at once,
    and a poll with no fetch open is ended by any command.

    All of it is one task, `run`: what an event handler raises leaves through that.
    """

    def __init__(self, cluster: Cluster, *, group: str, name: str) -> None:
        self._cluster = cluster
        self.group: Group = cluster.group(group)
        self._name = name
        self._reader = Reader(cluster)
        self._starts = Starts(cluster, self.group)
        self._requests = CommitQueue(cluster, group, self._reader.live, self._starts.committed)
        self._commands: deque[Callable[[], None]] = deque()
        self._revoking: dict[TopicPartition, int] = {}
        self._epoch = 0
        self._started = False
        self._has_joined = False
        self._asked_to_stop = False
        self._stopping = False
        self._closed = False
        self._events: ClientEvents
        self._session = Session(topics=())
        self._member: Member

    def __repr__(self) -> str:
        return f"<FakeClient {self._name}>"

    # The protocol

    async def run(
        self,
        events: ClientEvents,
        session: Session,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Be a member of the group until `stop`; see `KafkaClient.run`."""
        if self._started:
            raise RuntimeError("a client runs once: take another one from the broker")
        self._started = True
        self._events = events
        self._session = session
        try:
            await self._cluster.open(session)
            self._member = self.group.join(self, session.topics)
            self._has_joined = True
            self._cluster.changed()
            task_status.started()
            has_closed = False
            try:
                while not self._stopping:
                    # Real polls give trio's loop a turn, even with messages waiting.
                    await trio.lowlevel.checkpoint()
                    await self._was_frozen()
                    self._apply_commands()
                    await self._poll()
                has_closed = await self._finish_requests()
            finally:
                self._leave(has_closed=has_closed)
        finally:
            self._close()

    def fetch(self, count: int) -> None:
        """Open a fetch of up to `count` messages.

        Raises:
            trio.BusyResourceError: one is open already.
        """
        self._reader.reserve(count)
        self._post(partial(self._reader.open, count))

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Stop delivering these, from the next poll on."""
        self._post(self._reader.pausing(partitions))

    def resume(self, positions: Mapping[TopicPartition, int | None]) -> None:
        """Deliver these again; an offset is where to."""
        self._post(self._reader.resuming(positions))

    async def commit(self, offsets: Sequence[OffsetCommit]) -> Sequence[OffsetCommit]:
        """Commit what is of live epochs; requests reach the broker in the order sent.

        Raises:
            KafkaFailure: the broker refused; nothing was committed.
            trio.ClosedResourceError: the client is closed, or was before the answer came.
            ValueError: a metadata holds a NUL.
        """
        self._check_open()
        if any("\0" in commit.metadata for commit in offsets):
            raise ValueError("metadata must not contain a NUL character")
        answers: list[Answer] = []
        answered = trio.Event()

        def on_answer(answer: Answer) -> None:
            answers.append(answer)
            answered.set()

        commit = Commit(tuple(offsets), on_answer)
        self._post(partial(self._submit, commit))
        try:
            await answered.wait()
        finally:
            commit.wanted = False
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    def release(
        self,
        partitions: Sequence[AssignedPartition],
        offsets: Sequence[OffsetCommit],
        answered: Answered | None = None,
    ) -> None:
        """Let the revoke of these go on, after committing `offsets`.

        Whatever the broker says to the commit, the epochs end when it has; at the
        revoke's deadline they end without.
        """
        self._post(partial(self._release, tuple(partitions), tuple(offsets), answered))

    def stop(self) -> None:
        """Leave the group and close, once commits under way are answered.

        They have ``close_timeout``; what has no answer by then ends in ClosedResourceError.
        """
        self._asked_to_stop = True
        self._post(self._stop)

    def producer(self, output: Output) -> FakeProducer:
        """See `KafkaClient.producer`."""
        commit = partial(self._requests.commit_at_once, lambda: self._member)
        return FakeProducer(self._cluster, output, self, commit)

    # Commands

    def _post(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._cluster.changed()

    def _apply_commands(self) -> None:
        while self._commands:
            self._commands.popleft()()

    def _stop(self) -> None:
        self._stopping = True

    def _submit(self, commit: Commit) -> None:
        if self._closed:
            commit.answered(trio.ClosedResourceError())
        else:
            self._requests.submit(commit)

    def _release(
        self,
        partitions: Sequence[AssignedPartition],
        offsets: Sequence[OffsetCommit],
        answered: Answered | None,
    ) -> None:
        released = {
            TopicPartition(assigned.topic, assigned.partition): assigned.epoch
            for assigned in partitions
        }
        if released.items() & self._revoking.items():

            def on_answer(answer: Answer) -> None:
                self._end(released)
                if answered is not None:
                    answered(answer)

            self._submit(Commit(offsets, on_answer))

    def _check_open(self) -> None:
        if self._asked_to_stop or self._closed:
            raise trio.ClosedResourceError("the client is closed")

    # Polling

    async def _poll(self) -> None:
        """Serve what is due, until messages were delivered or the interval is over."""
        interval = self._cluster.poll_interval
        deadline = trio.current_time() + interval
        while not await self._was_frozen():
            self._requests.serve(self._member)
            await self._serve_rebalance()
            if self._stopping or self._reader.deliver(self._events):
                return
            if self._commands and (not self._reader.has_open_fetch or interval == math.inf):
                return
            if trio.current_time() >= deadline:
                return
            await self._wait(min(deadline, self._reader.arrival()))

    async def _wait(self, deadline: float) -> None:
        """Wait for a change, or the next thing that comes due by itself."""
        deadline = min(deadline, self._requests.arrival())
        if self._cluster.running:
            deadline = min(deadline, self.group.next_expiry())
        await self._cluster.wait_changed(deadline)
        self._cluster.expire(self.group)

    async def _was_frozen(self) -> bool:
        """Return once the client is not frozen; tell whether it was."""
        if self not in self._cluster.frozen:
            return False
        self._halted_at = trio.current_time()
        while self in self._cluster.frozen:
            await self._cluster.wait_changed()
        self._halted_at = None
        self._cluster.expire(self.group)
        self._member.expires_at = math.inf
        return True

    # Rebalances

    async def _serve_rebalance(self) -> None:
        """Report losses, let go of what moves away, and take what has become ours."""
        if not self._cluster.running:
            return
        self._report_losses_and_rejoin()
        while moving := self.group.to_revoke(self._member):
            await self._revoke(moving)
            if self._stopping or not self._cluster.running:
                return
            self._report_losses_and_rejoin()  # what was lost meanwhile may be ours again
        if not self._stopping and self._cluster.running:
            self._take(self.group.to_take(self._member))

    def _report_losses_and_rejoin(self) -> None:
        lost = self._reader.end_epochs(self._member.lost)
        self._member.lost.clear()
        if lost:
            self._events.lost(lost)
        if self._member.fenced:
            self._member = self.group.join(self, self._session.topics)
            self._cluster.changed()

    async def _revoke(self, moving: Sequence[TopicPartition]) -> None:
        """Wait until these are released, serving commands, and give them up."""
        revoked = self._reader.assigned(moving)
        self._revoking = {
            TopicPartition(assigned.topic, assigned.partition): assigned.epoch
            for assigned in revoked
        }
        deadline = trio.current_time() + self._session.revoke_timeout + 1.0
        self._events.revoking(revoked)
        while True:
            self._apply_commands()
            self._requests.serve(self._member)
            if not self._revoking or self._stopping or trio.current_time() >= deadline:
                break
            await self._wait(deadline)
            await self._was_frozen()
        if not self._stopping:
            self._end(dict(self._revoking))

    def _end(self, released: Mapping[TopicPartition, int]) -> None:
        """End the epochs of revoked partitions; another member may take them."""
        for partition, epoch in released.items():
            # A release that is answered after the revoke's deadline ends nothing.
            if self._revoking.get(partition) == epoch:
                del self._revoking[partition]
                self._reader.end_epochs([partition])
                self._member.lost.pop(partition, None)
                self.group.give_up(self._member, partition)
        self._cluster.changed()

    def _take(self, partitions: Sequence[TopicPartition]) -> None:
        taken: list[AssignedPartition] = []
        for partition in partitions:
            try:
                start = self._starts.start(partition, self._session.start_from)
            except KafkaFailure as failure:
                if failure.retriable:  # by the next poll
                    continue
                self._stopping = True
                self._events.failed(failure)
                return
            self._epoch += 1
            self.group.take(self._member, partition, self._epoch)
            topic_id = self._cluster.topic_ids[partition.topic]
            taken.append(self.group.assigned(partition, self._epoch, start, topic_id))
        self._reader.assign(taken)
        if taken:
            self._events.assigned(taken)

    # Closing

    async def _finish_requests(self) -> bool:
        """Wait for what is under way, and for the closing; False at the deadline."""
        closing_since = trio.current_time()
        deadline = closing_since + self._session.close_timeout
        while True:
            await self._was_frozen()
            self._requests.serve(self._member)
            closed_at = self._cluster.arrival("close", closing_since)
            now = trio.current_time()
            if not self._requests and closed_at <= now:
                return True
            if now >= deadline:
                return False
            await self._wait(min(deadline, closed_at) if closed_at > now else deadline)

    def _leave(self, *, has_closed: bool) -> None:
        now = trio.current_time()
        takes_no_waiting = (
            self not in self._cluster.frozen
            and not self._requests
            and self._cluster.arrival("close", now) <= now
        )
        if has_closed or takes_no_waiting:
            self.group.leave(self._member)
        else:
            # Nobody hears it leave: its partitions move when its session has ended.
            self._member.expire_by(now + self._cluster.session_timeout)
        self._cluster.changed()

    def _close(self) -> None:
        self._closed = True
        self._requests.close()
        self._apply_commands()
