"""``python -m trio_broadway_kafka.testing``: a local Apache Kafka until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from trio_broadway_kafka.testing._broker import DEFAULT_VERSION, start_kafka
from trio_broadway_kafka.testing._jars import BrokerUnavailable


def main() -> None:
    """Start it, print its address, end well on Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m trio_broadway_kafka.testing",
        description="Run a local Apache Kafka until Ctrl-C. Its data is removed at the end "
        "unless you give it a folder.",
    )
    parser.add_argument("--nodes", type=int, default=1, help="brokers (default: 1)")
    parser.add_argument("--port", type=int, help="of the first one (default: a free one)")
    parser.add_argument("--version", default=DEFAULT_VERSION, help="default: %(default)s")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="PATH",
        help="keep the data there, and go on with what is there (default: removed at the end)",
    )
    options = parser.parse_args()

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    print("Starting Apache Kafka ...", file=sys.stderr, flush=True)
    try:
        with start_kafka(
            nodes=options.nodes,
            port=options.port,
            version=options.version,
            folder=options.folder,
        ) as broker:
            print(broker.bootstrap, flush=True)
            end = "removes its data" if options.folder is None else f"keeps {options.folder}"
            print(f"Ctrl-C ends it and {end}.", file=sys.stderr, flush=True)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        print("\nEnded.", file=sys.stderr)
    except BrokerUnavailable as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
