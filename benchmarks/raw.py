"""The floor: a bare loop around ``consume(1000)`` of the same client."""

from __future__ import annotations

import sys

from _backlog import Meter, consumer_settings, report
from confluent_kafka import Consumer


def main(bootstrap: str, topic: str, count: int) -> None:
    assigned = False

    def on_assign(consumer: Consumer, partitions: list[object]) -> None:
        nonlocal assigned
        assigned = True

    consumer = Consumer(consumer_settings(bootstrap, "raw") | {"enable.auto.commit": False})
    consumer.subscribe([topic], on_assign=on_assign)
    while not assigned:
        consumer.poll(0.01)
    meter = Meter()
    seen = 1  # the poll that served the assignment may have brought one
    while seen < count:
        seen += len(consumer.consume(1000, 0.1))
    report(meter.stop("raw", count))
    consumer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
