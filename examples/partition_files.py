"""Each partition into a file of its own, every record once.

    python examples/partition_files.py 127.0.0.1:9092 orders copies/

Every assigned partition gets stages of its own: its file is opened before the partition is
fetched, and flushed and closed before its last offsets are committed and another member may
have it. A line is an offset, a tab, and the value as JSON text. After a crash the file may
end in the middle of a line, and Kafka repeats what was not committed: what is torn is cut
off, and what is there already is left out.

Ctrl-C writes what waits and ends.
"""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from trio_broadway_kafka import Batch, Batcher, Stages, run_pipeline


def mend(path: Path) -> int:
    """Cut off a torn last line. Returns the last offset in the file, -1 if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    last = b""
    with path.open("ab+") as file:
        file.seek(0)
        whole = 0
        for line in file:
            if line.endswith(b"\n"):
                whole += len(line)
                last = line
        file.truncate(whole)
    return int(last.split(b"\t")[0]) if last else -1


@asynccontextmanager
async def file_of(folder: Path, topic: str, partition: int) -> AsyncIterator[Stages]:
    path = folder / f"{topic}-{partition}.tsv"
    written = await trio.to_thread.run_sync(mend, path)
    async with await trio.open_file(path, "a", encoding="utf-8") as file:

        async def write(batch: Batch) -> None:
            nonlocal written
            lines = [
                f"{message.offset}\t{json.dumps((message.value or b'').decode())}\n"
                for message in batch
                if message.offset > written
            ]
            await file.write("".join(lines))
            await file.flush()
            written = max(written, batch.messages[-1].offset)

        print(f"{path.name}: opened behind offset {written}", flush=True)
        yield Stages(batchers={"default": Batcher(handle_batch=write, size=1000)})
    print(f"{path.name}: closed behind offset {written}", flush=True)


async def main(bootstrap: str, topic: str, folder: str) -> None:
    await run_pipeline(
        kafka={"bootstrap.servers": bootstrap, "group.id": f"files-{folder}"},
        topics=[topic],
        stages=lambda topic, partition: file_of(Path(folder), topic, partition),
    )


if __name__ == "__main__":
    _, bootstrap, topic, folder = sys.argv
    trio.run(main, bootstrap, topic, folder)
