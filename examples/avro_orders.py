"""Avro records with their schemas in a registry: decoded under trio, bad ones left out.

    python examples/avro_orders.py 127.0.0.1:9092 orders --samples
    python examples/avro_orders.py 127.0.0.1:9092 orders --registry http://127.0.0.1:8081

It needs more of confluent's client: pip install 'confluent-kafka[avro,schemaregistry]>=2.16'.
``--samples`` first puts three orders and two bad records into the topic. The registry is
``mock://`` unless you name one: confluent's own, in this process's memory, which knows only
the schema that is registered here.

A record says which schema it was written with by the number in its first five bytes. The
client asks the registry for a number that it does not know yet, and blocks meanwhile: so the
first record of each schema is decoded in a thread. After that it asks nobody, and decodes in
20 µs, which is less than the way to a thread and back.

A record that can't be decoded is left out, and `report` tells of it. A registry that does not
answer is not the record's fault: that stops the pipeline, and nothing is lost. Ctrl-C ends it
well.
"""

import argparse
import json
import sys
from typing import Any

import httpx2  # what the registry's client speaks HTTP with
import trio
from confluent_kafka import Producer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import (
    MessageField,
    SerializationContext,
    SerializationError,
)

from trio_broadway_kafka import (
    BroadwayKafkaError,
    Message,
    Skip,
    Stages,
    Stop,
    run_pipeline,
)

ORDER = json.dumps(
    {
        "type": "record",
        "name": "Order",
        "fields": [
            {"name": "id", "type": "long"},
            {"name": "item", "type": "string"},
            {"name": "cents", "type": "long"},
        ],
    }
)

# What the client and fastavro raise at bytes that are not what the schema says.
NOT_AVRO = (SerializationError, EOFError, IndexError, UnicodeDecodeError)


class Decoder:
    """Decodes Avro values without ever blocking trio's loop."""

    def __init__(self, registry: SchemaRegistryClient, schema: str) -> None:
        self._decode = AvroDeserializer(registry, schema)
        self._known: set[bytes] = set()  # the first five bytes: format and schema's number
        self._asking = trio.Lock()

    async def __call__(self, topic: str, value: bytes) -> Any:
        context = SerializationContext(topic, MessageField.VALUE)
        schema = value[:5]
        if schema not in self._known:
            async with self._asking:  # once: who waits here finds it known
                if schema not in self._known:
                    decoded = await trio.to_thread.run_sync(self._decode, value, context)
                    self._known.add(schema)
                    return decoded
        return self._decode(value, context)


class Orders:
    def __init__(self, decode: Decoder) -> None:
        self._decode = decode

    async def handle(self, message: Message) -> None:
        if message.value is None:
            raise SerializationError("a tombstone is no order")
        order = await self._decode(message.topic, message.value)
        print(f"order {order['id']}: {order['item']}, {order['cents']} cents", flush=True)


def policy(message: Message) -> Skip | Stop:
    failure = message.failure
    if isinstance(failure, SchemaRegistryError):  # 404: there is no such schema
        return Skip() if failure.http_status_code == 404 else Stop()
    return Skip() if isinstance(failure, NOT_AVRO) else Stop()


async def report(messages: list[Message]) -> None:
    for message in messages:
        kind = type(message.failure).__name__
        print(f"left out {message!r}: {kind}", file=sys.stderr, flush=True)


async def main(options: argparse.Namespace, registry: SchemaRegistryClient) -> None:
    if options.samples or options.registry.startswith("mock:"):
        register = registry.register_schema
        await trio.to_thread.run_sync(register, f"{options.topic}-value", Schema(ORDER, "AVRO"))
    if options.samples:
        await trio.to_thread.run_sync(produce_samples, options, registry)
    await run_pipeline(
        kafka={"bootstrap.servers": options.bootstrap, "group.id": options.group},
        topics=[options.topic],
        stages=Stages(
            handle_message=Orders(Decoder(registry, ORDER)).handle,
            handle_failed=report,
            on_failure=policy,
        ),
    )


def produce_samples(options: argparse.Namespace, registry: SchemaRegistryClient) -> None:
    encode = AvroSerializer(registry, ORDER)
    context = SerializationContext(options.topic, MessageField.VALUE)
    values = [
        encode({"id": number, "item": item, "cents": cents}, context) or b""
        for number, item, cents in ((1, "tea", 320), (2, "cake", 450), (3, "jam", 280))
    ]
    values.insert(1, b"no Avro at all")
    values.insert(3, values[0][:-1])  # the schema is known, and the end is missing
    producer = Producer({"bootstrap.servers": options.bootstrap})
    for number, value in enumerate(values):
        producer.produce(options.topic, value, b"%d" % number)
    if producer.flush(10):
        sys.exit(
            f"Kafka at {options.bootstrap} took no records within 10 s: is there such a topic?"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bootstrap", metavar="HOST:PORT", help="of Kafka")
    parser.add_argument("topic")
    parser.add_argument("--group", default="avro-orders", help="default: %(default)s")
    parser.add_argument("--registry", default="mock://", metavar="URL")
    parser.add_argument("--samples", action="store_true", help="put some into the topic first")
    options = parser.parse_args()
    # `new_client` knows mock://, the class itself does not. Nothing can cancel a thread, so
    # the client gets deadlines: a drain waits for it while the registry does not answer.
    settings = {"url": options.registry, "timeout": 5, "max.retries": 1}
    try:
        registry = SchemaRegistryClient.new_client(settings)
    except ValueError as error:
        parser.error(f"--registry: {error}")
    wrong: list[str] = []
    try:
        trio.run(main, options, registry)
    except* BroadwayKafkaError as group:
        wrong += [f"{type(error).__name__}: {error}" for error in group.exceptions]
    except* (httpx2.HTTPError, SchemaRegistryError) as group:
        where = f"the registry at {options.registry}"
        wrong += [f"{where}: {type(error).__name__}: {error}" for error in group.exceptions]
    if wrong:
        sys.exit("\n".join(wrong))
