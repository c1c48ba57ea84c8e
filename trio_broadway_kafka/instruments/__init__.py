"""Instruments: what is told of a pipeline as it happens, and what makes log lines of it."""

from trio_broadway_kafka.instruments._base import Instrument
from trio_broadway_kafka.instruments._logging import LoggingInstrument

__all__ = ["Instrument", "LoggingInstrument"]
