"""The tests of orders.py: how to test a pipeline of one's own.

    pytest -p trio_broadway_kafka.testing.pytest_plugin examples/testing_a_pipeline

`push` is for what handlers and batchers make of messages; `FakeBroker` for what is committed,
and handled again, when something goes wrong; a real Kafka for one test of it all.

The table in memory needs no thread: while a thread runs, the autojump clock jumps on.
"""

import json
from pathlib import Path

import pytest
import trio
from confluent_kafka import Producer
from trio.testing import MockClock

from examples.testing_a_pipeline.orders import Row, SqliteTable, make_stages
from trio_broadway_kafka import MessageFailed, open_pipeline
from trio_broadway_kafka.testing import FakeBroker, KafkaBroker, open_test_pipeline


class MemoryTable:
    """A table for tests: it notes what was inserted, or fails.

    Attributes:
        inserts: the rows of each call.
        broken: whether it fails.
    """

    def __init__(self) -> None:
        self.inserts: list[list[Row]] = []
        self.broken = False

    async def insert(self, rows: list[Row]) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise ConnectionError("no route to the database")
        self.inserts.append(rows)


@pytest.fixture
def table() -> MemoryTable:
    """An empty one."""
    return MemoryTable()


def order(number: int, total: int = 10) -> bytes:
    return json.dumps({"id": number, "total": total}).encode()


# What becomes of a message


async def test_an_order_is_inserted_and_then_acknowledged(table: MemoryTable) -> None:
    async with open_test_pipeline(stages=make_stages(table)) as pipeline:
        succeeded, failed = await pipeline.push(order(1, 30), order(2, 20))
        assert table.inserts == [[(1, 30)], [(2, 20)]]
    assert [message.data for message in succeeded] == [(1, 30), (2, 20)]
    assert failed == ()


@pytest.mark.parametrize(
    ("value", "failure"),
    [
        (b"not json", json.JSONDecodeError),
        (None, json.JSONDecodeError),
        (b'{"id": 1}', KeyError),
        (order(1, -1), MessageFailed),
    ],
)
async def test_what_is_no_order_is_left_out_and_the_next_one_is_inserted(
    table: MemoryTable,
    capsys: pytest.CaptureFixture[str],
    value: bytes | None,
    failure: type[Exception],
) -> None:
    async with open_test_pipeline(stages=make_stages(table)) as pipeline:
        succeeded, failed = await pipeline.push(value, order(2))
    assert [type(message.failure) for message in failed] == [failure]
    assert [message.data for message in succeeded] == [(2, 10)]
    assert table.inserts == [[(2, 10)]]
    assert capsys.readouterr().err == f"left out <Message test/0@0>: {failure.__name__}\n"


async def test_a_hundred_orders_are_one_insert_and_the_rest_waits_two_seconds(
    table: MemoryTable, autojump_clock: MockClock
) -> None:
    async with open_test_pipeline(stages=make_stages(table)) as pipeline:
        await pipeline.push(*map(order, range(150)), batch_mode="bulk")
        assert trio.current_time() == 2
    assert list(map(len, table.inserts)) == [100, 50]


async def test_orders_that_are_not_inserted_are_not_acknowledged_as_if(
    table: MemoryTable,
) -> None:
    table.broken = True
    async with open_test_pipeline(stages=make_stages(table)) as pipeline:
        succeeded, failed = await pipeline.push(order(1))
    assert succeeded == ()
    assert [type(message.failure) for message in failed] == [ConnectionError]


# What is committed, and handled again


async def test_a_database_that_fails_ends_it_and_after_a_restart_nothing_is_missing(
    table: MemoryTable, autojump_clock: MockClock
) -> None:
    broker = FakeBroker(topics={"orders": 1})
    broker.produce("orders", order(1), order(2))
    table.broken = True
    with pytest.RaisesGroup(ConnectionError):
        async with open_pipeline(
            client=broker.client(), topics=["orders"], stages=make_stages(table)
        ):
            await trio.sleep_forever()
    assert broker.committed("orders", 0) is None

    table.broken = False
    async with open_pipeline(
        client=broker.client(), topics=["orders"], stages=make_stages(table)
    ):
        await broker.wait_committed("orders", 0, 2)
    assert table.inserts == [[(1, 10), (2, 10)]]


async def test_what_a_killed_process_had_not_committed_is_inserted_once_more(
    table: MemoryTable, autojump_clock: MockClock
) -> None:
    broker = FakeBroker(topics={"orders": 1})
    broker.produce("orders", order(1), order(2))
    client = broker.client()
    with trio.CancelScope() as process:
        async with open_pipeline(
            client=client, topics=["orders"], stages=make_stages(table), commit_interval=60
        ):
            await trio.sleep(3)
            broker.freeze(client)  # nothing that it sends arrives any more
            process.cancel()
    assert table.inserts == [[(1, 10), (2, 10)]]
    assert broker.committed("orders", 0) is None

    async with open_pipeline(
        client=broker.client(), topics=["orders"], stages=make_stages(table)
    ):
        await broker.wait_committed("orders", 0, 2)
    assert table.inserts == [[(1, 10), (2, 10)]] * 2


async def test_a_rebalance_inserts_what_waits_before_another_takes_over(
    table: MemoryTable, autojump_clock: MockClock
) -> None:
    broker = FakeBroker(topics={"orders": 1})
    broker.produce("orders", order(1), order(2))
    client = broker.client()
    async with open_pipeline(client=client, topics=["orders"], stages=make_stages(table)):
        await trio.sleep(0.5)
        assert table.inserts == []  # they wait for more
        broker.rebalance(client)
        await broker.wait_committed("orders", 0, 2)
        assert trio.current_time() == 0.5
    assert table.inserts == [[(1, 10), (2, 10)]]


# With the real ones


async def test_orders_get_from_kafka_into_sqlite_and_a_repetition_changes_nothing(
    tmp_path: Path, kafka_broker: KafkaBroker, kafka_topic: str, kafka_group: str
) -> None:
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    for value in (order(1), order(2), order(1)):
        producer.produce(kafka_topic, value)
    producer.flush()
    table = SqliteTable(str(tmp_path / "orders.db"))
    with trio.fail_after(30):
        async with open_pipeline(
            kafka={"bootstrap.servers": kafka_broker.bootstrap, "group.id": kafka_group},
            topics=[kafka_topic],
            stages=make_stages(table),
        ) as pipeline:
            await pipeline.wait_caught_up()
    rows = table.database.execute("SELECT * FROM orders ORDER BY id").fetchall()
    table.close()
    assert rows == [(1, 10), (2, 10)]
