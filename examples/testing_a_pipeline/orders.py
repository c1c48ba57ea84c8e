"""A small pipeline that is made to be tested: orders into SQLite. Its tests are test_orders.py.

    python -m examples.testing_a_pipeline.orders 127.0.0.1:9092 orders orders.db

Records are JSON such as {"id": 7, "total": 30}. A record that is no order is left out and
reported. A database that fails ends the program: nothing is committed that is not in it.
Ctrl-C inserts what waits and ends.

What makes it easy to test: `make_stages` gets what the handlers need as an argument, and
knows nothing of Kafka.
"""

import json
import sqlite3
import sys
from typing import Protocol

import trio

from trio_broadway_kafka import Batch, Batcher, Message, Skip, Stages, Stop, run_pipeline

Row = tuple[int, int]  # an order's id and its total


class Table(Protocol):
    """Where orders go."""

    async def insert(self, rows: list[Row]) -> None:
        """Insert all of these or none; an id that is there already is replaced."""


class SqliteTable:
    """The table of an SQLite database."""

    def __init__(self, path: str) -> None:
        # Threads write to it, one after another: the batcher has a concurrency of 1.
        self.database = sqlite3.connect(path, check_same_thread=False)
        self.database.execute("CREATE TABLE IF NOT EXISTS orders (id PRIMARY KEY, total)")

    async def insert(self, rows: list[Row]) -> None:
        """Insert all of these or none; an id that is there already is replaced."""
        await trio.to_thread.run_sync(self._insert, rows)

    def _insert(self, rows: list[Row]) -> None:
        with self.database:  # one transaction
            self.database.executemany("INSERT OR REPLACE INTO orders VALUES (?, ?)", rows)

    def close(self) -> None:
        """Close the database."""
        self.database.close()


async def parse(message: Message) -> None:
    """Make a row of a record."""
    order = json.loads(message.value or b"")
    if order["total"] < 0:
        message.fail("a negative total")
    message.data = (order["id"], order["total"])


async def report(messages: list[Message]) -> None:
    """Print what is left out: where it is and what was wrong, not what it holds."""
    for message in messages:
        print(f"left out {message!r}: {type(message.failure).__name__}", file=sys.stderr)


def make_stages(table: Table) -> Stages:
    """The stages that put orders into `table`."""

    async def insert(batch: Batch) -> None:
        await table.insert([message.data for message in batch])

    return Stages(
        handle_message=parse,
        handle_failed=report,
        on_failure=Skip(),
        batchers={
            "default": Batcher(handle_batch=insert, size=100, timeout=2, on_failure=Stop())
        },
    )


async def main(bootstrap: str, topic: str, path: str) -> None:
    """Run until Ctrl-C."""
    table = SqliteTable(path)
    try:
        await run_pipeline(
            kafka={"bootstrap.servers": bootstrap, "group.id": f"orders-{path}"},
            topics=[topic],
            stages=make_stages(table),
        )
    finally:
        table.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m examples.testing_a_pipeline.orders BOOTSTRAP TOPIC DATABASE")
    trio.run(main, *sys.argv[1:])
