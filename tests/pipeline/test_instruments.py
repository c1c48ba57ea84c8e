"""What instruments are told of a pipeline: which events, in which order, and when."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests._diary import Diary
from trio_broadway_kafka import (
    Batch,
    Batcher,
    Instrument,
    KafkaFailure,
    Message,
    Pipeline,
    Skip,
    Stages,
    Stop,
    open_pipeline,
    run_pipeline,
)
from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka.testing import FakeBroker

Handle = Callable[[Message], Awaitable[None]]

EVENTS = [name for name in vars(Instrument) if not name.startswith("_")]


def broker_of(messages: int, *, partitions: int = 1) -> FakeBroker:
    # With inf no command waits for a poll to end: the times are the pipeline's own.
    broker = FakeBroker(topics={"t": partitions}, poll_interval=math.inf)
    for index in range(messages):
        broker.produce("t", b"12345", partition=index % partitions)
    return broker


def sleeping(seconds: float) -> Handle:
    async def handle(message: Message) -> None:
        await trio.sleep(seconds)

    return handle


async def nothing(message: Message) -> None: ...


async def odd_ones_fail(message: Message) -> None:
    await trio.sleep(1)
    if message.offset % 2:
        raise LookupError(f"{message.offset} is odd")


# Opening and closing


async def test_the_first_call_tells_of_the_opening_and_the_last_one_of_the_closing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_of(2)
    diary = Diary()
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        name="orders",
        stages=Stages(handle_message=sleeping(1), ordering="partition"),
        instruments=[diary],
        commit_interval=math.inf,
    ):
        await trio.sleep(1.5)
    assert diary.pipelines == {"orders"}
    assert diary.lines == [
        (0, "opened", ()),
        (0, "assigned", ("t/0", 1, None)),
        (0, "received", ("t/0", 2, 10, 0, 1)),
        (1, "processed", ((0, 1, None),)),
        (2, "processed", ((1, 1, None),)),
        (2, "committed", ({("t", 0): 2}, 0)),
        (2, "closed", (None, 0)),
    ]


async def test_a_drain_that_leaves_work_closes_without_an_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    diary = Diary()
    async with open_pipeline(
        client=broker_of(5).client(),
        topics=["t"],
        stages=Stages(handle_message=sleeping(100), ordering="unordered", concurrency=3),
        instruments=[diary],
        drain_timeout=2,
    ):
        await trio.sleep(1)
    # What had not started was left to Kafka, and is not counted; nothing was processed.
    assert diary.of("closed", "processed") == [(3.0, "closed", (None, 3))]


async def test_closing_tells_what_leaves_the_block(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def closed(stages: Stages, error: BaseException | None = None) -> list[object]:
        diary = Diary()
        opened = open_pipeline(
            client=broker_of(2).client(), topics=["t"], stages=stages, instruments=[diary]
        )
        try:
            with trio.move_on_after(5):
                async with opened:
                    await trio.sleep(3.5)
                    if error is not None:
                        raise error
                    await trio.sleep_forever()
        except* (LookupError, KeyError):
            pass
        return diary.told("closed")

    slow = Stages(handle_message=sleeping(10), ordering="partition")
    failing = Stages(handle_message=odd_ones_fail, ordering="partition")
    assert await closed(slow, KeyError()) == [("KeyError", 1)]
    assert await closed(failing) == [("LookupError", 1)]
    assert await closed(slow) == [("Cancelled", 1)]


async def test_a_pipeline_that_can_not_be_opened_tells_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_of(0)
    diary = Diary()
    with pytest.RaisesGroup(KafkaFailure):
        async with open_pipeline(
            client=broker.client(),
            topics=["missing"],
            stages=Stages(handle_message=nothing),
            instruments=[diary],
        ):
            pass
    assert diary.lines == []


async def test_run_pipeline_tells_the_same(autojump_clock: trio.testing.MockClock) -> None:
    diary = Diary()

    async def handle(message: Message) -> None:
        if message.offset == 2:
            signal.raise_signal(signal.SIGTERM)
        await trio.sleep(1)

    await run_pipeline(
        client=broker_of(5).client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="partition"),
        instruments=[diary],
        commit_interval=math.inf,
    )
    assert diary.lines == [
        (0, "opened", ()),
        (0, "assigned", ("t/0", 1, None)),
        (0, "received", ("t/0", 5, 25, 0, 4)),
        (1, "processed", ((0, 1, None),)),
        (2, "processed", ((1, 1, None),)),
        (3, "processed", ((2, 1, None),)),
        (3, "committed", ({("t", 0): 3}, 0)),
        (3, "closed", (None, 0)),
    ]


# Partitions


async def test_a_revoke_tells_how_long_it_drained_and_what_it_cut_off_and_then_the_commit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_of(4, partitions=2)
    client = broker.client()
    diary = Diary()

    async def handle(message: Message) -> None:
        await trio.sleep(1 if message.offset == 0 else 100)

    async with open_pipeline(
        client=client,
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="partition"),
        instruments=[diary],
        revoke_timeout=3,
        drain_timeout=0,
        commit_interval=math.inf,
    ):
        await trio.sleep(2)
        broker.rebalance(client, [("t", 1)])
        await trio.sleep(7)
    since = 2 + 3
    assert diary.of("assigned", "revoked", "committed", "closed") == [
        (0, "assigned", ("t/0", 1, None)),
        (0, "assigned", ("t/1", 2, None)),
        (since, "revoked", ("t/1", 2, 1, 3)),
        (since, "committed", ({("t", 1): 1}, 0)),
        (since, "assigned", ("t/1", 3, 1)),
        (9, "committed", ({("t", 0): 1}, 0)),
        (9, "closed", (None, 2)),
    ]


async def test_a_revoke_whose_commit_is_refused_tells_that(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_of(1)
    client = broker.client()
    diary = Diary()
    async with open_pipeline(
        client=client,
        topics=["t"],
        stages=Stages(handle_message=nothing),
        instruments=[diary],
        commit_interval=math.inf,
    ):
        await trio.sleep(1)
        broker.fail_next("commit", "ILLEGAL_GENERATION")
        broker.rebalance(client)
        await trio.sleep(1)
        assert diary.of("revoked", "refused") == [
            (1, "revoked", ("t/0", 1, 0, 0)),
            (1, "refused", ({("t", 0): 1}, "ILLEGAL_GENERATION", True, 0)),
        ]


async def test_a_loss_tells_how_many_messages_were_cut_off(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_of(6)
    client = broker.client()
    diary = Diary()

    async def handle(message: Message) -> None:
        await trio.sleep(0 if message.offset == 0 else 100)

    async with open_pipeline(
        client=client,
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="unordered", concurrency=2),
        instruments=[diary],
        commit_interval=math.inf,
        drain_timeout=0,
    ):
        await trio.sleep(1)
        broker.lose(client)
        await trio.sleep(1)
    assert diary.of("assigned", "revoked", "lost")[:3] == [
        (0, "assigned", ("t/0", 1, None)),
        (1, "lost", ("t/0", 1, 2, 0)),
        (1, "assigned", ("t/0", 2, None)),
    ]


async def test_partitions_with_stages_of_their_own_tell_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_of(4, partitions=2)
    client = broker.client()
    diary = Diary()

    async def handle_batch(batch: Batch) -> None:
        await trio.sleep(0.5)

    default = Batcher(handle_batch=handle_batch, timeout=10)

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        batchers = {"default": default} if partition else {}
        yield Stages(
            handle_message=odd_ones_fail,
            batchers=batchers,
            ordering="partition",
            on_failure=Skip(),
        )
        await trio.sleep(0.25)

    async with open_pipeline(
        client=client,
        topics=["t"],
        stages=stages,
        instruments=[diary],
        commit_interval=math.inf,
    ):
        await trio.sleep(1.5)
        broker.rebalance(client, [("t", 1)])
        await trio.sleep(3)
    assert diary.told("failed") == [(1, "LookupError", "Skip", "handle_message")] * 2
    lists: list[Any] = diary.told("processed")
    assert sorted(line[0] for told in lists for line in told) == [0, 0, 1, 1]
    assert diary.of("batch", "revoked", "committed", "closed") == [
        (2.5, "batch", ("default", "revoke", 1, 0.5, 0)),
        (2.75, "revoked", ("t/1", 2, 0, 1.25)),
        (2.75, "committed", ({("t", 1): 2}, 0)),
        (4.75, "committed", ({("t", 0): 2}, 0)),
        (4.75, "closed", (None, 0)),
    ]


# Messages


async def test_what_arrives_together_of_a_partition_is_one_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker(topics={"t": 2}, poll_interval=math.inf)
    diary = Diary()
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=nothing),
        instruments=[diary],
    ):
        await trio.sleep(1)
        broker.produce("t", b"1", None, b"4444", partition=0)
        broker.gap("t", 1, 3)
        broker.produce("t", b"22", partition=1)
        await trio.sleep(1)
    assert sorted(diary.of("received")) == [  # which comes first is the client's affair
        (1, "received", ("t/0", 3, 5, 0, 2)),
        (1, "received", ("t/1", 1, 2, 3, 3)),
    ]


async def test_handlers_that_do_not_wait_are_told_as_one_list(
    autojump_clock: trio.testing.MockClock,
) -> None:
    diary = Diary()

    async def handle(message: Message) -> None:
        if message.offset == 30:
            await trio.sleep(7)

    async with open_pipeline(
        client=broker_of(40).client(),
        topics=["t"],
        stages=Stages(handle_message=handle, ordering="partition"),
        instruments=[diary],
    ):
        await trio.sleep(20)
    lists: list[Any] = diary.of("processed")
    assert [offset for _, _, told in lists for offset, *_ in told] == [*range(40)]
    assert {time for time, _, told in lists if told[0][0] < 30} == {0}
    # The one that waits holds nothing up, and is itself told at once.
    assert next(time for time, _, told in lists if told[0][0] >= 30) == 7
    assert [line for _, _, told in lists for line in told][30] == (30, 7, None)
    assert len(lists) <= 10


@pytest.mark.parametrize("ordering", ["key", "partition", "unordered"])
async def test_each_message_is_told_when_its_handler_ends_with_what_it_took(
    autojump_clock: trio.testing.MockClock, ordering: Any
) -> None:
    diary = Diary()
    async with open_pipeline(
        client=broker_of(3).client(),
        topics=["t"],
        stages=Stages(handle_message=odd_ones_fail, ordering=ordering, on_failure=Skip()),
        instruments=[diary],
    ):
        await trio.sleep(10)
    failed = (1, "LookupError", "Skip", "handle_message")
    told: list[Any] = diary.of("processed", "failed")
    if ordering == "unordered":
        assert {time for time, _, _ in told} == {1}
        assert sorted(
            one for _, event, told in told if event == "processed" for one in told
        ) == [
            (0, 1, None),
            (1, 1, "LookupError"),
            (2, 1, None),
        ]
        assert diary.told("failed") == [failed]
    else:
        assert told == [
            (1, "processed", ((0, 1, None),)),
            (2, "processed", ((1, 1, "LookupError"),)),
            (2, "failed", failed),
            (3, "processed", ((2, 1, None),)),
        ]


async def test_a_handler_that_fails_as_it_is_cut_off_is_not_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_of(2, partitions=2)
    client = broker.client()
    diary = Diary()

    async def handle(message: Message) -> None:
        try:
            await trio.sleep(100)
        except trio.Cancelled:
            if message.partition == 0:
                raise ValueError("instead") from None
            raise

    async with open_pipeline(
        client=client,
        topics=["t"],
        stages=Stages(handle_message=handle),
        instruments=[diary],
        revoke_timeout=1,
        drain_timeout=0,
    ):
        await trio.sleep(1)
        broker.rebalance(client)
        await trio.sleep(2)
    assert diary.told("processed", "failed") == []


async def fail(message: Message) -> None:
    message.fail(LookupError())


async def fail_all(batch: Batch) -> None:
    raise LookupError


async def fail_the_last(messages: list[Message]) -> None:
    messages[-1].fail(LookupError())


async def send_to_nowhere(message: Message) -> None:
    message.batcher = "nowhere"


def raising(message: Message) -> float:
    raise LookupError


FAILING: dict[str, tuple[dict[str, Any], str, list[int]]] = {
    "it was failed while it was prepared": (
        {"prepare_messages": fail_the_last},
        "prepare_messages",
        [1],
    ),
    "its handler failed it": ({"handle_message": fail}, "handle_message", [0, 1]),
    "its handler raised": ({"handle_message": odd_ones_fail}, "handle_message", [1]),
    "its lane could not be found": (
        {"handle_message": nothing, "ordering": raising},
        "handle_message",
        [0, 1],
    ),
    "there is no such batcher": (
        {
            "handle_message": send_to_nowhere,
            "batchers": {"default": Batcher(handle_batch=fail_all)},
        },
        "handle_message",
        [0, 1],
    ),
    "its batch raised": (
        {"batchers": {"default": Batcher(handle_batch=fail_all, size=2)}},
        "handle_batch",
        [0, 1],
    ),
    "it could not be weighed": (
        {"batchers": {"default": Batcher(handle_batch=fail_all, weigh=raising)}},
        "handle_batch",
        [0, 1],
    ),
}


@pytest.mark.parametrize("why", FAILING)
@pytest.mark.parametrize("policy", [Skip(), Stop()])
async def test_a_failure_is_told_with_its_policy_and_its_stage(
    autojump_clock: trio.testing.MockClock, policy: Skip | Stop, why: str
) -> None:
    options, stage, offsets = FAILING[why]
    diary = Diary()
    given: dict[str, Any] = {"ordering": "partition"} | options
    stages = Stages(**given, on_failure=lambda _: policy)
    try:
        async with open_pipeline(
            client=broker_of(2).client(), topics=["t"], stages=stages, instruments=[diary]
        ):
            await trio.sleep(10)
    except* Exception:
        assert policy == Stop()
        if why != "its batch raised":  # all of a batch have failed by then
            offsets = offsets[:1]
    kind = "MessageFailed" if why == "there is no such batcher" else "LookupError"
    chosen = type(policy).__name__
    assert diary.told("failed") == [(offset, kind, chosen, stage) for offset in offsets]


# Batches


async def test_a_batch_is_told_with_its_trigger_its_duration_and_how_many_failed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    diary = Diary()

    async def handle_batch(batch: Batch) -> None:
        await trio.sleep(0.5)
        for message in batch:
            if message.offset == 1:
                message.fail("no")
            if message.offset == 4:
                raise LookupError

    stages = Stages(
        batchers={"default": Batcher(handle_batch=handle_batch, size=3, timeout=2)},
        on_failure=Skip(),
    )
    async with open_pipeline(
        client=broker_of(5).client(), topics=["t"], stages=stages, instruments=[diary]
    ):
        await trio.sleep(10)
    assert diary.of("batch", "failed", "processed") == [
        (0.5, "batch", ("default", "size", 3, 0.5, 1)),
        (0.5, "failed", (1, "MessageFailed", "Skip", "handle_batch")),
        (2.5, "batch", ("default", "timeout", 2, 0.5, 2)),
        (2.5, "failed", (3, "LookupError", "Skip", "handle_batch")),
        (2.5, "failed", (4, "LookupError", "Skip", "handle_batch")),
    ]


async def test_a_message_that_fails_in_its_batch_was_processed_well_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    diary = Diary()

    async def handle_batch(batch: Batch) -> None:
        for message in batch:
            message.fail("no")

    stages = Stages(
        handle_message=nothing,
        batchers={"default": Batcher(handle_batch=handle_batch, size=1)},
        on_failure=Skip(),
    )
    async with open_pipeline(
        client=broker_of(50).client(), topics=["t"], stages=stages, instruments=[diary]
    ):
        await trio.sleep(10)
    lists: list[Any] = diary.told("processed")
    assert [line for told in lists for line in told] == [(n, 0, None) for n in range(50)]
    assert len(diary.told("batch")) == len(diary.told("failed")) == 50


@pytest.mark.parametrize("instead", [None, ValueError("instead")])
async def test_a_batch_that_is_cut_off_is_not_told(
    autojump_clock: trio.testing.MockClock, instead: Exception | None
) -> None:
    diary = Diary()

    async def handle_batch(batch: Batch) -> None:
        try:
            await trio.sleep(100)
        except trio.Cancelled:
            if instead is not None:
                raise instead from None
            raise

    stages = Stages(batchers={"default": Batcher(handle_batch=handle_batch, size=2)})
    async with open_pipeline(
        client=broker_of(2).client(),
        topics=["t"],
        stages=stages,
        instruments=[diary],
        drain_timeout=1,
    ):
        await trio.sleep(1)
    assert diary.of("batch", "failed", "closed") == [(2, "closed", (None, 2))]


# Commits


async def test_a_commit_is_told_once_kafka_has_answered_with_how_long_that_took(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_of(3, partitions=2)
    broker.commit_delay = 0.25
    diary = Diary()
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=nothing),
        instruments=[diary],
        commit_interval=2,
    ):
        await trio.sleep(5)
    assert diary.of("committed", "refused") == [
        (2.25, "committed", ({("t", 0): 2, ("t", 1): 1}, 0.25))
    ]


async def test_each_try_of_a_commit_that_is_refused_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_of(1)
    broker.fail_next("commit", "COORDINATOR_NOT_AVAILABLE", times=2)
    diary = Diary()
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=nothing),
        instruments=[diary],
        commit_interval=2,
    ):
        await trio.sleep(5)
    refused = ({("t", 0): 1}, "COORDINATOR_NOT_AVAILABLE", True, 0)
    assert diary.of("committed", "refused") == [
        (2, "refused", refused),
        (2.1, "refused", refused),
        (2.2, "committed", ({("t", 0): 1}, 0)),
    ]


async def test_a_commit_refused_for_good_is_told_before_it_ends_the_pipeline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_of(1)
    broker.fail_next("commit", "GROUP_AUTHORIZATION_FAILED", times=2)
    diary = Diary()
    with pytest.RaisesGroup(KafkaFailure):
        async with open_pipeline(
            client=broker.client(),
            topics=["t"],
            stages=Stages(handle_message=nothing),
            instruments=[diary],
            commit_interval=2,
        ):
            await trio.sleep_forever()
    refused = ({("t", 0): 1}, "GROUP_AUTHORIZATION_FAILED", False, 0)
    assert diary.of("committed", "refused", "closed") == [
        (2, "refused", refused),
        (2, "refused", refused),  # the last one, on leaving
        (2, "closed", ("KafkaFailure", 0)),
    ]


async def test_a_commit_that_is_not_answered_is_told_as_timed_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_of(1)
    broker.commit_delay = math.inf
    diary = Diary()
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=nothing),
        instruments=[diary],
        commit_interval=2,
    ):
        await trio.sleep(40)
        broker.commit_delay = 0
        await trio.sleep(1)
        assert diary.of("committed", "refused")[0] == (
            32,
            "refused",
            ({("t", 0): 1}, "_TIMED_OUT", True, 30),
        )


async def test_tries_that_were_told_as_refused_are_not_told_as_timed_out_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = broker_of(1)
    broker.fail_next("commit", "COORDINATOR_NOT_AVAILABLE", times=400)
    diary = Diary()
    async with open_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=nothing),
        instruments=[diary],
        commit_interval=2,
    ):
        await trio.sleep(50)
    refused: list[Any] = diary.told("refused")
    assert {code for _, code, *_ in refused} == {"COORDINATOR_NOT_AVAILABLE"}
    assert len(refused) == 400
    assert diary.told("committed") == [({("t", 0): 1}, 0)]


async def test_an_answer_that_comes_after_the_closing_is_not_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    diary = Diary()
    async with open_pipeline(
        client=broker_of(0).client(),
        topics=["t"],
        stages=Stages(handle_message=nothing),
        instruments=[diary],
    ) as pipeline:
        await trio.sleep(1)
    assert pipeline._told is not None
    pipeline._told.committed([OffsetCommit("t", 0, 1, 1)], 1.0)
    assert diary.told("committed") == []
    assert diary.lines[-1][1] == "closed"


# The instruments themselves


async def test_several_are_told_in_the_order_in_which_they_were_given(
    autojump_clock: trio.testing.MockClock,
) -> None:
    told: list[str] = []

    class Named(Instrument):
        def __init__(self, name: str) -> None:
            self.name = name

        def pipeline_opened(self, pipeline: Pipeline) -> None:
            told.append(self.name)

    async with open_pipeline(
        client=broker_of(0).client(),
        topics=["t"],
        stages=Stages(handle_message=nothing),
        instruments=(Named(name) for name in "abc"),
    ):
        pass
    assert told == ["a", "b", "c"]


def raising_in(event: str, error: BaseException) -> Instrument:
    def tell(*args: object, **figures: object) -> None:
        raise error

    instrument = type("Broken", (Diary,), {})()
    setattr(instrument, event, tell)
    return instrument


@pytest.mark.parametrize("event", [name for name in EVENTS if name != "commit_failed"])
async def test_one_that_raises_is_logged_once_and_told_nothing_more_and_nothing_else_is_lost(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, event: str
) -> None:
    broken = raising_in(event, ZeroDivisionError("broken"))
    before, after = Diary(), Diary()
    broker = broker_of(6)
    client = broker.client()

    async def handle_batch(batch: Batch) -> None:
        await trio.sleep(0.5)

    stages = Stages(
        handle_message=odd_ones_fail,
        batchers={"default": Batcher(handle_batch=handle_batch, size=2)},
        ordering="partition",
        on_failure=Skip(),
    )
    async with open_pipeline(
        client=client,
        topics=["t"],
        name="orders",
        stages=stages,
        instruments=[before, broken, after],
    ):
        await trio.sleep(10)
        broker.rebalance(client)
        await trio.sleep(1)
    assert broker.committed("t", 0) == 6
    assert before.lines == after.lines
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.getMessage() == (
        f"orders: the instrument Broken raised in {event} and is told nothing more"
    )
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)
    assert isinstance(broken, Diary)
    shortened = [line for line in broken.lines if line in before.lines]
    assert broken.lines == shortened
    assert len(broken.lines) < len(before.lines)


@pytest.mark.parametrize("event", [name for name in EVENTS if name != "commit_failed"])
async def test_what_is_no_exception_leaves_the_block(
    autojump_clock: trio.testing.MockClock, event: str
) -> None:
    class Unheard(BaseException):
        pass

    broker = broker_of(6)
    client = broker.client()

    async def handle_batch(batch: Batch) -> None: ...

    stages = Stages(
        handle_message=odd_ones_fail,
        batchers={"default": Batcher(handle_batch=handle_batch, size=2)},
        ordering="partition",
        on_failure=Skip(),
    )
    with pytest.RaisesGroup(Unheard, allow_unwrapped=True, flatten_subgroups=True):
        async with open_pipeline(
            client=client,
            topics=["t"],
            stages=stages,
            instruments=[raising_in(event, Unheard())],
        ):
            await trio.sleep(10)
            broker.rebalance(client)
            await trio.sleep(1)


async def test_what_no_instrument_wants_to_know_costs_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def handle_batch(batch: Batch) -> None: ...

    class Opened(Instrument):
        def pipeline_opened(self, pipeline: Pipeline) -> None: ...

    stages = Stages(
        handle_message=nothing, batchers={"default": Batcher(handle_batch=handle_batch)}
    )
    for instruments in ([], [Opened()]):
        async with open_pipeline(
            client=broker_of(0).client(), topics=["t"], stages=stages, instruments=instruments
        ) as pipeline:
            assignment: Any = pipeline._assignment
            assert assignment.processors.handle is nothing
            assert assignment.batchers.stages["default"].handle is handle_batch


async def test_the_pipeline_is_at_hand_and_knows_what_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen: list[tuple[str, object]] = []

    class Looking(Instrument):
        def pipeline_opened(self, pipeline: Pipeline) -> None:
            seen.append(("opened", pipeline.topology().state))

        def messages_received(self, pipeline: Pipeline, *_: object, **__: object) -> None:
            seen.append(("received", pipeline.statistics().received))

        def committed(self, pipeline: Pipeline, *_: object, **__: object) -> None:
            seen.append(("committed", pipeline.statistics().partitions[0].committed))

        def pipeline_closed(self, pipeline: Pipeline, **_: object) -> None:
            seen.append(("closed", pipeline.topology().state))

    async with open_pipeline(
        client=broker_of(3).client(),
        topics=["t"],
        stages=Stages(handle_message=nothing),
        instruments=[Looking()],
    ):
        await trio.sleep(3)
    assert seen == [("opened", "open"), ("received", 3), ("committed", 3), ("closed", "closed")]
