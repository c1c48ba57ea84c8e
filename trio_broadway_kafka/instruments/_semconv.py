"""OpenTelemetry's names for messaging, in one place.

Those of https://opentelemetry.io/docs/specs/semconv/messaging/ (in development there, so they
may change: `SCHEMA` says which version this is). What is ours is outside ``messaging``.
"""

from __future__ import annotations

from typing import Final

SCHEMA: Final = "https://opentelemetry.io/schemas/1.37.0"

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
PARTITION: Final = "messaging.destination.partition.id"
GROUP: Final = "messaging.consumer.group.name"
OFFSET: Final = "messaging.kafka.offset"
BATCH_COUNT: Final = "messaging.batch.message_count"
ERROR_TYPE: Final = "error.type"

CONSUMED: Final = "messaging.client.consumed.messages"
SENT: Final = "messaging.client.sent.messages"
PROCESS_DURATION: Final = "messaging.process.duration"
OPERATION_DURATION: Final = "messaging.client.operation.duration"

KAFKA: Final = "kafka"

PIPELINE: Final = "broadway_kafka.pipeline"
STAGE: Final = "broadway_kafka.stage"
BATCHER: Final = "broadway_kafka.batcher"
TRIGGER: Final = "broadway_kafka.trigger"
ATTEMPT: Final = "broadway_kafka.attempt"

# Seconds: the boundaries that the conventions ask for.
DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
