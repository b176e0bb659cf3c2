"""The sanitised build and its tests take one core for minutes.

They begin with the run, take what time the other tests leave, and are waited for at its end. They are no child of it:
tests of the control plane count this process's children.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    def begin(cls) -> Run:
        directory = tempfile.mkdtemp(prefix="neat-sanitized-")
        launched = subprocess.run(
            ["sh", "-c", LAUNCH, SCRIPT, sys.executable, directory],
            cwd=ROOT,
            env=os.environ | {"FRAMES": "60000", "ROUNDS": "800"},
            stdout=subprocess.PIPE,
            check=True,
        )
        pid = int(launched.stdout)
        return cls(pid, os.pidfd_open(pid), Path(directory))

    def result(self) -> tuple[int, str]:
        """Wait for it: its exit status (-1: it was ended), and what it has printed."""
        select.select([self.pidfd], [], [])
        status, printed = self.directory / "status", self.directory / "printed"
        return int(status.read_text()) if status.exists() else -1, printed.read_text(errors="replace")

    def end(self) -> None:
        if not select.select([self.pidfd], [], [], 0)[0]:
            os.killpg(self.pid, signal.SIGKILL)
            select.select([self.pidfd], [], [])
        os.close(self.pidfd)
        shutil.rmtree(self.directory)


RUN = pytest.StashKey[Run]()


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly and any(item.name == TEST for item in session.items):
        session.config.stash[RUN] = Run.begin()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if RUN in session.config.stash:
        session.config.stash[RUN].end()


@pytest.fixture
def sanitized(request: pytest.FixtureRequest) -> Callable[[], tuple[int, str]]:
    """Wait for it: its exit status, and what it has printed."""
    return request.config.stash[RUN].result
