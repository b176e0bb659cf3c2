"""Proportional rate reduction (RFC 9937 section 6): in recovery, what goes follows what has arrived.

cwnd is what is on its way and sndcnt. Without selective acknowledgments every duplicate ACK stands for a segment that
has arrived, and cwnd counts these as still on their way (RFC 6582's inflation), since the output does.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.stack import Stack
from cython.cimports.neatstack.dataplane.tcp.congestion import LARGEST
from cython.cimports.neatstack.dataplane.tcp.scoreboard import pipe
from cython.cimports.neatstack.dataplane.tcp.seq import least, most
from cython.cimports.neatstack.dataplane.tcp.tcb import ECN_REDUCED, TCB_RECOVERY, Tcb


# rfc: 9937:6-begin 6-force
def begin(s: cython.pointer[Stack], i: uint32_t, more: uint32_t) -> cython.void:
    """Recovery begins: ssthresh is set, and the first segment goes again whatever the window says.

    `more`: bytes that the ACK in hand says have arrived, unless delivered() will hear of them. What had arrived before
    is not part of the flight.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    t.cc.flight = t.snd.max - reached(s, i) + more
    t.cc.delivered = more
    t.cc.out = 0
    t.ecn &= ~cython.cast(uint8_t, ECN_REDUCED)  # what is lost is repaired from here on
    if s.views[i].mending:
        t.cc.cwnd = most(least(pipe(s, i) + t.snd.mss, LARGEST), 1)
    else:
        t.cc.cwnd = most(least(t.snd.nxt - t.snd.una, LARGEST), t.snd.mss)


def reached(s: cython.pointer[Stack], i: uint32_t) -> uint32_t:
    """The difference between two of these is DeliveredData."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if not s.views[i].mending:
        return t.snd.una + t.cc.dupacks * t.snd.mss
    return t.snd.una + (s.boards[i].sacked if s.views[i].stretches else 0)


# rfc: 9937:6-proportional 6-bound 6-safe 6-delivered, 5681:4.3-HALF, 8985:9.3-PRR
def delivered(s: cython.pointer[Stack], i: uint32_t, more: uint32_t, safe: cython.bint) -> cython.void:
    """An ACK in recovery says that `more` bytes have arrived: cwnd, so that sndcnt bytes may go.

    `safe`: it goes on and tells of no further loss, so that a little more than arrives may go.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    flight: uint32_t = t.snd.nxt - t.snd.una
    away: uint32_t = flight
    sndcnt: uint64_t
    t.cc.delivered = least(t.cc.delivered + least(more, LARGEST), LARGEST)
    if s.views[i].mending:
        away = flight = pipe(s, i)
    else:
        away -= least(away, t.cc.dupacks * t.snd.mss)
    if away > t.cc.ssthresh:
        sndcnt = cython.cast(uint64_t, t.cc.delivered) * t.cc.ssthresh + t.cc.flight - 1
        sndcnt //= most(t.cc.flight, 1)
        sndcnt = sndcnt - t.cc.out if sndcnt > t.cc.out else 0
    else:
        sndcnt = t.cc.delivered - t.cc.out if t.cc.delivered > t.cc.out else 0
        sndcnt = most(cython.cast(uint32_t, sndcnt), more)
        if safe:
            sndcnt += t.snd.mss
        sndcnt = least(t.cc.ssthresh - away, cython.cast(uint32_t, sndcnt))
    sndcnt += flight
    t.cc.cwnd = most(cython.cast(uint32_t, sndcnt) if sndcnt < LARGEST else LARGEST, most(t.snd.mss, 1))


# rfc: 5681:4.3-AFTER 3.2-DEFLATE
def leave(t: cython.pointer[Tcb]) -> cython.void:
    """Recovery is over, or given up: the window is ssthresh again."""
    if t.flags & TCB_RECOVERY:
        t.cc.cwnd = t.cc.ssthresh
