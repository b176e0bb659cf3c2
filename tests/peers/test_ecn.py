"""Explicit congestion notification (RFC 3168) over a link that marks: the stack and the kernel, each as sender.

Both ask for it and grant it. Nothing is lost: whatever is sent again was not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest

from neatstack.experiment.link import CE, Shape
from neatstack.experiment.netns import Lab, Stack
from tests.peers.rough import DELAY, MSS, SIDES, Rough, Seen, transfer
from tests.peers.switches import exchange
from tests.support.tcp_info import tcp_info
from tests.support.trace import fields

ECT_0 = 2
# A replica that waits for a core is no loss: the kernel sends no probes.
ASKED: dict[str, object] = {"tcp_ecn": 1, "tcp_early_retrans": 0}
MARKED = {"IPv4": "InCEPkts", "IPv6": "Ip6InCEPkts"}  # as the kernel counts packets that have come so
LATE = DELAY * 1_000_000  # ns
both_ways = pytest.mark.parametrize("sender", SIDES)


@pytest.fixture(scope="module")
def marking(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Rough:
    options = ["--ecn", "active", "--address", f"{Stack.address6}/64", "--gateway", Stack.host_address6]
    made = Rough(lab, tmp_path_factory.mktemp("marks"), options)
    made.route.speak_ipv6()
    return made


@dataclass(frozen=True)
class Segment:
    """One of the trace, which has it as the stack sends or receives it."""

    by: str
    ecn: int
    flags: int
    seq: int
    ack: int
    length: int

    @property
    def echoes(self) -> bool:
        return bool(self.flags & 0x40)

    @property
    def reduced(self) -> bool:
        return bool(self.flags & 0x80)


def segments(seen: Seen) -> list[Segment]:
    """All after the handshake."""
    names = "ip.src", "ipv6.src", "ip.dsfield.ecn", "ipv6.tclass.ecn", "tcp.flags", "tcp.seq", "tcp.ack", "tcp.len"
    return [
        Segment(
            "stack" if source + source6 in (Stack.address, Stack.address6) else "kernel",
            int(ecn + ecn6), int(flags, 16), int(seq), int(ack), int(length),
        )
        for source, source6, ecn, ecn6, flags, seq, ack, length in fields(seen.trace, *names, only="tcp.flags.syn == 0")
    ]  # fmt: skip


def in_time(seen: Seen) -> bool:
    """Whether the link was: else a sender may send again what was not lost, and much comes to its queue at once."""
    return max(seen.to_kernel["late_ns"], seen.to_stack["late_ns"]) < LATE


def marks_arrive(seen: Seen, came: list[Segment], sender: str, family: str) -> None:
    """The receiver sees each mark of the link, which has dropped nothing; of the acknowledgments none is marked."""
    there, back = (seen.to_kernel, seen.to_stack) if sender == "stack" else (seen.to_stack, seen.to_kernel)
    assert there["marked"] and not back["marked"]
    assert not there["dropped"] + there["lost"] + back["dropped"] + back["lost"] or not in_time(seen)
    if sender == "stack":
        assert seen.kernel[MARKED[family]] == there["marked"]
    else:
        assert sum(s.ecn == CE for s in came) == there["marked"]
        assert seen.kernel["TCPDeliveredCE"]


def again(came: list[Segment]) -> int:
    """How many segments with text had been sent before."""
    text = [(s.by, s.seq) for s in came if s.length]
    return len(text) - len(set(text))


def echoes_until_told(came: list[Segment]) -> None:
    """RFC 3168 section 6.1.3: all that we send echoes a mark that has come, until the kernel has reduced."""
    demand = False
    for s in came:
        if s.by == "stack":
            assert s.echoes == demand, s
        elif s.length:
            demand = s.ecn == CE or (demand and not s.reduced)


def reductions(came: list[Segment], sender: str) -> int:
    """How often the sender has told that it has reduced: in new text, once in a window (RFC 3168 section 6.1.2).

    Whatever was on its way at one reduction is acknowledged before the next.
    """
    told: list[Segment] = []
    acknowledged = highest = 0
    for s in came:
        if s.by != sender:
            acknowledged = max(acknowledged, s.ack)
        elif s.length:
            if s.reduced:
                assert s.seq >= highest and s.ecn in (ECT_0, CE), s
                assert not told or acknowledged >= told[-1].seq, (told[-1], s)
                told.append(s)
            highest = max(highest, s.seq + s.length)
    return len(told)


@pytest.mark.rfc("3168:6.1.2-1", "3168:6.1.2-2", "3168:6.1.2-3", "3168:6.1.3-1")
@both_ways
@pytest.mark.parametrize("family", list(MARKED))
def test_marks_in_one_window_reduce_it_once(marking: Rough, sender: str, family: str) -> None:
    """Three in the first flight, and one long after it."""
    with marking.link(Shape(delay_ms=DELAY, mark=(4, 6, 8, 60)), ASKED) as seen:
        transfer(*marking.connected(sender, "stack" if family == "IPv4" else "kernel", family), 200 * MSS)
    came = segments(seen)
    marks_arrive(seen, came, sender, family)
    echoes_until_told(came)
    assert reductions(came, sender) == 2 or not in_time(seen)
    assert not again(came) or not in_time(seen)


@both_ways
def test_a_queue_that_marks_drops_nothing(marking: Rough, sender: str) -> None:
    """The sender keeps a slow link busy, and its queue short: marks come again and again, more than a window apart.

    How much it sends until then depends on its pace, that is, on how busy the machine is.
    """
    with marking.link(Shape(delay_ms=5, rate_mbit=20, queue_bytes=200_000, mark_bytes=20_000), ASKED) as seen:
        ends = marking.connected(sender)
        marks = [0]  # of the text that has arrived, after each transfer
        for _ in range(40):
            transfer(*ends, 250_000)  # more than the link and its queue hold
            marks.append(tcp_info(ends[0]).delivered_ce)
            risen = [number for number, (before, after) in enumerate(pairwise(marks)) if after > before]
            if risen and risen[-1] - risen[0] > 1:
                break
        transfer(*ends, 10 * MSS)  # what tells of the last reduction
    came = segments(seen)
    marks_arrive(seen, came, sender, "IPv4")
    echoes_until_told(came)
    assert reductions(came, sender) > 1
    assert not again(came) or not in_time(seen)


def test_marks_both_ways(marking: Rough) -> None:
    """What echoes is text, and is itself marked."""
    with marking.link(Shape(delay_ms=2, marking=0.05, seed=1), ASKED) as seen:
        exchange(*marking.pair("kernel"), 300_000)
    came = segments(seen)
    assert seen.kernel["InCEPkts"] == seen.to_kernel["marked"] > 0
    assert sum(s.ecn == CE for s in came) == seen.to_stack["marked"] > 0
    echoes_until_told(came)
    assert not again(came) or not in_time(seen)
    for side in SIDES:
        assert reductions(came, side)
        assert any(s.length and s.echoes for s in came if s.by == side)
