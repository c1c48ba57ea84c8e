"""Process Kafka with trio: structured concurrency, back-pressure, ordered commits."""

from trio_broadway_kafka._model._batch import Batch
from trio_broadway_kafka._model._errors import (
    BroadwayKafkaError,
    ConfigError,
    KafkaFailure,
    MessageFailed,
    PipelineBug,
)
from trio_broadway_kafka._model._message import Message
from trio_broadway_kafka._model._options import Batcher, Stages
from trio_broadway_kafka._model._policies import FailurePolicy, Skip, Stop
from trio_broadway_kafka._model._rate import RateLimit
from trio_broadway_kafka._model._statistics import (
    BatcherStatistics,
    PartitionStatistics,
    PipelineStatistics,
)
from trio_broadway_kafka._model._topology import BatcherTopology, StagesTopology, Topology
from trio_broadway_kafka._open import open_pipeline
from trio_broadway_kafka._pipeline import Pipeline
from trio_broadway_kafka._run import run_pipeline
from trio_broadway_kafka.instruments import Instrument

__all__ = [
    "Batch",
    "Batcher",
    "BatcherStatistics",
    "BatcherTopology",
    "BroadwayKafkaError",
    "ConfigError",
    "FailurePolicy",
    "Instrument",
    "KafkaFailure",
    "Message",
    "MessageFailed",
    "PartitionStatistics",
    "Pipeline",
    "PipelineBug",
    "PipelineStatistics",
    "RateLimit",
    "Skip",
    "Stages",
    "StagesTopology",
    "Stop",
    "Topology",
    "open_pipeline",
    "run_pipeline",
]
