"""A stack that is none, and its dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dashboard.support import Dashboard, dashboard
from tests.support.fake_stack import FakeStack


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeStack]:
    with FakeStack(tmp_path_factory.mktemp("run")) as made:
        yield made


@pytest.fixture(scope="module")
def board(fake: FakeStack) -> Iterator[Dashboard]:
    """Its dashboard, on loopback."""
    with dashboard(fake.root) as made:
        yield made


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Where no stack runs."""
    made = tmp_path / "run"
    made.mkdir()
    return made
