"""What can keep a pipeline from its records: what was found of each, and what to do."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import confluent_kafka
import trio
from confluent_kafka import KafkaException, TopicCollection, TopicPartition as Native
from confluent_kafka.admin import (
    AclOperation,  # pyright: ignore[reportPrivateImportUsage]
    AdminClient,
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage]
    OffsetSpec,  # pyright: ignore[reportPrivateImportUsage]
)

from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._translate import OUTAGE, error_of, is_retriable

__all__ = ["Finding", "examine"]

CONNECT_WITHIN: Final = 5.0  # seconds
WITHIN: Final = 15.0  # for an answer of Kafka's
ASK_AGAIN: Final = 0.5  # after what passes, such as a coordinator that is still loading
SKEW: Final = 5.0  # seconds that clocks may differ without anybody caring

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        status: "ok", "warning" (it works, and may not as expected) or "problem".
        about: what it is about: "network", "brokers", "versions", "group", "topic", "clock".
        found: what was found, in words.
        advice: what to do; empty where all is well.
    """

    status: Status
    about: str
    found: str
    advice: str = ""


ok = partial(Finding, status="ok")
warning = partial(Finding, status="warning")
problem = partial(Finding, status="problem")


async def examine(
    kafka: Mapping[str, object], *, group: str | None = None, topics: Iterable[str] = ()
) -> AsyncGenerator[Finding]:
    """Look at everything, and tell of each as soon as it is known. Changes nothing.

    Args:
        kafka: librdkafka's settings.
        group: whose permissions and members to look at, if any.
        topics: the same for these.

    Raises:
        ConfigError: a setting is wrong.
    """
    config = ClientConfig({"group.id": "doctor", **kafka})
    yield ok(
        about="versions",
        found=f"confluent-kafka {confluent_kafka.__version__}, "
        f"librdkafka {confluent_kafka.libversion()[0]}, trio {trio.__version__}",
    )
    reached = False
    for address in config.address.split(","):
        found = await _connect(address.strip(), "a bootstrap server")
        reached = reached or found.status == "ok"
        yield found
    if not reached:
        return
    doctor = _Doctor(AdminClient(config.admin()))
    topics = tuple(topics)
    looks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("brokers", doctor.brokers),
        ("versions", doctor.protocols),
        *([("group", partial(doctor.group, group))] if group else []),
        *(("topic", partial(doctor.topic, topic)) for topic in topics),
        *(("clock", partial(doctor.clock, topic)) for topic in topics),
    ]
    for name, look in looks:
        findings = await trio.to_thread.run_sync(_tried, name, look, abandon_on_cancel=True)
        for finding in findings:
            yield finding
        if name == "brokers":
            if findings[0].status == "problem":
                return
            for node in doctor.nodes:
                yield await _connect(node, "a broker, by its advertised address")


async def _connect(address: str, what: str) -> Finding:
    """Whether somebody listens there."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        host, port = address, "9092"  # as librdkafka has it
    host = host.rpartition("//")[2].strip("[]")
    began = trio.current_time()
    try:
        with trio.fail_after(CONNECT_WITHIN):
            stream = await trio.open_tcp_stream(host, int(port))
        await stream.aclose()
    except trio.TooSlowError:
        why, advice = f"no answer in {CONNECT_WITHIN:g} s", "is there a firewall in between?"
    except OSError as error:
        why = _reason(error)
        advice = "is Kafka running there, and is the address right?"
    else:
        milliseconds = (trio.current_time() - began) * 1000
        return ok(about="network", found=f"{address}, {what}: {milliseconds:.0f} ms")
    if "advertised" in what:
        advice += " Brokers name their own addresses (advertised.listeners): this machine must "
        advice += "reach each of them, not the bootstrap server alone."
    return problem(about="network", found=f"{address}, {what}: {why}", advice=advice)


def _reason(error: BaseException) -> str:
    """What the system said, of the first address that a name stands for."""
    cause = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    # Not its strerror, which trio has put the address in.
    number = cause.errno if isinstance(cause, OSError) else None
    return str(cause) if number is None or number < 0 else os.strerror(number)


def _tried(about: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What was found, or that Kafka did not tell; what passes by itself is asked again."""
    deadline = time.monotonic() + WITHIN
    try:
        return look()
    except KafkaException as exception:
        error = error_of(exception)
        while is_retriable(error) and error.name() not in OUTAGE:
            if time.monotonic() > deadline:
                break
            time.sleep(ASK_AGAIN)
            try:
                return look()
            except KafkaException as again:
                error = error_of(again)
        advice = "see the message"
        if "AUTHORIZATION" in error.name():
            advice = "an ACL is missing for this user"
        elif error.name() in ("_AUTHENTICATION", "_SSL", "_TRANSPORT", "_TIMED_OUT"):
            advice = "do security.protocol, sasl.* and ssl.* fit the listener of this port?"
        found = f"{error.str()} ({error.name()})"
        return [problem(about=about, found=found, advice=advice)]
    except NoAnswer:
        return [
            problem(
                about=about,
                found=f"no answer in {WITHIN:g} s",
                advice="does security.protocol fit the listener of this port?",
            )
        ]


class _Doctor:
    """Asks the brokers. Each look blocks.

    Attributes:
        nodes: their addresses, once `brokers` was asked for.
    """

    def __init__(self, client: AdminClient) -> None:
        self._client = client
        self.nodes: list[str] = []
        self._node_ids: list[int] = []

    def brokers(self) -> list[Finding]:
        """Who they are."""
        found = self._client.describe_cluster(request_timeout=WITHIN).result(WITHIN + 5)
        self.nodes = [f"{node.host}:{node.port}" for node in found.nodes]
        self._node_ids = [node.id for node in found.nodes]
        count = len(self.nodes)
        words = f"{_count(count, 'broker')}, cluster {found.cluster_id}"
        return [ok(about="brokers", found=words)]

    def protocols(self) -> list[Finding]:
        """Which group protocols there are."""
        resource = ConfigResource(ConfigResource.Type.BROKER, str(self._node_ids[0]))
        answers = self._client.describe_configs([resource], request_timeout=WITHIN)
        entries: Mapping[str, Any] = answers[resource].result(WITHIN + 5)
        protocols = entries.get("group.coordinator.rebalance.protocols")
        names = "" if protocols is None else str(protocols.value)
        if "consumer" in names:
            return [
                ok(
                    about="versions",
                    found=f"group protocols: {names} (group.protocol=consumer can be used)",
                )
            ]
        return [
            warning(
                about="versions",
                found="group protocols: classic only",
                advice="leave group.protocol as it is; Kafka 4.0 has the newer one",
            )
        ]

    def group(self, name: str) -> list[Finding]:
        """Its members, and whether it may be used."""
        answers = self._client.describe_consumer_groups(
            [name], include_authorized_operations=True, request_timeout=WITHIN
        )
        found = answers[name].result(WITHIN + 5)
        state = found.state.name.lower().replace("_", " ")
        if denied := _denied(found.authorized_operations, AclOperation.READ):
            return [problem(about="group", found=f"{name}: {denied}", advice=_ACL)]
        if state == "dead":
            return [ok(about="group", found=f"{name}: not there yet, and may be used")]
        members = _count(len(found.members), "member")
        words = f"{name}: {state}, {members}, {found.type.name.lower()} protocol"
        return [ok(about="group", found=words)]

    def topic(self, name: str) -> list[Finding]:
        """Its partitions and replicas, and whether it may be read."""
        answers = self._client.describe_topics(
            TopicCollection([name]), include_authorized_operations=True, request_timeout=WITHIN
        )
        try:
            found = answers[name].result(WITHIN + 5)
        except KafkaException as exception:
            if error_of(exception).name() != "UNKNOWN_TOPIC_OR_PART":
                raise
            advice = "is its name right? create_topics=True makes what is missing"
            return [problem(about="topic", found=f"{name}: it does not exist", advice=advice)]
        findings = []
        if denied := _denied(found.authorized_operations, AclOperation.READ):
            findings.append(problem(about="topic", found=f"{name}: {denied}", advice=_ACL))
        leaderless = [p.id for p in found.partitions if p.leader is None or p.leader.id < 0]
        behind = [p.id for p in found.partitions if len(p.isr) < len(p.replicas)]
        if leaderless:
            text = f"{name}: no leader of partitions {_some(leaderless)}: they can't be read"
            findings.append(problem(about="topic", found=text, advice="are all brokers up?"))
        if behind:
            text = f"{name}: replicas missing of partitions {_some(behind)}"
            findings.append(warning(about="topic", found=text, advice="are all brokers up?"))
        if not findings:
            count, copies = len(found.partitions), len(found.partitions[0].replicas)
            words = f"{name}: {_count(count, 'partition')}, replicated {copies} ×"
            findings.append(ok(about="topic", found=words))
        return findings

    def clock(self, topic: str) -> list[Finding]:
        """Whether its newest record is from the future: then somebody's clock is wrong."""
        answers = self._client.describe_topics(TopicCollection([topic]), request_timeout=WITHIN)
        try:
            partitions = answers[topic].result(WITHIN + 5).partitions
        except KafkaException:
            return []  # it was said of the topic
        newest = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
        asked = {Native(topic, one.id): newest for one in partitions}
        found = self._client.list_offsets(asked, request_timeout=WITHIN)
        stamps = [future.result(WITHIN + 5).timestamp for future in found.values()]
        ahead = max(stamps, default=-1) / 1000 - time.time()
        if max(stamps, default=-1) < 0:
            return [ok(about="clock", found=f"{topic}: no record to compare a clock with")]
        if ahead > SKEW:
            return [
                warning(
                    about="clock",
                    found=f"{topic}: its newest record is {ahead:.0f} s from the future",
                    advice="this machine's clock is slow, or a producer's is fast: lag in "
                    "seconds, latencies, start_from and stop_at by time are wrong by that",
                )
            ]
        return [ok(about="clock", found=f"{topic}: its newest record is {_ago(-ahead)} old")]


_ACL: Final = "an ACL is missing for this user"


def _denied(operations: Iterable[Any] | None, needed: AclOperation) -> str:
    """What is not permitted; empty if all is, or where Kafka does not tell."""
    if operations is None:
        return ""
    names = {getattr(one, "name", str(one)) for one in operations}
    if not names or {needed.name, "ALL"} & names:
        return ""
    return f"{needed.name} is not permitted"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return shown if len(numbers) <= 10 else f"{shown} and {len(numbers) - 10} more"


def _ago(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
