"""Loss found by duplicate ACKs, and repaired: fast retransmit and NewReno's fast recovery (RFC 6582 section 3.2).

Where the peer acknowledges selectively, loss is found by time (rack.py), and recovery goes by the board (RFC 6675).

cc.recover is snd.max when the last loss was found: only when that has been acknowledged can another be.
"""

import cython
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.neatstack.dataplane.stack import (
    MENDING_FAST,
    MENDING_TIMEOUT,
    NEWS_OUTPUT,
    PROBE_UNMEASURED,
    STRETCH_LOST,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp import congestion, prr, rtt
from cython.cimports.neatstack.dataplane.tcp.rack import recovered
from cython.cimports.neatstack.dataplane.tcp.scoreboard import stretch
from cython.cimports.neatstack.dataplane.tcp.seq import before, least, most
from cython.cimports.neatstack.dataplane.tcp.state import mark
from cython.cimports.neatstack.dataplane.tcp.tcb import TCB_RECOVERY, TCB_RETRANSMIT, Tcb
from cython.cimports.neatstack.dataplane.tcp.tlp import restart

THRESHOLD = cython.declare(uint32_t, 3)  # duplicate ACKs that mean a loss
MOST_DUPLICATES = cython.declare(uint32_t, 1 << 14)  # counted: a peer may send as many as it likes


# rfc: 6582:3.2-2
def duplicate(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """A duplicate ACK: something has arrived beyond what is acknowledged."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    t.cc.dupacks = least(t.cc.dupacks + 1, MOST_DUPLICATES)
    if not t.flags & TCB_RECOVERY and t.cc.dupacks == THRESHOLD:
        if before(t.snd.una, t.cc.recover):
            t.cc.dupacks = 0  # step 1: echoes of what was sent again; no second reduction
        else:
            enter(s, i)
    mark(s, i, NEWS_OUTPUT)


# rfc: 5681:4.3-TWICE, 6582:3.2-2
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def enter(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Step 2: reduce, remember how far the loss may reach, send the first segment again.

    What limited transmit has sent beyond the window is not part of the flight (RFC 5681 section 3.2, step 2).
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    congestion.reduce(t, least(t.snd.max - t.snd.una, t.cc.cwnd))
    t.cc.recover = t.snd.max
    prr.begin(s, i, t.snd.mss)
    t.flags |= TCB_RECOVERY | TCB_RETRANSMIT
    rtt.stop_timing(t)


# rfc: 2018:5.1-CONGESTION, 6675:5-RECOVERY 5.1-MUST-1 5-ENTER 5-HALF 5-FIRST, 5681:3.2-FAST-RETRANSMIT 3.2-RETRANSMIT
# rfc: 5681:4.3-TWICE 4.3-ADVANCED, 8985:7.1
def lost(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Something on the board was found to be lost (RFC 6675 section 5, step 4): recovery begins, if it has not.

    pipe() then says what is on its way, and prr.py what goes. After a timeout the window is not reduced again until
    all that had been sent before is acknowledged (section 5.1).
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    mark(s, i, NEWS_OUTPUT)
    if v.mending:
        if t.flags & TCB_RECOVERY:
            prr.delivered(s, i, 0, False)  # what has just been found lost by a timer does not all go at once
        return
    v.probe &= PROBE_UNMEASURED
    if before(t.snd.una, t.cc.recover):
        v.mending = MENDING_FAST if t.flags & TCB_RECOVERY else MENDING_TIMEOUT
        return
    congestion.reduce(t, least(t.snd.max - t.snd.una, t.cc.cwnd))
    t.cc.recover = t.snd.max
    t.flags |= TCB_RECOVERY
    v.mending = MENDING_FAST
    prr.begin(s, i, 0)
    if stretch(cython.address(s.boards[i]), 0).flags & STRETCH_LOST:
        t.flags |= TCB_RETRANSMIT  # whatever is on its way
    rtt.stop_timing(t)
    restart(s, i)


# rfc: 5681:3.2-DEFLATE, 6582:3.2-3-FULL 3.2-3-PARTIAL, 6675:5-END
def repaired(s: cython.pointer[Stack], i: uint32_t, acked: uint32_t) -> cython.void:
    """In recovery, `acked` bytes have been acknowledged, up to snd.una."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    flight: uint32_t
    if s.views[i].mending:
        if not before(t.snd.una, t.cc.recover):
            s.views[i].mending = 0
            t.cc.dupacks = 0
            prr.leave(t)
            t.flags &= ~cython.cast(uint32_t, TCB_RECOVERY | TCB_RETRANSMIT)
            recovered(s, i)
        return
    if not before(t.snd.una, t.cc.recover):  # step 3, full acknowledgment; option 1, against a burst
        flight = t.snd.max - t.snd.una
        t.cc.cwnd = least(t.cc.ssthresh, most(flight, t.snd.mss) + t.snd.mss)
        t.cc.dupacks = 0
        t.flags &= ~cython.cast(uint32_t, TCB_RECOVERY | TCB_RETRANSMIT)
        return
    # Step 3, partial acknowledgment: the next hole starts at snd.una.
    t.flags |= TCB_RETRANSMIT
    t.cc.dupacks -= least(t.cc.dupacks, acked // most(t.snd.mss, 1))
