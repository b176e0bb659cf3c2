"""What programs see of IPv6 is what they would see on the kernel: names, refusals, options, ancillary data."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neatstack.experiment.netns import Lab
from tests.client import ipv6_table

SCRIPT = Path(ipv6_table.__file__)
OWN = "fd77::2"
Told = dict[str, Any]


@pytest.fixture(scope="module")
def both(lab: Lab) -> Iterator[tuple[Told, Told]]:
    """What the script says on our stack, and on the kernel's in a namespace of its own."""
    with lab.scope():
        kernel = lab.namespace("kernel")
        lab.veth(kernel, "10.77.0.2/24", lab.namespace("far"), "10.77.0.1/24")
        (device,) = (each["ifname"] for each in json.loads(kernel.ip("-json", "link")) if each["ifname"] != "lo")
        kernel.ip("address", "add", f"{OWN}/64", "dev", device.partition("@")[0], "nodad")
        stack = lab.stack(options=["--address", f"{OWN}/64"])
        yield tuple(json.loads(side.run(sys.executable, SCRIPT, OWN)) for side in (stack.programs, kernel))


def rows(told: Any) -> list[Any]:
    return list(told.items()) if isinstance(told, dict) else told


@pytest.mark.parametrize("part", [
    "pairs", "refusals", "raw_names", "conflicts", "options", "datagrams", "of_each", "sources", "segments", "errors",
    "inherited",
])  # fmt: skip
def test_the_kernel_says_the_same(both: tuple[Told, Told], part: str) -> None:
    ours, kernels = (rows(side[part]) for side in both)
    assert len(ours) == len(kernels) > 0
    differing = [f"{one}, not {other}" for one, other in zip(ours, kernels, strict=True) if one != other]
    assert not differing, "\n".join(differing)
