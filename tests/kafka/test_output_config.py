"""What `producer_keys` makes of librdkafka's keys. No broker is needed, nor looked for."""

from __future__ import annotations

from typing import Any

import pytest

from trio_broadway_kafka import ConfigError, Output
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._output_config import OWNED, producer_keys

PASSWORD = "correct horse battery staple"
NEEDED: dict[str, object] = {"bootstrap.servers": "127.0.0.1:1", "group.id": "group"}


def keys(output: Output, **kafka: object) -> dict[str, Any]:
    given = {key.replace("__", "."): value for key, value in kafka.items()}
    return producer_keys(ClientConfig({**NEEDED, **given}), output)


def test_it_connects_as_the_pipeline_does_and_has_none_of_a_consumers_keys() -> None:
    found = keys(Output(), security__protocol="ssl", fetch__min__bytes=5)
    assert found["bootstrap.servers"] == "127.0.0.1:1"
    assert found["security.protocol"] == "ssl"
    assert not {"group.id", "fetch.min.bytes", "auto.offset.reset"} & found.keys()


def test_the_outputs_own_keys_come_before_the_pipelines() -> None:
    found = keys(
        Output(kafka={"bootstrap.servers": "127.0.0.1:2", "compression.type": "zstd"}),
        client__id="reader",
    )
    assert found["bootstrap.servers"] == "127.0.0.1:2"
    assert found["compression.type"] == "zstd"
    assert found["client.id"] == "reader"


def test_nothing_is_sent_twice_or_given_up_early() -> None:
    found = keys(Output(delivery_timeout=12.5))
    assert found["enable.idempotence"] is True
    assert found["message.timeout.ms"] == 12_500
    assert found["topic.metadata.propagation.max.ms"] == 12_500
    assert "transactional.id" not in found


def test_a_transaction_has_the_time_that_its_records_have() -> None:
    found = keys(Output(transactional_id="one", delivery_timeout=90))
    assert found["transactional.id"] == "one"
    assert found["transaction.timeout.ms"] == 90_000
    assert found["topic.metadata.propagation.max.ms"] == 5_000
    assert keys(Output(transactional_id="one"))["transaction.timeout.ms"] == 60_000


@pytest.mark.parametrize("key", sorted(OWNED))
def test_an_owned_key_is_refused_with_what_to_do_instead(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        keys(Output(kafka={key: 1}))
    assert f"Output.kafka[{key!r}]" in str(caught.value)
    assert OWNED[key] in str(caught.value)


def test_callbacks_are_the_pipelines() -> None:
    with pytest.raises(ConfigError, match="give 'error_cb' in kafka"):
        keys(Output(kafka={"error_cb": print}))


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"compresion.type": "zstd"}, r"Output\.kafka\['compresion\.type'\] is not a key"),
        ({"compression.type": "best"}, r"'compression\.type'\]: .*\"best\""),
        ({"linger.ms": "soon"}, r"kafka\['linger\.ms'\]"),
    ],
)
def test_what_librdkafka_refuses_is_named(wrong: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        keys(Output(kafka=wrong))
    assert "Output.kafka" in str(caught.value)


def test_secrets_are_in_no_error_and_no_repr() -> None:
    output = Output(kafka={"sasl.password": PASSWORD, "linger.ms": "soon"})
    assert PASSWORD not in repr(output)
    with pytest.raises(ConfigError) as caught:
        keys(output, sasl__username="me", security__protocol="sasl_ssl")
    assert PASSWORD not in str(caught.value)
