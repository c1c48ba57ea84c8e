"""open_test_pipeline: the user's stages with no Kafka behind, one answer for each message."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_broadway_kafka import (
    Batch,
    Batcher,
    ConfigError,
    DeadLetter,
    Message,
    MessageFailed,
    Output,
    Pipeline,
    Skip,
    Stages,
    Stop,
)
from trio_broadway_kafka.instruments import Instrument
from trio_broadway_kafka.testing import Acks, TestPipeline, open_test_pipeline

LIMIT = 10  # seconds of the real clock, where it is used: nothing here takes one


async def parse(message: Message) -> None:
    message.data = int(message.value or b"none")


def values(messages: tuple[Message, ...]) -> list[bytes | None]:
    return [message.value for message in messages]


def collect(into: list[tuple[str, str, list[bytes | None]]], **options: Any) -> Batcher:
    """A batcher that notes its batches: name, trigger, values."""

    async def handle_batch(batch: Batch) -> None:
        into.append((batch.batcher, batch.trigger, values(batch.messages)))

    return Batcher(handle_batch=handle_batch, **options)


# What push answers


async def test_each_message_is_acknowledged_as_what_became_of_it_in_the_order_pushed(
    autojump_clock: MockClock,
) -> None:
    async with open_test_pipeline(stages=Stages(handle_message=parse)) as pipeline:
        acks = await pipeline.push(b"3", b"x", b"1", None, b"2")
        assert trio.current_time() == 0
    assert [message.data for message in acks.succeeded] == [3, 1, 2]
    assert values(acks.failed) == [b"x", None]
    assert {type(message.failure) for message in acks.failed} == {ValueError}
    assert [message.failure for message in acks.succeeded] == [None, None, None]
    assert acks == (acks.succeeded, acks.failed)


async def test_it_works_on_the_real_clock_too() -> None:
    with trio.fail_after(LIMIT):
        async with open_test_pipeline(stages=Stages(handle_message=parse)) as pipeline:
            for number in range(100):
                succeeded, failed = await pipeline.push(b"%d" % number)
                assert ([message.data for message in succeeded], failed) == ([number], ())


async def test_the_order_is_that_of_the_push_and_not_that_in_which_handlers_end(
    autojump_clock: MockClock,
) -> None:
    async def handle(message: Message) -> None:
        await trio.sleep(int(message.value or b""))
        if message.value in (b"1", b"4"):
            message.fail("no")

    stages = Stages(handle_message=handle, ordering="unordered")
    async with open_test_pipeline(stages=stages) as pipeline:
        succeeded, failed = await pipeline.push(b"5", b"4", b"3", b"2", b"1")
    assert trio.current_time() == 5
    assert (values(succeeded), values(failed)) == ([b"5", b"3", b"2"], [b"4", b"1"])


@pytest.mark.parametrize(
    ("ordering", "took"),
    [("unordered", 1), ("key", 2), ("partition", 4), (lambda message: message.value, 1)],
)
async def test_order_and_concurrency_are_those_of_the_stages(
    autojump_clock: MockClock, ordering: Any, took: int
) -> None:
    async def handle(message: Message) -> None:
        await trio.sleep(1)

    stages = Stages(handle_message=handle, ordering=ordering)
    async with open_test_pipeline(stages=stages) as pipeline, trio.open_nursery() as nursery:
        for key in (b"a", b"b"):
            nursery.start_soon(_push, pipeline, [b"0" + key, b"1" + key], key)
    assert trio.current_time() == took


async def _push(pipeline: TestPipeline, parts: list[bytes], key: bytes | None = None) -> Acks:
    return await pipeline.push(*parts, key=key)


async def test_handlers_see_what_was_pushed(autojump_clock: MockClock) -> None:
    await trio.sleep(2.5)
    topics = {"orders": 3, "payments": 1}
    async with open_test_pipeline(stages=Stages(), topics=topics) as pipeline:
        ((a,), _) = await pipeline.push(
            b"v",
            key=b"k",
            headers=[("h", b"1"), ("h", None)],
            topic="orders",
            partition=2,
            timestamp=1_700_000_000_000,
        )
        ((b,), _) = await pipeline.push(None, topic="payments")
    assert (a.topic, a.partition, a.offset, a.key, a.value) == ("orders", 2, 0, b"k", b"v")
    assert (a.headers, a.timestamp) == ([("h", b"1"), ("h", None)], 1_700_000_000_000)
    assert (b.topic, b.partition, b.offset, b.key, b.value) == ("payments", 0, 0, None, None)
    assert (b.headers, b.timestamp) == ([], 2500)


async def test_the_same_key_goes_to_the_same_partition_and_without_one_they_take_turns(
    autojump_clock: MockClock,
) -> None:
    async with open_test_pipeline(stages=Stages(), topics={"t": 4}) as pipeline:
        keyed, _ = await pipeline.push(b"0", b"1", b"2", key=b"k")
        others, _ = await pipeline.push(b"0", b"1", b"2", b"3")
    assert len({message.partition for message in keyed}) == 1
    assert [message.partition for message in others] == [0, 1, 2, 3]


async def test_nothing_pushed_is_nothing_acknowledged(autojump_clock: MockClock) -> None:
    async with open_test_pipeline(stages=Stages()) as pipeline:
        assert await pipeline.push() == Acks((), ())


# Batches


async def test_nothing_waits_for_a_batch_each_message_takes_its_own_along(
    autojump_clock: MockClock,
) -> None:
    seen: list[tuple[str, str, list[bytes | None]]] = []
    stages = Stages(handle_message=parse, batchers={"default": collect(seen, timeout=60)})
    async with open_test_pipeline(stages=stages) as pipeline:
        acks = await pipeline.push(b"1", b"2")
    assert trio.current_time() == 0
    assert values(acks.succeeded) == [b"1", b"2"]
    assert seen == [("default", "flush", [b"1"]), ("default", "flush", [b"2"])]


@pytest.mark.parametrize("handle", [parse, None])
@pytest.mark.parametrize("weigh", [None, lambda message: 1.0])
async def test_in_bulk_size_and_timeout_of_the_batcher_decide(
    autojump_clock: MockClock, handle: Any, weigh: Any
) -> None:
    seen: list[tuple[str, str, list[bytes | None]]] = []
    batcher = collect(seen, size=3, timeout=60, weigh=weigh)
    stages = Stages(handle_message=handle, batchers={"default": batcher})
    async with open_test_pipeline(stages=stages) as pipeline:
        acks = await pipeline.push(b"1", b"2", b"3", b"4", batch_mode="bulk")
        assert trio.current_time() == 60
    assert values(acks.succeeded) == [b"1", b"2", b"3", b"4"]
    expected = [("default", "size", [b"1", b"2", b"3"]), ("default", "timeout", [b"4"])]
    assert seen == expected


@pytest.mark.parametrize(("pushed", "assigned"), [("flush", "bulk"), ("bulk", "flush")])
async def test_what_the_handler_assigns_wins(
    autojump_clock: MockClock, pushed: Any, assigned: Any
) -> None:
    seen: list[tuple[str, str, list[bytes | None]]] = []

    async def handle(message: Message) -> None:
        assert message.batch_mode == pushed
        message.batch_mode = assigned

    stages = Stages(handle_message=handle, batchers={"default": collect(seen, timeout=7)})
    async with open_test_pipeline(stages=stages) as pipeline:
        await pipeline.push(b"1", batch_mode=pushed)
    assert trio.current_time() == (7 if assigned == "bulk" else 0)
    assert seen == [("default", {"bulk": "timeout"}.get(assigned, "flush"), [b"1"])]


async def test_batchers_and_keys_are_those_that_the_handler_chose(
    autojump_clock: MockClock,
) -> None:
    seen: list[tuple[str, str, list[bytes | None]]] = []

    async def handle(message: Message) -> None:
        message.batcher = "odd" if int(message.value or b"") % 2 else "even"
        message.batch_key = message.value in (b"1", b"2")

    batchers = {name: collect(seen, size=2, timeout=5) for name in ("odd", "even")}
    stages = Stages(handle_message=handle, batchers=batchers)
    async with open_test_pipeline(stages=stages) as pipeline:
        acks = await pipeline.push(b"1", b"2", b"3", b"4", b"5", batch_mode="bulk")
    assert values(acks.succeeded) == [b"1", b"2", b"3", b"4", b"5"]
    assert [batch for batch in seen if batch[1] == "size"] == [("odd", "size", [b"3", b"5"])]
    assert [message.batcher for message in acks.succeeded[:2]] == ["odd", "even"]
    assert {(name, *contents) for name, _, contents in seen[1:]} == {
        ("odd", b"1"),
        ("even", b"2"),
        ("even", b"4"),
    }


@pytest.mark.parametrize("handle", [parse, None])
async def test_a_message_of_a_batch_fails_alone_and_a_batch_that_raises_as_a_whole(
    autojump_clock: MockClock, handle: Any
) -> None:
    async def handle_batch(batch: Batch) -> None:
        if len(batch) == 2:
            raise LookupError("both")
        batch.messages[1].fail("this one")

    batcher = Batcher(handle_batch=handle_batch, size=3)
    stages = Stages(handle_message=handle, batchers={"default": batcher})
    async with open_test_pipeline(stages=stages) as pipeline:
        acks = await pipeline.push(b"1", b"2", b"3", b"4", b"5", batch_mode="bulk")
        statistics = pipeline.statistics()
    assert values(acks.succeeded) == [b"1", b"3"]
    assert [str(message.failure) for message in acks.failed] == ["this one", "both", "both"]
    assert (statistics.succeeded, statistics.failed, statistics.in_flight) == (2, 3, 0)


async def test_a_batcher_that_does_not_exist_fails_the_message(
    autojump_clock: MockClock,
) -> None:
    async def handle(message: Message) -> None:
        message.batcher = "ordres"

    stages = Stages(handle_message=handle, batchers={"orders": collect([])})
    async with open_test_pipeline(stages=stages) as pipeline:
        _, (message,) = await pipeline.push(b"1")
    assert str(message.failure) == "no batcher named 'ordres': there are 'orders'"


def _raising(message: Message) -> Any:
    raise LookupError("not this one")


@pytest.mark.parametrize(
    "options",
    [
        {"handle_message": parse, "ordering": _raising},
        {"handle_message": parse, "batchers": {"default": collect([], weigh=_raising)}},
        {"batchers": {"default": collect([], weigh=_raising)}},
    ],
    ids=["ordering", "weigh", "weigh alone"],
)
async def test_a_message_that_fails_before_or_between_the_handlers_is_in_failed_too(
    autojump_clock: MockClock, options: dict[str, Any]
) -> None:
    async with open_test_pipeline(stages=Stages(**options)) as pipeline:
        succeeded, failed = await pipeline.push(b"1", b"2")
    assert succeeded == ()
    assert [str(message.failure) for message in failed] == ["not this one"] * 2


async def test_without_a_handler_the_ordering_is_not_asked(autojump_clock: MockClock) -> None:
    seen: list[tuple[str, str, list[bytes | None]]] = []
    stages = Stages(batchers={"default": collect(seen)}, ordering=_raising)
    async with open_test_pipeline(stages=stages) as pipeline:
        assert not (await pipeline.push(b"1", b"2")).failed


async def test_a_batcher_may_be_larger_than_any_default_bound(
    autojump_clock: MockClock,
) -> None:
    seen: list[tuple[str, str, list[bytes | None]]] = []
    stages = Stages(batchers={"default": collect(seen, size=30_000, timeout=60)})
    async with open_test_pipeline(stages=stages) as pipeline:
        acks = await pipeline.push(*[b""] * 30_000, batch_mode="bulk")
    assert (len(acks.succeeded), trio.current_time()) == (30_000, 0)
    assert [(trigger, len(contents)) for _, trigger, contents in seen] == [("size", 30_000)]


# Policies


async def fail(messages: Any) -> None:
    raise LookupError("no")


def failing(stage: str, on_failure: Any) -> dict[str, Any]:
    """Stages of which one fails, as options."""
    if stage == "handler":
        return {"handle_message": fail, "on_failure": on_failure}
    own = stage == "batcher of its own policy"
    batcher = Batcher(handle_batch=fail, size=2, on_failure=on_failure if own else None)
    return {"batchers": {"default": batcher}, "on_failure": Stop() if own else on_failure}


@pytest.mark.parametrize("stage", ["handler", "batcher", "batcher of its own policy"])
@pytest.mark.parametrize(
    ("on_failure", "told"),
    [
        (Stop(), []),
        (Skip(), [b"1", b"2"]),
        (lambda message: Skip() if message.value == b"2" else Stop(), [b"2"]),
    ],
    ids=["Stop", "Skip", "either"],
)
async def test_a_failure_is_reported_and_handle_failed_is_called_only_where_it_would_be(
    autojump_clock: MockClock, on_failure: Any, told: list[bytes], stage: str
) -> None:
    seen: list[bytes | None] = []

    async def handle_failed(messages: list[Message]) -> None:
        await trio.sleep(1)
        seen.extend(message.value for message in messages)

    stages = Stages(handle_failed=handle_failed, **failing(stage, on_failure))
    async with open_test_pipeline(stages=stages) as pipeline:
        for _ in range(2):  # the pipeline goes on
            succeeded, failed = await pipeline.push(b"1", b"2", batch_mode="bulk")
            assert (succeeded, values(failed)) == ((), [b"1", b"2"])
            assert {str(message.failure) for message in failed} == {"no"}
            assert seen == told
            seen.clear()


async def test_the_function_that_chooses_the_policy_sees_the_failure(
    autojump_clock: MockClock,
) -> None:
    seen: list[str] = []

    def on_failure(message: Message) -> Stop:
        seen.append(str(message.failure))
        return Stop()

    async def handle(message: Message) -> None:
        message.fail("unreadable")

    stages = Stages(handle_message=handle, on_failure=on_failure)
    async with open_test_pipeline(stages=stages) as pipeline:
        _, (message,) = await pipeline.push(b"1")
    assert seen == ["unreadable"]
    assert isinstance(message.failure, MessageFailed)


async def returns_one(thing: Any) -> Any:
    return 1


async def raises(thing: Any) -> None:
    raise LookupError("a bug")


async def interrupts(thing: Any) -> None:
    raise KeyboardInterrupt("now")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"handle_message": returns_one}, TypeError, "handle_message returned a int"),
        (
            {"batchers": {"default": Batcher(handle_batch=returns_one)}},
            TypeError,
            "handle_batch returned a int",
        ),
        (
            {"handle_message": raises, "handle_failed": returns_one, "on_failure": Skip()},
            TypeError,
            "handle_failed returned a int",
        ),
        (
            {"handle_message": raises, "handle_failed": raises, "on_failure": Skip()},
            LookupError,
            "a bug",
        ),
        ({"handle_message": raises, "on_failure": lambda m: None}, ConfigError, "must return"),
        ({"handle_message": interrupts}, KeyboardInterrupt, "now"),
    ],
    ids=["message", "batch", "failed returns", "failed raises", "no policy", "BaseException"],
)
async def test_what_is_no_messages_failure_leaves_the_block(
    autojump_clock: MockClock, options: dict[str, Any], error: Any, text: str
) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(error, match=text)):
        async with open_test_pipeline(stages=Stages(**options)) as pipeline:
            await pipeline.push(b"1")
            pytest.fail("nothing was acknowledged")


# Several pushes, cancelled ones, and the end


async def test_each_of_several_pushes_gets_its_own_messages(
    autojump_clock: MockClock,
) -> None:
    got: dict[int, list[bytes | None]] = {}
    seen: list[tuple[str, str, list[bytes | None]]] = []
    batchers = {"default": collect(seen, size=100, timeout=3)}
    async with open_test_pipeline(stages=Stages(batchers=batchers)) as pipeline:

        async def push(task: int) -> None:
            parts = [b"%d %d" % (task, number) for number in range(10)]
            acks = await pipeline.push(*parts, key=b"%d" % task, batch_mode="bulk")
            got[task] = values(acks.succeeded)

        async with trio.open_nursery() as nursery:
            for task in range(10):
                nursery.start_soon(push, task)
    assert got == {task: [b"%d %d" % (task, n) for n in range(10)] for task in range(10)}
    assert [(trigger, len(contents)) for _, trigger, contents in seen] == [("size", 100)]


async def test_a_push_that_is_cancelled_does_no_harm(autojump_clock: MockClock) -> None:
    handled: list[bytes | None] = []

    async def handle(message: Message) -> None:
        await trio.sleep(1)
        handled.append(message.value)

    async with open_test_pipeline(stages=Stages(handle_message=handle)) as pipeline:
        with trio.move_on_after(0.5) as scope:
            await pipeline.push(b"1", b"2")
        assert scope.cancelled_caught
        assert values((await pipeline.push(b"3")).succeeded) == [b"3"]
    assert (handled, trio.current_time()) == ([b"1", b"2", b"3"], 3)


async def test_what_has_started_is_acknowledged_while_the_block_is_left(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    seen: list[tuple[str, str, list[bytes | None]]] = []
    got: list[Acks] = []
    batchers = {"default": collect(seen, timeout=60)}
    async with open_test_pipeline(stages=Stages(batchers=batchers)) as pipeline:

        async def push() -> None:
            got.append(await pipeline.push(b"1", b"2", batch_mode="bulk"))

        nursery.start_soon(push)
        await wait_all_tasks_blocked()
    await wait_all_tasks_blocked()
    assert seen == [("default", "drain", [b"1", b"2"])]
    assert [values(acks.succeeded) for acks in got] == [[b"1", b"2"]]


async def _expect_closed(pipeline: TestPipeline, text: str, *parts: bytes) -> None:
    with pytest.raises(trio.ClosedResourceError, match=text):
        await pipeline.push(*parts)


@pytest.mark.parametrize("how", ["end", "drain", "cancel"])
async def test_a_push_whose_messages_were_dropped_says_so(
    autojump_clock: MockClock, nursery: trio.Nursery, how: str
) -> None:
    async def handle(message: Message) -> None:
        await trio.sleep(5)

    outer = trio.CancelScope()
    with outer:
        async with open_test_pipeline(stages=Stages(handle_message=handle)) as pipeline:
            text = f"before {3 if how == 'cancel' else 2} of 3 pushed messages"
            nursery.start_soon(_expect_closed, pipeline, text, b"1", b"2", b"3")
            await trio.sleep(1)
            if how == "drain":
                await pipeline.drain()
            elif how == "cancel":
                outer.cancel()
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks, "it has ended"
    assert trio.current_time() == (1 if how == "cancel" else 5)


async def test_a_push_outside_the_block_ends_when_a_bug_stops_the_pipeline(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    with pytest.RaisesGroup(TypeError):
        async with open_test_pipeline(stages=Stages(handle_message=returns_one)) as pipeline:
            nursery.start_soon(_expect_closed, pipeline, "1 of 1 pushed messages", b"1")
            await trio.sleep_forever()
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks


async def test_nothing_can_be_pushed_once_the_block_is_being_left(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    async def handle(message: Message) -> None:
        await trio.sleep(5)

    async def push_late(pipeline: TestPipeline) -> None:
        await trio.sleep(3)
        await _expect_closed(pipeline, "being drained", b"2")

    async with open_test_pipeline(stages=Stages(handle_message=handle)) as pipeline:
        nursery.start_soon(pipeline.push, b"1")
        nursery.start_soon(push_late, pipeline)
        await trio.sleep(1)
    assert trio.current_time() == 5
    await _expect_closed(pipeline, "'test' is closed", b"3")


# Being a Pipeline, and mistakes


async def test_it_is_a_pipeline(autojump_clock: MockClock) -> None:
    async with open_test_pipeline(stages=Stages()) as pipeline:
        assert isinstance(pipeline, Pipeline)
        await pipeline.push(b"1", b"2")
        await pipeline.wait_caught_up()
        await pipeline.commit()
        statistics = pipeline.statistics()
        assert (statistics.received, statistics.succeeded) == (2, 2)
        assert await pipeline.drain() == 0
        await pipeline.wait_finished()


Misuse = Callable[[TestPipeline], Any]


@pytest.mark.parametrize(
    ("misuse", "error", "text"),
    [
        (lambda p: p.push("1", topic="t"), TypeError, "are bytes, not str"),
        (lambda p: p.push(b"1", key="k", topic="t"), TypeError, "are bytes, not str"),
        (lambda p: p.push(b"1"), ValueError, "may be any of 't', 'u'"),
        (lambda p: p.push(b"1", topic="v"), ValueError, r"topics=\{'v': 1\}"),
        (lambda p: p.push(b"1", topic="t", partition=1), ValueError, r"topics=\{'t': 2\}"),
        (lambda p: p.push(b"1", topic="t", partition=-1), ValueError, "no t/-1"),
        (lambda p: p.push(b"1", topic="t", batch_mode="bluk"), ValueError, "not 'bluk'"),
    ],
)
async def test_a_mistake_is_named_and_nothing_is_pushed(
    autojump_clock: MockClock, misuse: Misuse, error: type[Exception], text: str
) -> None:
    async with open_test_pipeline(stages=Stages(), topics={"t": 1, "u": 1}) as pipeline:
        with pytest.raises(error, match=text):
            await misuse(pipeline)
        await pipeline.push(b"1", topic="t")
        assert pipeline.statistics().received == 1


async def test_what_prepare_messages_assigns_goes_before_the_batch_mode_of_the_push(
    autojump_clock: MockClock,
) -> None:
    batches: list[tuple[str, str, list[bytes | None]]] = []

    async def prepare(messages: list[Message]) -> None:
        for message in messages:
            assert message.batch_mode == "flush"
            message.batch_mode = "bulk"

    stages = Stages(
        prepare_messages=prepare, batchers={"default": collect(batches, size=2, timeout=9)}
    )
    async with open_test_pipeline(stages=stages) as pipeline:
        acks = await pipeline.push(b"1", b"2", b"3")
        assert values(acks.succeeded) == [b"1", b"2", b"3"]
        assert trio.current_time() == 9
    assert batches == [("default", "size", [b"1", b"2"]), ("default", "timeout", [b"3"])]


@pytest.mark.parametrize("in_context", [False, True], ids=["plain", "entered"])
async def test_stages_of_each_partitions_own_are_tested_in_the_same_way(
    in_context: bool, autojump_clock: MockClock
) -> None:
    log: list[str] = []

    def plain(topic: str, partition: int) -> Stages:
        async def handle(message: Message) -> None:
            await parse(message)
            message.data += partition * 100

        return Stages(handle_message=handle)

    @asynccontextmanager
    async def entered(topic: str, partition: int) -> AsyncIterator[Stages]:
        log.append(f"entered {topic}/{partition}")
        yield plain(topic, partition)
        log.append(f"left {topic}/{partition}")

    stages = entered if in_context else plain
    async with open_test_pipeline(stages=stages, topics={"t": 2}) as pipeline:
        first = await pipeline.push(b"1", b"x", partition=0)
        second = await pipeline.push(b"1", b"2", partition=1)
    assert [message.data for message in first.succeeded] == [1]
    assert values(first.failed) == [b"x"]
    assert [message.data for message in second.succeeded] == [101, 102]
    expected = [f"{what} t/{partition}" for what in ("entered", "left") for partition in (0, 1)]
    assert sorted(log) == (expected if in_context else [])


def test_bad_options_are_refused_before_the_block() -> None:
    with pytest.raises(ConfigError, match="not an async one"):
        open_test_pipeline(stages=parse)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="topics is empty"):
        open_test_pipeline(stages=Stages(), topics={})
    with pytest.raises(ValueError, match="at least 1, not 0"):
        open_test_pipeline(stages=Stages(), topics={"t": 0})


def test_pytest_does_not_take_its_class_for_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from trio_broadway_kafka.testing import *

        def test_it(): pass
    """)
    pytester.runpytest("-W", "error").assert_outcomes(passed=1)


# Outputs.


@pytest.mark.parametrize(
    "output",
    [None, Output(delivery_timeout=5), Output(transactional_id="test")],
    ids=["none given", "given", "transactions"],
)
async def test_what_messages_produce_is_there_when_they_are_acknowledged(
    autojump_clock: MockClock, output: Output | None
) -> None:
    async def handle(message: Message) -> None:
        if message.value == b"bad":
            raise ValueError("bad")
        message.produce("out", value=message.value, key=b"k", partition=2)

    stages = Stages(handle_message=handle, on_failure=DeadLetter("dead"))
    async with open_test_pipeline(stages=stages, output=output) as pipeline:
        assert pipeline.produced("out") == []
        acks = await pipeline.push(b"1", b"bad", b"2")
        assert [len(part) for part in acks] == [2, 1]
        assert [record.value() for record in pipeline.produced("out")] == [b"1", b"2"]
        [letter] = pipeline.produced("dead")
        assert letter.value() == b"bad"
        assert ("dead_letter.exception_type", b"ValueError") in (letter.headers() or [])


async def test_an_output_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"output must be an Output"):
        open_test_pipeline(stages=Stages(), output="out")  # type: ignore[arg-type]


async def test_instruments_are_told_what_happens(autojump_clock: MockClock) -> None:
    told: list[str] = []

    class Told(Instrument):
        def messages_received(
            self, pipeline: Pipeline, topic: str, partition: int, **what: int
        ) -> None:
            told.append(f"{what['count']} received from {topic}/{partition}")

        def pipeline_closed(
            self, pipeline: Pipeline, *, error: BaseException | None, unfinished: int
        ) -> None:
            told.append(f"closed, {unfinished} left")

    async def handle(message: Message) -> None: ...

    stages = Stages(handle_message=handle)
    async with open_test_pipeline(stages=stages, instruments=[Told()]) as pipeline:
        await pipeline.push(b"1")
    assert told == ["1 received from test/0", "closed, 0 left"]
    with pytest.raises(ConfigError, match="instrument"):
        open_test_pipeline(stages=stages, instruments=["none"])  # type: ignore[list-item]
