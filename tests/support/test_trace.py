"""What a trace is looked at for: each remark is found, and told of when it is not expected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from neatstack.observe.capture import pcapng
from tests.support.packet import Segment, build, build_all_ones
from tests.support.trace import check_trace, complaints, window_violations

HERE, THERE = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
AT = 1_700_000_000_000_000_000
ONE, OTHER = "10.0.0.1", "10.0.0.2"
OURS = Segment(source=ONE, destination=OTHER, source_port=4000, destination_port=80, seq=1000, ack=2000, window=500)
THEIRS = replace(OURS, source=OTHER, destination=ONE, source_port=80, destination_port=4000, seq=2000, ack=1000)
ALL_ONES = "TCP Checksum 0xffff"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.pcapng"


def write(path: Path, *segments: Segment, made=build) -> None:
    """A trace of segments that we and they have sent."""
    with path.open("wb") as file:
        writer = pcapng.Writer(file, 262144, "")
        interface = writer.interface("replica 0", "")
        for number, segment in enumerate(segments):
            frame = made(segment, source_mac=HERE, destination_mac=THERE)
            writer.packet(interface, AT + number, frame, segment.source == OURS.source)


def test_what_is_not_accepted_is_told_whole(path: Path) -> None:
    write(path, OURS, *(replace(THEIRS, flags="RA"),) * 9)
    check_trace(path, ["Connection reset (RST)"])
    with pytest.raises(AssertionError) as failed:
        check_trace(path, ["Another"])
    lines = str(failed.value).splitlines()
    assert [line.split(":")[0] for line in lines[:9]] == [f"{number} (replica 0)" for number in range(2, 11)]
    assert all("Connection reset (RST)" in line for line in lines[:9])
    assert lines[9] == "around the first:" and len(lines) == 9 + 1 + 7 + 1
    assert str(path) in lines[-1]


def test_a_checksum_of_all_ones_is_only_theirs(path: Path) -> None:
    write(path, THEIRS, made=build_all_ones)
    assert complaints(path) == []
    write(path, OURS, made=build_all_ones)
    (complaint,) = complaints(path)
    assert ALL_ONES in complaint


def test_text_beyond_the_window(path: Path) -> None:
    """But for a probe's byte, and with what its receiver has offered before."""
    write(path, OURS, THEIRS, replace(OURS, payload=bytes(500)), replace(OURS, seq=1500, payload=b"p"))
    assert window_violations(path) == []
    write(path, OURS, THEIRS, replace(THEIRS, window=100), replace(OURS, payload=bytes(502)))
    with pytest.raises(AssertionError, match="2 bytes beyond the window"):
        check_trace(path, ["Previous"])
