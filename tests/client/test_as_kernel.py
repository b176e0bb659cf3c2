"""What a program sees is what it would see on the kernel: socket options, value by value; urgent data, step by step."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from neatstack.experiment.netns import Lab
from tests.client import options_table, urgent_table
from tests.client.mirror import ADDRESS, Mirror

OPTIONS, URGENT = Path(options_table.__file__), Path(urgent_table.__file__)


def both(mirror: Mirror, lab: Lab, script: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a script says on our stack, and on the kernel's in a namespace of its own."""
    with lab.scope():
        kernel = lab.namespace("kernel")
        with kernel.entered():
            Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("3")
        expected = json.loads(kernel.run(sys.executable, script, "127.0.0.1"))
    with mirror.spawn(sys.executable, str(script), ADDRESS) as process:
        out, told = process.communicate(timeout=30)
        assert process.returncode == 0, told
    return json.loads(out), expected


def test_set_and_get_are_the_kernels(mirror: Mirror, lab: Lab) -> None:
    found, expected = both(mirror, lab, OPTIONS)
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
    found, expected = both(mirror, lab, URGENT)
    assert found == expected
