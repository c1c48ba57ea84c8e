"""Where a local Kafka keeps its data: a folder that goes with it, or one that is kept."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from trio_broadway_kafka.testing._jars import BrokerUnavailable
from trio_broadway_kafka.testing._watchdog import PATIENCE

__all__ = ["DataFolder", "open_data_folder"]

_ABOUT = "kafka.json"
_LOCK = ".lock"
_POLL = 0.05  # seconds between two looks at a lock that is about to be free


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFolder:
    """The folder of a local Kafka that is about to start.

    Attributes:
        path: of it.
        cluster: the id that its nodes' data has, or will have.
        lock: a file that holds the folder's lock as long as any process has it open. None:
            the folder is temporary.
    """

    path: Path
    cluster: str
    lock: IO[str] | None = None


@contextlib.contextmanager
def open_data_folder(
    folder: Path | None, *, nodes: int, check: Callable[[], None]
) -> Iterator[DataFolder]:
    """Make or find the folder, and keep others out of it for the length of the block.

    Args:
        folder: to keep the data in. None: a temporary one, which is not removed here.
        nodes: how many there are to be.
        check: called while it waits for the nodes of a process that was killed; may raise.

    Raises:
        BrokerUnavailable: another process uses the folder, or it is not fit for these nodes.
    """
    if folder is None:
        path = Path(tempfile.mkdtemp(prefix="trio-broadway-kafka-"))
        yield DataFolder(path=path, cluster=_new_cluster())
        return
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("a+")
    except OSError as error:
        raise BrokerUnavailable(f"{folder} can't be Kafka's folder: {error}") from error
    with lock, _locked(folder, lock, check):
        cluster, of_nodes = _about(folder, nodes)
        if of_nodes != nodes:
            # Each has its part of the data, and of the votes that elect the controller.
            raise BrokerUnavailable(
                f"{folder} has the data of a Kafka with nodes={of_nodes}, so it can't be "
                f"started with nodes={nodes}: choose another folder"
            )
        yield DataFolder(path=folder, cluster=cluster, lock=lock)


@contextlib.contextmanager
def _locked(folder: Path, lock: IO[str], check: Callable[[], None]) -> Iterator[None]:
    import fcntl  # not on Windows, where the fake broker beside this must import

    # The nodes have the file open too. So if the process that started them is killed, it
    # stays locked until the last of them has ended, and that is worth waiting for.
    deadline = time.monotonic() + PATIENCE + 5
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            if _is_alive(owner) or time.monotonic() > deadline:
                raise _in_use(folder, owner) from None
        check()
        time.sleep(_POLL)
    lock.truncate(0)
    print(os.getpid(), file=lock, flush=True)
    try:
        yield
    finally:
        # Closing is not enough if a fork of ours has the file open too.
        fcntl.flock(lock, fcntl.LOCK_UN)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def _in_use(folder: Path, owner: str) -> BrokerUnavailable:
    who = "by this process" if owner == str(os.getpid()) else f"by another process ({owner})"
    return BrokerUnavailable(
        f"{folder} is in use {who}: end its Kafka first, or choose another folder"
    )


def _about(folder: Path, nodes: int) -> tuple[str, int]:
    """The id and the number of nodes of the folder's cluster, a new one if it is empty."""
    file = folder / _ABOUT
    try:
        # Never among somebody's own files, which might have the names of ours.
        if all(path.name.startswith(".") for path in folder.iterdir()):
            part = folder / f".{_ABOUT}.part"
            part.write_text(json.dumps({"cluster": _new_cluster(), "nodes": nodes}))
            part.replace(file)  # whole or not at all
        about = json.loads(file.read_text())
        return str(about["cluster"]), int(about["nodes"])
    except (OSError, ValueError, LookupError) as error:
        raise BrokerUnavailable(
            f"{folder} is not empty, and no folder of a local Kafka: choose another one "
            f"({type(error).__name__}: {error})"
        ) from error


def _new_cluster() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
