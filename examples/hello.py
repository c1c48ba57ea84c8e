"""The smallest program: print what arrives in a topic, until Ctrl-C.

python examples/hello.py 127.0.0.1:9092 greetings
"""

import sys

import trio

from trio_broadway_kafka import Message, Stages, run_pipeline


async def handle_message(message: Message) -> None:
    print(message.partition, message.offset, message.key, message.value, flush=True)


async def main(bootstrap: str, topic: str) -> None:
    await run_pipeline(
        kafka={"bootstrap.servers": bootstrap, "group.id": "hello"},
        topics=[topic],
        stages=Stages(handle_message=handle_message),
    )


if __name__ == "__main__":
    _, bootstrap, topic = sys.argv
    trio.run(main, bootstrap, topic)
