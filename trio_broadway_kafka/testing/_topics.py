"""Topics of a test's broker: made, deleted, and whether the broker answers at all.

The one module of testing/ that imports confluent_kafka. It serves pytest's fixtures, which
run outside trio, so it is synchronous and shares nothing with the library's own admin.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

__all__ = ["create_topic", "delete_topic", "is_reachable", "nodes_that_answer"]


def _admin(bootstrap: str) -> AdminClient:
    # Quiet: while a broker starts, refused connections are normal and not worth a line.
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def create_topic(
    bootstrap: str,
    topic: str,
    *,
    partitions: int,
    config: Mapping[str, str],
    timeout: float,
) -> None:
    """Make a topic and wait until every partition has a leader.

    Args:
        bootstrap: the broker's address.
        topic: its name.
        partitions: how many.
        config: the topic's properties, such as ``{"cleanup.policy": "compact"}``.
        timeout: seconds.

    Raises:
        confluent_kafka.KafkaException: the broker refused, or did not answer in time.
        TimeoutError: the topic was made but was not ready in time.
    """
    deadline = time.monotonic() + timeout
    admin = _admin(bootstrap)
    new = NewTopic(topic, num_partitions=partitions, config=dict(config))
    futures = admin.create_topics([new], operation_timeout=timeout, request_timeout=timeout)
    futures[topic].result()
    # What a broker is asked for next may reach it before the news of the topic does.
    while True:
        found = admin.list_topics(topic, timeout=timeout).topics[topic]
        leaders = [p.leader for p in found.partitions.values() if p.error is None]
        if len(leaders) == partitions and min(leaders) >= 0:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"topic {topic} was not ready after {timeout} s")
        time.sleep(0.02)


def delete_topic(bootstrap: str, topic: str, *, timeout: float) -> None:
    """Delete a topic; one that is gone already is fine.

    Raises:
        confluent_kafka.KafkaException: the broker refused, or did not answer in time.
    """
    admin = _admin(bootstrap)  # held by a name: what it is asked for ends with it
    futures = admin.delete_topics([topic], operation_timeout=timeout, request_timeout=timeout)
    try:
        futures[topic].result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise


def is_reachable(bootstrap: str, *, timeout: float) -> bool:
    """Whether a broker answers at this address within `timeout` seconds."""
    try:
        _admin(bootstrap).list_topics(timeout=timeout)
    except KafkaException:
        return False
    return True


def nodes_that_answer(bootstrap: str, *, cluster: str, timeout: float) -> frozenset[int]:
    """The ids of the cluster's nodes, as the broker at this address knows them.

    Empty if none answers within `timeout` seconds, or if it is a broker of another cluster
    (one that took the port first).
    """
    try:
        found = _admin(bootstrap).list_topics(timeout=timeout)
    except KafkaException:
        return frozenset()
    return frozenset(found.brokers) if found.cluster_id == cluster else frozenset()
