"""Loss found by time (RACK, RFC 8985 section 6): what was sent before something that has arrived, and long enough ago.

Names are the RFC's. Its state is in Board and View; what a Segment is to the RFC is a Stretch here: what was sent
within a small part of a round trip (see scoreboard.py).
"""

import cython
from cython.cimports.libc.stdint import int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.stack import (
    STRETCH_AGAIN,
    STRETCH_LOST,
    STRETCH_SACKED,
    Board,
    Stack,
    Stretch,
    View,
)
from cython.cimports.neatstack.dataplane.tcp.recovery import lost
from cython.cimports.neatstack.dataplane.tcp.scoreboard import (
    close_stretch,
    forget_selected,
    mark_lost,
    ranges_sacked,
    stretch,
)
from cython.cimports.neatstack.dataplane.tcp.seq import after, before, least
from cython.cimports.neatstack.dataplane.tcp.tcb import TCB_REORDER_TIMER, TIMER_RETRANSMIT, Tcb
from cython.cimports.neatstack.dataplane.tcp.timers import set_timer
from cython.cimports.neatstack.dataplane.tcp.tlp import schedule
from cython.cimports.neatstack.dataplane.wire.headers import Segment

DUP_THRESH = cython.declare(uint32_t, 3)
WINDOW = cython.declare(uint32_t, 300)  # seconds for which the least round trip stands (Linux: tcp_min_rtt_wlen)
PERSIST = cython.declare(uint8_t, 16)  # recoveries without DSACK after which the window shrinks again
LONGEST = cython.declare(uint64_t, 1000000000)  # us, of a round trip
MOST_STEPS = cython.declare(uint8_t, 200)  # of the window; SRTT bounds it long before


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def sent_after(t1: uint64_t, seq1: uint32_t, t2: uint64_t, seq2: uint32_t) -> cython.bint:
    """RACK_sent_after(): of what left at the same time, by its order."""
    return t1 > t2 or (t1 == t2 and after(seq1, seq2))


# rfc: 8985:6.2-STEP-1
def least_round_trip(v: cython.pointer[View], round_trip: uint32_t, second: uint32_t) -> cython.void:
    """Step 1: RACK.min_RTT, from the round trips that are measured anyway; an old one gives way to what is so now."""
    if not v.min_rtt or round_trip <= v.min_rtt or second - v.min_rtt_at > WINDOW:
        v.min_rtt = round_trip if round_trip else 1
        v.min_rtt_at = second


# rfc: 8985:6.2-STEP-2, 8985:6.2-STEP-3
def delivered(
    s: cython.pointer[Stack],
    i: uint32_t,
    x: cython.pointer[cython.const[Stretch]],
    end: uint32_t,
    seg: cython.pointer[cython.const[Segment]],
) -> cython.void:
    """Stretch x is acknowledged up to `end`. Steps 2 and 3: what was sent last of what has arrived; reordering?

    What was sent again may have been acknowledged for its first sending: by its timestamp, or since it was too quick.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    rtt: uint64_t = (s.now - x.sent_at) // 1000
    if after(end, b.fack):
        b.fack = end
    elif before(end, b.fack) and not x.flags & STRETCH_AGAIN:
        b.reordering_seen = 1
        t.tally.reorderings += 1
    if not x.flags & STRETCH_AGAIN and not after(end, t.cc.recover):
        b.original = 1
    if x.flags & STRETCH_AGAIN:
        if seg.stamped and before(seg.tsecr, cython.cast(uint32_t, x.sent_at // 1000000) + t.stamps.offset):
            return
        if rtt < s.views[i].min_rtt:
            return
    b.rtt = cython.cast(uint32_t, rtt if rtt < LONGEST else LONGEST)
    if sent_after(x.sent_at, end, b.xmit_ts, b.end_seq):
        b.xmit_ts = x.sent_at
        b.end_seq = end


# rfc: 8985:6.2-STEP-4, 8985:4-DSACK
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def adapt(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Step 4, first half: a round trip with a DSACK widens the window by a quarter of min_RTT."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    if b.dsack_in_round and not before(t.snd.una, b.dsack_round):
        b.dsack_in_round = 0
    if b.dsack and not b.dsack_in_round:
        b.dsack_in_round = 1
        b.dsack_round = t.snd.max
        b.reo_wnd_persist = PERSIST
        if b.reo_wnd_mult < MOST_STEPS:
            b.reo_wnd_mult += 1


def recovered(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """A recovery is over; after 16 without a DSACK the window is what it was."""
    b: cython.pointer[Board] = cython.address(s.boards[i])
    if b.dsack or not s.views[i].racked:
        return
    if b.reo_wnd_persist:
        b.reo_wnd_persist -= 1
    if not b.reo_wnd_persist:
        b.reo_wnd_mult = 0


# rfc: 8985:6.2-STEP-4 4-REORDER 3.3.2-BOUND
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def reordering_window(s: cython.pointer[Stack], i: uint32_t) -> uint64_t:
    """Step 4, second half: RACK.reo_wnd, ns. None while no reordering was seen and enough says that there is a loss."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    shortest: uint32_t = v.min_rtt if v.min_rtt else t.rtt.srtt
    if not b.reordering_seen and (
        v.mending or b.sacked > (DUP_THRESH - 1) * t.snd.mss or ranges_sacked(s, i) >= DUP_THRESH
    ):
        return 0
    return 1000 * cython.cast(uint64_t, least((b.reo_wnd_mult + 1) * (shortest // 4), t.rtt.srtt))


# rfc: 8985:6.2-STEP-5 6.2-TIMER 9.2-LOST-AGAIN, 6675:4-ISLOST
def detect(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Steps 4 and 5, after an ACK or when the reordering timer has fired: what is lost? And when to look again?"""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    b: cython.pointer[Board] = cython.address(s.boards[i])
    adapt(s, i)
    patience: int64_t = cython.cast(uint64_t, b.rtt) * 1000 + reordering_window(s, i)
    wait: int64_t = 0
    found: cython.bint = False
    remaining: int64_t
    k: uint32_t
    for k in range(v.stretches):
        x: cython.pointer[Stretch] = stretch(b, k)
        if x.flags & (STRETCH_SACKED | STRETCH_LOST) or not sent_after(b.xmit_ts, b.end_seq, x.sent_at, x.end):
            continue
        remaining = patience - cython.cast(int64_t, s.now - x.sent_at)
        if remaining <= 0:
            mark_lost(s, i, k)
            found = True
        elif remaining > wait:
            wait = remaining
    if found:
        lost(s, i)
    if t.snd.una == t.snd.max:
        return
    schedule(s, i)
    if wait and s.now + wait < v.rto_at:
        t.flags |= TCB_REORDER_TIMER
        set_timer(s, i, TIMER_RETRANSMIT, s.now + wait)


# rfc: 8985:6.3-RTO
def timed_out(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """RACK_mark_losses_on_RTO() (section 6.3): the first segment, and what else has had the time to be acknowledged."""
    b: cython.pointer[Board] = cython.address(s.boards[i])
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    patience: uint64_t
    k: uint32_t
    close_stretch(s, i)
    forget_selected(s, i)
    patience = cython.cast(uint64_t, b.rtt if b.rtt else t.rtt.srtt) * 1000 + reordering_window(s, i)
    for k in range(s.views[i].stretches):
        if not k or s.now - stretch(b, k).sent_at >= patience:
            if not stretch(b, k).flags & STRETCH_LOST:
                mark_lost(s, i, k)
