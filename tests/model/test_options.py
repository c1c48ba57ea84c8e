"""Every bad value ends in a ConfigError that names the option and says what to do."""

from __future__ import annotations

import math
from collections.abc import Hashable
from functools import partial
from typing import Any

import pytest

from trio_broadway_kafka import ConfigError, Message, Skip, Stages, Stop
from trio_broadway_kafka._model._options import PipelineOptions


async def handle(message: Message) -> None: ...


class Handler:
    async def method(self, message: Message) -> None: ...
    async def __call__(self, message: Message) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [handle, Handler().method, Handler(), partial(handle), partial(Handler().method)],
    ids=["function", "method", "object", "partial", "partial method"],
)
def test_a_handler_is_whatever_is_async(handler: Any) -> None:
    assert Stages(handle_message=handler).handle_message is handler


def test_what_is_not_given_is_the_safe_choice() -> None:
    stages = Stages(handle_message=handle)
    assert (stages.ordering, stages.concurrency, stages.on_failure) == ("key", 16, Stop())


def plain(message: Message) -> None: ...


async def generator(message: Message):
    yield message


async def lane(message: Message) -> Hashable: ...


class Lane:
    async def __call__(self, message: Message) -> Hashable: ...


async def policy(message: Message) -> Stop: ...


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"handle_message": plain}, "handle_message must be an async function, .*async def"),
        ({"handle_message": generator}, "handle_message must be an async function"),
        ({"handle_message": Handler}, "handle_message must be an async function"),
        ({"handle_message": partial(plain)}, "handle_message must be an async function"),
        ({"handle_message": "handle"}, "handle_message must be an async function"),
        ({"ordering": "keys"}, "ordering must be one of 'key', .* or a function .* not 'keys'"),
        ({"ordering": None}, "ordering must be one of 'key', 'partition', 'unordered' or"),
        ({"ordering": ["key"]}, "ordering must be one of"),
        ({"ordering": lane}, "ordering must be a plain function, not an async one"),
        ({"ordering": Lane()}, "ordering must be a plain function, not an async one"),
        ({"ordering": partial(lane)}, "ordering must be a plain function, not an async one"),
        ({"concurrency": 0}, "concurrency must be a whole number of 1 or more, not 0"),
        ({"concurrency": 1.0}, "concurrency must be a whole number of 1 or more, not 1.0"),
        ({"concurrency": "16"}, "concurrency must be a whole number of 1 or more, not '16'"),
        ({"on_failure": Skip}, r"on_failure must be an instance: write Skip\(\)"),
        ({"on_failure": None}, r"on_failure must be a policy such as Stop\(\) .* not None"),
        ({"on_failure": "skip"}, "on_failure must be a policy .* not 'skip'"),
        ({"on_failure": policy}, "on_failure must be a plain function, not an async one"),
    ],
)
def test_bad_stages_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Stages(**{"handle_message": handle, **options})


def test_stages_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Stages(handle_message=handle).concurrency = 3  # type: ignore[misc]


GOOD = {
    "max_in_flight": 1,
    "max_in_flight_bytes": 1,
    "commit_interval": 0,
    "open_timeout": 0,
    "drain_timeout": 0.0,
    "revoke_timeout": 0.5,
    "close_timeout": 5,
}


def test_good_numbers_are_kept() -> None:
    options = PipelineOptions(**GOOD)
    assert {name: getattr(options, name) for name in GOOD} == GOOD


@pytest.mark.parametrize("name", ["commit_interval", "drain_timeout"])
def test_what_may_wait_for_ever(name: str) -> None:
    assert getattr(PipelineOptions(**GOOD | {name: math.inf}), name) == math.inf


@pytest.mark.parametrize("name", ["max_in_flight", "max_in_flight_bytes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, math.inf, "10", None])
def test_a_bad_bound_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        PipelineOptions(**GOOD | {name: value})
    assert str(caught.value) == f"{name} must be a whole number of 1 or more, not {value!r}"


TIMES = [name for name in GOOD if not name.startswith("max_")]


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [-0.1, math.nan, -math.inf, "1", None])
def test_a_bad_time_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        PipelineOptions(**GOOD | {name: value})
    assert str(caught.value) == f"{name} must be seconds of 0 or more, not {value!r}"


@pytest.mark.parametrize("name", ["open_timeout", "revoke_timeout", "close_timeout"])
def test_nothing_of_ours_waits_without_a_deadline(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be finite"):
        PipelineOptions(**GOOD | {name: math.inf})
