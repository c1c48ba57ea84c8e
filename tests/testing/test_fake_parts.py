"""The parts of `FakeBroker` that need no clock: records, sharing out, the assignor."""

from __future__ import annotations

import pytest

from trio_broadway_kafka._kafka import _translate
from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._model._errors import KafkaFailure
from trio_broadway_kafka.testing import _fake_failures
from trio_broadway_kafka.testing._fake_broker import FakeBroker
from trio_broadway_kafka.testing._fake_group import Member, assign_sticky
from trio_broadway_kafka.testing._fake_reader import share_out

P0, P1, P2, P3 = (TopicPartition("t", number) for number in range(4))


def test_records_go_round_the_partitions_or_by_key_or_where_told() -> None:
    broker = FakeBroker(topics={"t": 3})
    produced = broker.produce("t", b"a", b"b", b"c", b"d")
    assert [m.partition() for m in produced] == [0, 1, 2, 0]
    keyed = broker.produce("t", b"e", b"f", key=b"key")
    assert len({m.partition() for m in keyed}) == 1
    told = broker.produce("t", b"g", partition=1)
    assert [(m.partition(), m.offset()) for m in told] == [(1, len(broker.records("t", 1)) - 1)]
    assert len(broker.records("t")) == 7
    assert [m.partition() for m in broker.records("t")] == sorted(
        m.partition() for m in broker.records("t")
    )


def test_a_message_reads_as_confluents_does() -> None:
    broker = FakeBroker(topics={"t": 1})
    full, tombstone = broker.produce(
        "t", b"abc", None, key=b"k", headers=[("h", b"1"), ("n", None)], timestamp=5
    )
    assert (full.topic(), full.partition(), full.offset()) == ("t", 0, 0)
    assert (full.key(), full.value(), full.error()) == (b"k", b"abc", None)
    assert full.headers() == [("h", b"1"), ("n", None)]
    assert full.timestamp() == (1, 5)
    assert (len(full), len(tombstone)) == (3, 0)
    [bare] = broker.produce("t", b"")
    assert bare.headers() is None
    assert bare.timestamp() == (1, 0)


def test_it_calls_retriable_what_the_real_client_does() -> None:
    assert _fake_failures.RETRIABLE == _translate._RETRIABLE


def test_what_does_not_exist_is_named() -> None:
    broker = FakeBroker(topics={"t": 1})
    with pytest.raises(ValueError, match="no topic 'u'"):
        broker.produce("u", b"a")
    with pytest.raises(KafkaFailure, match="t/1"):
        broker.produce("t", b"a", partition=1)
    with pytest.raises(TypeError, match="bytes, not str"):
        broker.produce("t", b"a", "b")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bytes, not int"):
        broker.produce("t", b"a", key=1)  # type: ignore[arg-type]
    assert broker.records("t") == []
    with pytest.raises(ValueError, match="'t' exists"):
        broker.create_topic("t")
    with pytest.raises(ValueError, match="not 'comit'"):
        broker.fail_next("comit", "ILLEGAL_GENERATION")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="close does not fail"):
        broker.fail_next("close", "ILLEGAL_GENERATION")
    with pytest.raises(ValueError, match="negative"):
        broker.delay("commit", -1.0)
    with pytest.raises(ValueError, match="does it run"):
        broker.lose(broker.client())


@pytest.mark.parametrize(
    ("count", "waiting", "shares"),
    [
        (10, [100, 100], [5, 5]),
        (10, [2, 100], [2, 8]),
        (10, [100, 0, 3], [7, 0, 3]),
        (1, [5, 5, 5], [1, 0, 0]),
        (10, [1, 2], [1, 2]),
        (10, [], []),
    ],
)
def test_share_out(count: int, waiting: list[int], shares: list[int]) -> None:
    assert share_out(count, waiting) == shares


def test_partitions_are_shared_evenly_and_few_of_them_move() -> None:
    members = [Member(name, ("t",)) for name in "abcd"]
    everything = [P0, P1, P2, P3]
    alone = assign_sticky({members[0]: everything}, {})
    assert set(alone.values()) == {members[0]}
    pair = assign_sticky(dict.fromkeys(members[:2], everything), alone)
    assert pair == {P0: members[0], P1: members[0], P2: members[1], P3: members[1]}
    four = assign_sticky(dict.fromkeys(members, everything), pair)
    assert sorted(four.values(), key=members.index) == members
    assert sum(four[p] is pair[p] for p in everything) == 2
    # What a member leaves behind goes to those who have least; the rest stays.
    left = {member: everything for member in members if member is not four[P0]}
    three = assign_sticky(left, four)
    assert [p for p in everything if three[p] is not four[p]] == [P0]


def test_a_member_gets_only_what_it_subscribed_to() -> None:
    one, other = Member("one", ("t",)), Member("other", ("u",))
    u0 = TopicPartition("u", 0)
    assert assign_sticky({one: [P0, P1], other: [u0]}, {}) == {P0: one, P1: one, u0: other}
    assert assign_sticky({}, {P0: one}) == {}
