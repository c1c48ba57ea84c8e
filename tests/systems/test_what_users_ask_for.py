"""What users of those systems ask for, and none of them has.

A test is named after the wish; the numbers in its docstring are the issues it was asked in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from statistics import median

import pytest
import trio
from confluent_kafka import Producer
from trio.testing import MockClock

from tests.broker._facts import PATIENCE, Facts, show, until
from trio_broadway_kafka import (
    Batch,
    Batcher,
    DeadLetter,
    FailurePolicy,
    KafkaFailure,
    Message,
    Retry,
    Skip,
    Stages,
    Stop,
    open_pipeline,
    run_pipeline,
)
from trio_broadway_kafka.testing import FakeBroker, KafkaBroker, open_test_pipeline


async def nothing(message: Message) -> None: ...


async def test_a_revoke_ends_by_its_deadline_and_work_of_the_old_assignment_is_never_committed(
    autojump_clock: MockClock,
) -> None:
    """broadway_kafka 92, 93, 118, 121."""
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"v")
    old_work_ended: list[float] = []

    async def resist(message: Message) -> None:
        if old_work_ended:
            return
        with trio.CancelScope(shield=True):
            await trio.sleep(60)
        old_work_ended.append(trio.current_time())

    began: list[float] = []

    async def never(message: Message) -> None:
        began.append(trio.current_time())
        await trio.sleep_forever()

    first, second = broker.client(), broker.client()
    async with (
        open_pipeline(
            client=first,
            topics=["t"],
            stages=Stages(handle_message=resist),
            revoke_timeout=5,
            commit_interval=0,
        ),
        open_pipeline(
            client=second, topics=["t"], stages=Stages(handle_message=never), drain_timeout=0
        ),
    ):
        await trio.sleep(1)
        broker.rebalance(first, to=second)
        await trio.sleep(70)
        assert began == [pytest.approx(6.0, abs=0.11)]
        assert old_work_ended == [60.0]
        assert broker.commits == []


async def test_concurrency_within_a_partition(autojump_clock: MockClock) -> None:
    """broadway_kafka 42."""
    broker = FakeBroker(topics={"t": 1})
    for key in range(100):
        broker.produce("t", b"v", key=b"%d" % key)
    started: list[float] = []

    async def handle(message: Message) -> None:
        started.append(trio.current_time())
        await trio.sleep(1)

    stages = Stages(handle_message=handle, concurrency=100)
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 0, 100)
    assert started == [0.0] * 100


async def test_no_processor_is_idle_while_one_partition_has_all_the_work(
    autojump_clock: MockClock,
) -> None:
    """broadway_kafka 89, 90: there each processor has partitions of its own."""
    broker = FakeBroker(topics={"t": 4})
    for key in range(40):
        broker.produce("t", b"v", key=b"%d" % key, partition=2)
    started: list[float] = []

    async def handle(message: Message) -> None:
        started.append(trio.current_time())
        await trio.sleep(1)

    stages = Stages(handle_message=handle, concurrency=4)
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await broker.wait_committed("t", 2, 40)
    assert started == [float(index // 4) for index in range(40)]


@pytest.mark.parametrize("how", ["at the end of the block", "cancelled"])
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0, 1.5, 2.0, 4.0, 9.0])
async def test_a_stop_during_an_assignment_ends_well(
    autojump_clock: MockClock, at: float, how: str
) -> None:
    """broadway_kafka 43, 46, 47, 114: before the assignment, as a partition is entered, as
    it is taken away again, and as it comes back."""
    broker = FakeBroker(topics={"t": 2})
    for partition in (0, 1):
        broker.produce("t", *[b"v"] * 10, partition=partition)
    handled: list[tuple[int, int]] = []
    left: list[int] = []

    @asynccontextmanager
    async def stages(topic: str, partition: int) -> AsyncIterator[Stages]:
        async def handle(message: Message) -> None:
            await trio.sleep(3)
            handled.append((message.partition, message.offset))

        await trio.sleep(1)
        try:
            yield Stages(handle_message=handle)
        finally:
            left.append(partition)

    client = broker.client()
    with trio.CancelScope() as scope:
        async with open_pipeline(client=client, topics=["t"], stages=stages):
            if at > 1.5:
                await trio.sleep(1.5)
                broker.rebalance(client)
            await trio.sleep(at - trio.current_time())
            if how == "cancelled":
                scope.cancel()
                await trio.lowlevel.checkpoint()
    assert trio.current_time() <= at + 5
    for partition in (0, 1):
        done = sum(number == partition for number, _ in handled)
        assert (broker.committed("t", partition) or 0) == done
    assert left.count(0) == left.count(1)


async def test_batches_by_bytes(autojump_clock: MockClock) -> None:
    """Broadway 255."""
    sizes: list[int] = []

    async def handle_batch(batch: Batch) -> None:
        sizes.append(sum(len(value or b"") for value in batch.raw_values()))

    batcher = Batcher(
        handle_batch=handle_batch, size=1000, weigh=lambda message: len(message.value or b"")
    )
    stages = Stages(batchers={"default": batcher})
    async with open_test_pipeline(stages=stages) as pipeline:
        await pipeline.push(*(b"v" * 100 * n for n in range(1, 9)), batch_mode="bulk")
    assert sizes == [1000, 500, 600, 700, 800]


async def test_latency_is_below_the_poll_interval(
    kafka_broker: KafkaBroker, kafka_topic: str, kafka_group: str
) -> None:
    """broadway_kafka 58. A poll lasts 100 ms when nothing comes, and ends when something
    does; what is measured is all of the way, from before it is produced."""
    arrived: dict[int, float] = {}
    seen = trio.Event()

    async def handle(message: Message) -> None:
        nonlocal seen
        arrived[message.offset] = trio.current_time()
        seen.set()
        seen = trio.Event()

    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap, "linger.ms": 0})
    latencies = []
    with trio.fail_after(PATIENCE):
        async with open_pipeline(
            kafka={"bootstrap.servers": kafka_broker.bootstrap, "group.id": kafka_group},
            topics=[kafka_topic],
            stages=Stages(handle_message=handle),
        ) as pipeline:
            await pipeline.wait_caught_up()
            for number in range(21):
                arrives = seen
                produced_at = trio.current_time()
                producer.produce(kafka_topic, b"v")
                await arrives.wait()
                latencies.append(arrived[number] - produced_at)
                producer.poll(0)
    show(f"latency: {median(latencies) * 1000:.2f} ms, at most {max(latencies) * 1000:.2f}")
    assert median(latencies) < 0.05


async def test_a_cancellation_never_acknowledges(autojump_clock: MockClock) -> None:
    """FastStream 3000: a cancelled handler is not one that has returned, whatever it does
    about its cancellation as long as it lets it out."""
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 6)
    cleaned_up: list[int] = []

    async def handle(message: Message) -> None:
        if message.offset == 0:
            return
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            cleaned_up.append(message.offset)

    stages = Stages(handle_message=handle, ordering="unordered")
    with trio.move_on_after(5):
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=stages, commit_interval=0
        ):
            await trio.sleep_forever()
    assert sorted(cleaned_up) == [1, 2, 3, 4, 5]
    assert [commit.offset for commit in broker.commits] == [1]


async def test_a_dead_fetch_reaches_the_nursery(autojump_clock: MockClock) -> None:
    """aiokafka 983, 1037: there the consumer goes on, and nothing arrives any more."""
    broker = FakeBroker(topics={"t": 1})
    with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match="TOPIC_AUTHORIZATION_FAILED")):
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=Stages(handle_message=nothing)
        ):
            await trio.sleep(3)
            broker.fail_next("fetch", "TOPIC_AUTHORIZATION_FAILED")
            broker.produce("t", b"v")
            await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(3.0, abs=0.2)


async def test_an_unknown_topic_is_one_error_that_names_it_not_a_crash_loop(
    autojump_clock: MockClock,
) -> None:
    """broadway_kafka 83, 88, 124."""
    broker = FakeBroker(topics={"t": 1})
    with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match="no-such-topic")) as caught:
        async with open_pipeline(
            client=broker.client(), topics=["no-such-topic"], stages=Stages()
        ):
            pytest.fail("it is open")
    (failure,) = caught.value.exceptions
    assert isinstance(failure, KafkaFailure)
    assert failure.code == "UNKNOWN_TOPIC_OR_PART"
    assert trio.current_time() <= 30


async def test_a_broker_that_is_away_is_waited_for_and_nothing_is_lost_or_repeated(
    autojump_clock: MockClock,
) -> None:
    """broadway_kafka 83, 88, 124."""
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", *[b"v"] * 50)
    handled: list[int] = []

    async def handle(message: Message) -> None:
        await trio.sleep(0.1)
        handled.append(message.offset)

    stages = Stages(handle_message=handle, ordering="partition")
    async with open_pipeline(client=broker.client(), topics=["t"], stages=stages):
        await trio.sleep(2)
        broker.stop()
        await trio.sleep(600)
        broker.start()
        broker.produce("t", b"v")
        await broker.wait_committed("t", 0, 51)
    assert handled == [*range(51)]


async def test_a_topic_that_is_deleted_stops_nothing_and_one_of_its_name_is_read_again(
    facts: Facts, kafka_broker: KafkaBroker, kafka_topic: str
) -> None:
    """broadway_kafka 83, 88, 124: there the consumers crash, restart and crash again."""
    other = kafka_topic + "-other"
    kafka_broker.create_topic(other)
    handled: list[tuple[str, int]] = []
    more = trio.Event()

    async def handle(message: Message) -> None:
        nonlocal more
        handled.append((message.topic, message.offset))
        more.set()
        more = trio.Event()

    async def produced_and_handled(topic: str, offset: int) -> None:
        await facts.produce(0, 1, topic=topic)
        while handled[-1:] != [(topic, offset)]:
            await more.wait()

    def topics() -> list[str]:
        return [partition.topic for partition in pipeline.statistics().partitions]

    with trio.fail_after(2 * PATIENCE):
        async with open_pipeline(
            # Who is to notice within seconds must look more often than every 5 minutes.
            kafka={**facts.kafka, "topic.metadata.refresh.interval.ms": 500},
            topics=[kafka_topic, other],
            stages=Stages(handle_message=handle),
        ) as pipeline:
            await until(lambda: len(topics()) == 2)
            await produced_and_handled(kafka_topic, 0)
            kafka_broker.delete_topic(kafka_topic)
            await until(lambda: topics() == [other])
            await produced_and_handled(other, 0)
            kafka_broker.create_topic(kafka_topic)
            await until(lambda: len(topics()) == 2)
            await produced_and_handled(kafka_topic, 0)
            await produced_and_handled(other, 1)
    kafka_broker.delete_topic(other)


async def test_a_pipeline_ends_when_it_has_read_everything(autojump_clock: MockClock) -> None:
    broker = FakeBroker(topics={"t": 3})
    for partition in (0, 1):  # the third one is empty
        broker.produce("t", *[b"v"] * 100, partition=partition)
    handled: list[tuple[int, int]] = []

    async def handle(message: Message) -> None:
        if not handled:
            broker.produce("t", b"too late", partition=0)
        handled.append((message.partition, message.offset))

    await run_pipeline(
        client=broker.client(),
        topics=["t"],
        stages=Stages(handle_message=handle),
        stop_at="end",
    )
    expected = [(partition, offset) for partition in (0, 1) for offset in range(100)]
    assert sorted(handled) == expected
    assert [broker.committed("t", partition) for partition in (0, 1)] == [100, 100]


async def test_a_replay_of_a_stretch_of_time(autojump_clock: MockClock) -> None:
    broker = FakeBroker(topics={"t": 1})
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for minutes in range(60):
        at = noon + timedelta(minutes=minutes)
        broker.produce("t", b"v", timestamp=round(at.timestamp() * 1000))
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.offset)

    await run_pipeline(
        client=broker.client("replay"),
        topics=["t"],
        stages=Stages(handle_message=handle),
        start_from=noon + timedelta(minutes=10),
        stop_at=noon + timedelta(minutes=15),
    )
    assert handled == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("stops", [True, False], ids=["stop", "skip"])
async def test_what_a_failure_does_is_the_pipelines_to_say(
    stops: bool, autojump_clock: MockClock
) -> None:
    """30, 91, 103."""
    broker = FakeBroker(topics={"t": 1})
    broker.produce("t", b"good", b"bad", b"good")

    async def handle(message: Message) -> None:
        if message.value == b"bad":
            raise LookupError

    stages = Stages(handle_message=handle, on_failure=Stop() if stops else Skip())
    raised = False
    try:
        async with open_pipeline(
            client=broker.client(), topics=["t"], stages=stages
        ) as pipeline:
            await pipeline.wait_caught_up()
    except* LookupError:
        raised = True
    assert (raised, broker.committed("t", 0)) == ((True, 1) if stops else (False, 3))


async def test_a_deadline_for_handlers(autojump_clock: MockClock) -> None:
    """Broadway #335."""
    failures: list[tuple[float, BaseException | None]] = []

    async def handle(message: Message) -> None:
        if message.attempt == 1:
            await trio.sleep_forever()

    def on_failure(message: Message) -> Retry:
        failures.append((trio.current_time(), message.failure))
        return Retry(wait_initial=1, wait_jitter=0)

    stages = Stages(handle_message=handle, handler_timeout=30, on_failure=on_failure)
    async with open_test_pipeline(stages=stages) as pipeline:
        acks = await pipeline.push(b"v")
    assert len(acks.succeeded) == 1
    assert trio.current_time() == pytest.approx(31)
    [(time, failure)] = failures
    assert time == pytest.approx(30)
    assert isinstance(failure, trio.TooSlowError)


@pytest.mark.parametrize(
    ("policy", "outcome"),
    [
        (Retry(attempts=3, wait_initial=1, wait_jitter=0, then=Skip()), (3, 2, 1, 0)),
        (DeadLetter("dead"), (1, 0, 0, 1)),
    ],
    ids=["retry", "dead letter"],
)
async def test_retry_or_set_aside_per_pipeline(
    autojump_clock: MockClock, policy: FailurePolicy, outcome: tuple[int, ...]
) -> None:
    """broadway_kafka #30 #91 #103."""

    async def handle(message: Message) -> None:
        raise LookupError

    async with open_test_pipeline(
        stages=Stages(handle_message=handle, on_failure=policy)
    ) as pipeline:
        await pipeline.push(b"v")
        now = pipeline.statistics()
    assert (now.failed, now.retried, now.skipped, now.dead_lettered) == outcome
