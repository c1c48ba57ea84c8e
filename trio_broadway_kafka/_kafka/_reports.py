"""What librdkafka reports beside messages: errors, log lines, and the caller's callbacks.

Everything here runs inside librdkafka's calls, where an exception costs messages: a
``stats_cb`` that raised inside ``consume()`` lost all that the call was to return while
the position moved on. So nothing here raises; what is caught is kept and reported once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaError

from trio_broadway_kafka._kafka._config import ClientConfig
from trio_broadway_kafka._kafka._translate import (
    DAMAGED,
    DEADLY,
    OUTAGE,
    REFUSED,
    failure,
    is_retriable,
)
from trio_broadway_kafka._model._errors import KafkaFailure

__all__ = ["Reports", "logger"]

logger = logging.getLogger("trio_broadway_kafka")

REPEAT_AFTER: Final = 60.0
"""Seconds until the same complaint is logged again."""


class Reports:
    """Keeps, logs or passes on what librdkafka says about itself.

    Args:
        fail: called with the first error after which the client can't go on, and only then.

    Attributes:
        failed: the error given to `fail`.
        token_error: what the caller's ``oauth_cb`` raised last.
        trouble: the last error on the way to the broker, None while all is well.
        opened: whether the broker has answered once; until then it is the opening that fails.
    """

    def __init__(self, config: ClientConfig, fail: Callable[[BaseException], None]) -> None:
        self.failed: BaseException | None = None
        self.trouble: KafkaError | None = None
        self.token_error: BaseException | None = None
        self.opened = False
        self._config = config
        self._fail = fail
        self._down = False
        self._logged: dict[object, float] = {}
        self._user = {name: self.guard(f, name) for name, f in config.callbacks.items()}

    def callbacks(self) -> dict[str, Any]:
        """The entries for a consumer's configuration."""
        user = dict(self._user)
        if "oauth_cb" in user:
            # Its exceptions are for confluent-kafka, which tells librdkafka that there is
            # no token; librdkafka asks again after 10 s.
            user["oauth_cb"] = self._fetch_token
        return user | {"error_cb": self.guard(self._on_error, None), "logger": self}

    def for_producer(self) -> dict[str, Any]:
        """The entries for a producer's configuration: its statistics are not the consumer's."""
        ours = self.callbacks()
        return {key: ours[key] for key in ("error_cb", "logger", "oauth_cb") if key in ours}

    def guard(self, function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
        """Wrap `function` so that it never raises; `name` is the caller's key for it."""

        def guarded(*args: Any) -> Any:
            try:
                return function(*args)
            except BaseException as error:
                if name is not None:
                    error.add_note(f"raised by the {name} given in kafka")
                self.fail(error)

        return guarded

    def fail(self, error: BaseException) -> None:
        """Report that the client can't go on; later ones are only logged."""
        if self.failed is None:
            self.failed = error
            self._fail(error)
        else:
            text = self._config.hide(f"{type(error).__name__}: {error}")
            self._log_once(logging.ERROR, f"after the failure: {text}", text, REPEAT_AFTER)

    def well(self) -> None:
        """Messages or answers come: an outage, if there was one, is over."""
        if self.trouble is not None:
            level = logging.WARNING if self._down else logging.INFO
            if self.opened:
                logger.log(level, "Kafka at %s answers again", self._config.address)
            self.trouble = None
            self._down = False

    def unwell(self, error: KafkaError) -> None:
        """Note an error on the way to the broker: logged as an outage starts, waited out."""
        address = self._config.address
        # While opening, the exception says it all.
        info, warning = (logging.INFO, logging.WARNING) if self.opened else (logging.DEBUG,) * 2
        if error.name() != "_ALL_BROKERS_DOWN":
            if self.trouble is None:
                logger.log(info, "trouble with Kafka at %s: %s", address, self._text(error))
            self.trouble = error
        elif not self._down:
            self._down = True
            cause = self._text(self.trouble or error)
            logger.log(warning, "no broker of Kafka at %s answers: %s; waiting", address, cause)
            self.trouble = self.trouble or error

    def message_error(
        self, error: KafkaError, topic: str | None, partition: int | None
    ) -> None:
        """Take an error that came in place of a message."""
        name = error.name()
        where = f"reading {topic} [{partition}]" if topic else "reading"
        if name in DAMAGED:
            hint = "; to go on behind these, commit an offset of the group that lies there"
            self.fail(failure(error, f"{where}, records are damaged", hint))
        elif self._is_deadly(error):
            self.fail(failure(error, where))
        elif name in OUTAGE:
            self.unwell(error)
        elif name == "_MAX_POLL_EXCEEDED":
            logger.warning(
                "left the group: trio's loop was blocked for longer than"
                " max.poll.interval.ms (%.0f s)", self._config.max_poll_interval,
            )  # fmt: skip
        else:
            level = logging.INFO if is_retriable(error) else logging.WARNING
            again = REPEAT_AFTER if name != "UNKNOWN_TOPIC_OR_PART" else float("inf")
            self._log_once(level, f"{where}: {self._text(error)}", (name, topic), again)

    def gone(self, topic: str) -> None:
        """Note that a topic was deleted under us."""
        text = f"topic {topic!r} is gone: what was finished of it can't be committed"
        self._log_once(logging.WARNING, text, ("gone", topic), REPEAT_AFTER)

    def unanswered(self, failure: KafkaFailure) -> None:
        """Note that a question of our own, which is repeated, had no answer."""
        level = logging.DEBUG if failure.retriable else logging.WARNING
        self._log_once(level, str(failure), ("unanswered", failure.code), REPEAT_AFTER)

    def refusal(self) -> KafkaFailure | None:
        """The broker's refusal to let us in, if that is the trouble."""
        if self.trouble is None or self.trouble.name() not in REFUSED:
            return None
        hint = ""
        if "certificate verify failed" in self.trouble.str():
            hint = "; or is the broker's certificate for another host name?"
        return failure(self.trouble, f"Kafka at {self._config.address} refuses us", hint)

    def log(self, level: int, text: str, *args: object) -> None:
        """Write one of librdkafka's log lines: we are the "logger" of its configuration."""
        try:
            target = self._config.logger or logger
            line = self._config.hide(text % args if args else text)
            # Up to 20 a second in an outage, each of them an error_cb too, which is logged.
            repeated = target is logger and len(args) == 3 and args[0] == "FAIL"
            target.log(logging.DEBUG if repeated else level, "%s", line)
        except BaseException as error:
            self.fail(error)

    def _on_error(self, error: KafkaError) -> None:
        if self._is_deadly(error):
            self.fail(failure(error, f"Kafka at {self._config.address}"))
        else:
            self.unwell(error)
        if "error_cb" in self._user:
            self._user["error_cb"](error)

    def _is_deadly(self, error: KafkaError) -> bool:
        if error.name() in REFUSED:
            # The service that gives tokens may be away for a while; a password stays wrong.
            return self.opened and not self._config.fetches_tokens
        return error.fatal() or error.name() in DEADLY

    def _fetch_token(self, oauth_config: str) -> Any:
        try:
            return self._config.callbacks["oauth_cb"](oauth_config)
        except BaseException as error:
            self.token_error = error
            text = self._config.hide(f"{type(error).__name__}: {error}")
            logger.warning("the oauth_cb given in kafka raised %s; it is called again", text)
            raise

    def _text(self, error: KafkaError) -> str:
        return self._config.hide(f"{error.str()} ({error.name()})")

    def _log_once(self, level: int, text: str, key: object, again: float) -> None:
        now = time.monotonic()
        if now >= self._logged.get(key, -1.0):
            self._logged[key] = now + again
            logger.log(level, "%s", text)
