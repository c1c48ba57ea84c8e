from __future__ import annotations

import json
import time

import pytest
from confluent_kafka import Producer

from tests.cli._command import run
from tests.examples._program import committed, end, program, values
from trio_broadway_kafka.testing import KafkaBroker


@pytest.mark.kafka_topic(partitions=1)
def test_each_payment_is_receipted_once_or_set_aside(
    kafka_broker: KafkaBroker, kafka_topic: str
) -> None:
    receipts, dead = f"{kafka_topic}-receipts", f"{kafka_topic}-dead"
    for topic in (receipts, dead):
        kafka_broker.create_topic(topic, partitions=1)
    accounts = ["A-1", "slow-1", "away-1", "A-2", "A-1"]
    payments: list[bytes] = [
        json.dumps({"id": n, "account": a, "cents": 100 if n != 3 else 10**6}).encode()
        for n, a in enumerate(accounts)
    ]
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap})
    for value, account in zip([*payments, b"no JSON"], [*accounts, "A-9"], strict=True):
        producer.produce(kafka_topic, value, account)
    assert producer.flush(20) == 0
    with program("payments.py", kafka_broker.bootstrap, kafka_topic) as process:
        found = values(kafka_broker, receipts, 3)
        assert sorted(receipt["payment"] for receipt in found) == [0, 1, 4]  # type: ignore[type-var]
        letters: list[str] = []
        deadline = time.monotonic() + 30
        while len(letters) < 3 and time.monotonic() < deadline:
            listed = run("list", dead, "--bootstrap", kafka_broker.bootstrap, "--json")
            letters = listed.stdout.splitlines()
        why = sorted(
            (letter["exception_type"].rpartition(".")[2], letter["attempts"])
            for letter in map(json.loads, letters)
        )
        assert why == [("BankUnavailable", 5), ("Declined", 1), ("NoPayment", 1)]
        _, errors = end(process)
    assert committed(kafka_broker, kafka_topic, f"pay-{kafka_topic}") == 6
    assert "cents" not in errors
