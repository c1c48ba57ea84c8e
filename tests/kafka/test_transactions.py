"""A producer of transactions, on one of librdkafka's that does what the test says.

What librdkafka really does is tests/contract's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import trio
from confluent_kafka import KafkaError, KafkaException

from trio_broadway_kafka._kafka import _transactions, _transactor
from trio_broadway_kafka._kafka._client import OffsetCommit
from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._transactions import TransactionalProducer
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._output_record import OutputRecord

CONFIG = ClientConfig({"bootstrap.servers": "127.0.0.1:1", "group.id": "group"})
OFFSETS = [OffsetCommit("t", 0, 1, 5)]
RECORD = OutputRecord("out", b"v", None, (), None)


def again() -> KafkaException:
    """What librdkafka raises when a call's time is over."""
    return KafkaException(
        KafkaError(KafkaError._TIMED_OUT, "retry call to resume", False, True)
    )


RETURN = threading.Event()  # what has blocked may


class Stub:
    """A producer; those that were made are in `made`, what they did in `calls`."""

    made: list[Stub]
    hanging: set[str]  # calls of the first one that are to be made again, for ever
    blocking: set[str]  # and those that don't return
    refusing: set[str]  # and those after which it must be aborted
    calls: list[tuple[int, str]]

    def __init__(self, keys: dict[str, Any]) -> None:
        self.number = len(self.made)
        self.made.append(self)

    def _call(self, name: str) -> None:
        self.calls.append((self.number, name))
        if self.number == 0 and name in self.blocking:
            RETURN.wait()
        if self.number == 0 and name in self.hanging:
            raise again()
        if self.number == 0 and name in self.refusing:
            error = KafkaError(KafkaError.INVALID_TXN_STATE, "aborted", False, False, True)
            raise KafkaException(error)

    def init_transactions(self, timeout: float) -> None:
        self._call("init")

    def begin_transaction(self) -> None:
        self._call("begin")

    def produce(self, *args: object, **kwargs: object) -> None:
        self._call("produce")

    def send_offsets_to_transaction(self, offsets: object, metadata: object, t: float) -> None:
        self._call("offsets")

    def commit_transaction(self, timeout: float) -> None:
        self._call("commit")

    def abort_transaction(self, timeout: float) -> None:
        self._call("abort")

    def poll(self, timeout: float) -> int:
        return 0


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Stub]]:
    Stub.made, Stub.calls = [], []
    Stub.hanging, Stub.blocking, Stub.refusing = set(), set(), set()
    RETURN.clear()
    monkeypatch.setattr(_transactor, "Producer", Stub)
    monkeypatch.setattr(_transactor, "CALL", 0.01)
    monkeypatch.setattr(_transactor, "IDLE", 0.01)
    monkeypatch.setattr(_transactions, "OUTCOME", 0.1)
    monkeypatch.setattr(_transactions, "HANGS", 0.1)
    yield Stub
    RETURN.set()


def make_producer() -> TransactionalProducer:
    async def metadata(
        offsets: Sequence[OffsetCommit],
    ) -> tuple[object, Sequence[OffsetCommit]]:
        return object(), offsets

    output = Output(transactional_id="me")
    return TransactionalProducer(
        CONFIG, {}, output, metadata, open_timeout=1.0, close_timeout=1.0
    )


@pytest.mark.parametrize("it", ["can't be aborted", "does not return"])
async def test_a_transaction_that_does_not_end_is_made_again_by_another_producer(
    stub: type[Stub], nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, it: str
) -> None:
    producer = make_producer()
    await nursery.start(producer.run)
    if it == "does not return":
        stub.blocking = {"offsets"}
    else:
        stub.hanging = {"offsets", "abort"}
    with trio.move_on_after(0.1) as patience:
        await producer.transact([RECORD], OFFSETS)
    assert patience.cancelled_caught
    assert await producer.transact([RECORD], OFFSETS) == OFFSETS
    assert len(stub.made) == 2
    assert [name for number, name in stub.calls if number == 1] == [
        "init", "begin", "produce", "offsets", "commit",
    ]  # fmt: skip
    assert "the producer of 'me' hangs" in caplog.text
    # What hung may go on, and touches nothing of the other one.
    RETURN.set()
    assert await producer.transact([], OFFSETS) == OFFSETS
    assert len(stub.made) == 2
    producer.stop()


async def test_one_whose_transaction_can_be_aborted_stays(
    stub: type[Stub], nursery: trio.Nursery
) -> None:
    producer = make_producer()
    await nursery.start(producer.run)
    stub.hanging = {"offsets"}
    with trio.move_on_after(0.1):
        await producer.transact([RECORD], OFFSETS)
    stub.hanging = set()
    assert await producer.transact([RECORD], OFFSETS) == OFFSETS
    assert len(stub.made) == 1
    assert (0, "abort") in stub.calls
    producer.stop()


@pytest.mark.parametrize("is_committed", [True, False])
async def test_what_was_cancelled_while_being_committed_has_an_outcome(
    stub: type[Stub], nursery: trio.Nursery, is_committed: bool
) -> None:
    producer = make_producer()
    await nursery.start(producer.run)
    stub.hanging = {"commit"}
    with trio.move_on_after(0.1):
        await producer.transact([RECORD], OFFSETS)
    with trio.move_on_after(0.1) as patience:
        await producer.outcome()
    assert patience.cancelled_caught, "it has none yet"
    stub.refusing = set() if is_committed else {"commit"}
    stub.hanging = set()
    assert await producer.outcome() is is_committed
    assert not await producer.outcome(), "told once"
    stub.refusing = set()
    assert await producer.transact([RECORD], OFFSETS) == OFFSETS
    assert len(stub.made) == 1
    producer.stop()


async def test_a_transaction_without_an_outcome_is_the_last_one(
    stub: type[Stub], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another producer could commit the outputs of a committed transaction again."""
    monkeypatch.setattr(_transactions, "UNKNOWN", 0.2)
    producer = make_producer()
    await nursery.start(producer.run)
    stub.hanging = {"commit"}
    with trio.move_on_after(0.1):
        await producer.transact([RECORD], OFFSETS)
    for ask in (producer.outcome, producer.outcome):
        with pytest.raises(KafkaFailure, match="nobody knows whether"):
            await ask()
    with pytest.raises(KafkaFailure, match="nobody knows whether"):
        await producer.transact([RECORD], OFFSETS)
    assert len(stub.made) == 1
    producer.stop()
