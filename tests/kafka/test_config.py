"""What `ClientConfig` makes of librdkafka's keys. No broker is needed, nor looked for."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from confluent_kafka.admin import AdminClient

from trio_broadway_kafka._kafka._client import Session
from trio_broadway_kafka._kafka._config import KNOWN, OWNED, ClientConfig
from trio_broadway_kafka._kafka._confluent import ConfluentClient
from trio_broadway_kafka._model._errors import ConfigError

NEEDED = {"bootstrap.servers": "127.0.0.1:1", "group.id": "group"}
PASSWORD = "correct horse battery staple"


def refusal(**keys: object) -> str:
    """The text of the ConfigError for these keys, given beside those that are needed."""
    with pytest.raises(ConfigError) as caught:
        ConfluentClient({**NEEDED, **{k.replace("__", "."): v for k, v in keys.items()}})
    return str(caught.value)


@pytest.mark.parametrize("key", sorted(NEEDED))
@pytest.mark.parametrize("empty", [{}, {"value": ""}, {"value": None}])
def test_a_needed_key_that_is_missing_or_empty_is_named(
    key: str, empty: dict[str, object]
) -> None:
    kafka: dict[str, object] = {k: v for k, v in NEEDED.items() if k != key}
    if empty:
        kafka[key] = empty["value"]
    with pytest.raises(ConfigError, match=key):
        ConfluentClient(kafka)


def test_the_old_name_of_the_address_will_do() -> None:
    ConfluentClient({"metadata.broker.list": "127.0.0.1:1", "group.id": "group"})


@pytest.mark.parametrize("key", sorted(OWNED))
def test_an_owned_key_is_refused_with_the_reason_even_with_our_value(key: str) -> None:
    text = refusal(**{key: False})
    assert key in text
    assert OWNED[key] in text


def test_a_misspelt_key_is_named_with_the_one_that_was_meant() -> None:
    text = refusal(**{"auto.offset.rest": "earliest"})
    assert "'auto.offset.rest'" in text
    assert "did you mean 'auto.offset.reset'?" in text


def test_a_key_like_no_other_is_named_without_a_guess() -> None:
    text = refusal(xyzzy=1)
    assert "'xyzzy'" in text
    assert "did you mean" not in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto.offset.reset", "sometimes"),
        ("session.timeout.ms", "soon"),
        ("session.timeout.ms", 99_999_999),
        ("max.poll.interval.ms", 5_000),
        ("error_cb", 3),
        ("logger", 3),
        ("client.id", "\ud800"),
        ("client.id", "a\0b"),
        ("client.id", object()),
    ],
)
def test_a_bad_value_is_refused_and_its_key_named(key: str, value: object) -> None:
    assert key in refusal(**{key: value})


def test_a_key_that_is_not_a_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="3"):
        ConfluentClient({**NEEDED, 3: 4})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "keys",
    [
        {"sasl.passwrd": PASSWORD},
        {"ssl.key.pem": PASSWORD, "security.protocol": "ssl"},
        {"ssl.ca.pem": PASSWORD, "security.protocol": "ssl"},
        {"sasl.password": PASSWORD, "sasl.mechanism": "XYZ", "security.protocol": "sasl_ssl"},
        {"sasl.password": PASSWORD, "debug": PASSWORD},
        {"sasl.password": "\ud800" + PASSWORD},
        {"sasl.password": [PASSWORD]},
    ],
)
def test_no_error_shows_a_secret(keys: dict[str, object]) -> None:
    text = refusal(**keys)
    assert PASSWORD not in text
    assert any(key in text for key in keys) or "mechanism" in text


def test_no_repr_shows_a_secret() -> None:
    client = ConfluentClient(
        {**NEEDED, "sasl.password": PASSWORD, "ssl.key.password": PASSWORD}
    )
    assert "127.0.0.1:1" in repr(client)
    assert PASSWORD not in repr(client)


def test_no_log_line_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    client = ConfluentClient({**NEEDED, "sasl.password": PASSWORD})
    with caplog.at_level(logging.DEBUG):
        client._reports.log(logging.ERROR, "%s [%s] %s", "SASL", "x", f"got {PASSWORD}")
    assert "got [hidden]" in caplog.text


def test_records_are_checked_unless_the_user_says_otherwise() -> None:
    assert ClientConfig(NEEDED).consumer["check.crcs"] is True
    assert ClientConfig({**NEEDED, "check.crcs": False}).consumer["check.crcs"] is False


def test_reading_starts_at_the_earliest_record_unless_the_user_says_otherwise() -> None:
    assert ClientConfig(NEEDED).consumer["auto.offset.reset"] == "earliest"
    latest = ClientConfig({**NEEDED, "auto.offset.reset": "latest"})
    assert latest.consumer["auto.offset.reset"] == "latest"


def test_the_classic_protocol_gets_an_assignor_unless_one_is_given() -> None:
    key = "partition.assignment.strategy"
    assert ClientConfig(NEEDED).consumer[key] == "cooperative-sticky"
    assert ClientConfig({**NEEDED, key: "range"}).consumer[key] == "range"
    assert key not in ClientConfig({**NEEDED, "group.protocol": "consumer"}).consumer


def test_what_kip_848_leaves_to_the_broker_is_refused_by_its_name() -> None:
    for key in ("session.timeout.ms", "heartbeat.interval.ms"):
        assert key in refusal(**{"group.protocol": "consumer", key: 5_000})


def test_the_mapping_is_not_changed() -> None:
    kafka = dict(NEEDED)
    ConfluentClient(kafka)
    assert kafka == NEEDED


def test_a_revoke_must_be_shorter_than_the_poll_interval() -> None:
    client = ConfluentClient({**NEEDED, "max.poll.interval.ms": 60_000})
    client.check(Session(topics=("t",), revoke_timeout=58))
    with pytest.raises(ConfigError, match=r"revoke_timeout=60 s.*max\.poll\.interval\.ms"):
        client.check(Session(topics=("t",), revoke_timeout=60))


async def test_a_session_that_does_not_fit_is_refused_before_anything_is_opened() -> None:
    client = ConfluentClient(NEEDED)
    with pytest.raises(ConfigError, match="revoke_timeout"):
        await client.run(None, Session(topics=("t",), revoke_timeout=400))  # type: ignore[arg-type]


def test_the_admin_client_is_given_nothing_that_it_would_warn_of(
    capfd: pytest.CaptureFixture[str],
) -> None:
    numbers = {
        "fetch.min.bytes": 1,
        "queued.min.messages": 1,
        "max.partition.fetch.bytes": 1000,
        "heartbeat.interval.ms": 1000,
        "session.timeout.ms": 6000,
        "check.crcs": True,
        "group.instance.id": "i",
        "isolation.level": "read_uncommitted",
        "statistics.interval.ms": 1000,
        "client.rack": "r",
        "allow.auto.create.topics": False,
    }
    config = ClientConfig({**NEEDED, **numbers})
    # At librdkafka's own level, to see what is kept quiet otherwise.
    AdminClient(config.admin() | {"log_level": 6})
    assert "CONFWARN" not in capfd.readouterr().err


def test_the_names_that_are_offered_exist() -> None:
    values = {"error_cb": print, "stats_cb": print, "throttle_cb": print, "oauth_cb": print}
    for name in KNOWN.split():
        try:
            ClientConfig({**NEEDED, name: values.get(name, "1")})
        except ConfigError as error:
            assert "not a key" not in str(error)  # noqa: PT017  # most refuse the "1"


@pytest.mark.parametrize("key", ["stats_cb", "throttle_cb", "error_cb"])
def test_a_callback_that_raises_is_reported_once_and_raises_nothing(key: str) -> None:
    def bad(*args: object) -> None:
        raise SystemExit(3)

    client = ConfluentClient({**NEEDED, key: bad})
    failures: list[BaseException] = []
    client._reports._fail = failures.append
    callback: Callable[..., object] = client._reports._user[key]
    callback("first")
    callback("second")
    [error] = failures
    assert isinstance(error, SystemExit)
    assert error.__notes__ == [f"raised by the {key} given in kafka"]
