"""The topics of a client over time, where no Kafka is needed to see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import trio

from trio_broadway_kafka._kafka._client import Session
from trio_broadway_kafka._kafka._reports import Reports
from trio_broadway_kafka._kafka._subscribing import Subscribing
from trio_broadway_kafka._kafka._topics import Topics
from trio_broadway_kafka._model._topics import matching


class StubTopics:
    """Topics that are there or not."""

    def __init__(self, *existing: str) -> None:
        self.existing = list(existing)

    def require(self, topics: Iterable[str], **options: Any) -> None: ...

    def matching(self, topics: Iterable[str]) -> list[str]:
        return matching(topics, self.existing)


async def test_a_change_that_is_cancelled_while_it_is_made_is_followed_all_the_same() -> None:
    """The consumer is subscribed by then or will be: the old patterns count no more."""
    applied: list[Sequence[str]] = []
    has_begun = trio.Event()

    async def apply(names: Sequence[str]) -> None:
        applied.append(names)
        has_begun.set()
        if len(applied) == 1:
            await trio.sleep_forever()

    topics = StubTopics("a1", "b1")
    subscribing = Subscribing(
        cast(Topics, topics), Session(topics=("^a",)), ["a1"], cast(Reports, None), apply
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subscribing.subscribe, ["^b"])
        await has_begun.wait()
        nursery.cancel_scope.cancel()
    assert subscribing.topics == ["^b"]
    topics.existing += ["a2", "b2"]
    await subscribing._look()
    assert applied == [["b1"], ["b1", "b2"]]
