"""The sanitised build and its tests take one core for minutes.

They begin with the run, take what time the other tests leave, and are waited for at its end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST = "test_the_same_in_the_sanitized_build"
RUN = pytest.StashKey[subprocess.Popen]()
PRINTED = pytest.StashKey[Path]()


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly or not any(item.name == TEST for item in session.items):
        return
    descriptor, name = tempfile.mkstemp(prefix="neat-sanitized-")
    session.config.stash[PRINTED] = Path(name)
    session.config.stash[RUN] = subprocess.Popen(
        ["nice", "-n", "19", ROOT / "tests/fuzz/sanitize.sh", sys.executable],
        cwd=ROOT,
        env=os.environ | {"FRAMES": "60000", "ROUNDS": "800"},
        stdin=subprocess.DEVNULL,
        stdout=descriptor,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    os.close(descriptor)


def pytest_sessionfinish(session: pytest.Session) -> None:
    run = session.config.stash.get(RUN, None)
    if run is None:
        return
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    session.config.stash[PRINTED].unlink()


@pytest.fixture
def sanitized(request: pytest.FixtureRequest) -> Callable[[], tuple[int, str]]:
    """Wait for it: its exit status, and what it has printed."""

    def wait() -> tuple[int, str]:
        status = request.config.stash[RUN].wait()
        return status, request.config.stash[PRINTED].read_text(errors="replace")

    return wait
