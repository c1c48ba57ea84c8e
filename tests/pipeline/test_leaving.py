"""Leaving the block: a drain, or a cancellation; what is committed is what was finished."""

from __future__ import annotations

import logging
import math

import pytest
import trio
import trio.testing

from trio_broadway_kafka import Message, Pipeline, Skip, Stages, open_pipeline
from trio_broadway_kafka._kafka._client import ClientEvents, Session, TopicPartition
from trio_broadway_kafka._model._partition_lanes import PartitionLanes
from trio_broadway_kafka.testing import FakeBroker
from trio_broadway_kafka.testing._fake_client import FakeClient


def _broker(*, messages: int = 0, partitions: int = 1) -> FakeBroker:
    broker = FakeBroker(topics={"t": partitions})
    for index in range(messages):
        broker.produce("t", b"v%d" % index, key=b"k%d" % index, partition=index % partitions)
    return broker


async def _nothing(message: Message) -> None: ...


async def test_leaving_finishes_what_has_started_and_leaves_the_rest_to_kafka(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(messages=100)
    started: list[int] = []
    finished: list[int] = []

    async def handle(message: Message) -> None:
        started.append(message.offset)
        await trio.sleep(10)
        finished.append(message.offset)

    stages = Stages(handle_message=handle, concurrency=5)
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await trio.sleep(3)
        leaving_at = trio.current_time()
    assert sorted(started) == sorted(finished) == [0, 1, 2, 3, 4]
    assert broker.committed("t", 0) == 5
    # The handlers' remaining 7 s, the last commit in the poll under way, and no more.
    assert trio.current_time() - leaving_at <= 7.2


async def test_a_cancellation_at_the_moment_of_joining_ends_the_pipeline() -> None:
    scope = trio.CancelScope()

    class CancelledAsItStarts(FakeClient):
        async def run(
            self,
            events: ClientEvents,
            session: Session,
            *,
            task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
        ) -> None:
            class Status:
                def started(self, value: None = None) -> None:
                    scope.cancel()
                    task_status.started(value)

            await super().run(events, session, task_status=Status())

    broker = _broker()
    client = CancelledAsItStarts(broker._cluster, group="pipeline", name="client")
    with trio.fail_after(5), scope:
        async with open_pipeline(
            client=client, topics=["t"], stages=Stages(handle_message=_nothing)
        ):
            pytest.fail("it was cancelled")
    assert scope.cancelled_caught


async def test_a_revoke_at_the_moment_of_closing_does_not_hold_it_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class RevokedAsItCloses(FakeClient):
        def _close(self) -> None:
            self._events.revoking(self._reader.assigned([TopicPartition("t", 0)]))
            super()._close()

    stages = Stages(handle_message=_nothing)
    for number in range(20):  # which of two tasks trio runs first is left to chance
        client = RevokedAsItCloses(_broker()._cluster, group="pipeline", name=f"{number}")
        with trio.fail_after(5):
            async with open_pipeline(client=client, topics=["t"], stages=stages) as pipeline:
                await pipeline.wait_assigned()
                # What waits for ever is shielded: only the test can end it.
                pipeline._nursery.start_soon(_expect_no_revokes, pipeline)


async def _expect_no_revokes(pipeline: Pipeline) -> None:
    """Fail, and end them, if there are any when all is closed."""
    with trio.CancelScope(shield=True):
        await pipeline._state.wait_value("closed")
        await trio.sleep(1)
        for revoke in [*pipeline._listener._revokes]:
            revoke.cancel()
            pytest.fail("a revoke was left")


async def test_a_second_pipeline_goes_on_exactly_where_the_first_one_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(messages=100, partitions=3)
    handled: list[tuple[int, int]] = []

    async def handle(message: Message) -> None:
        await trio.sleep(0.05)
        handled.append((message.partition, message.offset))

    for _ in range(20):
        stages = Stages(handle_message=handle, concurrency=4)
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep(0.17)
    assert len(handled) == 100
    assert set(handled) == {(m.partition(), m.offset()) for m in broker.records("t")}


async def test_after_the_drain_timeout_handlers_are_cancelled_and_nothing_is_raised(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(messages=3)

    async def handle(message: Message) -> None:
        await trio.sleep(0 if message.offset == 0 else math.inf)

    stages = Stages(handle_message=handle)
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=stages, drain_timeout=4
    ):
        await trio.sleep(1)
    assert 5.0 <= trio.current_time() <= 5.3
    assert broker.committed("t", 0) == 1


async def test_an_exception_in_the_block_cancels_handlers_at_once_and_commits_what_is_done(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(messages=10)
    cancelled: list[int] = []

    async def handle(message: Message) -> None:
        if message.offset < 4:
            return
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(message.offset)
            raise

    stages = Stages(handle_message=handle, ordering="unordered", concurrency=3)
    with pytest.RaisesGroup(pytest.RaisesExc(LookupError, match="^mine$")):
        async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
            await trio.sleep(1)
            raise LookupError("mine")
    assert sorted(cancelled) == [4, 5, 6]
    assert broker.committed("t", 0) == 4
    assert trio.current_time() <= 1.2


async def test_a_handlers_exception_leaves_the_block_with_a_note_and_is_not_acknowledged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(messages=10)
    handled: list[int] = []

    async def handle(message: Message) -> None:
        if message.offset == 6:
            raise ValueError("bad")
        handled.append(message.offset)

    with pytest.RaisesGroup(ValueError) as caught:
        async with open_pipeline(
            client=broker.client(),
            topics=["t"],
            stages=Stages(handle_message=handle, ordering="partition"),
        ):
            await trio.sleep_forever()
    (error,) = caught.value.exceptions
    assert error.__notes__ == ["while handling t/0@6 (attempt 1)"]
    assert handled == [0, 1, 2, 3, 4, 5]
    assert broker.committed("t", 0) == 6


async def test_a_fault_of_ours_as_it_ends_does_not_hold_the_block_open(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = _broker(messages=2)

    def drop(self: PartitionLanes, partition: object) -> None:
        monkeypatch.undo()
        raise LookupError("lanes are broken")

    async def fail(message: Message) -> None:
        monkeypatch.setattr(PartitionLanes, "drop", drop)
        raise ValueError("bad")

    with pytest.RaisesGroup(pytest.RaisesExc(LookupError), flatten_subgroups=True):
        async with open_pipeline(
            client=broker.client(),
            topics=["t"],
            stages=Stages(handle_message=fail, ordering="partition", concurrency=2),
        ):
            await trio.sleep_forever()
    assert trio.current_time() < 1


async def test_a_handlers_exception_and_the_blocks_own_leave_in_one_flat_group(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(messages=1)

    async def handle(message: Message) -> None:
        raise ValueError("the handler's")

    with pytest.RaisesGroup(ValueError, KeyError):
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
        ):
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("the block's")


async def test_a_skipped_message_is_logged_and_acknowledged(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = _broker(messages=5)

    async def handle(message: Message) -> None:
        if message.offset == 2:
            raise ValueError(f"bad: {message.value!r}")
        if message.offset == 3:
            message.fail("no good")

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, on_failure=Skip()),
    ) as pipeline:
        await pipeline.wait_assigned()
        await pipeline.wait_caught_up()
        statistics = pipeline.statistics()
    assert (statistics.received, statistics.succeeded) == (5, 3)
    assert (statistics.failed, statistics.skipped) == (2, 2)
    assert broker.committed("t", 0) == 5
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [
        "skipped <Message t/0@2>: ValueError",
        "skipped <Message t/0@3>: MessageFailed",
    ]


async def test_cancelling_the_block_commits_what_is_finished_and_nothing_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(messages=40)
    done: set[int] = set()

    async def handle(message: Message) -> None:
        await trio.sleep(1 + message.offset % 3)
        done.add(message.offset)

    with trio.move_on_after(5.5) as scope:
        async with open_pipeline(
            client=broker.client(),
            topics=["t"],
            stages=Stages(handle_message=handle, concurrency=4),
        ):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    prefix = next(offset for offset in range(41) if offset not in done)
    assert broker.committed("t", 0) == prefix > 0


async def test_work_that_a_shielded_handler_finishes_while_cancelled_is_acknowledged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(messages=2)

    async def handle(message: Message) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    with trio.move_on_after(1):
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
        ):
            await trio.sleep_forever()
    assert broker.committed("t", 0) == 2
    assert 5 <= trio.current_time() <= 5.2


async def test_a_handler_that_resists_holds_the_block_open_and_is_logged_every_10_s(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = _broker(messages=1)

    async def handle(message: Message) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(26)

    with trio.move_on_after(1):
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
        ):
            await trio.sleep_forever()
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "the handler of <Message t/0@0> goes on 10 s after it was cancelled",
        "the handler of <Message t/0@0> goes on 20 s after it was cancelled",
    ]


async def test_leaving_ends_by_the_close_timeout_when_the_broker_is_away(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = _broker(messages=5)

    async def handle(message: Message) -> None: ...

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle),
        commit_interval=math.inf,
        close_timeout=3,
    ) as pipeline:
        await pipeline.wait_assigned()
        await pipeline.wait_caught_up()
        broker.stop()
        left_at = trio.current_time()
    assert trio.current_time() - left_at == pytest.approx(3)
    assert broker.committed("t", 0) is None
    assert "the client is abandoned" in caplog.text


async def test_drain_counts_what_was_left_unfinished_and_the_pipeline_is_then_finished(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(messages=50)

    async def handle(message: Message) -> None:
        await trio.sleep(1 if message.offset < 2 else 100)

    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle, concurrency=5, ordering="unordered"),
    ) as pipeline:
        await trio.sleep(0.5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipeline.wait_finished)
            assert await pipeline.drain(timeout=2) == 3
        assert await pipeline.drain() == 3
        assert trio.current_time() == pytest.approx(2.5)
    assert broker.committed("t", 0) == 2


async def test_drain_inside_a_handler_raises_instead_of_waiting_for_itself(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker(messages=1)

    async def handle(message: Message) -> None:
        async with trio.open_nursery() as nursery:  # also from its own child tasks
            nursery.start_soon(pipeline.drain)

    with pytest.RaisesGroup(
        pytest.RaisesExc(RuntimeError, match="inside a handler"), flatten_subgroups=True
    ):
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
        ) as pipeline:
            await trio.sleep_forever()


async def test_calls_after_the_block_raise_closed_resource_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = _broker()

    async def handle(message: Message) -> None: ...

    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
    ) as pipeline:
        await pipeline.wait_assigned()
    for call in (pipeline.commit, pipeline.drain, pipeline.wait_caught_up):
        with pytest.raises(trio.ClosedResourceError):
            await call()
    with pytest.raises(trio.ClosedResourceError):
        pipeline.pause("t", 0)
    await pipeline.wait_finished()


async def test_no_task_of_ours_is_alive_after_the_block(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def tasks() -> int:
        root = trio.lowlevel.current_root_task()
        assert root is not None
        stack, count = [root], 0
        while stack:
            count += 1
            for nursery in stack.pop().child_nurseries:
                stack.extend(nursery.child_tasks)
        return count

    broker = _broker(messages=10)

    async def handle(message: Message) -> None:
        await trio.sleep(1)

    before = tasks()
    async with open_pipeline(
        client=broker.client(), topics=["t"], stages=Stages(handle_message=handle)
    ):
        await trio.sleep(0.5)
        assert tasks() > before
    assert tasks() == before
