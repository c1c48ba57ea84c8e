"""Process Kafka with trio: structured concurrency, back-pressure, ordered commits."""

from trio_broadway_kafka._model._batch import Batch
from trio_broadway_kafka._model._batch_sizes import TriggerStatistics
from trio_broadway_kafka._model._errors import (
    BroadwayKafkaError,
    ConfigError,
    DeadLetterFailed,
    FencedError,
    KafkaFailure,
    MessageFailed,
    PipelineBug,
)
from trio_broadway_kafka._model._latencies import LatencyStatistics
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._options import Batcher, Stages
from trio_broadway_kafka._model._output import Output
from trio_broadway_kafka._model._policies import (
    DeadLetter,
    FailurePolicy,
    PausePartition,
    Retry,
    Skip,
    Stop,
)
from trio_broadway_kafka._model._rate import RateLimit
from trio_broadway_kafka._model._stage_times import StageStatistics
from trio_broadway_kafka._model._statistics import (
    BatcherStatistics,
    PartitionStatistics,
    PipelineStatistics,
    TopicStatistics,
)
from trio_broadway_kafka._model._strip import Strip
from trio_broadway_kafka._model._topology import BatcherTopology, StagesTopology, Topology
from trio_broadway_kafka._open import open_pipeline
from trio_broadway_kafka._pipeline import Pipeline
from trio_broadway_kafka._run import run_pipeline
from trio_broadway_kafka._whereabouts import Blocker, HotKey
from trio_broadway_kafka.instruments import Instrument

__all__ = [
    "Batch",
    "Batcher",
    "BatcherStatistics",
    "BatcherTopology",
    "Blocker",
    "BroadwayKafkaError",
    "ConfigError",
    "DeadLetter",
    "DeadLetterFailed",
    "FailurePolicy",
    "FencedError",
    "HotKey",
    "Instrument",
    "KafkaFailure",
    "LatencyStatistics",
    "Message",
    "MessageFailed",
    "Output",
    "PartitionStatistics",
    "PausePartition",
    "Pipeline",
    "PipelineBug",
    "PipelineStatistics",
    "RateLimit",
    "Retry",
    "Skip",
    "StageStatistics",
    "Stages",
    "StagesTopology",
    "Stop",
    "Strip",
    "TopicStatistics",
    "Topology",
    "TriggerStatistics",
    "open_pipeline",
    "run_pipeline",
]
