"""Congestion control: slow start and congestion avoidance (RFC 5681 section 3.1), in bytes.

How loss is found and repaired is in recovery.py, how much goes meanwhile in prr.py; here is only how much may be in
flight. CUBIC's part of it is in cubic.py, the end of the first slow start in hystart.py. All state is in Tcb.cc.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_CUBIC, NEAT_RENO
from cython.cimports.neatstack.dataplane.tcp import cubic, hystart
from cython.cimports.neatstack.dataplane.tcp.congestion import LARGEST
from cython.cimports.neatstack.dataplane.tcp.seq import least, most
from cython.cimports.neatstack.dataplane.tcp.tcb import ECN_OK, ECN_QUEUED, ECN_REDUCED, Tcb

INITIAL_SEGMENTS = cython.declare(uint32_t, 10)  # RFC 6928


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def initial_window(t: cython.pointer[Tcb]) -> uint32_t:
    """RFC 6928 section 2: min(10 MSS, max(2 MSS, 14600))."""
    return least(INITIAL_SEGMENTS * t.snd.mss, most(2 * t.snd.mss, 14600))


def choose(t: cython.pointer[Tcb], algorithm: uint8_t) -> cython.void:
    """TCP_CONGESTION. What is not known is the default; windows stay as they are."""
    if algorithm != NEAT_RENO:
        algorithm = NEAT_CUBIC
    if cython.unlikely(algorithm != t.cc.algorithm):
        t.cc.algorithm = algorithm
        t.cc.acked = 0
        cubic.forget(t)


# rfc: 5681:3.1-SSTHRESH-HIGH 3.1-HANDSHAKE
def start(t: cython.pointer[Tcb]) -> cython.void:
    """The connection is established. RFC 5681 section 3.1: ssthresh starts arbitrarily high."""
    t.cc.cwnd = initial_window(t)
    t.cc.ssthresh = LARGEST
    t.cc.acked = 0
    cubic.forget(t)
    hystart.begin(t)


# rfc: 9293:MUST-19, 5681:3.1-AVOIDANCE 3-ALGORITHMS 3.1-USED 3.1-BY-BYTES 3.1-AVOIDANCE-GROWS, 9438:4.10-slow-start
# rfc: 9438:5.8-unused
def grow(t: cython.pointer[Tcb], now: uint64_t, acked: uint32_t, flight: uint32_t, round_trip: uint32_t) -> cython.void:
    """`acked` bytes are newly acknowledged, of `flight` that were on their way; there is no loss to repair.

    `round_trip`: ms, as a timestamp says it; 0: none. A window of which not more than half is used says nothing about
    the path, so it does not grow (RFC 7661 section 4.2's reason).
    """
    if flight <= t.cc.cwnd // 2:
        return
    if t.cc.cwnd < t.cc.ssthresh:
        # Slow start by bytes (RFC 3465 section 2.2). Its limit of 2 segments an ACK is lifted: receivers that take
        # large segments acknowledge many at once, and what leaves in a burst is bounded by the GSO size.
        if t.cc.ssthresh == LARGEST:
            acked = hystart.acknowledged(t, acked, round_trip)
        t.cc.cwnd = least(t.cc.cwnd + least(acked, LARGEST), t.cc.ssthresh)
    elif t.cc.algorithm == NEAT_CUBIC:
        t.cc.cwnd = cubic.avoid(t, cython.cast(uint32_t, now // 1000000), acked)
    else:
        t.cc.acked = least(t.cc.acked, LARGEST) + least(acked, LARGEST)  # an MSS a window (RFC 3465 section 2.1)
        if t.cc.acked >= t.cc.cwnd:
            t.cc.acked -= t.cc.cwnd
            t.cc.cwnd = least(t.cc.cwnd + t.snd.mss, LARGEST)


# rfc: 9438:4.6-ssthresh 4.6-at-once, 3168:6.1.2-3, 5681:3.1-SSTHRESH 3.2-SSTHRESH 3.1-REDUCED, 9406:4.2-loss
def reduce(t: cython.pointer[Tcb], flight: uint32_t) -> cython.void:
    """A segment is lost: ssthresh by RFC 5681 equation 4, or RFC 9438 section 4.6; cwnd is the recovery's business.

    Not within the window that was reduced for a mark; and the peer's receiver is told of it (RFC 3168 section 6.1.2).
    """
    if t.ecn & ECN_REDUCED:
        return
    if t.ecn & ECN_OK:
        t.ecn |= ECN_QUEUED
    if t.cc.algorithm == NEAT_CUBIC:
        flight = cubic.reduced(t, flight)
    else:
        flight //= 2
    t.cc.ssthresh = least(most(flight, 2 * t.snd.mss), LARGEST - 1)  # below what means that there was no loss yet
    t.cc.acked = 0


# rfc: 9438:4.8-timeout, 5681:3.1-LOSS-WINDOW 3.1-SSTHRESH-HELD
def timed_out(t: cython.pointer[Tcb], flight: uint32_t) -> cython.void:
    """The retransmission timer has fired (RFC 5681 section 3.1): one segment, the loss window.

    ssthresh is halved only by the first timeout of a series: later ones tell nothing about `flight`.
    """
    if not t.snd.backoff:
        reduce(t, flight)
    cubic.forget(t)
    t.ecn &= ~cython.cast(uint8_t, ECN_REDUCED)
    t.cc.cwnd = most(t.snd.mss, 1)


# rfc: 5681:4.1-RESTART
def idle(t: cython.pointer[Tcb]) -> cython.void:
    """Nothing has been sent for longer than an RTO (RFC 5681 section 4.1): the restart window."""
    t.cc.cwnd = least(t.cc.cwnd, initial_window(t))


def window_after(mss: cython.int, steps: list, algorithm: cython.int = NEAT_CUBIC, srtt: uint32_t = 0) -> dict:
    """Probe: the congestion control's state after steps. Times are in ms.

    A step is ("grow", acked, flight[, now[, round trip[, ack]]]), ("reduce", flight), ("lost", flight), which also
    ends the recovery, ("timed_out", flight) or ("idle",).
    """
    t: Tcb
    memset(cython.address(t), 0, cython.sizeof(t))
    t.snd.mss = mss
    t.rtt.srtt = 1000 * srtt
    t.rtt.rto = 1000 * srtt + 200000
    t.cc.algorithm = algorithm
    start(cython.address(t))
    for name, *numbers in steps:
        if name == "grow":
            all_of: list = [*numbers, 0, 0, 0]
            now: uint64_t = all_of[2]
            t.snd.una = all_of[4]
            t.snd.nxt = cython.cast(uint32_t, t.snd.una + cython.cast(uint32_t, all_of[1]))
            grow(cython.address(t), now * 1000000, all_of[0], all_of[1], all_of[3])
        elif name == "reduce":
            reduce(cython.address(t), numbers[0])
        elif name == "lost":
            reduce(cython.address(t), numbers[0])
            t.cc.cwnd = t.cc.ssthresh
        elif name == "timed_out":
            timed_out(cython.address(t), numbers[0])
        else:
            idle(cython.address(t))
    return t.cc
