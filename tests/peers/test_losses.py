"""Losses between the stack and the kernel: both ends repair them, each way, with the kernel's switches on and off.

stack ── TAP ── host (forwards) ── near ══ link ══ far: the kernel
"""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from neatstack.experiment.link import Shape
from neatstack.experiment.netns import Lab
from tests.peers.rough import DELAY, MSS, SIDES, Rough, transfer
from tests.peers.switches import exchange
from tests.support.tcp_info import tcp_info

TIMEOUT = 0.2  # seconds: no retransmission timeout is shorter, of either end


@pytest.fixture(scope="module")
def rough(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Rough:
    return Rough(lab, tmp_path_factory.mktemp("losses"))


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
    """RFC 5682: a timeout that was not needed is undone, and what waits in the network is not sent again.

    Only the first is (RFC 4015 section 3.1): on a busy machine the spike may be long enough for two, or for none.
    """
    for _ in range(5):
        with rough.link(Shape(delay_ms=DELAY, hold=20, hold_ms=500)) as seen:
            transfer(*rough.connected(sender), 100 * MSS)
        if sender == "stack":
            timeouts, again = max(map(len, seen.sent().values())) - 1, len(seen.again())
        else:
            timeouts, again = seen.kernel["TCPTimeouts"], seen.kernel["RetransSegs"]
        if timeouts == 1:
            break
    assert timeouts == 1
    assert 1 <= again <= 4, "a probe and a timeout's"


@pytest.mark.parametrize("sender", SIDES)
def test_a_full_queue(rough: Rough, sender: str) -> None:
    """The sender fills a slow link, whose queue drops what it has no room for.

    It may take some time to: one that is disturbed grows slowly from early on (RFC 9406).
    """
    with rough.link(Shape(delay_ms=5, rate_mbit=20, queue_bytes=20_000)) as seen:
        ends = rough.connected(sender)
        for _ in range(10):
            transfer(*ends, 700_000)
            if tcp_info(ends[1]).rcv_ooopack:
                break
    assert (seen.to_kernel if sender == "stack" else seen.to_stack)["dropped"]
    if sender == "kernel":
        assert not seen.kernel["TCPTimeouts"]
