"""The floor: a bare loop around ``consume(1000)`` of the same client."""

from __future__ import annotations

import sys

from _backlog import Meter, assigned_consumer, report


def main(bootstrap: str, topic: str, count: int) -> None:
    consumer = assigned_consumer(bootstrap, topic)
    meter = Meter()
    seen = 1  # the poll that served the assignment may have brought one
    while seen < count:
        seen += len(consumer.consume(1000, 0.1))
    report(meter.stop("raw", count))
    consumer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
