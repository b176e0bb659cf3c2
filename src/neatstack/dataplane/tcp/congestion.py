"""Congestion control: slow start and congestion avoidance (RFC 5681 section 3.1), in bytes.

How loss is found and repaired (NewReno) is in recovery.py; here is only how much may be in flight. All of it is in
Tcb.cc.
"""

import cython
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.neatstack.dataplane.tcp.seq import least, most
from cython.cimports.neatstack.dataplane.tcp.tcb import Tcb

INITIAL_SEGMENTS = cython.declare(uint32_t, 10)  # RFC 6928
LARGEST = cython.declare(uint32_t, 1 << 30)  # bytes: beyond any window that can be offered


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def initial_window(t: cython.pointer[Tcb]) -> uint32_t:
    """RFC 6928 section 2: min(10 MSS, max(2 MSS, 14600))."""
    return least(INITIAL_SEGMENTS * t.snd.mss, most(2 * t.snd.mss, 14600))


def start(t: cython.pointer[Tcb]) -> cython.void:
    """The connection is established. RFC 5681 section 3.1: ssthresh starts arbitrarily high."""
    t.cc.cwnd = initial_window(t)
    t.cc.ssthresh = LARGEST
    t.cc.acked = 0


# rfc: 9293:MUST-19
def grow(t: cython.pointer[Tcb], acked: uint32_t, flight: uint32_t) -> cython.void:
    """`acked` bytes are newly acknowledged, of `flight` that were on their way; there is no loss to repair.

    A window that is not used says nothing about the path, so it does not grow (RFC 7661 section 4.2's reason).
    """
    if 2 * flight < t.cc.cwnd:
        return
    if t.cc.cwnd < t.cc.ssthresh:
        # Slow start by bytes (RFC 3465 section 2.2). Its limit of 2 segments an ACK is lifted: receivers that take
        # large segments acknowledge many at once, and what leaves in a burst is bounded by the GSO size.
        t.cc.cwnd = least(t.cc.cwnd + acked, LARGEST)
        return
    t.cc.acked += acked  # congestion avoidance (RFC 3465 section 2.1): an MSS a window
    if t.cc.acked >= t.cc.cwnd:
        t.cc.acked -= t.cc.cwnd
        t.cc.cwnd = least(t.cc.cwnd + t.snd.mss, LARGEST)


def reduce(t: cython.pointer[Tcb], flight: uint32_t) -> cython.void:
    """A segment is lost: RFC 5681 equation 4 for ssthresh; cwnd is the recovery's business."""
    t.cc.ssthresh = most(flight // 2, 2 * t.snd.mss)
    t.cc.acked = 0


def timed_out(t: cython.pointer[Tcb], flight: uint32_t) -> cython.void:
    """The retransmission timer has fired (RFC 5681 section 3.1): one segment, the loss window.

    ssthresh is halved only by the first timeout of a series: later ones tell nothing about `flight`.
    """
    if not t.snd.backoff:
        reduce(t, flight)
    t.cc.cwnd = t.snd.mss


def idle(t: cython.pointer[Tcb]) -> cython.void:
    """Nothing has been sent for longer than an RTO (RFC 5681 section 4.1): the restart window."""
    t.cc.cwnd = least(t.cc.cwnd, initial_window(t))


def window_after(mss: cython.int, steps: list) -> dict:
    """Probe: cwnd and ssthresh after steps.

    A step is ("grow", acked, flight), ("reduce", flight), ("timed_out", flight) or ("idle",).
    """
    t: Tcb
    t.snd.mss = mss
    t.snd.backoff = 0
    start(cython.address(t))
    for name, *numbers in steps:
        if name == "grow":
            grow(cython.address(t), numbers[0], numbers[1])
        elif name == "reduce":
            reduce(cython.address(t), numbers[0])
        elif name == "timed_out":
            timed_out(cython.address(t), numbers[0])
        else:
            idle(cython.address(t))
    return {"cwnd": t.cc.cwnd, "ssthresh": t.cc.ssthresh}
