"""The contract of `fetch`, `pause`, `resume`, `end_offsets`, and what they report."""

from __future__ import annotations

import pytest
import trio

from tests.contract._recorder import address, values
from tests.contract._scene import Scene
from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._model._errors import KafkaFailure


async def test_each_fetch_is_answered_once_with_up_to_count_messages_in_order(
    kafka: Scene,
) -> None:
    member = await kafka.start_owner(1)
    produced = [b"%d" % number for number in range(10)]
    await kafka.produce(0, *produced)
    fetches = 0
    while len(member.events.messages()) < 10:
        answer = await member.fetch_once(3)
        fetches += 1
        assert 1 <= sum(len(chunk.messages) for chunk in answer.chunks) <= 3
    assert len(member.events.answers) == fetches
    assert values(member.events.messages()) == produced
    assert [message.offset() for message in member.events.messages()] == list(range(10))


async def test_a_chunk_holds_messages_of_one_partition_and_their_size(kafka: Scene) -> None:
    member = await kafka.start_owner(2)
    owned = await member.owns(2)
    await kafka.produce(0, b"a", b"bb", b"ccc")
    await kafka.produce(1, b"dddd", None)
    await member.read(5)
    for answer in member.events.answers:
        addresses = [address(chunk) for chunk in answer.chunks]
        assert len(addresses) == len(set(addresses))
    for chunk in member.events.chunks:
        assert {(m.topic(), m.partition()) for m in chunk.messages} == {address(chunk)}
        assert chunk.epoch == owned[address(chunk)].epoch
        assert chunk.size == sum(len(m.value() or b"") for m in chunk.messages)
    assert values(member.events.messages(kafka.partition(0))) == [b"a", b"bb", b"ccc"]
    assert values(member.events.messages(kafka.partition(1))) == [b"dddd", None]


async def test_messages_carry_key_value_headers_and_timestamp(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    await kafka.store.produce(
        kafka.topic,
        0,
        b"v",
        key=b"k",
        headers=[("h", b"1"), ("h", b"2"), ("none", None)],
        timestamp=1_700_000_000_123,
    )
    await kafka.store.produce(kafka.topic, 0, None)
    full, bare = await member.read(2)
    assert (full.key(), full.value()) == (b"k", b"v")
    assert full.headers() == [("h", b"1"), ("h", b"2"), ("none", None)]
    assert full.timestamp() == (1, 1_700_000_000_123)
    assert (bare.key(), bare.value(), bare.headers()) == (None, None, None)


async def test_nothing_is_delivered_that_was_not_asked_for(kafka: Scene) -> None:
    member = await kafka.start_owner(2)
    member.release_at_once()
    await kafka.produce(0, b"a")
    await kafka.produce(1, b"b")
    # The member polls meanwhile: else it would never learn of the other one.
    other = await kafka.start()
    await other.owns(1)
    await member.owns(1)
    assert member.events.chunks == []
    [kept] = member.events.owned
    [message] = await member.read(1)
    assert (message.partition(), message.offset()) == (kept.partition, 0)


async def test_a_fetch_stays_open_until_messages_arrive(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    await member.end_at(kafka.partition(0), 0)
    await kafka.produce(0, b"late")
    await member.events.until(lambda: member.events.answers)
    assert values(member.events.messages()) == [b"late"]


async def test_the_end_of_a_partition_is_reported_when_it_is_read_and_again_later(
    kafka: Scene,
) -> None:
    member = await kafka.start_owner(1)
    await kafka.produce(0, b"a", b"b")
    await member.read(2)
    end = await member.end_at(kafka.partition(0), 2)
    assert end.epoch == member.events.owned[kafka.partition(0)].epoch
    await kafka.produce(0, b"c")
    await member.end_at(kafka.partition(0), 3)
    assert values(member.events.messages()) == [b"a", b"b", b"c"]


async def test_the_end_lies_beyond_control_records_and_may_be_committed(
    kafka: Scene,
) -> None:
    await kafka.create()
    await kafka.produce(0, b"a")
    await kafka.store.abort_transaction(kafka.topic, 0)
    member = await kafka.start()
    owned = await member.owns(1)
    assert values(await member.read(1)) == [b"a"]
    end = await member.end_at(kafka.partition(0), 3)
    assert await member.client.end_offsets([kafka.partition(0)]) == {kafka.partition(0): 3}
    await member.commit(owned[kafka.partition(0)], end.offset)
    assert await kafka.committed(0) == 3

    await member.stop()
    successor = await kafka.start()
    await successor.owns(1)
    await successor.end_at(kafka.partition(0), 3)
    assert successor.events.messages() == []


async def test_messages_after_a_gap_keep_their_offsets(kafka: Scene) -> None:
    await kafka.create()
    await kafka.produce(0, b"a")
    await kafka.store.abort_transaction(kafka.topic, 0)
    await kafka.produce(0, b"b")
    member = await kafka.start()
    await member.owns(1)
    await member.end_at(kafka.partition(0), 4)
    assert [(m.offset(), m.value()) for m in member.events.messages()] == [
        (0, b"a"),
        (3, b"b"),
    ]


async def test_a_paused_partition_goes_on_later_without_loss_or_repetition(
    kafka: Scene,
) -> None:
    member = await kafka.start_owner(2)
    await kafka.produce(0, b"a0", b"a1", b"a2", b"a3")
    await member.read(2)
    member.client.pause([kafka.partition(0)])
    await member.commands_applied()
    await kafka.produce(0, b"a4")
    await kafka.produce(1, b"b0")
    assert values(await member.read(1)) == [b"b0"]
    member.client.resume({kafka.partition(0): None})
    await member.read(3)
    assert values(member.events.messages(kafka.partition(0))) == [
        b"a0",
        b"a1",
        b"a2",
        b"a3",
        b"a4",
    ]


async def test_resuming_at_an_offset_delivers_from_there(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    await kafka.produce(0, b"a", b"b", b"c", b"d")
    await member.read(4)
    member.client.pause([kafka.partition(0)])
    member.client.resume({kafka.partition(0): 1})
    assert [m.offset() for m in await member.read(3)] == [1, 2, 3]


async def test_pausing_twice_is_as_pausing_once_and_strangers_are_ignored(
    kafka: Scene,
) -> None:
    member = await kafka.start_owner(1)
    stranger = TopicPartition("not ours", 7)
    member.client.pause([kafka.partition(0), stranger])
    member.client.pause([kafka.partition(0)])
    member.client.resume({kafka.partition(0): None, stranger: 5})
    await kafka.produce(0, b"a")
    assert values(await member.read(1)) == [b"a"]
    assert member.events.failures == []


async def test_resuming_at_the_end_reports_the_end_again(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    await kafka.produce(0, b"a")
    await member.read(1)
    await member.end_at(kafka.partition(0), 1)
    member.client.pause([kafka.partition(0)])
    await member.commands_applied()
    seen = len(member.events.ends)
    member.client.resume({kafka.partition(0): None})
    await member.end_at(kafka.partition(0), 1, since=seen)
    assert values(member.events.messages()) == [b"a"]


async def test_end_offsets_are_asked_of_the_broker(kafka: Scene) -> None:
    member = await kafka.start_owner(2)
    partitions = [kafka.partition(0), kafka.partition(1)]
    assert await member.client.end_offsets(partitions) == dict.fromkeys(partitions, 0)
    await kafka.produce(1, b"a", b"b", b"c")
    assert await member.client.end_offsets(partitions) == {
        kafka.partition(0): 0,
        kafka.partition(1): 3,
    }
    with pytest.raises(KafkaFailure, match="no-such-topic"):
        await member.client.end_offsets([TopicPartition("no-such-topic", 0)])


async def test_timestamps_can_be_compared_to_the_clients_wall_clock(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    before = member.client.wall_time()
    await kafka.produce(0, b"v")
    (message,) = await member.read(1)
    kind, milliseconds = message.timestamp()
    assert kind == 1
    # Clocks count in milliseconds here, and a machine's may be set meanwhile.
    assert before - 0.1 <= milliseconds / 1000 <= member.client.wall_time() + 0.1


async def test_the_client_is_polled_at_least_every_second(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    for _ in range(20):
        assert member.client.since_poll() < 1.5
        await trio.sleep(0.1)
