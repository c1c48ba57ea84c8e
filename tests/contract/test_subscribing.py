"""The contract of `subscribe`, and of topics that come and go."""

from __future__ import annotations

import pytest
import trio

from tests.contract._recorder import Member, address, offset_of, values
from tests.contract._scene import Scene
from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._model._errors import KafkaFailure


async def _subscribe(member: Member, *topics: str) -> None:
    with trio.fail_after(member.events.patience):
        await member.client.subscribe(topics)


async def _owns(member: Member, *partitions: TopicPartition) -> None:
    await member.events.until(lambda: set(member.events.owned) == set(partitions))


def _of(topic: str, count: int = 1) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in range(count)]


async def test_the_new_topics_replace_those_before_and_what_is_kept_is_undisturbed(
    kafka: Scene,
) -> None:
    kept, left, new = (f"{kafka.topic}-{name}" for name in ("kept", "left", "new"))
    for topic in (kept, left, new):
        await kafka.store.create_topic(topic, 1)
    member = await kafka.start(topics=[kept, left])
    member.release_at_once()
    before = await member.owns(2)
    await _subscribe(member, kept, new)
    await _owns(member, *_of(kept), *_of(new))
    [kept_partition, left_partition] = [*_of(kept), *_of(left)]
    assert member.events.owned[kept_partition] == before[kept_partition]
    revoked = [assigned for revoke in member.events.revocations for assigned in revoke]
    assert revoked == [before[left_partition]]
    assert member.events.losses == []
    await kafka.store.produce(new, 0, b"new")
    await kafka.store.produce(left, 0, b"left")
    assert values(await member.read(1)) == [b"new"]


async def test_what_is_left_is_revoked_in_order_and_its_release_committed(
    kafka: Scene,
) -> None:
    await kafka.create(1)
    other = f"{kafka.topic}-other"
    await kafka.store.create_topic(other, 1)
    await kafka.produce(0, b"a", b"b")
    member = await kafka.start()
    await member.owns(1)
    await _subscribe(member, other)
    [moving] = await member.revoked()
    assert address(moving) == kafka.partition(0)
    member.client.release([moving], [offset_of(moving, 2)])
    await _owns(member, *_of(other))
    assert await kafka.committed(0) == 2


async def test_a_missing_topic_is_named_and_the_subscription_stays(kafka: Scene) -> None:
    member = await kafka.start_owner(2)
    with pytest.raises(KafkaFailure, match="no-such-topic") as caught:
        await _subscribe(member, "no-such-topic", kafka.topic)
    assert caught.value.code == "UNKNOWN_TOPIC_OR_PART"
    assert not caught.value.retriable
    assert list(member.client.topics) == [kafka.topic]
    await kafka.produce(1, b"still here")
    assert values(await member.read(1)) == [b"still here"]
    assert set(member.events.names) == {"assigned", "fetched"}


async def test_a_missing_topic_is_made_where_that_was_asked_for(kafka: Scene) -> None:
    await kafka.create(1)
    member = await kafka.start(create_topics=True)
    member.release_at_once()
    await member.owns(1)
    made = f"{kafka.topic}-made"
    await _subscribe(member, made)
    await _owns(member, *_of(made))


async def test_a_pattern_may_replace_names(kafka: Scene) -> None:
    await kafka.create(2)
    other = f"{kafka.topic}-other"
    await kafka.store.create_topic(other, 1)
    member = await kafka.start()
    await member.owns(2)
    await _subscribe(member, f"^{kafka.topic}")
    assert list(member.client.topics) == [f"^{kafka.topic}"]
    await _owns(member, *_of(kafka.topic, 2), *_of(other))


@pytest.mark.parametrize("when", ["at opening", "later"])
async def test_a_pattern_finds_topics_that_are_made_later(kafka: Scene, when: str) -> None:
    pattern = f"^{kafka.topic}-[0-9]$"
    if when == "at opening":
        # Nothing matches, and that is no error.
        member = await kafka.start(topics=[pattern])
    else:
        member = await kafka.start_owner(1)
        member.release_at_once()
        await _subscribe(member, pattern)
        await _owns(member)
    for count in (1, 2):
        await kafka.store.create_topic(f"{kafka.topic}-{count}", 1)
        await kafka.store.create_topic(f"{kafka.topic}-{count}-else", 1)
        made_at = trio.current_time()
        await member.owns(count)
        assert trio.current_time() - made_at <= min(kafka.slack, 10)
    await kafka.store.produce(f"{kafka.topic}-2", 0, b"found")
    assert values(await member.read(1)) == [b"found"]


async def test_a_pattern_lets_go_of_topics_that_are_deleted(kafka: Scene) -> None:
    first, second = f"{kafka.topic}-1", f"{kafka.topic}-2"
    for topic in (first, second):
        await kafka.store.create_topic(topic, 1)
    member = await kafka.start(topics=[f"^{kafka.topic}-[0-9]$"])
    member.release_at_once()
    await member.owns(2)
    await kafka.store.delete_topic(first)
    await _owns(member, *_of(second))
    await kafka.store.produce(second, 0, b"goes on")
    assert values(await member.read(1)) == [b"goes on"]
    assert member.events.failures == []


async def test_what_is_of_a_deleted_topic_is_not_committed_and_the_rest_is(
    kafka: Scene,
) -> None:
    await kafka.create(1)
    gone = f"{kafka.topic}-gone"
    await kafka.store.create_topic(gone, 1)
    member = await kafka.start(topics=[gone, kafka.topic])
    member.release_at_once()
    owned = await member.owns(2)
    await kafka.store.delete_topic(gone)
    kept = offset_of(owned[kafka.partition(0)], 0)
    with trio.fail_after(kafka.patience):
        committed = await member.client.commit([offset_of(owned[_of(gone)[0]], 0), kept])
        assert list(committed) == [kept]
    assert await kafka.committed(0) == 0
    await kafka.produce(0, b"goes on")
    assert values(await member.read(1)) == [b"goes on"]
    assert member.events.failures == []


async def test_a_closed_client_does_not_subscribe(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    await member.stop()
    with pytest.raises(trio.ClosedResourceError):
        await _subscribe(member, kafka.topic)


async def test_a_client_that_does_not_run_yet_does_not_subscribe(kafka: Scene) -> None:
    with pytest.raises(RuntimeError, match="does not run yet"):
        await kafka.new_client().subscribe([kafka.topic])


async def test_a_member_without_topics_closes_at_once(kafka: Scene) -> None:
    member = await kafka.start(topics=[f"^{kafka.topic}-none"])
    stopped_at = trio.current_time()
    await member.stop()
    assert trio.current_time() - stopped_at <= min(kafka.slack, 0.4)
