"""Each feature of TCP on and off by the kernel's own switches: text arrives, and the trace tells what was used."""

from __future__ import annotations

import errno
import itertools
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from neatstack.experiment.netns import Lab, Stack
from tests.peers.switches import Peers, counted, exchange, switched
from tests.support.puppet import Puppet
from tests.support.trace import WINDOW_ENDS, capturing, check_trace, ended, fields

MSS, WINDOW_SCALE, SACK_PERMITTED, TIMESTAMPS, FAST_OPEN = "2", "3", "4", "8", "34"
LENGTH = 100_000
SIDES = "stack", "kernel"
TCPI_OPT_ECN = 8
NAMES = (
    "ip.src",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.flags",
    "tcp.option_kind",
    "tcp.len",
    "tcp.window_size_value",
    "tcp.window_size",
    "ip.flags.df",
    "ip.dsfield.ecn",
)


@dataclass
class Segment:
    """What tshark says of one; `window` as it is on the wire, and `scaled` in bytes."""

    by: str  # stack or kernel
    flags: int
    options: list[str]
    length: int
    window: int
    scaled: int
    whole: bool  # may not be cut on its way
    capable: bool  # of explicit congestion notification

    @property
    def syn(self) -> bool:
        return bool(self.flags & 2)


@dataclass
class Outcome:
    """One connection: what was seen of it, and by how much the kernel's counters went on."""

    connects: str
    error: Exception | None = None
    counters: dict[str, int] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)

    def syn(self, by: str) -> Segment:
        """The SYN, or the SYN-ACK, of that end."""
        return next(s for s in self.segments if s.syn and s.by == by)

    def text(self, by: str) -> list[Segment]:
        return [s for s in self.segments if s.length and s.by == by]

    def later(self) -> list[Segment]:
        """All but SYNs."""
        return [s for s in self.segments if not s.syn]


Look = Callable[[Outcome], None]


@dataclass
class Case:
    name: str
    settings: dict[str, object]
    looks: Look = lambda outcome: None
    length: int = LENGTH
    text: bytes = b""  # with the SYN
    congestion: bytes = b""  # the kernel's; an empty one: its default


def option(kind: str, on: bool) -> Look:
    """The kernel offers an option, or accepts ours, as it was told; we offer it, and accept what is offered."""

    def look(outcome: Outcome) -> None:
        assert (kind in outcome.syn("kernel").options) == on
        assert (kind in outcome.syn("stack").options) == (on or outcome.connects == "stack")

    return look


def timestamps(on: bool) -> Look:
    def look(outcome: Outcome) -> None:
        option(TIMESTAMPS, on)(outcome)
        assert {TIMESTAMPS in s.options for s in outcome.later()} == {on}

    return look


def unscaled(outcome: Outcome) -> None:
    option(WINDOW_SCALE, False)(outcome)
    assert all(s.window == s.scaled for s in outcome.segments)


def scaled(outcome: Outcome) -> None:
    option(WINDOW_SCALE, True)(outcome)
    assert all(s.window < s.scaled for s in outcome.later() if s.window)
    assert max(s.scaled for s in outcome.later() if s.by == "stack") > 65535


def windows(most: int) -> Look:
    """The kernel never offers more."""

    def look(outcome: Outcome) -> None:
        assert 0 < max(s.scaled for s in outcome.segments if s.by == "kernel") <= most

    return look


def grows(outcome: Outcome) -> None:
    offered = [s.scaled for s in outcome.later() if s.by == "kernel"]
    assert max(offered) > 2 * offered[0]


def counts(counter: str) -> Look:
    """The kernel has used it, if it was asked."""

    def look(outcome: Outcome) -> None:
        assert (outcome.counters[counter] > 0) == (outcome.connects == "stack")

    return look


def begins_with(least: int, most: int) -> Look:
    """The first segment with text of a kernel that connects is as long."""

    def look(outcome: Outcome) -> None:
        if outcome.connects == "kernel":
            assert least <= outcome.text("kernel")[0].length <= most

    return look


def asks_for_ecn(on: bool) -> Look:
    """The kernel as client; the stack grants it, and does not ask itself."""

    def look(outcome: Outcome) -> None:
        asked = on and outcome.connects == "kernel"
        syns = {by: outcome.syn(by).flags & 0xC0 for by in SIDES}
        assert syns == ({"kernel": 0xC0, "stack": 0x40} if asked else {"kernel": 0, "stack": 0})
        assert {any(s.capable for s in outcome.text(by)) for by in SIDES} == {asked}
        assert not any(s.capable for s in outcome.segments if s.syn or not s.length)

    return look


def may_be_cut(on: bool) -> Look:
    """RFC 791: the kernel's segments, when it does not look for the path's MTU."""

    def look(outcome: Outcome) -> None:
        assert {s.whole for s in outcome.text("kernel")} == {not on}
        assert all(s.whole for s in outcome.text("stack"))

    return look


def fast_open(connects: bool, accepts: bool) -> Look:
    """The kernel asks for a cookie as client, or gives one as server (RFC 7413)."""

    def look(outcome: Outcome) -> None:
        if outcome.connects == "kernel":
            assert (FAST_OPEN in outcome.syn("kernel").options) == connects
        else:
            given = FAST_OPEN in outcome.syn("kernel").options
            assert (given or outcome.counters["TCPFastOpenPassive"] > 0) == accepts

    return look


CASES = [
    Case("sack=0", {"tcp_sack": 0}, option(SACK_PERMITTED, False)),
    Case("sack=1", {"tcp_sack": 1}, option(SACK_PERMITTED, True)),
    Case("timestamps=0", {"tcp_timestamps": 0}, timestamps(False)),
    Case("timestamps=1", {"tcp_timestamps": 1}, timestamps(True)),
    Case("window_scaling=0", {"tcp_window_scaling": 0}, unscaled),
    Case("window_scaling=1", {"tcp_window_scaling": 1}, scaled),
    Case(
        "nothing but the MSS",
        {"tcp_sack": 0, "tcp_timestamps": 0, "tcp_window_scaling": 0},
        lambda outcome: [option(kind, kind == MSS)(outcome) for kind in "2348"] and None,
    ),
    Case("syncookies=0", {"tcp_syncookies": 0}),
    Case("syncookies=2", {"tcp_syncookies": 2}, counts("SyncookiesRecv")),
    Case("syncookies=2 without timestamps", {"tcp_syncookies": 2, "tcp_timestamps": 0}, counts("SyncookiesRecv")),
    Case("fastopen=0", {"tcp_fastopen": 0}, fast_open(False, False), text=b"early"),
    Case("fastopen=1", {"tcp_fastopen": 1}, fast_open(True, False), text=b"early"),
    Case("fastopen=2", {"tcp_fastopen": 2}, fast_open(False, True), text=b"early"),
    Case("fastopen=3", {"tcp_fastopen": 3}, fast_open(True, True), text=b"early"),
    Case("mtu_probing=0", {"tcp_mtu_probing": 0}, begins_with(1448, 1448)),
    Case("mtu_probing=2", {"tcp_mtu_probing": 2, "tcp_base_mss": 600}, begins_with(500, 600)),
    Case("no_pmtu_disc=0", {"ip_no_pmtu_disc": 0}, may_be_cut(False)),
    Case("no_pmtu_disc=1", {"ip_no_pmtu_disc": 1}, may_be_cut(True)),
    Case("ecn=0", {"tcp_ecn": 0}, asks_for_ecn(False)),
    Case("ecn=1", {"tcp_ecn": 1}, asks_for_ecn(True)),
    Case("tiny windows", {"tcp_rmem": "2304 2304 2304"}, windows(2304), length=20_000),
    Case(
        "tiny windows that shrink",
        {"tcp_rmem": "4096 4096 4096", "tcp_shrink_window": 1, "tcp_window_scaling": 0},
        windows(4096),
        length=20_000,
    ),
    Case("tiny buffers", {"tcp_rmem": "4608 4608 4608", "tcp_wmem": "4608 4608 4608"}, windows(4608), length=20_000),
    Case("moderate_rcvbuf=0", {"tcp_moderate_rcvbuf": 0, "tcp_rmem": "4096 30000 4000000"}, windows(30_000)),
    Case("moderate_rcvbuf=1", {"tcp_moderate_rcvbuf": 1, "tcp_rmem": "4096 30000 4000000"}, grows, length=1_000_000),
    Case("shrink_window=1", {"tcp_shrink_window": 1}, length=1_000_000),
    Case("congestion_control=reno", {"tcp_congestion_control": "reno"}),
    Case("CUBIC", {}, congestion=b"cubic"),
    Case("autocorking=0", {"tcp_autocorking": 0}),
    Case("no_metrics_save=0", {"tcp_no_metrics_save": 0}),
    Case("no_metrics_save=1", {"tcp_no_metrics_save": 1}),
    Case("slow_start_after_idle=0", {"tcp_slow_start_after_idle": 0}),
    Case("adv_win_scale=3", {"tcp_adv_win_scale": 3}),
    Case("limit_output_bytes=4096", {"tcp_limit_output_bytes": 4096}),
    Case("min_tso_segs=1", {"tcp_min_tso_segs": 1}),
]  # fmt: skip
LOADED = (
    "A new tcp session is started with the same ports as an earlier session",  # they are chosen by chance (RFC 6056)
    # A machine with other work may make either end send again what was only late.
    "This frame is a (suspected) spurious retransmission",
    "This frame is a (suspected) retransmission",
    "Duplicate ACK",
    "D-SACK Sequence",
    "TCP SYN with TFO Cookie",
    "TCP SYN-ACK accepting TFO data",
    # The ends of connections, and of windows.
    "This frame initiates the connection closing",
    "This frame undergoes the connection closing",
    *WINDOW_ENDS,
)


def play(case: Case, peers: Peers, stack: Stack, connects: str, port: int) -> Outcome:
    outcome = Outcome(connects)
    before = counted(stack.host)
    try:
        ours, kernels = peers.connected(connects, port, case.text)
        if case.text:
            assert (kernels if connects == "stack" else ours).receive_stream(len(case.text))[0] == len(case.text)
        if case.congestion:
            kernels.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, case.congestion)
        exchange(ours, kernels, case.length)
        for end in (ours, kernels):
            end.close()
    except Exception as error:
        outcome.error = error
    outcome.counters = {name: value - before.get(name, 0) for name, value in counted(stack.host).items()}
    return outcome


@dataclass
class Matrix:
    outcomes: dict[tuple[str, str], Outcome]
    path: Path


@pytest.fixture(scope="module")
def peers(stack: Stack) -> Peers:
    return Peers(Puppet(stack.programs), Puppet(stack.host), stack.address, stack.host_address)


@pytest.fixture(scope="module")
def matrix(stack: Stack, peers: Peers, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """All cases in turn, and one trace of them."""
    path = tmp_path_factory.mktemp("switches") / "trace.pcapng"
    ports = itertools.count(7100)
    played: dict[tuple[str, str], tuple[int, Outcome]] = {}
    with capturing(stack, "-w", path, "--buffer", 64, "tcp portrange 7100-7999") as process:
        for case in CASES:
            with switched(stack.host, case.settings):
                for connects in SIDES:
                    port = next(ports)
                    played[case.name, connects] = port, play(case, peers, stack, connects, port)
        time.sleep(0.1)
        _, said = ended(process)
    assert "missed" not in said
    outcomes = {str(port): outcome for port, outcome in played.values()}
    for source, sport, dport, flags, kinds, length, window, scaled, whole, ecn in fields(path, *NAMES, only="tcp"):
        by = "stack" if source == stack.address else "kernel"
        outcomes[sport if sport in outcomes else dport].segments.append(
            Segment(
                by,
                int(flags, 16),
                kinds.split("|"),
                int(length),
                int(window),
                int(scaled),
                whole in ("1", "True"),
                ecn == "2",
            )
        )
    return Matrix({key: outcome for key, (_, outcome) in played.items()}, path)


@pytest.mark.parametrize("connects", SIDES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_switch(matrix: Matrix, case: Case, connects: str) -> None:
    outcome = matrix.outcomes[case.name, connects]
    if outcome.error:
        raise outcome.error
    case.looks(outcome)


def test_nothing_is_malformed_and_no_window_violated(matrix: Matrix) -> None:
    check_trace(matrix.path, LOADED)


@pytest.mark.parametrize("ours", ["off", "passive", "active"])
def test_the_stack_asks_for_ecn_if_it_shall(lab: Lab, ours: str) -> None:
    """The kernel grants it to who asks, by default."""
    with lab.scope():
        stack = lab.stack(replicas=1, options=["--ecn", ours])
        both = Peers(Puppet(stack.programs), Puppet(stack.host), stack.address, stack.host_address)
        for connects in SIDES:
            with switched(stack.host, {"tcp_ecn": 2 if connects == "stack" else 1}):
                end, kernels = both.connected(connects, 7000)
                exchange(end, kernels, LENGTH)
                agreed = kernels.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5] & TCPI_OPT_ECN
            assert bool(agreed) == (ours == "active" or (ours == "passive" and connects == "kernel"))


SOURCE = itertools.count(9100)


@pytest.mark.parametrize("stamped", [0, 1])
@pytest.mark.parametrize("connects", SIDES)
def test_a_new_connection_takes_the_place_of_time_wait(
    stack: Stack, peers: Peers, port: int, connects: str, stamped: int
) -> None:
    """RFC 6191, RFC 9293 section 3.6.1: by timestamps, or by higher numbers. The server closes first."""
    source = next(SOURCE)
    with switched(stack.host, {"tcp_timestamps": stamped}):
        for number in range(3):
            ours, kernels = peers.connected(connects, port, source=source)
            exchange(ours, kernels, 1000)
            server, client = (kernels, ours) if connects == "stack" else (ours, kernels)
            server.close()
            assert client.recv(1) == b""
            client.close()
            time.sleep(0.02 * number)


@pytest.mark.parametrize("reuse", [0, 1])
def test_the_kernel_uses_its_time_wait_again(stack: Stack, peers: Peers, port: int, reuse: int) -> None:
    """The client closes first, and connects again from the only port that it has, which tcp_tw_reuse allows."""
    source = next(SOURCE)
    settings = {"tcp_tw_reuse": reuse, "tcp_tw_reuse_delay": 1, "ip_local_port_range": f"{source} {source}"}
    with switched(stack.host, settings):
        ours, kernels = peers.connected("kernel", port)
        exchange(ours, kernels, 1000)
        kernels.close()
        assert ours.recv(1) == b""
        ours.close()
        time.sleep(0.05)
        if reuse:
            exchange(*peers.connected("kernel", port), 1000)
        else:
            with pytest.raises(OSError) as caught:
                peers.connected("kernel", port)
            assert caught.value.errno == errno.EADDRNOTAVAIL
