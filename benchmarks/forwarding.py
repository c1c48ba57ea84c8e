"""Forwarding: every record of one topic to another, acknowledged once it is delivered.

    python benchmarks/forwarding.py [--bootstrap HOST:PORT] [--records N] [--rounds N]

The performance test of off_broadway_kafka: 10,000 JSON records of about 120 bytes in 10
partitions, by a concurrency of 1, 10 and 100, in one pipeline and in one per partition; timed
from the assignment until the output topic has them all. In turn with a bare loop that
consumes and produces, and counts the delivery reports at the end.

A record may be acknowledged only after its delivery report. There are four ways:

- "produce": ``handle_message`` calls ``message.produce``: the pipeline waits, no handler does.
- "transaction": the same with a ``transactional_id``, until the transaction is committed.
- "message": ``handle_message`` sends its record and waits. A record is a round trip to the
  broker, and `concurrency` of them are under way.
- "batch": ``handle_batch`` sends the records of its batch and waits once for all of them.

The last two are for producers that are not the pipeline's own.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Awaitable, Callable
from itertools import product
from statistics import median

import trio
from _backlog import PARTITIONS, assigned_consumer, consumer_settings, local_or, make_backlog
from _deliveries import Deliveries, open_deliveries
from confluent_kafka import Consumer, Producer, TopicPartition

from trio_broadway_kafka import Batch, Batcher, Message, Output, Stages, open_pipeline

FORMS = ("one pipeline", "one per partition")
WAYS = ("message", "batch")
CONCURRENCIES = (1, 10, 100)
OWN = ("produce", "transaction")  # whatever the concurrency


def producer_settings(bootstrap: str) -> dict[str, object]:
    """The same for the bare loop and for the pipeline."""
    return {
        "bootstrap.servers": bootstrap,
        "enable.idempotence": True,  # what is sent again neither repeats nor changes places
        "linger.ms": 0,  # a handler waits for its record: nothing is gained by waiting for more
    }


def order(index: int) -> bytes:
    value = {
        "id": f"order-{index:08d}",
        "customer": index % 1000,
        "items": [{"sku": f"sku-{index % 77:04d}", "count": index % 5}],
        "total": f"{index % 10_000:08d}",
    }
    return json.dumps(value).encode()


def raw(bootstrap: str, topic: str, output: str, count: int) -> float:
    producer = Producer(producer_settings(bootstrap))
    consumer = assigned_consumer(bootstrap, topic)
    left = count

    def report(error: object, _: object) -> None:
        nonlocal left
        assert error is None, error
        left -= 1

    started = time.perf_counter()
    while left:
        for record in consumer.consume(1000, 0.01):
            producer.produce(output, record.value(), record.key(), on_delivery=report)
        producer.poll(0)
    took = time.perf_counter() - started
    consumer.close()
    return took


def stages_for(
    way: str, send: Callable[[list[Message]], Awaitable[None]], concurrency: int
) -> Stages:
    async def handle_message(message: Message) -> None:
        await send([message])

    async def route(message: Message) -> None:
        # The batches of a partition stay in order, those of others run beside them.
        message.batch_key = message.partition

    async def handle_batch(batch: Batch) -> None:
        await send(list(batch))

    if way == "message":
        return Stages(handle_message=handle_message, concurrency=concurrency)
    batcher = Batcher(
        handle_batch=handle_batch, size=1000, timeout=0.01, concurrency=concurrency
    )
    return Stages(handle_message=route, batchers={"default": batcher}, concurrency=concurrency)


async def through_its_own_producer(
    bootstrap: str, topic: str, output: str, count: int, form: str, way: str, concurrency: int
) -> float:
    async def handle(message: Message) -> None:
        message.produce(output, value=message.value, key=message.key)

    stages = Stages(handle_message=handle, concurrency=concurrency)
    name = output if way == "transaction" else None
    async with open_pipeline(
        kafka=consumer_settings(bootstrap, "forwarding"),
        topics=[topic],
        stages=stages if form == FORMS[0] else lambda topic, partition: stages,
        output=Output(transactional_id=name),
    ) as pipeline:
        await pipeline.wait_assigned()
        started = time.perf_counter()
        while pipeline.statistics().succeeded < count:  # noqa: ASYNC110
            await trio.sleep(0.002)
        if name is not None:
            await pipeline.commit()
        return time.perf_counter() - started


async def through_a_pipeline(
    bootstrap: str, topic: str, output: str, count: int, form: str, way: str, concurrency: int
) -> float:
    left = count
    done = trio.Event()
    deliveries: Deliveries

    async def send(messages: list[Message]) -> None:
        nonlocal left
        await deliveries.send(output, [(one.key, one.value) for one in messages])
        left -= len(messages)
        if not left:
            done.set()

    stages = stages_for(way, send, concurrency)
    async with (
        open_deliveries(producer_settings(bootstrap)) as deliveries,
        open_pipeline(
            kafka=consumer_settings(bootstrap, "forwarding"),
            topics=[topic],
            stages=stages if form == FORMS[0] else lambda topic, partition: stages,
        ) as pipeline,
    ):
        await pipeline.wait_assigned()
        started = time.perf_counter()
        await done.wait()
        return time.perf_counter() - started


def number_of_records(bootstrap: str, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "nobody"})
    ends = [
        consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1]
        for partition in range(PARTITIONS)
    ]
    consumer.close()
    return sum(ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bootstrap", help="a Kafka to use; one is started otherwise")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    count = options.records
    topic = f"forwarding-{count}"
    output = f"forwarded-{os.getpid()}"
    in_transactions = f"{output}-transactions"  # whose ends count in its offsets
    variants = [*product(FORMS, OWN, (10,)), *product(FORMS, WAYS, CONCURRENCIES)]
    times: dict[tuple[object, ...], list[float]] = {}
    with local_or(options.bootstrap) as bootstrap:
        make_backlog(bootstrap, topic, count, keys=1000, value=order)
        make_backlog(bootstrap, output, 0)
        make_backlog(bootstrap, in_transactions, 0)
        written = 0
        for number in range(options.rounds + 1):  # the first one warms the broker up
            for variant in [("raw",), *variants]:
                if variant == ("raw",):
                    took = raw(bootstrap, topic, output, count)
                elif variant[1] in OWN:
                    to = in_transactions if variant[1] == "transaction" else output
                    took = trio.run(
                        through_its_own_producer, bootstrap, topic, to, count, *variant
                    )
                else:
                    took = trio.run(
                        through_a_pipeline, bootstrap, topic, output, count, *variant
                    )
                written += 0 if "transaction" in variant else count
                assert number_of_records(bootstrap, output) == written
                if number:
                    times.setdefault(variant, []).append(took)
            print(f"round {number} of {options.rounds} done", flush=True)
    print_table(times, count)


def print_table(times: dict[tuple[object, ...], list[float]], count: int) -> None:
    """Medians over the rounds; the ratio is that of runs of the same round."""
    print(f"\n{count:,} records, medians of {len(times[('raw',)])} rounds:\n")
    print(f"{'form':<19}{'waits per':<11}{'concurrency':>11}", end="")
    print(f"{'ms':>8}{'least-most':>14}{'records/s':>11}{'/ raw':>7}")
    for variant, runs in times.items():
        form, way, concurrency = variant if len(variant) == 3 else ("raw loop", "", "")
        ratio = median(mine / least for mine, least in zip(runs, times[("raw",)], strict=True))
        spread = f"{min(runs) * 1000:.0f}-{max(runs) * 1000:.0f}"
        print(
            f"{form:<19}{way:<11}{concurrency:>11}{median(runs) * 1000:>8.0f}{spread:>14}"
            f"{count / median(runs):>11,.0f}{ratio:>7.1f}"
        )


if __name__ == "__main__":
    main()
