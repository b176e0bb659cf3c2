"""HyStart++ (RFC 9406 section 4): the first slow start ends when the round trip grows, before a queue overflows.

Round trips come from timestamps, in milliseconds; a connection without has one for each round, and never enough.
"""

import cython
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.neatstack.dataplane.tcp.seq import before, least, most
from cython.cimports.neatstack.dataplane.tcp.tcb import Tcb

MIN_RTT_THRESH = cython.declare(uint32_t, 4)  # ms, section 4.3
MAX_RTT_THRESH = cython.declare(uint32_t, 16)
MIN_RTT_DIVISOR = cython.declare(uint32_t, 8)
N_RTT_SAMPLE = cython.declare(uint32_t, 8)
CSS_GROWTH_DIVISOR = cython.declare(uint32_t, 4)
CSS_ROUNDS = cython.declare(uint32_t, 5)


def begin(t: cython.pointer[Tcb]) -> cython.void:
    t.cc.window_end = t.snd.nxt
    t.cc.last_rtt = t.cc.round_rtt = t.cc.baseline_rtt = 0
    t.cc.samples = t.cc.css_rounds = 0


# rfc: 9406:4.2-round 4.2-css-growth 4.3-initial-only, 9438:4.10-which
def acknowledged(t: cython.pointer[Tcb], acked: uint32_t, round_trip: uint32_t) -> uint32_t:
    """In the first slow start: by how much cwnd grows for so many bytes. It may set ssthresh, which ends that."""
    if round_trip:
        t.cc.round_rtt = least(t.cc.round_rtt, round_trip) if t.cc.round_rtt else round_trip
        if t.cc.samples < N_RTT_SAMPLE:
            t.cc.samples += 1
    if t.cc.samples >= N_RTT_SAMPLE:
        if t.cc.css_rounds:
            if t.cc.round_rtt < t.cc.baseline_rtt:  # it was no queue: slow start goes on
                t.cc.css_rounds = 0
        elif has_grown(t):
            t.cc.baseline_rtt = t.cc.round_rtt
            t.cc.css_rounds = 1  # what is left of this round counts
    if not before(t.snd.una, t.cc.window_end):
        next_round(t)
    return acked // CSS_GROWTH_DIVISOR if t.cc.css_rounds else acked


# rfc: 9406:4.2-enter-css 4.3-constants
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def has_grown(t: cython.pointer[cython.const[Tcb]]) -> cython.bint:
    """Whether the round trip is longer than in the last round by RttThresh."""
    thresh: uint32_t = most(MIN_RTT_THRESH, least(t.cc.last_rtt // MIN_RTT_DIVISOR, MAX_RTT_THRESH))
    return t.cc.last_rtt != 0 and t.cc.round_rtt >= t.cc.last_rtt + thresh


# rfc: 9406:4.2-css-rounds
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def next_round(t: cython.pointer[Tcb]) -> cython.void:
    """Another round begins; after CSS_ROUNDS conservative ones, congestion avoidance."""
    t.cc.window_end = t.snd.nxt
    t.cc.last_rtt = t.cc.round_rtt
    t.cc.round_rtt = t.cc.samples = 0
    if t.cc.css_rounds:
        if t.cc.css_rounds >= CSS_ROUNDS:
            t.cc.ssthresh = t.cc.cwnd
            t.cc.css_rounds = 0
        else:
            t.cc.css_rounds += 1
