"""Text and FIN that come in (RFC 9293 section 3.10.7.4, seventh and eighth).

Text is copied from the frame to its place in the receive ring, also when it is out of order; what lies beyond rcv.nxt
is remembered as a few ranges of sequence numbers, ascending and disjoint.
"""

import cython
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.neatstack.dataplane.channel.buffers import rx_room, rx_write
from cython.cimports.neatstack.dataplane.channel.hold import checksum_of_hold, hold
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_FLAG_QUICKACK
from cython.cimports.neatstack.dataplane.journal import POINT_COPIED, point
from cython.cimports.neatstack.dataplane.stack import (
    DROP_NO_MEMORY,
    DROP_RANGES,
    DROP_SEQUENCE,
    NEWS_EVENT,
    NEWS_LINES,
    NEWS_OUTPUT,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp.emit import emit_ack
from cython.cimports.neatstack.dataplane.tcp.receive import ACK_DELAY, FIRST_ACK_DELAY, FIRST_SEGMENTS
from cython.cimports.neatstack.dataplane.tcp.sack import arrived
from cython.cimports.neatstack.dataplane.tcp.seq import after, before, earlier, later
from cython.cimports.neatstack.dataplane.tcp.state import become, mark
from cython.cimports.neatstack.dataplane.tcp.tally import segments
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    RANGES,
    TCB_ACK_DELAYED,
    TCB_ACK_NOW,
    TCB_ANSWERS,
    TCB_FIN_RECEIVED,
    TCB_FIN_SEEN,
    TCB_HEARD,
    TCB_HELD,
    TCB_LOOPBACK,
    TIMER_DELAYED_ACK,
    Range,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timers import MILLISECOND, set_timer
from cython.cimports.neatstack.dataplane.tcp.timestamps import full_text
from cython.cimports.neatstack.dataplane.tcp.window import acknowledged
from cython.cimports.neatstack.dataplane.wire.headers import FIN, Segment


def text(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[Segment]) -> cython.void:
    """Seventh: take the text of a segment that was cut to the window; at or beyond rcv.nxt.

    What cannot be kept is cut off.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    if not v.rx_size and not hold(s, i):
        s.counters.drops[cython.cast(cython.int, DROP_NO_MEMORY)] += 1
        cut(seg, 0)
        return
    if not fits(s, i, seg):
        return
    if seg.seq == t.rcv.nxt:
        in_order(s, i, seg)
    else:
        out_of_order(s, i, seg)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def cut(seg: cython.pointer[Segment], length: uint32_t) -> cython.void:
    """Keep the first `length` bytes of the text, and not the FIN."""
    seg.len = length
    seg.flags &= ~FIN


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def fits(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[Segment]) -> cython.bint:
    """Cut the text to the room that there is: less than was offered when the buffer has become smaller since.

    False: none.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    ahead: uint32_t = seg.seq - t.rcv.nxt
    free: uint32_t = rx_room(cython.address(s.views[i]), t)
    if ahead + seg.len <= free:
        return True
    s.counters.drops[cython.cast(cython.int, DROP_SEQUENCE)] += 1
    t.flags |= TCB_ACK_NOW
    mark(s, i, NEWS_OUTPUT)
    cut(seg, free - ahead if free > ahead else 0)
    return seg.len != 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def in_order(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.void:
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    reordered: cython.bint = t.rcv.ranges != 0
    before_text: uint32_t = t.rcv.nxt
    rx_write(v, t, seg.seq - (t.rcv.irs + 1), seg.text, seg.len)
    point(s, POINT_COPIED)
    t.rcv.nxt += seg.len
    if reordered:
        absorb(t)
    if t.flags & TCB_HELD:
        t.held = checksum_of_hold(s, i)
    t.bytes_in += t.rcv.nxt - before_text
    t.tally.text_at = s.now
    if not t.flags & TCB_HEARD:
        t.flags |= TCB_HEARD
        s.counters.requests += 1
    owe(s, i, reordered)
    mark(s, i, NEWS_LINES | NEWS_EVENT)


# rfc: 9293:SHLD-18 MUST-40 SHLD-19, 5681:3.2-GAP-FILLED 4.2-DELAY 4.2-SECOND 4.2-DELAYED 4.2-ONE
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def owe(s: cython.pointer[Stack], i: uint32_t, at_once: cython.bint) -> cython.void:
    """Text has come in order: when will it be acknowledged (RFC 9293 section 3.8.6.3, RFC 5681 section 4.2)?

    At once for every second full-sized segment (a large one counts as what it carries), when a gap was filled, and when
    the peer may be short of window, or is in this replica, where an ACK costs next to nothing; else within the delay,
    unless data leaves before.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    full: uint32_t = 2 * full_text(t)
    if (
        at_once
        or t.rcv.nxt - acknowledged(t) >= full
        or t.rcv.adv - t.rcv.nxt < full
        or s.views[i].options & NEAT_FLAG_QUICKACK
        or t.flags & TCB_LOOPBACK
    ):
        t.flags |= TCB_ACK_NOW
        mark(s, i, NEWS_OUTPUT)
    elif not t.flags & TCB_ACK_DELAYED:
        t.flags |= TCB_ACK_DELAYED
        set_timer(s, i, TIMER_DELAYED_ACK, s.now + ack_delay(t) * MILLISECOND)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def ack_delay(t: cython.pointer[Tcb]) -> uint32_t:
    """ms. While the user has not answered anything yet there may be no answer that could bring the ACK.

    Then a peer that holds the rest of what it says back until its first part is acknowledged (Nagle) would lose all of
    the delay with each new connection. Linux acknowledges the first segments at once, which costs who answers one more.
    """
    return ACK_DELAY if t.flags & TCB_ANSWERS or t.bytes_in > FIRST_SEGMENTS * full_text(t) else FIRST_ACK_DELAY


# ---- out of order ----


# rfc: 9293:SHLD-31 MAY-13, 5681:3.2-OUT-OF-ORDER, 6582:5, 2018:4-NEW
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def out_of_order(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[Segment]) -> cython.void:
    """Text beyond a gap: keep it, and say at once what is missing.

    Each such ACK counts for the peer (RFC 5681 section 4.2).
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    arrived(t, seg.seq, seg.seq + seg.len)
    t.tally.early += segments(seg.len, full_text(t))
    t.tally.text_at = s.now
    if remember(t, seg.seq, seg.seq + seg.len):
        rx_write(v, t, seg.seq - (t.rcv.irs + 1), seg.text, seg.len)
        if t.flags & TCB_HELD:
            t.held = checksum_of_hold(s, i)
        if seg.flags & FIN:
            t.flags |= TCB_FIN_SEEN
            t.rcv.fin = seg.seq + seg.len
    else:
        s.counters.drops[cython.cast(cython.int, DROP_RANGES)] += 1
        cut(seg, 0)
    emit_ack(s, i)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def remember(t: cython.pointer[Tcb], left: uint32_t, right: uint32_t) -> cython.bint:
    """Add [left, right) to the ranges, joining those that it touches. False: there is no place for another."""
    ranges: cython.pointer[Range] = t.late.range
    first: uint32_t = 0
    last: uint32_t
    k: uint32_t
    while first < t.rcv.ranges and before(ranges[first].right, left):
        first += 1
    last = first
    while last < t.rcv.ranges and not after(ranges[last].left, right):
        last += 1  # ranges [first, last) touch the new one
    if first == last:
        if t.rcv.ranges == RANGES:
            return False
        for k in range(t.rcv.ranges, first, -1):
            ranges[k] = ranges[k - 1]
        t.rcv.ranges += 1
        ranges[first].left = left
        ranges[first].right = right
        return True
    ranges[first].left = earlier(left, ranges[first].left)
    ranges[first].right = later(right, ranges[last - 1].right)
    forget(t, first + 1, last)
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def forget(t: cython.pointer[Tcb], first: uint32_t, last: uint32_t) -> cython.void:
    """Take ranges [first, last) out."""
    k: uint32_t
    for k in range(last, t.rcv.ranges):
        t.late.range[first + k - last] = t.late.range[k]
    t.rcv.ranges -= last - first


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def absorb(t: cython.pointer[Tcb]) -> cython.void:
    """Let rcv.nxt run over the ranges that it has reached."""
    reached: uint32_t = 0
    while reached < t.rcv.ranges and not after(t.late.range[reached].left, t.rcv.nxt):
        t.rcv.nxt = later(t.rcv.nxt, t.late.range[reached].right)
        reached += 1
    forget(t, 0, reached)


# ---- FIN ----


# rfc: 9293:MUST-12
def fin(s: cython.pointer[Stack], i: uint32_t, seg: cython.pointer[cython.const[Segment]]) -> cython.void:
    """Eighth: the FIN bit of this segment, or of an earlier one that came out of order, if it is next now."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    here: cython.bint = seg.flags & FIN and seg.seq + seg.len == t.rcv.nxt
    if seg.flags & FIN and seg.len == 0 and after(seg.seq, t.rcv.nxt):
        t.flags |= TCB_FIN_SEEN  # a bare FIN beyond a gap
        t.rcv.fin = seg.seq
        emit_ack(s, i)
    if not here and not (t.flags & TCB_FIN_SEEN and t.rcv.fin == t.rcv.nxt):
        return
    t.rcv.nxt += 1
    t.flags |= TCB_FIN_RECEIVED | TCB_ACK_NOW
    mark(s, i, NEWS_LINES | NEWS_EVENT | NEWS_OUTPUT)
    if t.state == State.ESTABLISHED:
        become(s, i, State.CLOSE_WAIT)
    elif t.state == State.FIN_WAIT_1:  # were our FIN acknowledged, it would be FIN-WAIT-2 by now
        become(s, i, State.CLOSING)
    elif t.state == State.FIN_WAIT_2:
        become(s, i, State.TIME_WAIT)
