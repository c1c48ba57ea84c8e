"""How a local Kafka's nodes are set up: what differs from Kafka's defaults, and why."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Mapping
from pathlib import Path

from trio_broadway_kafka.testing._jars import BrokerUnavailable

__all__ = ["LOG4J_OPTION", "write_log4j", "write_properties"]

# Paths are relative to a node's folder, its working directory: Kafka would split a list at
# the commas of a path, and Java would read a file's letters beyond ASCII as something else.
LOG4J_OPTION = "-Dlog4j2.configurationFile=../log4j2.properties"

# To the process's output, which is the node's log file.
_LOG4J = """\
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %-5p %c{1}: %m%n
"""


def write_log4j(folder: Path) -> None:
    """Write how the nodes log, to where `LOG4J_OPTION` says."""
    (folder / "log4j2.properties").write_text(_LOG4J)


def write_properties(
    folder: Path,
    nodes: int,
    port: int | None,
    properties: Mapping[str, str],
    advertised_ports: Mapping[int, int],
) -> dict[int, tuple[int, Path]]:
    """Write every node's server.properties: node id to its client port and the file."""
    free = _free_ports(3 * nodes)
    client = dict(enumerate(free[:nodes], 1))
    if port is not None:
        client[1] = port
    internal = dict(enumerate(free[nodes : 2 * nodes], 1))
    controller = dict(enumerate(free[2 * nodes :], 1))
    replicas = str(min(3, nodes))
    in_sync = str(min(2, nodes))
    files = {}
    for id in client:
        home = folder / f"node-{id}"
        home.mkdir(exist_ok=True)
        advertised = advertised_ports.get(id, client[id])
        settings = {
            "process.roles": "broker,controller",
            "node.id": str(id),
            "controller.quorum.voters": ",".join(
                f"{other}@127.0.0.1:{controller[other]}" for other in controller
            ),
            "controller.listener.names": "CONTROLLER",
            # A listener of their own for the nodes' talk (a single node talks to itself,
            # to end a transaction): a proxy's faults are meant for clients only.
            "inter.broker.listener.name": "INTERNAL",
            "listeners": f"PLAINTEXT://127.0.0.1:{client[id]},"
            f"INTERNAL://127.0.0.1:{internal[id]},"
            f"CONTROLLER://127.0.0.1:{controller[id]}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{advertised},"
            f"INTERNAL://127.0.0.1:{internal[id]}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,"
            "CONTROLLER:PLAINTEXT",
            "log.dirs": "data",
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            # By default these have 50 partitions each, which a test pays for at first use.
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            # A node that was killed may only come back when this is over.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            # Records with the timestamps of some old data would be gone in minutes.
            "log.retention.ms": "-1",
            # And a group that nobody was in for a week would begin again.
            "offsets.retention.minutes": str(2**31 - 1),
            # 128 MB by default, taken at the start.
            "log.cleaner.dedupe.buffer.size": str(16 * 2**20),
            # Members join without a wait, leave and move within a second, and may be
            # given session timeouts that a test can wait for.
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "group.consumer.min.session.timeout.ms": "1000",
            "group.consumer.min.heartbeat.interval.ms": "100",
            "group.consumer.heartbeat.interval.ms": "500",
            **properties,
        }
        file = home / "server.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        files[id] = (client[id], file)
    return files


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that systems give to outgoing connections.

    Else a client that keeps knocking at a stopped node could be given the node's own port,
    and find itself connected to itself.
    """
    found: list[int] = []
    for port in random.sample(range(15_000, 30_000), 1000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
        if len(found) == count:
            return found
    raise BrokerUnavailable(f"found only {len(found)} free ports on 127.0.0.1 of {count}")
