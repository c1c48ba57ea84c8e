"""A Kafka with TLS, passwords and permissions, and what its administrator does to it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from cryptography.hazmat.primitives import serialization

from tests.broker._facts import Facts
from trio_broadway_kafka.testing import start_kafka
from trio_broadway_kafka.testing._properties import _free_ports

__all__ = ["PASSWORD", "Secure", "SecureBroker", "secure", "secure_broker"]

PASSWORD: Final = "a-word-that-nobody-may-see"


@dataclass
class SecureBroker:
    """A broker with two doors: one with TLS and a password, and one for the test's own use.

    Attributes:
        bootstrap: of the open door; who comes in there may do anything.
        port: of the other, for the name ``localhost``.
        authority: the file with the certificate that signed the broker's.
        stranger: the file with one that did not.
    """

    bootstrap: str
    port: int
    authority: Path
    stranger: Path


def _key_store(certificate: trustme.LeafCert, path: Path) -> None:
    """Write key and certificates as Kafka reads them: a PKCS #8 key before its chain."""
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(text + b"".join(one.bytes() for one in certificate.cert_chain_pems))


@pytest.fixture(scope="module")
def secure_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    folder = tmp_path_factory.mktemp("certificates")
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    stranger.cert_pem.write_to_path(folder / "stranger.pem")
    _key_store(authority.issue_cert("localhost"), folder / "broker.pem")
    plain, secure, internal, controller = _free_ports(4)
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    names = {
        "PLAINTEXT": f"127.0.0.1:{plain}",
        "SECURE": f"127.0.0.1:{secure}",
        "INTERNAL": f"127.0.0.1:{internal}",
        "CONTROLLER": f"127.0.0.1:{controller}",
    }
    listeners = ",".join(f"{name}://{address}" for name, address in names.items())
    advertised = {**names, "SECURE": f"localhost:{secure}"}
    del advertised["CONTROLLER"]
    with start_kafka(
        port=plain,
        properties={
            "listeners": listeners,
            "advertised.listeners": ",".join(f"{n}://{a}" for n, a in advertised.items()),
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL,"
            "INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "listener.name.secure.ssl.keystore.type": "PEM",
            "listener.name.secure.ssl.keystore.location": str(folder / "broker.pem"),
            "listener.name.secure.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.secure.plain.sasl.jaas.config": f'{login} user_alice="{PASSWORD}";',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            # What members are told of a permission that is gone, soon.
            "group.min.session.timeout.ms": "1000",
        },
    ) as broker:
        yield SecureBroker(
            broker.bootstrap, secure, folder / "authority.pem", folder / "stranger.pem"
        )


class Secure(Facts):
    """A topic and a group that alice may read and use."""

    def __init__(self, broker: SecureBroker, topic: str, protocol: str) -> None:
        super().__init__(broker.bootstrap, topic, f"{topic}-group", protocol)
        self._broker = broker

    def settings(self, **changed: object) -> dict[str, object]:
        """What alice's member needs, with changes; underscores stand for dots."""
        settings: dict[str, object] = {
            **self.kafka,
            "bootstrap.servers": f"localhost:{self._broker.port}",
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self._broker.authority),
            "sasl.mechanism": "PLAIN",
            "sasl.username": "alice",
            "sasl.password": PASSWORD,
        }
        return settings | {name.replace("_", "."): value for name, value in changed.items()}

    async def permit(self, kind: ResourceType, name: str, *operations: AclOperation) -> None:
        bindings = [
            AclBinding(
                kind, name, ResourcePatternType.LITERAL, "User:alice", "*", operation,
                AclPermissionType.ALLOW,
            )
            for operation in operations
        ]  # fmt: skip
        await self._answers(lambda: self.admin.create_acls(bindings))

    async def forbid(self, kind: ResourceType, name: str, operation: AclOperation) -> None:
        """Take a permission away."""
        gone = AclBindingFilter(
            kind, name, ResourcePatternType.LITERAL, "User:alice", "*", operation,
            AclPermissionType.ALLOW,
        )  # fmt: skip
        await self._answers(lambda: self.admin.delete_acls([gone]))


@pytest.fixture(params=["classic", "consumer"])
async def secure(
    request: pytest.FixtureRequest, secure_broker: SecureBroker
) -> AsyncIterator[Secure]:
    topic = f"secure-{uuid.uuid4().hex[:8]}"
    facts = Secure(secure_broker, topic, request.param)
    await facts.make_topic()
    await facts.permit(
        ResourceType.TOPIC, topic, AclOperation.READ, AclOperation.DESCRIBE, AclOperation.WRITE
    )
    await facts.permit(ResourceType.GROUP, facts.group, AclOperation.READ)
    yield facts
    facts.close()
