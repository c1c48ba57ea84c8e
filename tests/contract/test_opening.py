"""The contract of `KafkaClient.run`: joining, failing to, and leaving."""

from __future__ import annotations

import pytest
import trio

from tests.contract._recorder import Recorder, offset_of
from tests.contract._scene import Scene
from trio_broadway_kafka._kafka._client import Session
from trio_broadway_kafka._model._errors import KafkaFailure


async def test_a_member_alone_is_started_and_then_assigned_all_partitions(
    kafka: Scene,
) -> None:
    await kafka.create(partitions=3)
    member = await kafka.start()
    owned = await member.owns(3)
    assert set(owned) == {kafka.partition(number) for number in range(3)}
    assert {assigned.committed for assigned in owned.values()} == {None}
    assert {assigned.metadata for assigned in owned.values()} == {None}
    assert member.events.names == ["assigned"]


async def test_the_assignment_carries_the_committed_offset_and_its_metadata(
    kafka: Scene,
) -> None:
    first = await kafka.start_owner(2)
    await kafka.produce(0, b"a", b"b", b"c")
    owned = await first.owns(2)
    await first.commit(owned[kafka.partition(0)], 2, metadata="all but c: é€")
    await first.stop()

    second = await kafka.start()
    owned = await second.owns(2)
    assert owned[kafka.partition(0)].committed == 2
    assert owned[kafka.partition(0)].metadata == "all but c: é€"
    assert owned[kafka.partition(1)].committed is None
    [message] = await second.read(1)
    assert (message.offset(), message.value()) == (2, b"c")


async def test_a_pattern_subscribes_to_the_topics_it_matches(kafka: Scene) -> None:
    await kafka.create(partitions=2)
    member = await kafka.start(topics=[f"^{kafka.topic}$"])
    assert set(await member.owns(2)) == {kafka.partition(0), kafka.partition(1)}


async def test_an_unknown_topic_fails_the_opening_and_is_named(kafka: Scene) -> None:
    await kafka.create()
    session = Session(topics=(kafka.topic, "no-such-topic"), open_timeout=5.0)
    events = Recorder(patience=kafka.patience)
    with (
        trio.fail_after(5.0 + kafka.slack),
        pytest.raises(KafkaFailure, match="no-such-topic") as caught,
    ):
        await kafka.new_client().run(events, session)
    assert caught.value.code == "UNKNOWN_TOPIC_OR_PART"
    assert not caught.value.retriable
    assert events.names == []


async def test_a_missing_topic_is_made_where_that_is_asked_for(kafka: Scene) -> None:
    member = await kafka.start(create_topics=True)
    assert kafka.partition(0) in await member.owns(1)


async def test_no_broker_fails_the_opening_within_open_timeout_and_is_named(
    kafka: Scene,
) -> None:
    client, address = kafka.store.client_without_broker(kafka.group)
    events = Recorder(patience=kafka.patience)
    started_at = trio.current_time()
    with pytest.raises(KafkaFailure, match=address) as caught:
        await client.run(events, Session(topics=("t",), open_timeout=2.0))
    assert trio.current_time() - started_at <= 2.0 + kafka.slack
    assert caught.value.code == "_TRANSPORT"
    assert events.names == []


async def test_a_member_that_stops_leaves_its_partitions_to_another(kafka: Scene) -> None:
    first = await kafka.start_owner(2)
    first.release_at_once()
    second = await kafka.start()
    await second.owns(1)
    await first.stop()
    assert set(await second.owns(2)) == {kafka.partition(0), kafka.partition(1)}
    assert second.events.losses == []


async def test_stopping_reports_nothing_about_the_partitions_still_owned(
    kafka: Scene,
) -> None:
    member = await kafka.start_owner(2)
    await member.stop()
    assert member.events.names == ["assigned"]
    member.client.stop()


async def test_calls_after_the_end_raise_closed_resource_error(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    owned = await member.owns(1)
    await member.stop()
    with pytest.raises(trio.ClosedResourceError):
        await member.client.commit([offset_of(owned[kafka.partition(0)], 1)])
    with pytest.raises(trio.ClosedResourceError):
        await member.client.end_offsets([kafka.partition(0)])
    assert await kafka.committed(0) is None


async def test_a_cancelled_run_ends_at_once(kafka: Scene) -> None:
    await kafka.create()
    events = Recorder(patience=kafka.patience)
    started_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(kafka.new_client().run, events, Session(topics=(kafka.topic,)))
        await events.until(lambda: events.owned)
        started_at = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - started_at <= min(kafka.slack, 5.0)


async def test_the_assignment_carries_the_topics_id(kafka: Scene) -> None:
    await kafka.create(partitions=2)
    other = f"{kafka.topic}-2"
    await kafka.store.create_topic(other, 1)
    member = await kafka.start(topics=[kafka.topic, other])
    owned = await member.owns(3)
    ids = {
        topic: {o.topic_id for o in owned.values() if o.topic == topic}
        for topic in (kafka.topic, other)
    }
    assert [len(found) for found in ids.values()] == [1, 1]
    assert "" not in ids[kafka.topic] | ids[other]
    assert ids[kafka.topic] != ids[other]
