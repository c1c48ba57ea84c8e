"""A local Kafka whose records and committed offsets are still there at the next start."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from trio_broadway_kafka.testing import BrokerUnavailable, open_kafka_broker

__all__ = ["open_kept_kafka"]


@asynccontextmanager
async def open_kept_kafka(folder: Path, *, reset: bool = False) -> AsyncIterator[str]:
    """Run a Kafka with its data in a folder; gives its address.

    Args:
        folder: for Kafka's data; others may keep theirs beside it.
        reset: remove the folders in it first.

    Raises:
        BrokerUnavailable: it could not be started, or another one uses the folder.
    """
    data, kept = folder / "kafka", folder / "kafka.kept"
    # The broker insists on a fresh folder, so it gets one, and then the kept one instead.
    with _locked(folder):
        _make_room(folder, data, kept, reset=reset)
        properties = {
            "log.dirs": str(data),
            # A week by default, and then all would be read again.
            "offsets.retention.minutes": str(2**31 - 1),
        }
        async with open_kafka_broker(properties=properties) as broker:
            try:
                if kept.is_dir():
                    await trio.to_thread.run_sync(broker.stop)
                    _take_back(data, kept)
                    await trio.to_thread.run_sync(broker.restart)
                yield broker.bootstrap
            finally:
                with trio.CancelScope(shield=True):  # it has a deadline of its own
                    await trio.to_thread.run_sync(broker.stop)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl  # not on Windows, where a Kafka elsewhere can be used

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BrokerUnavailable(f"another demo is running with {folder}") from None
        yield


def _make_room(folder: Path, data: Path, kept: Path, *, reset: bool) -> None:
    """Put what is there aside."""
    if reset:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
    if kept.is_dir():  # the last start ended before it had taken it back
        shutil.rmtree(data, ignore_errors=True)
    elif data.is_dir():
        data.rename(kept)


def _take_back(data: Path, kept: Path) -> None:
    """Put the kept folder in the place of the fresh one, as a part of its cluster."""
    ours = {"cluster.id": _properties(data)["cluster.id"]}
    meta = _properties(kept) | ours
    (kept / "meta.properties").write_text("".join(f"{k}={v}\n" for k, v in meta.items()))
    shutil.rmtree(data)
    kept.rename(data)


def _properties(folder: Path) -> dict[str, str]:
    lines = (folder / "meta.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
