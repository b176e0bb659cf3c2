"""The emulated link does what it is told to, and the experiments over it compare the two senders."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from neatstack.cli.experiment import path as command
from neatstack.control.errors import NeatError
from neatstack.experiment.link import Direction, Shape
from neatstack.experiment.netns import Lab
from neatstack.experiment.path import Flow, Link, Results, Route, jain, measure
from tests.support.packet import Segment, build

FRAME = bytes(1250)  # 10,000 bits
MS = 1_000_000


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    source, target = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with source, target:
        yield source, target


def test_a_frame_takes_its_time_and_the_delay(ends: tuple[socket.socket, socket.socket]) -> None:
    direction = Direction(*ends, Shape(delay_ms=50, rate_mbit=10), seed=1)
    for now in (0, 0, 10 * MS):
        direction.frame(FRAME, now)
    assert [at for at, _ in direction.under_way] == [51 * MS, 52 * MS, 61 * MS]


def test_the_queue_is_bounded(ends: tuple[socket.socket, socket.socket]) -> None:
    direction = Direction(*ends, Shape(rate_mbit=10, queue_bytes=4 * len(FRAME)), seed=1)
    for _ in range(6):
        direction.frame(FRAME, 0)
    assert (len(direction.under_way), direction.passed.dropped) == (4, 2)
    direction.frame(FRAME, 1 * MS)
    assert len(direction.under_way) == 5, "there is room again when a frame has left"


def test_losses_are_as_many_as_told_and_the_same_again(ends: tuple[socket.socket, socket.socket]) -> None:
    kept = []
    for _ in range(2):
        direction = Direction(*ends, Shape(loss=0.1), seed=7)
        for number in range(10_000):
            direction.frame(number.to_bytes(4), number)
        assert 900 < direction.passed.lost < 1100
        kept.append([frame for _, frame in direction.under_way])
    assert kept[0] == kept[1]


def test_frames_are_lost_and_held_by_number(ends: tuple[socket.socket, socket.socket]) -> None:
    """Only those with text count."""
    direction = Direction(*ends, Shape(lose=(1,), hold=2, hold_ms=5), seed=1)
    for frame in (FRAME, b"ack", FRAME, FRAME, b"ack"):
        direction.frame(frame, 0)
    assert [at for at, _ in direction.under_way] == [0, 0, 5 * MS, 5 * MS]
    assert direction.passed.lost == 1


def test_frames_come_twice_late_and_damaged(ends: tuple[socket.socket, socket.socket]) -> None:
    direction = Direction(*ends, Shape(duplicate=0.1, reorder=0.1, reorder_ms=1, corrupt=0.1), seed=1)
    packet = bytes(12) + b"\x08\x00" + bytes(300)
    for _ in range(2000):
        direction.frame(packet, 0)
    passed = direction.passed
    assert all(150 < count < 250 for count in (passed.duplicated, passed.reordered, passed.corrupted))
    assert len(direction.late) == passed.reordered and {at for at, _ in direction.late} == {1 * MS}
    assert len(direction.under_way) + len(direction.late) == 2000 + passed.duplicated
    changed = [frame for _, frame in (*direction.under_way, *direction.late) if frame != packet]
    assert len(changed) >= passed.corrupted and all(frame[:14] == packet[:14] for frame in changed)


ECT_0, ECT_1, CE = 2, 1, 3


def packet(tos: int, payload: bytes = bytes(300)) -> bytes:
    ends = {"source": "10.0.0.1", "destination": "10.0.0.2", "source_port": 1, "destination_port": 2}
    return build(Segment(**ends, seq=3, payload=payload, tos=tos), source_mac=bytes(6), destination_mac=bytes(6))


def packet6(traffic_class: int) -> bytes:
    header = (6 << 28 | traffic_class << 20 | 0x12345).to_bytes(4) + bytes(36)
    return bytes(12) + b"\x86\xdd" + header + bytes(300)


@pytest.mark.parametrize("made", [packet, packet6])
def test_what_may_be_marked_is(ends: tuple[socket.socket, socket.socket], made: Callable[[int], bytes]) -> None:
    """The rest of the type of service stays, and the checksum of the header is right."""
    direction = Direction(*ends, Shape(marking=1.0), seed=1)
    for ecn in (0, ECT_1, ECT_0, CE):
        direction.frame(made(0xB8 | ecn), 0)
    assert [frame for _, frame in direction.under_way] == [made(0xB8 | ecn) for ecn in (0, CE, CE, CE)]
    assert direction.passed.marked == 2


def test_marks_by_chance_and_by_number(ends: tuple[socket.socket, socket.socket]) -> None:
    """Only frames with text have numbers."""
    by_chance = Direction(*ends, Shape(marking=0.1), seed=1)
    by_number = Direction(*ends, Shape(mark=(1, 2)), seed=1)
    for _ in range(2000):
        by_chance.frame(packet(ECT_0), 0)
    assert 150 < by_chance.passed.marked < 250
    sent = [packet(ECT_0), packet(ECT_0, b""), packet(ECT_0), packet(0), packet(ECT_0)]
    for frame in sent:
        by_number.frame(frame, 0)
    sent[2] = packet(CE)
    assert [frame for _, frame in by_number.under_way] == sent and by_number.passed.marked == 1


def test_marks_at_a_threshold_of_the_queue(ends: tuple[socket.socket, socket.socket]) -> None:
    length = len(packet(0))
    direction = Direction(*ends, Shape(rate_mbit=10, mark_bytes=3 * length), seed=1)
    for _ in range(5):
        direction.frame(packet(ECT_0), 0)
    assert [frame[15] for _, frame in direction.under_way] == [ECT_0] * 3 + [CE] * 2
    direction.frame(packet(ECT_0), 1 * MS)
    assert direction.under_way[-1][1] == packet(ECT_0), "the queue is short again"


def test_what_is_due_leaves(ends: tuple[socket.socket, socket.socket]) -> None:
    source, target = ends
    direction = Direction(source, target, Shape(), seed=1)
    direction.frame(b"frame", 0)
    assert direction.give() == float("inf")
    assert source.recv(100) == b"frame"


def test_jain() -> None:
    """RFC 5166 section 2.3."""
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1)
    assert jain([5.0, 0.0]) == pytest.approx(0.5)
    assert jain([]) == 0


def test_over_a_real_link(lab: Lab) -> None:
    """Both senders fill a slow link, whose round trip and rate are what was asked for."""
    with lab.scope():
        route = Route(lab, Shape(delay_ms=10, rate_mbit=10, queue_bytes=30_000, seed=3))
        rtt = route.rtt_ms()
        flows = measure(route, 0, {"kernel": 1, "stack": 1}, 2, 0, "cubic")
        done = route.end(0, rtt)
    assert 20 <= done.rtt_ms < 40
    assert done.frames > 1000 and done.lost == 0 and done.overrun == 0
    assert {flow.sender for flow in flows} == {"kernel", "stack"}
    assert all(0.5 < flow.goodput_mbit < 10 for flow in flows), "no more than the link carries"
    assert sum(flow.goodput_mbit for flow in flows) > 5


def test_results(tmp_path: Path) -> None:
    results = Results(tmp_path)
    flows = [Flow(0, "kernel", 0, 2.0, 1), Flow(0, "stack", 0, 1.0, 2)]
    results.add(flows, Link(0, 20.5, 100, 0.01, 0.0, 0, 10.0, 50.0))
    table = results.finish(["about"])
    assert "| 0 | 2.00 | 1.00 | 0.50 | 0.900 | 20.5 | 1.00% |" in table
    assert (tmp_path / "flows.csv").read_text().splitlines()[1:] == ["0,kernel,0,2.0,1", "0,stack,0,1.0,2"]
    assert results.ratio == pytest.approx(0.5)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"rtt": 0.0}, "rtt"),
        ({"rate": 1e6}, "rate"),
        ({"flows": 0}, "flows"),
        ({"loss": 51.0}, "loss"),
        ({"congestion": "vegas"}, "congestion"),
        ({"runs": 0}, "runs"),
    ],
)
def test_what_is_not_possible(wrong: dict[str, float], said: str, tmp_path: Path) -> None:
    with pytest.raises(NeatError, match=said):
        command.goodput(**{"out": tmp_path, **wrong})  # type: ignore[arg-type]


def test_the_command(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as end:
        command.fairness(flows=1, rate=10.0, rtt=10.0, seconds=2, out=tmp_path)
    assert end.value.exit_code == 0
    assert "Jain" in capsys.readouterr().out
    assert len((tmp_path / "flows.csv").read_text().splitlines()) == 3
