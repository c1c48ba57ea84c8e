"""`open_pipeline`: the options, and the block."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType

from trio_broadway_kafka._kafka._client import KafkaClient, Session
from trio_broadway_kafka._model._errors import ConfigError
from trio_broadway_kafka._model._moments import (
    StartFrom,
    StopAtOption,
    check_start_from,
    check_stop_at,
)
from trio_broadway_kafka._model._options import (
    PipelineOptions,
    Stages,
    StagesFactory,
    check_stages,
)
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._rate import RateLimit, check_rate_limit
from trio_broadway_kafka._model._topics import check_topics
from trio_broadway_kafka._pipeline import Pipeline
from trio_broadway_kafka.instruments._base import Instrument, check_instruments

__all__ = ["Opening", "open_pipeline"]


def open_pipeline(
    *,
    kafka: Mapping[str, object] | None = None,
    topics: Iterable[str],
    stages: Stages | StagesFactory,
    name: str | None = None,
    output: Output | None = None,
    rate_limit: RateLimit | None = None,
    start_from: StartFrom = "committed",
    stop_at: StopAtOption | None = None,
    create_topics: bool = False,
    max_in_flight: int = 10_000,
    max_in_flight_bytes: int = 64 * 2**20,
    commit_interval: float = 1.0,
    open_timeout: float = 30.0,
    drain_timeout: float = 30.0,
    revoke_timeout: float = 20.0,
    close_timeout: float = 5.0,
    instruments: Iterable[Instrument] = (),
    client: KafkaClient | None = None,
) -> AbstractAsyncContextManager[Pipeline]:
    """Open a pipeline: ``async with open_pipeline(...) as pipeline: ...``.

    Leaving the block drains: nothing more is polled, what has not started is left to
    Kafka, what has started is finished, what is finished is committed. Leaving it by an
    exception or a cancellation cancels the handlers at once, and commits what is finished.

    Args:
        kafka: librdkafka's settings under their dotted names, passed on untouched
            (https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md).
            ``bootstrap.servers`` and ``group.id`` are needed. ``auto.offset.reset`` is
            ``earliest`` unless given. Leave it out only with `client`.
        topics: names, or patterns that start with ``^``: regular expressions of Python's
            ``re``, matched from the beginning of a topic's name. They find topics that are
            made later within seconds. `Pipeline.subscribe` changes the topics.
        stages: what to do with the messages: `Stages` for all partitions. Or a function of
            topic and partition, for a pipeline of its own for every assigned partition: it
            returns a `Stages`, or an async context manager of one, which is entered before
            the partition is fetched, and left, drained, before what is finished is committed.
        name: the pipeline's, for logs; the group's name unless given.
        output: where `Message.produce` and dead letters go. With it a producer is made at
            opening; without it one is made when there is something to produce, with the
            connection settings of `kafka`, and the first record takes half a second more.
        rate_limit: how many messages may be taken in a time, over all partitions; None for
            no limit. `Pipeline.rate_limit` changes it while it runs.
        start_from: where this pipeline's first assignment of a partition starts:
            ``"committed"`` (the group's committed offset, else as ``auto.offset.reset``
            says), ``"earliest"``, ``"latest"``, or a datetime with a time zone: the first
            record at or after it, the end if there is none. The next commit makes the start
            the group's offset, even a lower one. Later assignments start from the
            committed offset. Do NOT leave it in a program that is restarted to go on, nor
            replay with several members at once: each starts its own partitions over.
        stop_at: where the pipeline ends: None (never), ``"end"``, or a datetime with a time
            zone, which may be still to come. Fixed once, at opening, for every partition of
            the topics: the end (under ``read_committed`` the last stable offset); the first
            record at or after that time, or the end once that time has passed. What lies
            beyond is not handled. The pipeline is drained, and `Pipeline.wait_finished`
            returns, when the group's committed offsets have reached them all, whichever
            member owns the partitions.
        create_topics: make missing topics with the broker's defaults.
        max_in_flight: messages polled and not yet finished. If in doubt, leave it; do NOT
            set it below `Stages.concurrency`.
        max_in_flight_bytes: bytes of their values.
        commit_interval: seconds between commits. 0 commits whenever something finished,
            inf only on `Pipeline.commit`, on a revoke and on leaving.
        open_timeout: seconds within which the broker must answer and the named topics
            exist. Outages after that are waited out.
        drain_timeout: seconds that leaving the block waits for what has started; then its
            handlers are cancelled.
        revoke_timeout: the same for partitions that are taken away; must be below
            ``max.poll.interval.ms``.
        close_timeout: seconds for the last commit and for closing the client.
        instruments: told of what happens, as it happens (see `Instrument`), in this order.
        client: in tests, a client of `testing.FakeBroker` instead of a real one.

    Raises:
        ConfigError: an option is wrong; raised before anything is opened.
        ExceptionGroup: everything else, from opening to leaving: a `KafkaFailure`, a
            handler's exception, the block's own. Catch them with ``except*``.
    """
    check_stages(stages)
    check_rate_limit(rate_limit)
    check_start_from(start_from)
    check_stop_at(stop_at)
    if isinstance(stages, Stages):
        stages.check_bound(max_in_flight)
    if not (output is None or isinstance(output, Output)):
        raise ConfigError(f"output must be an Output(...), not {type(output).__name__}")
    told = check_instruments(instruments)
    options = PipelineOptions(
        max_in_flight=max_in_flight,
        max_in_flight_bytes=max_in_flight_bytes,
        commit_interval=commit_interval,
        open_timeout=open_timeout,
        drain_timeout=drain_timeout,
        revoke_timeout=revoke_timeout,
        close_timeout=close_timeout,
    )
    session = Session(
        topics=check_topics(topics),
        start_from=start_from,
        create_topics=create_topics,
        open_timeout=open_timeout,
        revoke_timeout=revoke_timeout,
        close_timeout=close_timeout,
    )
    if client is None:
        if kafka is None:
            raise ConfigError("kafka is missing: give at least bootstrap.servers and group.id")
        # Here, not above: who uses a FakeBroker does not load librdkafka.
        from trio_broadway_kafka._kafka._confluent import ConfluentClient

        client = confluent = ConfluentClient(kafka)
        confluent.check(session)
        confluent.check_output(output or Output())
    elif kafka is not None:
        raise ConfigError("give either kafka or client, not both")
    group = str(kafka["group.id"]) if kafka else None
    return Opening(
        Pipeline(
            name or group or "pipeline",
            client,
            session,
            stages,
            options,
            rate_limit,
            told,
            group,
            stop_at,
            output,
        )
    )


class Opening(AbstractAsyncContextManager[Pipeline]):
    """What `open_pipeline` returns: the block.

    Attributes:
        pipeline: what is opened by entering.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._block = _block(pipeline)

    async def __aenter__(self) -> Pipeline:
        """Open the pipeline."""
        return await self._block.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Drain and close the pipeline."""
        return await self._block.__aexit__(kind, error, traceback)


@asynccontextmanager
async def _block(pipeline: Pipeline) -> AsyncGenerator[Pipeline]:
    async with pipeline._lifetime():
        await pipeline._open()
        yield pipeline
        await pipeline.drain()
