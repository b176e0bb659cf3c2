"""No crash, no hang, every drop counted: a million frames at the device, and hostile programs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.channels import Hostility
from tests.fuzz.frames import Storm

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(5))
def test_frames(seed):
    storm = Storm(seed)
    storm.frames(8192)
    assert storm.refused > 1000


@pytest.mark.heavy
def test_a_million_frames():
    storm = Storm(1000)
    storm.frames(1_000_000)
    assert storm.sent >= 990_000
    counters = storm.lab.engine.counters()
    for reason in (
        "short",
        "ethertype",
        "not_ours",
        "ip_header",
        "ip_checksum",
        "tcp_header",
        "tcp_checksum",
        "sequence",
    ):
        assert counters[f"drop_{reason}"] > 0, reason


@pytest.mark.parametrize("seed", range(8))
def test_hostile_programs(seed):
    hostility = Hostility(seed)
    hostility.rounds(400)
    assert hostility.lab.drops("command") > 0


@pytest.mark.heavy
def test_the_same_in_the_sanitized_build():
    """AddressSanitizer and UndefinedBehaviorSanitizer, in a tree of its own (see sanitize.sh)."""
    done = subprocess.run(
        [ROOT / "tests/fuzz/sanitize.sh", sys.executable],
        cwd=ROOT,
        env=os.environ | {"FRAMES": "60000", "ROUNDS": "800"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runtime error" not in done.stderr
