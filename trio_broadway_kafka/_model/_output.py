"""Where outputs go, and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from trio_broadway_kafka._model._errors import ConfigError

__all__ = ["Output"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where `Message.produce` and dead letters go.

    Attributes:
        kafka: librdkafka's settings for the producer, over the connection settings of the
            pipeline's own ``kafka``.
        transactional_id: with it, outputs and offsets are committed in transactions: exactly
            once. Each process needs one of its own.
        transaction_interval: seconds between transactions.
        delivery_timeout: seconds for which a record is tried.

    Raises:
        ConfigError: naming the option that is wrong.
    """

    kafka: Mapping[str, object] = field(default_factory=dict, repr=False)
    transactional_id: str | None = None
    transaction_interval: float = 0.1
    delivery_timeout: float = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.kafka, Mapping):
            raise ConfigError(f"kafka must be a dict of settings, not {type(self.kafka)}")
        if self.transactional_id is not None and not (
            isinstance(self.transactional_id, str) and self.transactional_id
        ):
            raise ConfigError(f"transactional_id must be a text, not {self.transactional_id!r}")
        for name in ("transaction_interval", "delivery_timeout"):
            seconds = getattr(self, name)
            if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
                raise ConfigError(f"{name} must be seconds above 0, not {seconds!r}")
