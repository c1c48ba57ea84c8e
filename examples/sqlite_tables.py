"""Rows of several tables into SQLite: one batch per table, each in one transaction.

    python examples/sqlite_tables.py 127.0.0.1:9092 changes changes.db

Records are JSON such as {"table": "users", "id": 7, "name": "Ada"}, keyed by table and id, so
that the changes of one row are in one partition, in order. A crash after a transaction and
before its commit to Kafka repeats a batch. That does no harm: each row remembers the offset of
the record it comes from, and an older record never overwrites a newer one.

Ctrl-C flushes what waits and ends.
"""

import json
import sqlite3
import sys
from functools import partial

import trio

from trio_broadway_kafka import Batch, Batcher, Message, Skip, Stages, Stop, run_pipeline

TABLES = ("orders", "users")

CREATE = "CREATE TABLE IF NOT EXISTS {} (id PRIMARY KEY, body TEXT, at_offset INTEGER)"
UPSERT = """
    INSERT INTO {0} VALUES (?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET body = excluded.body, at_offset = excluded.at_offset
    WHERE excluded.at_offset > {0}.at_offset
"""


async def parse(message: Message) -> None:
    row = json.loads(message.value or b"")
    if row.get("table") not in TABLES:  # it becomes a part of the SQL: never a stranger's
        raise LookupError(f"no such table: there are {', '.join(TABLES)}")
    message.batch_key = row.pop("table")
    message.data = (row.pop("id"), json.dumps(row), message.offset)


async def write(database: sqlite3.Connection, batch: Batch) -> None:
    rows = [message.data for message in batch]
    await trio.to_thread.run_sync(write_rows, database, str(batch.key), rows)


def write_rows(
    database: sqlite3.Connection, table: str, rows: list[tuple[object, ...]]
) -> None:
    with database:  # one transaction
        database.executemany(UPSERT.format(table), rows)
    print(f"{table}: {len(rows)}", flush=True)


async def report(messages: list[Message]) -> None:
    for message in messages:
        print(f"left out {message!r}: {message.failure!r}", file=sys.stderr, flush=True)


async def main(bootstrap: str, topic: str, path: str) -> None:
    # One writer at a time is what SQLite allows, and what concurrency=1 gives it.
    database = sqlite3.connect(path, check_same_thread=False)
    for table in TABLES:
        database.execute(CREATE.format(table))
    try:
        await run_pipeline(
            kafka={"bootstrap.servers": bootstrap, "group.id": f"sqlite-{path}"},
            topics=[topic],
            stages=Stages(
                handle_message=parse,
                handle_failed=report,
                on_failure=Skip(),
                batchers={
                    "default": Batcher(
                        handle_batch=partial(write, database),
                        size=1000,
                        on_failure=Stop(),  # a database that fails is nothing to skip
                    )
                },
            ),
        )
    finally:
        database.close()


if __name__ == "__main__":
    _, bootstrap, topic, path = sys.argv
    trio.run(main, bootstrap, topic, path)
