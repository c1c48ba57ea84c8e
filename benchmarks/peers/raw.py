"""confluent-kafka's own loops: consume(1000), or poll() where the latency counts."""

from _trial import Trial
from confluent_kafka import Consumer

trial = Trial()
consumer = Consumer({
    "bootstrap.servers": trial.bootstrap,
    "group.id": trial.group,
    "auto.offset.reset": "earliest",
})  # fmt: skip
consumer.subscribe([trial.topic])
while trial.scenario == "latency":
    message = consumer.poll(1)
    if message is not None and message.error() is None:
        trial.note(message.value())
while True:
    if messages := consumer.consume(1000, 1):
        trial.note(count=len(messages))
