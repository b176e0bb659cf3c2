"""What a program sees is what it would see on the kernel: socket options, value by value; urgent data, step by step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.client import options_table, urgent_table
from tests.client.mirror import ADDRESS, Mirror

OPTIONS, URGENT = Path(options_table.__file__), Path(urgent_table.__file__)
ROOT = OPTIONS.parents[2]


def read(process: Any) -> dict[str, Any]:
    out, told = process.communicate(timeout=30)
    assert process.returncode == 0, told
    found: dict[str, Any] = json.loads(out)
    return found


def both(mirror: Mirror, script: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a script says on our stack, and on the kernel's."""
    inside = "ip link set lo up; echo 3 > /proc/sys/net/ipv4/tcp_fastopen; exec "
    kernel = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", f"{inside}{sys.executable} {script} 127.0.0.1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    found = read(mirror.spawn(sys.executable, str(script), ADDRESS))
    return found, read(kernel)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a network namespace")
def test_set_and_get_are_the_kernels(mirror: Mirror) -> None:
    found, expected = both(mirror, OPTIONS)
    assert found.keys() == expected.keys()
    wrong = {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}
    differing = [
        f"{name}: {ours}, not {kernels}"
        for name, (one, other) in wrong.items()
        for ours, kernels in zip(one, other, strict=True)
        if ours != kernels
    ]
    assert not differing, "\n".join(differing)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a network namespace")
def test_urgent_data_is_the_kernels(mirror: Mirror) -> None:
    found, expected = both(mirror, URGENT)
    assert found == expected
