from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from examples.beside_asyncio import run_in_thread
from tests.examples._program import committed, produce, program
from trio_broadway_kafka import ConfigError, KafkaFailure, Message
from trio_broadway_kafka.testing import FakeBroker, KafkaBroker


def test_it_greets_until_ctrl_c(
    kafka_broker: KafkaBroker, kafka_topic: str, kafka_group: str
) -> None:
    produce(kafka_broker, kafka_topic, b"hello", b"world")
    with program(
        "beside_asyncio.py", kafka_broker.bootstrap, kafka_topic, f"--group={kafka_group}"
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert (process.returncode, output) == (0, ""), errors
    assert "Traceback" not in errors
    assert lines == ["hello\n", "world\n"]
    assert committed(kafka_broker, kafka_topic, kafka_group) == 2


def broker_of(*values: bytes) -> FakeBroker:
    broker = FakeBroker(topics={"t": 1})
    for value in values:
        broker.produce("t", value, key=value)
    return broker


def no_thread_is_left() -> bool:
    return not any(one.name.startswith("pipeline") for one in threading.enumerate())


def test_what_is_committed_was_handled_in_the_loop_and_never_more_at_once_than_allowed() -> (
    None
):
    broker = broker_of(*(b"%d" % number for number in range(20)))
    now = most = done = 0
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event

    async def handle(message: Message) -> None:
        nonlocal now, most, done
        assert asyncio.get_running_loop() is loop
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        done += 1
        if done == 20:
            stop.set()

    async def main() -> None:
        nonlocal loop, stop
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        await run_in_thread(
            handle, stop=stop, concurrency=3, topics=["t"], client=broker.client()
        )

    asyncio.run(asyncio.wait_for(main(), 30))
    assert (done, most) == (20, 3)
    assert broker.committed("t", 0) == 20
    assert no_thread_is_left()


def test_stop_lets_what_was_started_end() -> None:
    broker = broker_of(b"a", b"b")

    async def main() -> None:
        stop = asyncio.Event()
        ended = []

        async def handle(message: Message) -> None:
            stop.set()
            await asyncio.sleep(0.1)
            ended.append(message.offset)

        await run_in_thread(handle, stop=stop, topics=["t"], client=broker.client())
        assert len(ended) == broker.committed("t", 0)

    asyncio.run(asyncio.wait_for(main(), 30))
    assert no_thread_is_left()


def test_an_error_in_a_call_leaves_it_and_cancels_the_other_tasks() -> None:
    broker = broker_of(b"good", b"bad")

    async def handle(message: Message) -> None:
        if message.value == b"bad":
            raise LookupError("so bad")

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            other = tasks.create_task(asyncio.sleep(60))
            try:
                await run_in_thread(
                    handle,
                    stop=asyncio.Event(),
                    concurrency=1,
                    topics=["t"],
                    client=broker.client(),
                )
            finally:
                tasks.create_task(look(other))

    async def look(other: asyncio.Task[None]) -> None:
        await asyncio.wait({other})
        assert other.cancelled()

    with pytest.RaisesGroup(
        pytest.RaisesExc(LookupError, match="so bad"), flatten_subgroups=True
    ):
        asyncio.run(asyncio.wait_for(main(), 30))
    assert broker.committed("t", 0) == 1
    assert no_thread_is_left()


def test_an_error_elsewhere_in_asyncio_cancels_the_calls_and_waits_for_their_ends() -> None:
    broker = broker_of(b"quick", b"slow")
    ends: list[str] = []

    async def main() -> None:
        slow = asyncio.Event()

        async def handle(message: Message) -> None:
            if message.value == b"slow":
                slow.set()
                try:
                    await asyncio.sleep(60)
                finally:
                    await asyncio.sleep(0.5)  # as a connection that is given back
                    ends.append("slow")

        async def fail() -> None:
            await slow.wait()
            raise OSError("elsewhere")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            try:
                await run_in_thread(
                    handle, stop=asyncio.Event(), topics=["t"], client=broker.client()
                )
            finally:
                ends.append("pipeline")

    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="elsewhere")):
        asyncio.run(asyncio.wait_for(main(), 30))
    assert ends == ["slow", "pipeline"]
    assert broker.committed("t", 0) == 1
    assert no_thread_is_left()


def test_stop_ends_it_while_it_still_waits_for_kafka() -> None:
    broker = broker_of()
    broker.stop()

    async def handle(message: Message) -> None: ...

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, stop.set)
        await run_in_thread(handle, stop=stop, topics=["t"], client=broker.client())

    asyncio.run(asyncio.wait_for(main(), 20))  # open_timeout is 30
    assert no_thread_is_left()


@pytest.mark.parametrize("rounds", [0, 1, 2, 5])
def test_cancelled_at_any_time_it_ends_with_its_thread(rounds: int) -> None:
    broker = broker_of(b"a")

    async def main() -> None:
        async def handle(message: Message) -> None:
            await asyncio.sleep(60)

        task = asyncio.create_task(
            run_in_thread(handle, stop=asyncio.Event(), topics=["t"], client=broker.client())
        )
        for _ in range(rounds):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(main(), 30))
    assert no_thread_is_left()


def test_a_wrong_option_is_told_before_anything_starts() -> None:
    async def handle(message: Message) -> None: ...

    with pytest.raises(ConfigError, match="topics is empty"):
        asyncio.run(run_in_thread(handle, stop=asyncio.Event(), topics=[], kafka={}))


def test_a_kafka_that_is_missing_leaves_it_as_a_kafka_failure() -> None:
    async def handle(message: Message) -> None: ...

    opening = run_in_thread(
        handle,
        stop=asyncio.Event(),
        topics=["gone"],
        client=broker_of().client(),
        open_timeout=0.1,
    )
    with pytest.RaisesGroup(pytest.RaisesExc(KafkaFailure, match="gone")):
        asyncio.run(opening)
    assert no_thread_is_left()
