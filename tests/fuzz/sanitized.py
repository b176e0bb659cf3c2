"""The sanitised build and its tests take one core for minutes.

They begin with the run, take what time the other tests leave, and are waited for at its end. They are no child of it:
tests of the control plane count this process's children. Of a run in several workers they belong to the process that
leads these: it begins them when a worker has the test that waits for them, once for all.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TEST = "test_the_same_in_the_sanitized_build"
LONGEST = 1500  # seconds: ends it, whatever has become of the run that has begun it
SCRIPT = 'nice -n 19 tests/fuzz/sanitize.sh "$0" > "$1/printed" 2>&1; echo $? > "$1/status"'
LAUNCH = f'setsid timeout {LONGEST} sh -c "$0" "$1" "$2" < /dev/null > /dev/null 2>&1 & echo $!'


@dataclass
class Run:
    """The script in a session of its own: its first process, and the folder that it writes to."""

    pid: int
    pidfd: int
    directory: Path

    @classmethod
    def begin(cls, directory: Path) -> Run:
        directory.mkdir(mode=0o700)
        launched = subprocess.run(
            ["sh", "-c", LAUNCH, SCRIPT, sys.executable, directory],
            cwd=ROOT,
            env=os.environ | {"FRAMES": "60000", "ROUNDS": "800"},
            stdout=subprocess.PIPE,
            check=True,
        )
        pid = int(launched.stdout)
        (directory / "pid").write_text(str(pid))
        return cls(pid, os.pidfd_open(pid), directory)

    def end(self) -> None:
        if not select.select([self.pidfd], [], [], 0)[0]:
            os.killpg(self.pid, signal.SIGKILL)
            select.select([self.pidfd], [], [])
        os.close(self.pidfd)
        shutil.rmtree(self.directory)


def result(directory: Path) -> tuple[int, str]:
    """Wait for the run that writes there: its exit status (-1: it was ended), and what it has printed."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(int((directory / "pid").read_text()))
        try:
            select.select([pidfd], [], [])
        finally:
            os.close(pidfd)
    status, printed = directory / "status", directory / "printed"
    return int(status.read_text()) if status.exists() else -1, printed.read_text(errors="replace")


RUN = pytest.StashKey[Run]()


def place(number: str) -> Path:
    return Path(tempfile.gettempdir()) / f"neat-sanitized-{number}"


def begin_for(tests: Iterable[str], config: pytest.Config, number: str) -> None:
    if RUN not in config.stash and any(test.endswith(f"::{TEST}") for test in tests):
        config.stash[RUN] = Run.begin(place(number))


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly and not hasattr(session.config, "workerinput"):
        begin_for((item.nodeid for item in session.items), session.config, uuid.uuid4().hex)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Iterable[str]) -> None:
    begin_for(ids, node.config, node.workerinput["testrunuid"])


def pytest_sessionfinish(session: pytest.Session) -> None:
    if RUN in session.config.stash:
        session.config.stash[RUN].end()


@pytest.fixture
def sanitized(pytestconfig: pytest.Config) -> Callable[[], tuple[int, str]]:
    """Wait for it: its exit status, and what it has printed."""
    worker = getattr(pytestconfig, "workerinput", None)
    directory = place(worker["testrunuid"]) if worker else pytestconfig.stash[RUN].directory
    return lambda: result(directory)
