"""Programs share a stack, which has IPv6, too."""

from __future__ import annotations

import pytest

from neatstack.experiment.netns import Lab, Stack
from tests.conftest import laboratory

lab = pytest.fixture(scope="package", name="lab")(laboratory)


@pytest.fixture(scope="package")
def stack(lab: Lab) -> Stack:
    return lab.stack(replicas=2, options=["--address", f"{Stack.address6}/64"])
