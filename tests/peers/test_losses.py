"""Losses between the stack and the kernel: both ends repair them, each way, with the kernel's switches on and off.

stack ── TAP ── host (forwards) ── near ══ link ══ far: the kernel
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from neatstack.experiment.link import Shape
from neatstack.experiment.netns import Lab
from neatstack.experiment.path import FAR, Route
from tests.peers.endings import LINGER_RESET
from tests.peers.switches import Peers, counted, exchange, switched
from tests.support.puppet import Puppet, Remote, digest
from tests.support.trace import capturing, complaints, ended, fields, window_violations

SIDES = "stack", "kernel"
DELAY = 10.0  # ms one way
TIMEOUT = 0.2  # seconds: no retransmission timeout is shorter, of either end
MSS = 1448
ports = itertools.count(7000)
ACCEPTED = (
    "This frame is a (suspected)",
    "This frame initiates the connection closing",
    "This frame undergoes the connection closing",
    "Previous segment(s) not captured",
    "ACKed segment that wasn't captured",
    "Duplicate ACK",
    "D-SACK Sequence",
    "TCP window specified by the receiver is now completely full",
    "TCP Zero Window",
    "TCP window update",
    "TCP keep-alive segment",
    "ACK to a TCP keep-alive segment",
    "ACK to a TCP Zero Window Probe",
)


@dataclass
class Seen:
    """What has happened in a block: by the link, by both ends, and in the trace."""

    to_kernel: dict[str, int] = field(default_factory=dict)
    to_stack: dict[str, int] = field(default_factory=dict)
    kernel: dict[str, int] = field(default_factory=dict)
    stack: dict[str, int] = field(default_factory=dict)
    trace: Path = Path()

    def again(self) -> list[float]:
        """Seconds from the first to the last time that the stack has sent text, of what it has sent more than once."""
        times: dict[str, list[float]] = {}
        for at, sequence in fields(
            self.trace, "frame.time_relative", "tcp.seq", only=f"tcp.len > 0 && ip.dst == {FAR}"
        ):
            times.setdefault(sequence, []).append(float(at))
        return [seen[-1] - seen[0] for seen in times.values() if len(seen) > 1]


class Rough:
    """The stack and the kernel, with a link between them that can be made anew."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.route = Route(lab, Shape())
        self.route.end_link()
        self.directory, self.numbers = directory, itertools.count()
        self.pairs: list[tuple[Remote, Remote]] = []
        stack, far = self.route.stack, self.route.far
        self.peers = Peers(Puppet(stack.programs), Puppet(far), stack.address, FAR)

    @contextmanager
    def link(self, shape: Shape, settings: dict[str, object] | None = None, traced: bool = True) -> Iterator[Seen]:
        """A link of this shape, and a trace of what crosses it, which must be as it should."""
        seen = Seen(trace=self.directory / f"{next(self.numbers)}.pcapng")
        self.route.start_link(shape)
        before = counted(self.route.far)
        with switched(self.route.far, settings or {}):
            if traced:
                with capturing(self.route.stack, "-w", seen.trace, "--buffer", 64, "tcp") as process:
                    yield seen
                    time.sleep(3 * DELAY / 1000)
                    _, said = ended(process)
                assert "missed" not in said
                assert complaints(seen.trace, ACCEPTED) == []
                assert window_violations(seen.trace) == []
            else:
                yield seen
        self.forget()
        seen.to_kernel, seen.to_stack = self.route.end_link()
        seen.kernel = {name: value - before.get(name, 0) for name, value in counted(self.route.far).items()}

    def counters(self) -> dict[str, int]:
        return self.route.stack.replicas()[0]["counters"]

    def pair(self, connects: str = "stack") -> tuple[Remote, Remote]:
        """A connection that ends with the block: the stack's end and the kernel's."""
        self.pairs.append(self.peers.connected(connects, next(ports)))
        return self.pairs[-1]

    def connected(self, sender: str) -> tuple[Remote, Remote]:
        """A connection: the end that sends, and the one that receives."""
        ours, kernels = self.pair()
        return (ours, kernels) if sender == "stack" else (kernels, ours)

    def forget(self) -> None:
        """What has been lost last is not sent again later."""
        for end in itertools.chain.from_iterable(self.pairs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            end.close()
        self.pairs.clear()


@pytest.fixture(scope="module")
def rough(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Rough:
    return Rough(lab, tmp_path_factory.mktemp("losses"))


def transfer(sender: Remote, receiver: Remote, length: int) -> None:
    sending = sender.begin("send_stream", 5, length)
    assert receiver.receive_stream(length) == (length, digest(5, length))
    assert sending.result(5) == length


SWITCHES: list[dict[str, object]] = [
    {},
    {"tcp_sack": 0},
    {"tcp_dsack": 0},
    {"tcp_timestamps": 0},
    {"tcp_sack": 0, "tcp_timestamps": 0},
    {"tcp_frto": 0},
    {"tcp_early_retrans": 0},
    {"tcp_recovery": 0, "tcp_reordering": 6},
    {"tcp_congestion_control": "reno"},
]
BAD = Shape(delay_ms=2, loss=0.03, duplicate=0.08, reorder=0.03)


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda switches: "-".join(switches) or "all on")
def test_a_bad_link(rough: Rough, switches: dict[str, object]) -> None:
    """Frames lost, doubled and overtaken, with text both ways on two connections at the same time."""
    with rough.link(replace(BAD, seed=SWITCHES.index(switches)), switches, traced=len(switches) < 1) as seen:
        pairs = [rough.pair(connects) for connects in SIDES]
        for (ours, _), congestion in zip(pairs, (b"cubic", b"reno"), strict=True):
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion)
        for ours, kernels in pairs:
            exchange(ours, kernels, 80_000)
    for what in ("lost", "duplicated", "reordered"):
        assert seen.to_kernel[what] + seen.to_stack[what]
    recovered, told = seen.kernel["TCPSackRecovery"], seen.kernel["TCPDSACKOldSent"] + seen.kernel["TCPDSACKOfoSent"]
    if "tcp_sack" in switches:
        assert not recovered and not told and not seen.kernel["TCPDSACKRecv"]
    else:
        assert seen.kernel["TCPDSACKRecv"], "we tell of what came twice"
        assert (told > 0) == ("tcp_dsack" not in switches)


def test_damage(rough: Rough) -> None:
    """What a checksum refuses is counted, and does not reach a program."""
    before = rough.counters()
    with rough.link(Shape(delay_ms=1, corrupt=0.06, seed=5), traced=False) as seen:
        exchange(*rough.pair(), 150_000)
    after = rough.counters()
    assert seen.to_kernel["corrupted"] and seen.to_stack["corrupted"]
    assert 0 < after["drop_tcp_checksum"] - before["drop_tcp_checksum"] <= seen.to_stack["corrupted"]
    assert 0 < seen.kernel["InCsumErrors"] <= seen.to_kernel["corrupted"]


@pytest.mark.rfc("8985:7.3-PROBE", "8985:7.4-MUST-1")
@pytest.mark.parametrize("sender", SIDES)
def test_a_lost_tail(rough: Rough, sender: str) -> None:
    """RFC 8985: a probe comes before any timeout could, whoever sends.

    If its answer is quicker than any before, it says nothing of the other segment (section 6.2, step 2).
    """
    with rough.link(Shape(delay_ms=DELAY, lose=(8, 9))) as seen:
        transfer(*rough.connected(sender), 10 * MSS)
    if sender == "stack":
        assert min(seen.again()) < TIMEOUT
    else:
        assert seen.kernel["TCPLossProbes"]


@pytest.mark.parametrize("sender", SIDES)
def test_losses_in_the_middle(rough: Rough, sender: str) -> None:
    """RFC 6675: what is lost goes again, once, after a round trip."""
    with rough.link(Shape(delay_ms=DELAY, lose=(2, 5, 6))) as seen:
        transfer(*rough.connected(sender), 10 * MSS)
    if sender == "stack":
        again = seen.again()
        assert 3 <= len(again) <= 4 and max(again) < TIMEOUT
    else:
        assert 3 <= seen.kernel["RetransSegs"] <= 4 and not seen.kernel["TCPTimeouts"]


@pytest.mark.parametrize("sender", SIDES)
def test_a_delay_spike(rough: Rough, sender: str) -> None:
    """RFC 5682: a timeout that was not needed is undone, and what waits in the network is not sent again."""
    with rough.link(Shape(delay_ms=DELAY, hold=20, hold_ms=500)) as seen:
        transfer(*rough.connected(sender), 100 * MSS)
    assert 1 <= (len(seen.again()) if sender == "stack" else seen.kernel["RetransSegs"]) <= 4, "a probe and a timeout's"


@pytest.mark.parametrize("sender", SIDES)
def test_a_full_queue(rough: Rough, sender: str) -> None:
    """The sender fills a slow link, whose queue drops what it has no room for."""
    with rough.link(Shape(delay_ms=5, rate_mbit=20, queue_bytes=20_000)) as seen:
        transfer(*rough.connected(sender), 700_000)
    assert (seen.to_kernel if sender == "stack" else seen.to_stack)["dropped"]
    if sender == "kernel":
        assert not seen.kernel["TCPTimeouts"]
