"""`ConfluentClient`: a real Kafka as a `KafkaClient`, seen from trio's thread.

::

    trio's thread                                     the feeder's thread
    fetch, pause, commit, release  ──  commands  ──▶  applied between polls
    events, answers  ◀──  run_sync_soon, one a fetch  ──  poll, consume, callbacks
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import trio
from confluent_kafka import Consumer

from trio_broadway_kafka._kafka._admin import Admin
from trio_broadway_kafka._kafka._client import (
    Answered,
    AssignedPartition,
    ClientEvents,
    OffsetCommit,
    Session,
    TopicPartition,
)
from trio_broadway_kafka._kafka._commits import Commit
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._feeder import Feeder
from trio_broadway_kafka._kafka._opening import Opening
from trio_broadway_kafka._kafka._output import ConfluentProducer
from trio_broadway_kafka._kafka._output_config import producer_keys
from trio_broadway_kafka._kafka._partitions import Partitions
from trio_broadway_kafka._kafka._questions import Questions, Waiter
from trio_broadway_kafka._kafka._reports import Reports, logger
from trio_broadway_kafka._kafka._subscribing import Subscribing
from trio_broadway_kafka._kafka._told import Told
from trio_broadway_kafka._kafka._transactions import TransactionalProducer
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._output import Output

__all__ = ["ConfluentClient"]

MAX_FETCH: Final = 1_000_000
"""consume() refuses more."""


class ConfluentClient(Questions):
    """One member of a consumer group: a `KafkaClient` on confluent-kafka. It runs once.

    Args:
        kafka: librdkafka's keys, passed on except for those that the library owns.

    Raises:
        ConfigError: a key is missing, unknown or owned, or its value is refused. Nothing
            has been connected to.
    """

    def __init__(self, kafka: Mapping[str, object]) -> None:
        self._config = ClientConfig(kafka)
        self._reports = Reports(self._config, self._fail)
        super().__init__(self._config, Admin(self._config, self._reports))
        self._feeder: Feeder | None = None
        self._subscribing: Subscribing | None = None
        self._events: Told | None = None
        self._closing = trio.CancelScope()
        self._open_timeout = self._close_timeout = 0.0
        self._stopped = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self._feeder else "not running"
        return f"<ConfluentClient, {state}, {self._config!r}>"

    def check(self, session: Session) -> None:
        """Check `session` against the configuration, as `run` does first.

        Raises:
            ConfigError: ``revoke_timeout`` is not below ``max.poll.interval.ms``.
        """
        self._config.check(session)

    def check_output(self, output: Output) -> None:
        """Check `output` against what librdkafka knows, as `producer` does.

        Raises:
            ConfigError: ``output.kafka`` is wrong.
        """
        producer_keys(self._config, output)

    async def run(
        self,
        events: ClientEvents,
        session: Session,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `KafkaClient.run`. After `stop`, a close that takes longer than
        ``close_timeout`` is abandoned and logged.
        """
        self.check(session)
        if self._events is not None:
            raise RuntimeError("a client runs once")
        self._events = told = Told(events)
        self._token = trio.lowlevel.current_trio_token()
        self._open_timeout = session.open_timeout
        self._close_timeout = session.close_timeout
        # Threads of our own: with the program's forty all taken we could not be stopped.
        limiter = trio.CapacityLimiter(1)
        try:
            with self._closing:
                opened = await self._connect(told, session, limiter)
                if opened is None:
                    return
                feeder, names = opened
                self._feeder = feeder
                self._subscribing = Subscribing(
                    self._topics,
                    session,
                    names,
                    self._reports,
                    self._apply_subscription,
                )
                task_status.started()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._subscribing.watch)
                    await trio.to_thread.run_sync(
                        feeder.run, abandon_on_cancel=True, limiter=limiter
                    )
                    nursery.cancel_scope.cancel()
            if self._closing.cancelled_caught:
                logger.warning(
                    "closing took longer than close_timeout=%g s: left to its own thread",
                    session.close_timeout,
                )
        finally:
            self._close()

    def fetch(self, count: int) -> None:
        """See `KafkaClient.fetch`."""
        count = min(count, MAX_FETCH)
        self._commands.put(lambda feeder: feeder.fetch(count))

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """See `KafkaClient.pause`."""
        meant = self._told_of(partitions)
        self._commands.put(lambda feeder: feeder.pause(feeder.still(meant)))

    def resume(self, positions: Mapping[TopicPartition, int | None]) -> None:
        """See `KafkaClient.resume`."""
        copy, meant = dict(positions), self._told_of(positions)
        self._commands.put(
            lambda feeder: feeder.resume({place: copy[place] for place in feeder.still(meant)})
        )

    def _told_of(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {} if self._events is None else self._events.epochs_of(partitions)

    async def commit(self, offsets: Sequence[OffsetCommit]) -> Sequence[OffsetCommit]:
        """See `KafkaClient.commit`. One that is cancelled before it was sent is not sent."""
        waiter: Waiter[Sequence[OffsetCommit]] = Waiter()
        commit = Commit(tuple(offsets), partial(self._post, waiter.settle))
        self._check_open()
        self._commands.put(lambda feeder: feeder.commit(commit))
        try:
            return await self._wait(waiter)
        finally:
            commit.wanted = False

    def release(
        self,
        partitions: Sequence[AssignedPartition],
        offsets: Sequence[OffsetCommit],
        answered: Answered | None = None,
    ) -> None:
        """See `KafkaClient.release`."""
        self._commands.put(lambda feeder: feeder.release(partitions, offsets, answered))

    def wall_time(self) -> float:
        """See `KafkaClient.wall_time`."""
        return time.time()

    def since_poll(self) -> float:
        """See `KafkaClient.since_poll`."""
        return 0.0 if self._feeder is None else time.monotonic() - self._feeder.polled_at

    @property
    def topics(self) -> Sequence[str]:
        """See `KafkaClient.topics`."""
        return () if self._subscribing is None else self._subscribing.topics

    async def subscribe(self, topics: Sequence[str]) -> None:
        """See `KafkaClient.subscribe`."""
        self._check_open()
        if self._subscribing is None:
            raise RuntimeError("the client does not run yet")
        try:
            await self._subscribing.subscribe(topics)
        except KafkaFailure:
            self._check_open()
            raise

    def producer(self, output: Output) -> ConfluentProducer | TransactionalProducer:
        """See `KafkaClient.producer`."""
        keys = producer_keys(self._config, output)
        if output.transactional_id is None:
            return ConfluentProducer(self._config, keys, output, self._close_timeout)
        return TransactionalProducer(
            self._config,
            keys,
            output,
            self._group_metadata,
            open_timeout=self._open_timeout,
            close_timeout=self._close_timeout,
        )

    async def _group_metadata(
        self, offsets: Sequence[OffsetCommit]
    ) -> tuple[object, Sequence[OffsetCommit]]:
        """The group's metadata, and which of `offsets` are of live epochs, of one moment."""
        waiter: Waiter[tuple[object, Sequence[OffsetCommit]]] = Waiter()

        def look(consumer: Consumer, partitions: Partitions) -> None:
            metadata = consumer.consumer_group_metadata()
            # Where a classic membership has just ended, of which nothing was told here yet,
            # they have no member id, and the broker takes such ones unseen.
            live = partitions.live(offsets) if consumer.memberid() else ()
            self._post(waiter.settle, (metadata, live))

        self._check_open()
        self._commands.put(lambda feeder: feeder.ask(look))
        return await self._wait(waiter)

    def stop(self) -> None:
        """See `KafkaClient.stop`."""
        if not self._stopped:
            self._stopped = True
            self._closing.deadline = trio.current_time() + self._close_timeout
            self._commands.put(Feeder.stop)

    async def _connect(
        self, events: ClientEvents, session: Session, limiter: trio.CapacityLimiter
    ) -> tuple[Feeder, list[str]] | None:
        # The thread keeps the time, but one call of librdkafka does not let it: with an
        # oauth_cb a consumer is made in up to 10 s.
        with trio.move_on_after(session.open_timeout + 1):
            return await trio.to_thread.run_sync(
                self._open, events, session, abandon_on_cancel=True, limiter=limiter
            )
        cause = self._reports.token_error
        why = "" if cause is None else f": the oauth_cb gave no token: {cause}"
        raise KafkaFailure(
            self._config.hide(
                f"connecting to {self._config.address} took longer than"
                f" open_timeout={session.open_timeout:g} s{why}"
            ),
            code="_TIMED_OUT" if cause is None else "_AUTHENTICATION",
            retriable=True,
        ) from cause

    # -- in the thread

    def _open(self, events: ClientEvents, session: Session) -> tuple[Feeder, list[str]] | None:
        opening = Opening(
            self._config,
            session,
            self._reports,
            self._topics,
            lambda: self._stopped or self._closed,
        )
        on_commit = self._reports.guard(self._on_commit, None)
        consumer = opening.consumer(on_commit=on_commit)
        if consumer is None:
            return None
        feeder = Feeder(
            consumer,
            self._commands,
            session,
            opening.names,
            events,
            self._reports,
            self._post,
            self._topics.ids,
            first_offset=self._config.first_offset,
            classic=self._config.classic,
        )
        return feeder, opening.names

    def _on_commit(self, error: object, partitions: object) -> None:
        if self._feeder is not None:
            self._feeder.on_commit(error, partitions)

    def _is_running(self) -> bool:
        return self._feeder is not None

    def _fail(self, error: BaseException) -> None:
        # What happens while opening is raised by `run`.
        if self._feeder is not None and self._events is not None:
            self._post(self._events.failed, error)

    def _post(self, function: Callable[..., None], *args: object) -> bool:
        """Call `function` in trio's thread, soon and in order; False if trio has ended."""
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._call, function, args)
        except trio.RunFinishedError:
            return False
        return True

    # -- in trio's thread

    def _call(self, function: Callable[..., None], args: tuple[object, ...]) -> None:
        if self._closed:
            return
        try:
            function(*args)
        except BaseException as error:
            # Out of here it would be a TrioInternalError.
            logger.exception("%r raised", function)
            if self._events is not None and function != self._events.failed:
                self._call(self._events.failed, (error,))

    async def _apply_subscription(self, names: Sequence[str]) -> None:
        waiter: Waiter[None] = Waiter()
        answer = partial(self._post, waiter.settle)
        self._commands.put(lambda feeder: feeder.subscribe((names, answer)))
        await self._wait(waiter)

    def _close(self) -> None:
        """Nothing is reported from here on; a thread that was abandoned ends by itself."""
        self._closed = True
        self._commands.put(Feeder.stop)
        for waiter in self._waiters:
            waiter.settle(trio.ClosedResourceError("the client was closed"))
        self._admin.close()
