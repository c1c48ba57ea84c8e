"""What may be given as instruments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trio_broadway_kafka import ConfigError, Instrument, Message, Stages, open_pipeline
from trio_broadway_kafka.instruments import LoggingInstrument
from trio_broadway_kafka.testing import FakeBroker


async def handle(message: Message) -> None: ...


def opened(instruments: Any) -> None:
    open_pipeline(
        client=FakeBroker().client(),
        topics=["t"],
        stages=Stages(handle_message=handle),
        instruments=instruments,
    )


class Dsn:
    def __repr__(self) -> str:
        return "postgres://user:password@host"


@pytest.mark.parametrize(
    ("instruments", "complaint"),
    [
        (
            LoggingInstrument(),
            r"must be a list: write instruments=\[LoggingInstrument\(...\)\]",
        ),
        ([LoggingInstrument], r"holds a class: write LoggingInstrument\(...\)"),
        (Instrument, "must be a list of instruments, not type"),
        (None, "must be a list of instruments, not NoneType"),
        (["LoggingInstrument"], "holds something of type str; an instrument is a subclass of"),
        ([LoggingInstrument(), Dsn()], "holds something of type Dsn; an instrument"),
    ],
)
def test_what_is_no_instrument_is_refused_before_anything_is_opened(
    instruments: Any, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        opened(instruments)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("make", [tuple, list, iter])
def test_any_iterable_of_instruments_will_do(make: Callable[[Any], Any]) -> None:
    opened(make([Instrument(), LoggingInstrument()]))
