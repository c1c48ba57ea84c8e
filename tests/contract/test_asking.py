"""The contract of what can be asked without consuming."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trio

from tests.contract._scene import Scene
from trio_broadway_kafka._kafka._client import TopicPartition
from trio_broadway_kafka._model._errors import KafkaFailure

MIDDAY = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def _produce(kafka: Scene, partition: int, count: int) -> None:
    """A record each second from midday on."""
    for second in range(count):
        timestamp = round(MIDDAY.timestamp() + second) * 1000
        await kafka.store.produce(kafka.topic, partition, b"v", timestamp=timestamp)


async def test_the_partitions_of_names_and_patterns(kafka: Scene) -> None:
    member = await kafka.start_owner(2)
    other = f"{kafka.topic}-other"
    await kafka.store.create_topic(other, 1)
    both = [kafka.partition(0), kafka.partition(1)]
    assert await member.client.partitions([kafka.topic]) == both
    assert await member.client.partitions([f"^{kafka.topic}"]) == [*both, (other, 0)]
    assert await member.client.partitions([other, kafka.topic]) == [(other, 0), *both]
    assert await member.client.partitions(["no-such-topic", "^no-such"]) == []


async def test_the_first_offsets(kafka: Scene) -> None:
    member = await kafka.start_owner(2)
    await _produce(kafka, 0, 3)
    places = [kafka.partition(0), kafka.partition(1)]
    assert await member.client.begin_offsets(places) == dict.fromkeys(places, 0)


@pytest.mark.parametrize(
    ("after", "offset"), [(-1, 0), (0, 0), (0.5, 1), (2, 2), (2.001, None), (1e6, None)]
)
async def test_the_first_record_at_or_after_a_time(
    kafka: Scene, after: float, offset: int | None
) -> None:
    member = await kafka.start_owner(2)
    await _produce(kafka, 0, 3)
    when = MIDDAY + timedelta(seconds=after)
    places = [kafka.partition(0), kafka.partition(1)]
    assert await member.client.offsets_at(places, when) == dict(
        zip(places, (offset, None), strict=True)
    )


async def test_what_the_group_has_committed_whoever_owns_it(kafka: Scene) -> None:
    first = await kafka.start_owner(2)
    first.release_at_once()
    second = await kafka.start()
    [(place, assigned)] = (await second.owns(1)).items()
    await kafka.produce(place.partition, b"v", b"w")
    other = kafka.partition(1 - place.partition)
    for member in (first, second):
        assert await member.client.committed_offsets([place, other]) == {
            place: None,
            other: None,
        }
    await second.commit(assigned, 2)
    for member in (first, second):
        assert await member.client.committed_offsets([place, other]) == {place: 2, other: None}


async def test_committed_offsets_are_told_while_a_revoke_waits_for_its_release(
    kafka: Scene,
) -> None:
    first = await kafka.start_owner(2)
    await kafka.start()
    [moving] = await first.revoked()
    place = TopicPartition(moving.topic, moving.partition)
    with trio.fail_after(kafka.patience):
        assert await first.client.committed_offsets([place]) == {place: None}
    first.client.release([moving], [])


async def test_offsets_of_a_topic_that_does_not_exist_are_a_failure(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    place = TopicPartition("no-such-topic", 0)
    with pytest.raises(KafkaFailure, match="no-such-topic"):
        await member.client.begin_offsets([place])
    with pytest.raises(KafkaFailure, match="no-such-topic"):
        await member.client.offsets_at([place], MIDDAY)


async def test_a_client_that_does_not_run_does_not_know_its_group(kafka: Scene) -> None:
    client = kafka.new_client()
    with pytest.raises(RuntimeError, match="does not run yet"):
        await client.committed_offsets([kafka.partition(0)])


async def test_a_closed_client_answers_nothing(kafka: Scene) -> None:
    member = await kafka.start_owner(1)
    await member.stop()
    place = [kafka.partition(0)]
    for question in (
        lambda: member.client.begin_offsets(place),
        lambda: member.client.offsets_at(place, MIDDAY),
        lambda: member.client.committed_offsets(place),
        lambda: member.client.partitions([kafka.topic]),
    ):
        with pytest.raises(trio.ClosedResourceError):
            await question()
