"""Tests whose body runs in a process of its own, on a stack that mirrors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.mirror import LIBRARY, Mirror


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    if not LIBRARY.exists():
        pytest.fail(f"{LIBRARY} is not built")
    made = Mirror()
    yield made
    made.close()
