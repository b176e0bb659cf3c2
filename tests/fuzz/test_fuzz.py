"""No crash, no hang, every drop counted: a million frames at the device, and hostile programs."""

from pathlib import Path

import pytest

from tests.fuzz.channels import Hostility
from tests.fuzz.frames import Storm
from tests.fuzz.targets import TARGETS

HERE = Path(__file__).parent


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


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_were_found(name):
    """The corpus, which reaches all that the fuzzer has ever reached, and what has once failed: crashes/TARGET."""
    files = sorted((HERE / "corpus" / name).iterdir()) + sorted((HERE / "crashes" / name).glob("*"))
    assert files
    for file in files:
        try:
            TARGETS[name](file.read_bytes())
        except BaseException:
            print(f"input: {file}")
            raise
