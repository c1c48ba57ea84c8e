"""What the page may do to a pipeline, for who knows the token."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable
from typing import Final

from trio_broadway_kafka._pipeline import Pipeline
from trio_broadway_kafka.dashboard._http import Request, Response, text

__all__ = ["ACTIONS", "Actions"]

_log = logging.getLogger("trio_broadway_kafka.dashboard")

ACTIONS: Final = frozenset({"/retry-now", "/give-up"})

Act = Callable[[str, int, int], bool]


class Actions:
    """Lets a message that waits to be tried again be tried now, or for the last time.

    Args:
        pipeline: whose.
        token: who sends it may.
    """

    def __init__(self, pipeline: Pipeline, token: str) -> None:
        self._pipeline = pipeline
        self._token = token

    def retry_now(self, request: Request) -> Response:
        """POST /retry-now."""
        return self._act(request, "retry now", self._pipeline.retry_now)

    def give_up(self, request: Request) -> Response:
        """POST /give-up."""
        return self._act(request, "give up", self._pipeline.give_up)

    def _act(self, request: Request, what: str, act: Act) -> Response:
        origin = request.headers.get("origin", "")
        if origin and origin.partition("//")[2] != request.headers.get("host"):
            return text(403, "asked by a page of elsewhere")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return text(403, "the token is missing or wrong")
        try:
            asked = json.loads(request.body)
            place = (str(asked["topic"]), int(asked["partition"]), int(asked["offset"]))
        except (ValueError, KeyError, TypeError):
            return text(400, 'send {"topic": ..., "partition": ..., "offset": ...}')
        if not act(*place):
            return text(409, "that message does not wait to be tried again (any more)")
        _log.info("%s: %s of %s/%d@%d was asked for", self._pipeline.name, what, *place)
        return text(200, "done")
