from __future__ import annotations

import json
import re
import signal
import socket
from typing import IO

from tests.examples._program import committed, produce, program
from trio_broadway_kafka.testing import KafkaBroker


def port(output: IO[str] | None) -> int:
    assert output is not None
    found = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", output.readline())
    assert found
    return int(found[1])


def test_the_service_answers_with_its_sum_until_ctrl_c_and_a_bad_record_ends_all_of_it(
    kafka_broker: KafkaBroker, kafka_topic: str, kafka_group: str
) -> None:
    arguments = (kafka_broker.bootstrap, kafka_topic, "--group", kafka_group, "--port=0")
    produce(kafka_broker, kafka_topic, b"30", b"12")
    with program("service.py", *arguments, "--log-every=0.1") as process:
        with socket.create_connection(("127.0.0.1", port(process.stdout)), 20) as client:
            lines = client.makefile("rw")
            reply = {"sum": 0}
            while reply["sum"] < 42:
                lines.write("\n")
                lines.flush()
                reply = json.loads(lines.readline())
        assert (reply["sum"], reply["succeeded"], reply["failed"]) == (42, 2, 0)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert (process.returncode, output) == (0, "the sum is 42\n"), errors
    assert re.search(r"^1 partitions, lag \d", errors, re.M)
    assert committed(kafka_broker, kafka_topic, kafka_group) == 2

    with program("service.py", *arguments) as process:
        with socket.create_connection(("127.0.0.1", port(process.stdout)), 20) as client:
            produce(kafka_broker, kafka_topic, b"1", b"secret")
            assert client.recv(100) == b""  # the server ends with the pipeline
        _, errors = process.communicate()
    assert process.returncode == 1
    assert (
        errors.splitlines()[-1]
        == f"stopped at <Message {kafka_topic}/0@3> is not a whole number"
    )
    assert "Traceback" not in errors
    assert "secret" not in errors
    assert committed(kafka_broker, kafka_topic, kafka_group) == 3


def test_a_port_that_is_taken_ends_the_service_with_a_sentence(
    kafka_broker: KafkaBroker, kafka_topic: str, kafka_group: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with program(
            *("service.py", kafka_broker.bootstrap, kafka_topic),
            *("--group", kafka_group, f"--port={number}"),
        ) as process:
            _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith(f"port {number}: [Errno ")
    assert "Traceback" not in errors
