"""librdkafka's mock cluster, and errors put into its answers.

The functions are those of librdkafka's rdkafka_mock.h, called in the library that
confluent-kafka brings along. The mock checks little: it is for what brokers answer, never a
proof of fencing or loss.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Producer

__all__ = ["OFFSET_COMMIT", "MockCluster"]

OFFSET_COMMIT: Final = 8
"""The request's number (https://kafka.apache.org/protocol#protocol_api_keys)."""


def _librdkafka() -> Any:
    maps = Path("/proc/self/maps").read_text().splitlines()
    [path] = {line.split()[-1] for line in maps if "librdkafka" in line}
    library = ctypes.CDLL(path)
    library.rd_kafka_handle_mock_cluster.restype = ctypes.c_void_p
    library.rd_kafka_handle_mock_cluster.argtypes = [ctypes.c_void_p]
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
    library.rd_kafka_mock_push_request_errors_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int16,
        ctypes.c_size_t,
        ctypes.POINTER(ctypes.c_int),
    ]
    return library


class MockCluster:
    """A mock of one broker, which lives as long as this.

    Attributes:
        bootstrap: its address.
    """

    def __init__(self) -> None:
        self._library = _librdkafka()
        self._host = Producer(
            {"bootstrap.servers": "unused:1", "test.mock.num.brokers": 1, "log_level": 0}
        )
        # The first field of confluent-kafka's Handle, behind Python's own two.
        client = ctypes.c_void_p.from_address(id(self._host) + object.__basicsize__).value
        self._cluster = self._library.rd_kafka_handle_mock_cluster(client)
        address: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        self.bootstrap = address.decode()

    def answer(self, request: int, errors: Sequence[int]) -> None:
        """Answer the next requests of a kind with these errors (0: as it would)."""
        array = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, request, len(errors), array
        )
