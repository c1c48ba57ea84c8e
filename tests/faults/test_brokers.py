"""Cases 14, 15 and 16: brokers that are killed or stand still."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.broker._facts import PATIENCE, Facts, Log, until
from tests.faults._ledger import check_lanes, settle, watch_commits
from tests.faults._network import IN_FULL
from tests.faults._own import OwnBroker
from trio_broadway_kafka import Message, Output, Pipeline, Stages, open_pipeline
from trio_broadway_kafka._kafka._job import Job
from trio_broadway_kafka.testing import KafkaBroker, start_kafka

EACH = 20_000 if IN_FULL else 1_500  # records of each partition
PARTITIONS = 4
KEYS = 50
IN_FLIGHT = 500
ROUNDS = 3 if IN_FULL else 1
SESSION = 3.0  # seconds
OUTAGE = 36.0  # seconds; that member's session is one of 45
TEST_TIMEOUT = 400.0


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[KafkaBroker]:
    with start_kafka(nodes=3) as broker:
        yield broker


@pytest.fixture(params=["classic", "consumer"])
async def replicated(
    request: pytest.FixtureRequest, three_nodes: KafkaBroker
) -> AsyncIterator[Facts]:
    """A topic with three replicas, and a group."""
    await trio.to_thread.run_sync(lambda: three_nodes.restart(timeout=60))
    topic = f"faults-{uuid.uuid4().hex[:8]}"
    facts = Facts(three_nodes.bootstrap, topic, f"{topic}-group", request.param)
    await facts.make_topic(PARTITIONS)
    for partition in range(PARTITIONS):
        await facts.produce(partition, EACH, keys=KEYS)
    yield facts
    facts.close()


async def work(message: Message) -> None:
    await trio.sleep(0.03)


async def leader_of(facts: Facts, partition: int) -> int:
    """The id of the node that leads a partition."""
    found = await trio.to_thread.run_sync(
        lambda: facts.admin.list_topics(facts.topic, timeout=10)
    )
    return found.topics[facts.topic].partitions[partition].leader


async def coordinator_of(facts: Facts) -> int:
    """The id of the node that coordinates the group."""
    with trio.fail_after(PATIENCE):
        while True:
            # A new one each time: it remembers who the coordinator was, for a minute.
            admin = AdminClient({"bootstrap.servers": facts.bootstrap, "log_level": 0})
            [future] = admin.describe_consumer_groups([facts.group]).values()
            try:
                found = await trio.to_thread.run_sync(future.result)
            except KafkaException as error:  # it is moving back to the node that has returned
                assert "COORDINATOR" in error.args[0].name()  # noqa: PT017
                await trio.sleep(0.1)
            else:
                return found.coordinator.id


@asynccontextmanager
async def working(
    facts: Facts, case: int, faults: str, **options: Any
) -> AsyncIterator[tuple[Log, Pipeline]]:
    """A pipeline that handles the topic, 1,700 records a second. What the block does to it, it
    survives: all is committed in the end, and what must hold has held."""
    log = Log()
    everything = dict.fromkeys(range(PARTITIONS), EACH)
    settings = {"kafka": facts.kafka, "max_in_flight": IN_FLIGHT, **options}
    with trio.fail_after(TEST_TIMEOUT):
        async with (
            watch_commits(facts, lambda: [log.finished]),
            open_pipeline(
                topics=[facts.topic],
                stages=Stages(handle_message=log.handler(work), concurrency=50),
                **settings,
            ) as pipeline,
        ):
            yield log, pipeline
            await facts.wait_committed(everything, within=120)
    again = settle(
        case,
        facts.protocol,
        everything,
        log.places,
        faults=faults,
        at_most=ROUNDS * 7 * 1_700 + IN_FLIGHT,  # of 7 s each time
    )
    check_lanes([(p, o) for _, p, o in log.started], KEYS, again)


async def progress(log: Log, count: int) -> None:
    """Wait until so many more are finished."""
    goal = len(log.finished) + count
    await until(lambda: len(log.finished) >= goal, within=60)


@pytest.mark.faults
async def test_a_leader_that_is_killed_is_waited_for(
    replicated: Facts, three_nodes: KafkaBroker
) -> None:
    """Case 14. The node comes back behind the others, and another one goes."""
    async with working(replicated, 14, f"leaders killed: {ROUNDS}") as (log, _):
        for number in range(ROUNDS):
            await progress(log, 1_500)
            node = three_nodes.nodes[await leader_of(replicated, number % PARTITIONS) - 1]
            node.kill()
            await progress(log, 200)
            await trio.to_thread.run_sync(node.restart)


@pytest.mark.faults
async def test_a_coordinator_that_is_killed_during_a_commit_is_waited_for(
    replicated: Facts, three_nodes: KafkaBroker
) -> None:
    """Case 15. What it did not answer is committed again, computed anew."""
    unanswered = 0

    async def commit(pipeline: Pipeline) -> None:
        nonlocal unanswered
        unanswered += 1
        await pipeline.commit()
        unanswered -= 1

    faults = f"coordinators killed during a commit: {ROUNDS}"
    async with (
        trio.open_nursery() as nursery,
        working(replicated, 15, faults, commit_interval=0) as (log, pipeline),
    ):
        for _ in range(ROUNDS):
            await progress(log, 1_500)
            node = three_nodes.nodes[await coordinator_of(replicated) - 1]
            while not unanswered:  # it is on its way as the node is killed
                nursery.start_soon(commit, pipeline)
                await trio.lowlevel.checkpoint()
            node.kill()
            await progress(log, 200)
            await until(lambda: not unanswered, within=60)
            await trio.to_thread.run_sync(node.restart)


@pytest.mark.faults
async def test_brokers_that_stand_still_for_longer_than_the_session_are_waited_for(
    replicated: Facts, three_nodes: KafkaBroker
) -> None:
    """Case 16. All of them: nobody can tell who is a member, or take a commit."""
    kafka = await replicated.short_session(SESSION)
    faults = f"all brokers stopped for {3 * SESSION:g} s: {ROUNDS}"
    async with working(replicated, 16, faults, kafka=kafka) as (log, _):
        for _ in range(ROUNDS):
            await progress(log, 500)
            three_nodes.pause()
            await trio.sleep(3 * SESSION)
            three_nodes.resume()


async def test_after_a_restart_of_the_broker_the_ends_are_known_again_at_once(
    own: Facts, own_broker: OwnBroker
) -> None:
    """librdkafka's answer to a question for the end was an old leader's epoch for 25 s."""
    await own.make_topic(PARTITIONS)
    log = Log()
    took = 0.0
    with trio.fail_after(60):
        async with open_pipeline(
            kafka=own.kafka,
            topics=[own.topic],
            stages=Stages(handle_message=log.handler(work)),
        ) as pipeline:
            for _ in range(2):
                await pipeline.wait_caught_up()
                await trio.to_thread.run_sync(own_broker.broker.restart)
                for partition in range(PARTITIONS):
                    await own.produce(partition, 10)
                asked_at = trio.current_time()
                await pipeline.wait_caught_up()
                took = max(took, trio.current_time() - asked_at)
    assert took < 8
    settle(
        16,
        own.protocol,
        dict.fromkeys(range(PARTITIONS), 20),
        log.places,
        faults=f"brokers restarted: 2, caught up {took:.1f} s later",
        at_most=0,
    )


@pytest.mark.faults
async def test_a_transaction_that_a_broker_answers_late_is_made_once(
    own: Facts, own_broker: OwnBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit waits for 30 s and 2 more; this one takes longer, and nothing ends."""
    copies = f"{own.topic}-copies"
    await own.make_topic(PARTITIONS)
    await own.make_topic(1, topic=copies)
    for partition in range(PARTITIONS):
        await own.produce(partition, EACH, keys=KEYS)
    log = Log()

    async def copy(message: Message) -> None:
        await work(message)
        message.produce(copies, value=b"%d/%d" % (message.partition, message.offset))

    is_to_stop = False

    def begin_to_commit(job: Job) -> None:
        nonlocal is_to_stop
        begin(job)
        if is_to_stop:
            own_broker.broker.pause()
            is_to_stop = False

    begin = Job.begin_to_commit
    monkeypatch.setattr(Job, "begin_to_commit", begin_to_commit)
    everything = dict.fromkeys(range(PARTITIONS), EACH)
    with trio.fail_after(TEST_TIMEOUT):
        async with open_pipeline(
            kafka=own.kafka,
            topics=[own.topic],
            stages=Stages(handle_message=log.handler(copy), concurrency=50),
            output=Output(transactional_id=f"{own.group}-1"),
            max_in_flight=IN_FLIGHT,
        ):
            await progress(log, 1_000)
            is_to_stop = True
            await until(lambda: not is_to_stop)
            await trio.sleep(OUTAGE)
            own_broker.broker.resume()
            await own.wait_committed(everything, within=120)
    settle(
        16,
        own.protocol,
        everything,
        log.places,
        faults=f"the broker stopped for {OUTAGE:g} s as it is to commit a transaction: 1",
        at_most=0,
    )
    copied = [record.value() for record in await own.read(copies, 1)]
    assert len(copied) == len(set(copied)) == PARTITIONS * EACH
