"""librdkafka's keys: which may be given, what is set beside them, and refusals that name one.

Reference of the keys: https://docs.confluent.io/platform/current/clients/librdkafka/html/md_CONFIGURATION.html
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError

from trio_broadway_kafka._kafka._client import Session
from trio_broadway_kafka._model._errors import ConfigError

__all__ = ["CALLBACKS", "ClientConfig", "Silence", "check_entry", "secrets_of"]

OWNED: Final = {
    "enable.auto.commit": "only offsets of finished messages may be committed",
    "auto.commit.enable": "only offsets of finished messages may be committed",
    "auto.commit.interval.ms": "give commit_interval instead",
    "enable.auto.offset.store": "only offsets of finished messages may be committed",
    "offset.store.method": "only offsets of finished messages may be committed",
    "enable.partition.eof": "the ends of partitions decide what is committed and caught up",
    "on_commit": "the answers to commits go to whoever waits for them",
    "default.topic.config": "give its keys beside the others",
}
"""Keys that the library sets itself, and why."""

ALWAYS: Final[dict[str, object]] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
}

DEFAULTS: Final[dict[str, object]] = {
    # librdkafka's "latest" skips what was produced before the first commit.
    "auto.offset.reset": "earliest",
    # librdkafka takes damaged records for good ones unless it is told to look.
    "check.crcs": True,
    # After its queue was full librdkafka waits 1000 ms before it fetches again: measured at
    # 160-640k messages a second, against 0.9-1.6M with 10 ms.
    "fetch.queue.backoff.ms": 10,
    # A partition that is resumed, and one whose first offset is looked up, wait for the
    # request under way, which waits this long (500 by default) when the others are at their
    # ends: partition order with a small share took 14.6 s instead of 5.2.
    "fetch.wait.max.ms": 100,
}

CALLBACKS: Final = ("error_cb", "stats_cb", "throttle_cb", "oauth_cb")

SECRET: Final = re.compile(
    r"password|secret|\.pem$|assertion|oauthbearer\.config|jaas|credential|token$"
)

CONSUMER_ONLY: Final = re.compile(
    r"group\.|session\.timeout|heartbeat\.interval|partition\.assignment|max\.poll\.|fetch\."
    r"|queued\.|coordinator\.query|auto\.(offset|commit)|enable\.(auto|partition)|isolation\."
    r"|check\.crcs|max\.partition\.fetch|offset\.store|consume\.callback"
    r"|allow\.auto\.create|(statistics\.interval\.ms|log_level|debug|logger)$"
)
"""Keys with no meaning for a client that neither consumes nor reports."""

KNOWN: Final = """
allow.auto.create.topics api.version.request auto.offset.reset bootstrap.servers
broker.address.family broker.address.ttl check.crcs client.dns.lookup client.id client.rack
connections.max.idle.ms debug enable.ssl.certificate.verification enable.metrics.push error_cb
fetch.error.backoff.ms fetch.max.bytes fetch.message.max.bytes fetch.min.bytes
fetch.queue.backoff.ms fetch.wait.max.ms group.id group.instance.id group.protocol
group.remote.assignor heartbeat.interval.ms isolation.level log_level logger
max.partition.fetch.bytes max.poll.interval.ms message.max.bytes metadata.broker.list
metadata.max.age.ms metadata.recovery.strategy oauth_cb partition.assignment.strategy
plugin.library.paths queued.max.messages.kbytes queued.min.messages receive.message.max.bytes
reconnect.backoff.max.ms reconnect.backoff.ms retry.backoff.max.ms retry.backoff.ms
sasl.kerberos.keytab sasl.kerberos.principal sasl.kerberos.service.name sasl.mechanism
sasl.mechanisms sasl.oauthbearer.client.id sasl.oauthbearer.client.secret
sasl.oauthbearer.config sasl.oauthbearer.extensions sasl.oauthbearer.method
sasl.oauthbearer.scope sasl.oauthbearer.token.endpoint.url sasl.password sasl.username
security.protocol session.timeout.ms socket.connection.setup.timeout.ms socket.keepalive.enable
socket.max.fails socket.nagle.disable socket.receive.buffer.bytes socket.send.buffer.bytes
socket.timeout.ms ssl.ca.location ssl.ca.pem ssl.certificate.location ssl.certificate.pem
ssl.cipher.suites ssl.crl.location ssl.endpoint.identification.algorithm ssl.key.location
ssl.key.password ssl.key.pem ssl.keystore.location ssl.keystore.password statistics.interval.ms
stats_cb throttle_cb topic.blacklist topic.metadata.refresh.interval.ms
"""
"""Names offered in place of a misspelt one; librdkafka decides what exists."""


class ClientConfig:
    """The caller's mapping, judged without network, and what is made of it.

    Attributes:
        consumer: the keys for a consumer, without callbacks and logger.
        callbacks: the caller's callbacks by key.
        logger: the caller's logger, None for the library's.
        classic: whether the older of the two group protocols is used.
        address: where the broker was to be found, for error messages.
        first_offset: the logical offset that auto.offset.reset stands for, if it is one.

    Raises:
        ConfigError: a key is missing, unknown, owned by the library, or its value refused.
    """

    def __init__(self, kafka: Mapping[str, object]) -> None:
        for key, value in kafka.items():
            check_entry(key, value)
        for key in kafka:
            if key in OWNED:
                raise ConfigError(f"kafka[{key!r}] is set by this library: {OWNED[key]}")
        # An empty group.id is not refused but ends the process:
        # an assertion in Consumer_init of confluent-kafka 2.16.1.
        if kafka.get("group.id") in (None, ""):
            raise ConfigError('kafka["group.id"] is missing: the name of the consumer group')
        addresses = (kafka.get("bootstrap.servers"), kafka.get("metadata.broker.list"))
        if not any(addresses) and "test.mock.num.brokers" not in kafka:
            raise ConfigError('kafka["bootstrap.servers"] is missing: "host:port" of a broker')

        self._secrets = secrets_of(kafka)
        self.address = ", ".join(str(a) for a in addresses if a) or "the mock cluster"
        self.callbacks: dict[str, Callable[..., Any]] = {
            key: value for key in CALLBACKS if callable(value := kafka.get(key))
        }
        self.logger: Any = kafka.get("logger")
        given = {k: v for k, v in kafka.items() if k not in (*CALLBACKS, "logger")}
        self.consumer: dict[str, Any] = {**DEFAULTS, **given, **ALWAYS}
        # Only the classic protocol has assignors on the client; under
        # group.protocol=consumer librdkafka refuses the key.
        self.classic = str(given.get("group.protocol", "classic")).lower() == "classic"
        if self.classic:
            self.consumer.setdefault("partition.assignment.strategy", "cooperative-sticky")
        self._probe()
        self.max_poll_interval = int(self.consumer.get("max.poll.interval.ms", 300_000)) / 1000
        self.read_committed = (
            str(self.consumer.get("isolation.level", "read_committed")) == "read_committed"
        )
        self.first_offset = {
            "smallest": OFFSET_BEGINNING,
            "earliest": OFFSET_BEGINNING,
            "beginning": OFFSET_BEGINNING,
            "largest": OFFSET_END,
            "latest": OFFSET_END,
            "end": OFFSET_END,
        }.get(str(self.consumer["auto.offset.reset"]).lower())

    def __repr__(self) -> str:
        group = self.consumer["group.id"]
        return f"ClientConfig(group.id={group!r}, bootstrap.servers={self.address!r})"

    @property
    def creates_topics(self) -> bool:
        """Whether the broker may make a topic because its metadata were asked for."""
        return str(self.consumer.get("allow.auto.create.topics")).lower() in ("true", "1")

    @property
    def fetches_tokens(self) -> bool:
        """Whether authentication depends on a token service, which may be away for a while."""
        keys = ("sasl.mechanism", "sasl.mechanisms")
        return any(str(self.consumer.get(k, "")).upper() == "OAUTHBEARER" for k in keys)

    def check(self, session: Session) -> None:
        """Check `session` against the keys.

        Raises:
            ConfigError: a revoke may last longer than Kafka waits for a poll.
        """
        if session.revoke_timeout + 1 >= self.max_poll_interval:
            raise ConfigError(
                f"revoke_timeout={session.revoke_timeout:g} s must be more than a second below"
                f' kafka["max.poll.interval.ms"]={self.max_poll_interval * 1000:.0f}: a member'
                " that drains for longer is taken for dead"
            )

    @property
    def connection(self) -> dict[str, Any]:
        """The keys that say how to reach the brokers."""
        return {k: v for k, v in self.consumer.items() if not CONSUMER_ONLY.match(k)}

    def admin(self) -> dict[str, Any]:
        """The keys for an AdminClient: how to reach the brokers, and nothing to consume."""
        keys = self.connection
        # It is not polled, so its log lines would go to stderr. What fails is in its answers.
        return keys | {"log_level": 0}

    def keep_secret(self, keys: Mapping[str, object]) -> None:
        """Hide what is secret among these keys too."""
        self._secrets += secrets_of(keys)

    def hide(self, text: str) -> str:
        """Return `text` without the values of secret keys."""
        for secret in self._secrets:
            text = text.replace(secret, "[hidden]")
        return text

    def _probe(self) -> None:
        # Without an address librdkafka judges keys and values and connects to nothing
        # (0.7 ms to make and drop). A token service would be called at once: left out.
        probe = {
            key: value
            for key, value in self.consumer.items()
            if key
            not in (
                "bootstrap.servers",
                "metadata.broker.list",
                "test.mock.num.brokers",
                "sasl.oauthbearer.method",
            )
        }
        try:
            # With a logger, lines go to a queue that nobody reads.
            Consumer({**probe, "logger": Silence()})
        except Exception as error:
            raise ConfigError(self.refusal(error, self.consumer)) from None

    def refusal(
        self,
        error: Exception,
        keys: Iterable[str],
        *,
        given: str = "kafka",
        kind: str = "consumer",
    ) -> str:
        """What was wrong with some keys, for a ConfigError.

        Args:
            error: what librdkafka raised.
            keys: what it was given.
            given: where they were given.
            kind: what was to be made of them.
        """
        cause = error.args[0] if error.args else error
        text = (cause.str() if isinstance(cause, KafkaError) else str(cause)).strip()
        text = text.removeprefix(f"Failed to create {kind}: ")
        unknown = re.match(r'No such configuration property: "(.*)"', text)
        if unknown:
            name = unknown[1]
            close = difflib.get_close_matches(name, KNOWN.split(), n=1, cutoff=0.75)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            return f"{given}[{name!r}] is not a key that librdkafka knows{hint}"
        for key in keys:
            if SECRET.search(key) and key in text:
                return f"{given}[{key!r}]: librdkafka refuses its value (not shown)"
        return f"librdkafka refuses {given}: {self.hide(text)}"


class Silence:
    def log(self, *args: object) -> None:
        pass


def check_entry(key: object, value: object) -> None:
    if not isinstance(key, str):
        raise ConfigError(f"kafka has a key that is not a string: {key!r}")
    if key in CALLBACKS:
        if not callable(value):
            raise ConfigError(f"kafka[{key!r}] must be a function")
    elif key == "logger":
        if value is not None and not callable(getattr(value, "log", None)):
            raise ConfigError("kafka['logger'] must be a logging.Logger")
    elif isinstance(value, str):
        # confluent-kafka reports what UTF-8 can't carry as a SystemError without the key,
        # and C ends the value at a NUL.
        if "\0" in value or (not value.isprintable() and _not_utf8(value)):
            raise ConfigError(f"kafka[{key!r}] has a character that can't be passed on")
    elif not (value is None or key in OWNED or isinstance(value, bool | int | float | bytes)):
        raise ConfigError(f"kafka[{key!r}] must be a string, a number or a bool")


def _not_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def secrets_of(kafka: Mapping[str, object]) -> list[str]:
    found: set[str] = set()
    for key, value in kafka.items():
        if SECRET.search(key) and isinstance(value, str | bytes):
            text = value.decode(errors="replace") if isinstance(value, bytes) else value
            # librdkafka quotes this one in part when it can't parse it.
            parts = re.split(r"[\s,=]+", text) if "oauthbearer" in key else []
            found |= {text, *parts}
    # Hiding every "a" of a text would tell more than it hides.
    return sorted((s for s in found if len(s) > 3), key=len, reverse=True)
