"""One process of a local Apache Kafka, and what a fault test does to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType

from trio_broadway_kafka.testing import _topics, _watchdog
from trio_broadway_kafka.testing._folder import DataFolder
from trio_broadway_kafka.testing._jars import BrokerUnavailable

__all__ = ["Guard", "KafkaNode"]

_POLL = 0.05  # seconds between two looks at a node that starts
_LOG_LINES = 25  # of a failed node's log, shown in the error


class Guard:
    """Ties processes and a temporary folder to the life of this Python process.

    A folder that is kept stays locked until the last of the processes has ended. What comes
    after this process is `_watchdog`'s.
    """

    def __init__(self, data: DataFolder) -> None:
        self._lock = data.lock
        remove = [os.fspath(data.path)] if data.lock is None else []
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", _watchdog.__file__, *remove],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal must not end it
            text=True,
        )

    def spawn(self, command: Sequence[str], *, log: Path) -> subprocess.Popen[bytes]:
        """Start a process in the folder of its `log`; it dies when we do."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                cwd=log.parent,
                # In the locale C Java could not name a folder with letters beyond ASCII.
                env={**os.environ, "LC_ALL": "C.UTF-8"},
                pass_fds=[] if self._lock is None else [self._lock.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                # A Ctrl-C is for us alone: we still want to drain and commit to Kafka.
                start_new_session=True,
            )
        self._tell(f"+{process.pid}")
        return process

    def end(self, process: subprocess.Popen[bytes], *, timeout: float = 0.0) -> None:
        """Wait for its end, and kill it if that takes longer than so many seconds."""
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # Its id may be another's from now on.
        self._tell(f"-{process.pid}")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The orderly end and the violent one are the same: its input ends.
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class KafkaNode:
    """One broker (and controller) of a `KafkaBroker`, as a process of its own.

    The methods may be called in any order and as often as you like. `pause`, `resume` and
    `kill` return at once; `stop` and `restart` block for seconds, so call them from trio as
    ``await trio.to_thread.run_sync(node.restart)``.

    Attributes:
        id: its node.id, from 1.
        port: the port on 127.0.0.1 where it listens for clients; the same after a restart.
        log: the file with its log (warnings and worse).
    """

    def __init__(
        self,
        id: int,
        port: int,
        *,
        cluster: str,
        command: Sequence[str],
        log: Path,
        guard: Guard,
    ) -> None:
        self.id = id
        self.port = port
        self.log = log
        self._cluster = cluster
        self._command = command
        self._guard = guard
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = "stopped" if self.pid is None else f"pid {self.pid}"
        return f"<KafkaNode {self.id} at {self.address}, {state}>"

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id, None while it is stopped."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if running and self._process is not None else None

    def stop(self, *, timeout: float = _watchdog.PATIENCE) -> None:
        """End it in order (SIGTERM): partitions move to other nodes, logs are closed.

        Args:
            timeout: seconds until it is killed instead.
        """
        self.terminate()
        self._reap(timeout)

    def terminate(self) -> None:
        """Tell it to end in order, without waiting until it has."""
        self._signal(signal.SIGTERM)
        self.resume()  # a paused process would not see the signal

    def kill(self) -> None:
        """End it as a crash does (SIGKILL)."""
        self._reap(0.0)

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused one go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def restart(self, *, timeout: float = 60.0) -> None:
        """Start it again on the same port with the same data, stopping it first if need be.

        Args:
            timeout: seconds until it must answer.

        Raises:
            BrokerUnavailable: it ended at once or did not answer in time.
        """
        self.stop()
        self.spawn()
        self.wait_answering({self.id}, timeout=timeout)

    def spawn(self) -> None:
        """Start the process, without waiting until it answers. Not for callers outside."""
        self._process = self._guard.spawn(self._command, log=self.log)

    def wait_answering(
        self,
        expected: Collection[int],
        *,
        timeout: float,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait until it lists all nodes of `expected`. Not for callers outside.

        Args:
            expected: ids of nodes.
            timeout: seconds.
            check: called every now and then; may raise to give up.
        """
        deadline = time.monotonic() + timeout
        while not self._answers(expected):
            check()
            if self.pid is None:
                raise self.failure("ended while it was starting")
            if time.monotonic() > deadline:
                raise self.failure(f"did not answer within {timeout} s")
            time.sleep(_POLL)

    def failure(self, what: str) -> BrokerUnavailable:
        """The error for a node that failed, with the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        log = "\n".join(f"  {line}" for line in lines) or "  (nothing)"
        return BrokerUnavailable(
            f"Kafka node {self.id} at {self.address} {what}. The end of its log:\n{log}"
        )

    def _answers(self, expected: Collection[int]) -> bool:
        # A closed port is found out without a client, whose threads and retries cost more.
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        found = _topics.nodes_that_answer(self.address, cluster=self._cluster, timeout=1.0)
        return found.issuperset(expected)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # nothing happens to one that has ended

    def _reap(self, timeout: float) -> None:
        if self._process is None:
            return
        self._guard.end(self._process, timeout=timeout)
        self._process = None
