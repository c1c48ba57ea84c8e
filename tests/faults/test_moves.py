"""Cases 4 to 8, 12, 13 and 17: partitions that move, or must not.

In order, past a deadline, or without a warning.
"""

from __future__ import annotations

import math
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from tests.broker._facts import (
    PATIENCE,
    Facts,
    Log,
    MemberProcess,
    owned,
    prefix_end,
    until,
    wait_partitions,
)
from trio_broadway_kafka import Message, Pipeline, Stages, open_pipeline
from trio_broadway_kafka.testing import start_kafka

TEST_TIMEOUT = 60.0


def _open(
    facts: Facts,
    handle: Callable[[Message], object],
    *,
    kafka: dict[str, object] | None = None,
    ordering: str = "partition",
    concurrency: int = 16,
    **options: float,
) -> AbstractAsyncContextManager[Pipeline]:
    stages = Stages(handle_message=handle, ordering=ordering, concurrency=concurrency)  # type: ignore[arg-type]
    return open_pipeline(
        kafka=kafka or facts.kafka, topics=[facts.topic], stages=stages, **options
    )  # type: ignore[arg-type]


# In order.


@pytest.mark.kafka_topic(partitions=2)
async def test_a_revoke_waits_for_a_slow_handler_and_the_next_member_goes_on_behind_it(
    facts: Facts,
) -> None:
    for partition in (0, 1):
        await facts.produce(partition, 20)
    log = Log()
    took_over: list[tuple[int, int, int | None]] = []

    async def slow(message: Message) -> None:
        if message.offset == 5:
            await trio.sleep(2)

    async def take_over(message: Message) -> None:
        if not took_over:
            committed = (await facts.committed()).get(message.partition)
            took_over.append((message.partition, message.offset, committed))

    with trio.fail_after(TEST_TIMEOUT):
        async with _open(facts, log.handler(slow, member="first")) as first:
            await until(lambda: {("first", p, 5) for p in (0, 1)} <= set(log.started))
            slow_since = trio.current_time()
            async with _open(facts, log.handler(take_over, member="second")) as second:
                await wait_partitions(1, first, second)
                waited = trio.current_time() - slow_since
                await facts.wait_committed({0: 20, 1: 20})
    [(moved, offset, committed)] = took_over
    assert waited > 1, "the revoke waited for the handler"
    assert offset == committed >= 6, "it goes on exactly where the first one ended"
    assert log.offsets(moved, member="first") == list(range(offset))
    assert log.offsets(moved, member="second") == list(range(offset, 20))
    assert log.offsets(1 - moved, member="first") == list(range(20))
    assert log.cancelled == []
    facts.tell(
        "4",
        f"40 records, 1 partition revoked; waited {waited:.2f} s for "
        "the handler; 0 handled again, lost 0",
    )


# Past the deadline.


@pytest.mark.kafka_topic(partitions=2)
async def test_at_the_revoke_timeout_a_handler_is_cancelled_and_its_message_moves(
    facts: Facts,
) -> None:
    for partition in (0, 1):
        await facts.produce(partition, 10)
    log = Log()
    times: dict[str, float] = {}

    async def stuck(message: Message) -> None:
        if message.offset == 3:
            try:
                await trio.sleep_forever()
            finally:
                times.setdefault("cancelled", trio.current_time())

    async def take_over(message: Message) -> None:
        times.setdefault("taken over", trio.current_time())

    with trio.fail_after(TEST_TIMEOUT):
        async with _open(
            facts, log.handler(stuck, member="first"), revoke_timeout=1.5, drain_timeout=0
        ) as first:
            await until(lambda: {("first", p, 3) for p in (0, 1)} <= set(log.started))
            times["second opens"] = trio.current_time()
            async with _open(facts, log.handler(take_over, member="second")) as second:
                [_, [moved]] = await wait_partitions(1, first, second)
                await facts.wait_committed({moved: 10, 1 - moved: 3})
                assert [p for _, p, _ in log.cancelled] == [moved], "the kept one goes on"
    assert times["cancelled"] - times["second opens"] > 1.4
    assert 0 < times["taken over"] - times["cancelled"] < 5
    assert log.offsets(moved, member="first") == [0, 1, 2]
    assert log.offsets(moved, member="second") == list(range(3, 10)), "handled again there"
    waited, idle = (
        times["cancelled"] - times["second opens"],
        times["taken over"] - times["cancelled"],
    )
    facts.tell(
        "5",
        f"20 records, 1 handler cancelled {waited:.2f} s after the "
        f"second member opened, taken over {idle:.2f} s later; 1 handled again, lost 0",
    )


@pytest.mark.kafka_topic(partitions=2)
async def test_a_handler_that_resists_does_not_block_the_revoke_and_is_never_acknowledged(
    facts: Facts,
) -> None:
    for partition in (0, 1):
        await facts.produce(partition, 10)
    log = Log()
    may_end = trio.Event()
    may_go_on = trio.Event()

    async def resist(message: Message) -> None:
        if message.offset == 3:
            with trio.move_on_after(PATIENCE, shield=True):
                await may_end.wait()

    async def take_over(message: Message) -> None:
        await may_go_on.wait()

    with trio.fail_after(TEST_TIMEOUT):
        async with _open(
            facts,
            log.handler(resist, member="first"),
            revoke_timeout=1,
            commit_interval=0.1,
        ) as first:
            await until(lambda: {("first", p, 3) for p in (0, 1)} <= set(log.started))
            async with _open(
                facts, log.handler(take_over, member="second"), commit_interval=0.1
            ) as second:
                [_, [moved]] = await wait_partitions(1, first, second)
                # It moved while the handler was still at it, with what was finished.
                await until(lambda: ("second", moved, 3) in log.started)
                assert ("first", moved, 3) not in log.finished
                assert (await facts.committed())[moved] == 3
                may_end.set()
                # The handler of the partition that was kept ends too, and is committed:
                # so the one of the partition that moved would have been.
                await facts.wait_committed({moved: 3, 1 - moved: 10})
                assert ("first", moved, 3) in log.finished
                may_go_on.set()
                await facts.wait_committed({0: 10, 1: 10})
    assert log.offsets(moved, member="second") == list(range(3, 10))
    assert log.offsets(moved, member="first") == [0, 1, 2, 3], "nothing after it"
    facts.tell(
        "5",
        "20 records, 1 handler that resists; its late "
        "acknowledgement is not committed; 1 handled again, lost 0",
    )


@pytest.mark.kafka_topic(partitions=2)
async def test_what_an_earlier_assignment_finishes_late_does_not_count_in_the_next(
    facts: Facts,
) -> None:
    """Case 6. The partition has been to another member and back."""
    for partition in (0, 1):
        await facts.produce(partition, 10)
    log = Log()
    may_end = trio.Event()
    attempts: Counter[tuple[int, int]] = Counter()

    async def resist(message: Message) -> None:
        attempts[message.partition, message.offset] += 1
        if message.offset == 3 and attempts[message.partition, 3] == 1:
            with trio.move_on_after(PATIENCE, shield=True):
                await may_end.wait()
        elif message.offset >= 3:
            await trio.sleep_forever()

    async def stuck(message: Message) -> None:
        await trio.sleep_forever()

    with trio.fail_after(TEST_TIMEOUT):
        async with _open(
            facts,
            log.handler(resist, member="first"),
            revoke_timeout=0.5,
            drain_timeout=0,
            commit_interval=0.1,
            ordering="unordered",
        ) as first:
            await until(lambda: {("first", p, 3) for p in (0, 1)} <= set(log.started))
            before = owned(first)
            async with _open(
                facts, log.handler(stuck, member="second"), drain_timeout=0
            ) as second:
                [_, [moved]] = await wait_partitions(1, first, second)
            [after] = await wait_partitions(2, first)
            assert after[moved] > before[moved], "a new epoch"
            # It is handled again here, beside what resisted; then that ends at last.
            await until(lambda: attempts[moved, 3] == 2 or attempts[moved, 4] == 2)
            may_end.set()
            await until(lambda: ("first", moved, 3) in log.finished)
            await first.commit()
            await trio.sleep(0.3)
            assert (await facts.committed())[moved] == 3
    facts.tell(
        "6",
        "1 partition revoked and assigned again; what the old epoch "
        "finished late is not committed; lost 0",
    )


# Without a warning: a member that Kafka takes for dead.


@pytest.mark.slow
@pytest.mark.kafka_topic(partitions=2)
async def test_a_member_that_was_stopped_beyond_its_session_commits_over_nobody(
    facts: Facts, tmp_path: Path
) -> None:
    for partition in (0, 1):
        await facts.produce(partition, 600, keys=10)
    kafka = await facts.short_session(2)
    log = Log()

    async def work(message: Message) -> None:
        await trio.sleep(0.02)

    async with (
        MemberProcess.start(
            facts,
            tmp_path,
            name="stopped",
            kafka=kafka,
            work=0.2,
            options={"commit_interval": 0.1},
        ) as stopped,
        facts.watch_committed() as history,
    ):
        with trio.fail_after(TEST_TIMEOUT):
            await until(lambda: len(stopped.events("end")) > 20)
            async with _open(
                facts, log.handler(work), kafka=kafka, ordering="key", commit_interval=0.1
            ) as other:
                [moves] = await until(
                    lambda: len(owned(other)) == 1 and {0, 1} - set(owned(other))
                )
                await until(lambda: log.finished)
                # Stopped while its handlers are at work.
                stopped.signal(signal.SIGSTOP)
                await until(lambda: len(owned(other)) == 2)
                at_work = set(stopped.events("start")) - set(stopped.events("end"))
                assert {partition for partition, _ in at_work} == {moves}
                at_takeover = history[-1].get(moves, 0)
                await until(lambda: history[-1].get(moves, 0) > at_takeover + 50)
                stopped.signal(signal.SIGCONT)
                # Its handlers end late. Then it hears of the loss, and joins again.
                await until(
                    lambda: at_work <= {*stopped.events("end"), *stopped.events("cancelled")}
                )
                await until(lambda: ": lost <" in stopped.stderr)
                await until(lambda: len(owned(other)) == 1)
                await facts.wait_committed({0: 600, 1: 600})
        stopped.signal(signal.SIGINT)
        assert await stopped.wait() == 0
    everything = Counter([*stopped.events("end"), *log.places])
    assert set(everything) == {(p, o) for p in (0, 1) for o in range(600)}
    assert at_work <= {(p, o) for _, p, o in log.finished}, "handled again by the new owner"
    assert "UNKNOWN_MEMBER_ID" in stopped.stderr or ": lost <" in stopped.stderr
    facts.tell(
        "7 and 17",
        f"1,200 records, 1 member stopped beyond its session; "
        f"{everything.total() - 1200} handled again, lost 0",
    )


@pytest.mark.slow
@pytest.mark.kafka_topic(partitions=2)
async def test_a_blocked_loop_loses_its_partitions_joins_again_and_nothing_is_lost(
    facts: Facts, tmp_path: Path
) -> None:
    for partition in (0, 1):
        await facts.produce(partition, 250, keys=10)
    kafka = {**await facts.short_session(2), "max.poll.interval.ms": 2000}
    log = Log()
    may_go_on = tmp_path / "may go on"

    async def work(message: Message) -> None:
        await trio.sleep(0.02)

    async with (
        MemberProcess.start(
            facts,
            tmp_path,
            name="blocked",
            kafka=kafka,
            work=0.1,
            block=[0, 50, str(may_go_on)],
            options={"commit_interval": 0.1, "revoke_timeout": 0.5},
        ) as blocked,
        facts.watch_committed(),
    ):
        with trio.fail_after(TEST_TIMEOUT):
            await until(lambda: (0, 50) in blocked.events("start"))
            blocked_at = trio.current_time()
            assert ": lost <" not in blocked.stderr, "it has only just begun to block"
            async with _open(
                facts,
                log.handler(work),
                kafka=kafka,
                ordering="key",
                commit_interval=0.1,
                revoke_timeout=0.5,
            ) as other:
                # It polls no more, so Kafka gives its partitions away while it is blocked.
                await until(lambda: len(owned(other)) == 2)
                took = trio.current_time() - blocked_at
                may_go_on.touch()
                await until(lambda: ": lost <" in blocked.stderr)
                await until(lambda: len(owned(other)) == 1)
                await facts.wait_committed({0: 250, 1: 250})
        blocked.signal(signal.SIGINT)
        assert await blocked.wait() == 0
    everything = Counter([*blocked.events("end"), *log.places])
    assert set(everything) == {(p, o) for p in (0, 1) for o in range(250)}
    assert ("", 0, 50) in log.finished, "what was at work as it was lost is handled again"
    again = everything.total() - 500
    facts.tell(
        "13",
        f"500 records, 1 loop blocked; all moved after {took:.1f} s; "
        f"{again} handled again, lost 0",
    )


# Without a rebalance.


@pytest.mark.slow
async def test_a_handler_longer_than_max_poll_interval_does_not_lead_to_a_rebalance(
    facts: Facts, caplog: pytest.LogCaptureFixture
) -> None:
    await facts.produce(0, 2)
    kafka = {**await facts.short_session(2), "max.poll.interval.ms": 2000}
    log = Log()

    async def work(message: Message) -> None:
        await trio.sleep(3.5 if message.offset == 0 else 0)

    with trio.fail_after(TEST_TIMEOUT):
        async with _open(facts, log.handler(work), kafka=kafka, revoke_timeout=0.5) as pipeline:
            [before] = await wait_partitions(1, pipeline)
            await until(lambda: log.started)
            members = await facts.members()
            await facts.wait_committed({0: 2})
            assert owned(pipeline) == before
            assert await facts.members() == members
    assert log.started == log.finished == [("", 0, 0), ("", 0, 1)]
    assert caplog.records == []
    facts.tell(
        "12",
        "a handler of 3.5 s with max.poll.interval.ms=2000; no "
        "rebalance, 0 handled again, lost 0",
    )


@pytest.mark.kafka_topic(partitions=2)
async def test_a_static_member_comes_back_to_its_partitions_without_a_rebalance(
    facts: Facts,
) -> None:
    for partition in (0, 1):
        await facts.produce(partition, 10)
    log = Log()

    async def work(message: Message) -> None: ...

    def open_as(name: str) -> AbstractAsyncContextManager[Pipeline]:
        kafka = {**facts.kafka, "group.instance.id": name}
        return _open(facts, log.handler(work, member=name), kafka=kafka)

    with trio.fail_after(TEST_TIMEOUT):
        async with open_as("stays") as stays:
            async with open_as("restarts") as restarts:
                before, [its_own] = await wait_partitions(1, stays, restarts)
                await facts.wait_committed({0: 10, 1: 10})
            await facts.produce(its_own, 10)
            async with open_as("restarts") as restarts:
                await facts.wait_committed({its_own: 20, 1 - its_own: 10})
                assert list(owned(restarts)) == [its_own]
                assert owned(stays) == before, "the same epoch"
    assert log.offsets(its_own, member="restarts")[-10:] == list(range(10, 20))
    assert Counter((p, o) for _, p, o in log.finished).total() == 30


# Callbacks of the user's own that raise.


async def test_an_exception_in_stats_cb_leaves_the_block_and_loses_nothing(
    facts: Facts,
) -> None:
    await facts.produce(0, 5_000, keys=50)
    log = Log()

    def stats(text: str) -> None:
        if len(log.finished) > 500:
            raise LookupError("mine")

    async def work(message: Message) -> None:
        await trio.sleep(0.001)

    kafka = {**facts.kafka, "statistics.interval.ms": 10, "stats_cb": stats}
    with (
        trio.fail_after(TEST_TIMEOUT),
        pytest.RaisesGroup(pytest.RaisesExc(LookupError, match="^mine\n")) as caught,
    ):
        async with _open(facts, log.handler(work), kafka=kafka, ordering="key"):
            await trio.sleep_forever()
    [error] = caught.value.exceptions
    assert error.__notes__ == ["raised by the stats_cb given in kafka"]
    reached = prefix_end(0, log.offsets(0))
    assert await facts.committed() == {0: reached}
    with trio.fail_after(TEST_TIMEOUT):
        async with _open(facts, log.handler(work), ordering="key"):
            await facts.wait_committed({0: 5_000})
    handled = log.offsets(0)
    assert set(handled) == set(range(5_000))
    assert len(handled) - 5_000 <= 500
    facts.tell(
        "8",
        f"5,000 records, 1 stats_cb that raises; {len(handled) - 5_000} handled again, lost 0",
    )


async def test_an_exception_in_error_cb_leaves_the_block_though_the_broker_is_away() -> None:
    with start_kafka() as broker:
        broker.create_topic("t")
        facts = Facts(broker.bootstrap, "t", "g", "classic")
        await facts.produce(0, 100)
        log = Log()

        def on_error(error: object) -> None:
            raise LookupError("mine")

        async def work(message: Message) -> None: ...

        with (
            trio.fail_after(TEST_TIMEOUT),
            pytest.RaisesGroup(pytest.RaisesExc(LookupError, match="^mine\n")) as caught,
        ):
            async with _open(
                facts,
                log.handler(work),
                kafka={**facts.kafka, "error_cb": on_error},
                commit_interval=math.inf,
                close_timeout=1,
            ) as pipeline:
                await until(lambda: len(log.finished) == 100)
                await pipeline.commit()
                assert await facts.committed() == {0: 100}
                broker.nodes[0].kill()
                killed_at = trio.current_time()
                await trio.sleep_forever()
        [error] = caught.value.exceptions
        assert error.__notes__ == ["raised by the error_cb given in kafka"]
        assert trio.current_time() - killed_at < 10
        facts.close()
