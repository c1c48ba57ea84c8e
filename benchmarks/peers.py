"""The same records, broker and handlers for this library and its peers.

    nox -s bench -- --peers [--bootstrap HOST:PORT] [--rounds N] [--only NAME ...]

Each peer's script in `peers/` is the plain way of that peer, in 40 lines or fewer, and says in
its head which packages it wants: uv makes an environment of its own for each. All use their
own defaults, from the beginning of a topic, with a group that nobody has used. Rounds go
through all of them in turn; what is printed is the median over the rounds.

- nothing: handlers that do nothing, 1M records in 10 partitions, for 20 s at most; CPU is that
  of all threads, memory what the process has at the end.
- slow: handlers of 10 ms, 1,000 at once where the peer can do that.
- keys: 10,000 records in one partition, 1,000 keys, 100 at once, 0 to 5 ms each, in the order
  of keys, after 10,000 others that warm up: parallel-consumer's own table.
- latency: from `produce` to the handler's start, at 1,000 records a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from _backlog import local_or, make_backlog
from confluent_kafka.admin import AdminClient, NewTopic
from latency import producing

HERE = Path(__file__).parent
JAVA_VERSION = "0.5.3.3"
WARM_UP = {"nothing": 1_000, "slow": 1_000, "keys": 10_000, "latency": 2_000}
COUNTS = {"nothing": 990_000, "slow": 90_000, "keys": 10_000, "latency": 8_000}
TITLES = {
    "nothing": "handlers that do nothing",
    "slow": "handlers of 10 ms, up to 1,000 at once",
    "keys": "10,000 records, one partition, 1,000 keys, 100 at once, 0 to 5 ms, in key order",
    "latency": "from produce to the handler, 1,000 records a second",
}


@dataclass
class Peer:
    """One line of the tables.

    Attributes:
        name: as printed.
        script: in `peers/`.
        scenarios: what it takes part in; where it handles one message at a time, waiting
            handlers say no more than that.
        variant: for the script.
    """

    name: str
    script: str
    scenarios: tuple[str, ...]
    variant: str = ""
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


OURS = "trio_broadway_kafka, "
PEERS = [
    Peer("raw consume(1000) or poll()", "raw.py", ("nothing", "latency")),
    Peer(f"{OURS}batches", "ours.py", ("nothing",), "batches"),
    Peer(f"{OURS}unordered", "ours.py", ("nothing", "slow", "latency"), "unordered"),
    Peer(f"{OURS}partition", "ours.py", ("nothing",), "partition"),
    Peer(f"{OURS}key", "ours.py", ("nothing", "slow", "keys", "latency"), "key"),
    Peer(f"{OURS}one per partition", "ours.py", ("nothing",), "pipelines"),
    Peer("aiokafka", "aiokafka_.py", ("nothing", "slow", "latency")),
    Peer("sentry-arroyo", "arroyo_.py", ("nothing", "slow", "latency")),
    Peer("quixstreams", "quixstreams_.py", ("nothing", "slow", "latency")),
    Peer("FastStream (confluent)", "faststream_.py", ("nothing", "slow", "latency")),
    Peer("parallel-consumer (Java)", "ParallelConsumer.java", ("slow", "keys")),
]


def fetch_jars(folder: Path) -> None:
    """parallel-consumer and what it needs, from Maven Central."""
    from jgo.maven import MavenContext, PythonResolver

    with tempfile.TemporaryDirectory() as repository:
        maven = MavenContext(PythonResolver(), repo_cache=Path(repository), timeout=60)
        for coordinate in (
            f"io.confluent.parallelconsumer:parallel-consumer-core:{JAVA_VERSION}",
            "org.slf4j:slf4j-nop:2.0.17",
        ):
            wanted = [maven.create_dependency(coordinate)]
            for found in maven.resolver.resolve(wanted):
                for dependency in found:
                    if dependency.scope != "test":
                        jar = dependency.artifact.resolve()
                        shutil.copy(jar, folder / jar.name)


def command(peer: Peer, jars: Path) -> list[str]:
    """What runs a peer: this Python, uv's for what it wants, or Java."""
    script = str(HERE / "peers" / peer.script)
    if peer.script.endswith(".java"):
        return ["java", "-cp", f"{jars}/*", script]
    if "# /// script" in Path(script).read_text():
        return ["uv", "run", "--quiet", "--python", sys.executable, "--script", script]
    return [sys.executable, script]


def run(peer: Peer, scenario: str, bootstrap: str, seconds: float, jars: Path) -> None:
    topic = {"nothing": "peers-1m", "slow": "peers-1m", "keys": "peers-keys"}.get(scenario)
    count, warm_up = COUNTS[scenario], WARM_UP[scenario]
    producer: subprocess.Popen[bytes] | None = None
    if topic is None:
        topic = f"peers-{uuid.uuid4().hex[:8]}"
        admin = AdminClient({"bootstrap.servers": bootstrap})
        for made in admin.create_topics([NewTopic(topic, 1, 1)]).values():
            made.result(30)
        # Some are slow to start: they fall behind, catch up while they warm up, and are late.
        producer = subprocess.Popen(producing(bootstrap, topic, 3 * (count + warm_up)))
    arguments = [bootstrap, topic, scenario, str(count), str(warm_up), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "UV_PYTHON_DOWNLOADS": "never"}
    try:
        done = subprocess.run(
            [*command(peer, jars), *arguments, peer.variant],
            capture_output=True,
            text=True,
            env=environment,
            timeout=seconds + 60,
            check=False,
        )
    finally:
        if producer is not None:
            producer.kill()
            producer.wait()
    if done.returncode:
        raise SystemExit(f"{peer.name}, {scenario}: it failed with\n{done.stderr}")
    peer.runs.setdefault(scenario, []).append(json.loads(done.stdout.splitlines()[-1]))


def print_table(scenario: str, peers: list[Peer]) -> None:
    """In Markdown: medians over the rounds."""
    shown = [peer for peer in peers if scenario in peer.runs]
    if not shown:
        return
    print(f"\n{TITLES[scenario]}:\n")
    if scenario == "latency":
        print("| | p50 ms | p90 ms | p99 ms |\n|---|---|---|---|")
    elif scenario == "keys":
        print("| | ms |\n|---|---|")
    else:
        print("| | messages/s | CPU µs a message | MiB |\n|---|---|---|---|")
    for peer in shown:
        print(f"| {peer.name} | {' | '.join(cells(scenario, peer.runs[scenario]))} |")


def cells(scenario: str, runs: list[dict[str, Any]]) -> list[str]:
    """Of a line."""
    if scenario == "latency":
        sorted_ones = [one["latencies"] for one in runs]
        return [
            f"{median(ms[int(len(ms) * part)] for ms in sorted_ones) * 1e3:.2f}"
            for part in (0.5, 0.9, 0.99)
        ]
    if scenario == "keys":
        return [f"{median(one['wall'] for one in runs) * 1e3:.0f}"]
    found = [f"{median(one['messages'] / one['wall'] for one in runs):,.0f}"]
    if runs[0]["cpu"] is None:
        return [*found, "", ""]
    found.append(f"{median(one['cpu'] / one['messages'] for one in runs) * 1e6:.2f}")
    return [*found, f"{median(one['rss'] for one in runs):.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bootstrap", help="a Kafka to use; one is started otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="of each run, at most")
    parser.add_argument("--only", nargs="+", choices=sorted(TITLES), default=list(TITLES))
    options = parser.parse_args()
    peers = PEERS
    with local_or(options.bootstrap) as bootstrap, tempfile.TemporaryDirectory() as folder:
        jars = Path(folder)
        if {"slow", "keys"} & {*options.only}:
            if shutil.which("javac") is None:
                print("without parallel-consumer: there is no JDK here", flush=True)
                peers = [peer for peer in PEERS if not peer.script.endswith(".java")]
            else:
                fetch_jars(jars)
        print("1,000,000 records of 100 bytes …", flush=True)
        make_backlog(bootstrap, "peers-1m", 1_000_000)
        make_backlog(bootstrap, "peers-keys", 20_000, partitions=1, keys=1_000)
        for number in range(options.rounds):
            for scenario in options.only:
                for peer in peers:
                    if scenario in peer.scenarios:
                        print(f"round {number + 1}: {scenario}, {peer.name}", flush=True)
                        run(peer, scenario, bootstrap, options.seconds, jars)
    print(f"\nPython {platform.python_version()}, medians of {options.rounds} rounds")
    for scenario in options.only:
        print_table(scenario, peers)


if __name__ == "__main__":
    main()
