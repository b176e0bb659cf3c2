"""What a program sees is what it would see on the kernel: socket options, value by value; the rest step by step."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from neatstack.experiment.netns import Lab, Side
from tests.client import (
    cork_table,
    groups_table,
    listener_table,
    options_table,
    peek_table,
    rights_table,
    stream_table,
    times_table,
    urgent_table,
    waiting_table,
)
from tests.client.mirror import ADDRESS, Mirror

OWN = "10.77.0.2"


def both(mirror: Mirror, lab: Lab, table: ModuleType) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a script says on our stack, and on the kernel's in a namespace of its own."""
    script = ["-m", table.__name__]
    with lab.scope():
        kernel = lab.namespace("kernel")
        with kernel.entered():
            Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("3")
        expected = json.loads(kernel.run(sys.executable, *script, "127.0.0.1"))
    with mirror.spawn(sys.executable, *script, ADDRESS) as process:
        out, told = process.communicate(timeout=30)
        assert process.returncode == 0, told
    return json.loads(out), expected


def test_set_and_get_are_the_kernels(mirror: Mirror, lab: Lab) -> None:
    found, expected = both(mirror, lab, options_table)
    assert found.keys() == expected.keys()
    wrong = {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}
    differing = [
        f"{name}: {ours}, not {kernels}"
        for name, (one, other) in wrong.items()
        for ours, kernels in zip(one, other, strict=True)
        if ours != kernels
    ]
    assert not differing, "\n".join(differing)


def test_urgent_data_is_the_kernels(mirror: Mirror, lab: Lab) -> None:
    found, expected = both(mirror, lab, urgent_table)
    assert found == expected


@pytest.fixture(scope="module")
def sides(lab: Lab) -> Iterator[tuple[Side, Side]]:
    """A stack with its replicas, and the kernel with an interface."""
    with lab.scope():
        kernel = lab.namespace("kernel")
        with kernel.entered():
            Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("3")
        lab.veth(kernel, f"{OWN}/24", lab.namespace("far"), "10.77.0.1/24")
        kernel.ip("route", "add", "default", "via", "10.77.0.1")
        yield lab.stack(options=["--address", "fd77::2/64"]).programs, kernel


@pytest.mark.parametrize(("table", "address"), [
    (cork_table, "127.0.0.1"), (waiting_table, "127.0.0.1"), (stream_table, "127.0.0.1"), (groups_table, OWN),
    (peek_table, "127.0.0.1"), (listener_table, "127.0.0.1"),
    (rights_table, "127.0.0.1"), (times_table, "127.0.0.1"),
])  # fmt: skip
def test_each_step_is_the_kernels(sides: tuple[Side, Side], table: ModuleType, address: str) -> None:
    found, expected = (json.loads(side.run(sys.executable, "-m", table.__name__, address)) for side in sides)
    assert found.keys() == expected.keys()
    differing = [f"{name}: {found[name]}, not {expected[name]}" for name in expected if found[name] != expected[name]]
    assert not differing, "\n".join(differing)
