"""What happens to a message whose handler failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from trio_broadway_kafka._model._message import Message

__all__ = ["FailurePolicy", "OnFailure", "Skip", "Stage", "Stop"]

# Where a message failed, by the handler's name.
Stage = Literal["prepare_messages", "handle_message", "handle_batch"]


@dataclass(frozen=True, slots=True)
class Stop:
    """Let the handler's own exception out of the pipeline's block. If in doubt, use this.

    The message is not acknowledged, so it is handled again after a restart. The exception
    gets a note that names topic, partition, offset and attempt, never the payload.
    """


@dataclass(frozen=True, slots=True)
class Skip:
    """Log the failure, acknowledge the message and go on: what Broadway does.

    Do NOT use it for messages that must not be lost: nothing handles a skipped one again.
    """


FailurePolicy = Stop | Skip
OnFailure = FailurePolicy | Callable[[Message], FailurePolicy]
