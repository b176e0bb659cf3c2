"""CUBIC (RFC 9438): congestion avoidance by the time since the last loss, in bytes, milliseconds and integers.

In segments, W_cubic(t) = C (t - K)^3 + W_max with C = 0.4, and a loss leaves beta = 0.7 of the window. Every window is
below LARGEST (2^30) and every MSS below 2^16; of times no more counts than FAR, so that no product below passes 2^63.
"""

import cython
from cython.cimports.libc.stdint import int32_t, int64_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.tcp.congestion import LARGEST
from cython.cimports.neatstack.dataplane.tcp.seq import least, most
from cython.cimports.neatstack.dataplane.tcp.tcb import Tcb

FAR = cython.declare(int64_t, 1 << 20)  # ms: a quarter of an hour to one side of K; W_cubic is out of range long before
PER_CUBE = cython.declare(uint64_t, 2500000000)  # ms^3 in 1/C s^3


def forget(t: cython.pointer[Tcb]) -> cython.void:
    """Nothing is known of the path: the next epoch begins where the window then is (section 4.8 after a timeout)."""
    t.cc.epoch = 0
    t.cc.w_max = 0
    t.cc.cwnd_prior = 0


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def cube_root(of: uint64_t) -> uint32_t:
    """The largest integer whose cube is not above `of`, which is below 2^63: bit by bit."""
    root: uint64_t = 0
    bit: uint64_t = 1 << 20
    while bit:
        if (root | bit) * (root | bit) * (root | bit) <= of:
            root |= bit
        bit >>= 1
    return cython.cast(uint32_t, root)


# rfc: 9438:4.2-k 4.10-hystart 4.8-reno
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def begin_epoch(t: cython.pointer[Tcb], now: uint32_t, mss: uint32_t) -> cython.void:
    """Congestion avoidance begins: equation 2, K = cbrt((W_max - cwnd_epoch) / C)."""
    t.cc.epoch = 1
    t.cc.epoch_start = t.cc.grown = now
    t.cc.w_est = t.cc.cwnd
    t.cc.est_rest = t.cc.acked = 0
    t.cc.k = 0
    if t.cc.cwnd < t.cc.w_max:
        t.cc.k = cube_root((t.cc.w_max - t.cc.cwnd) * PER_CUBE // mss)
    else:
        t.cc.w_max = t.cc.cwnd


# rfc: 9438:4.2-w-cubic
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def w_cubic(t: cython.pointer[cython.const[Tcb]], elapsed: uint32_t, mss: uint32_t) -> uint32_t:
    """Equation 1, of `elapsed` ms; within 0 and LARGEST."""
    away: int64_t = cython.cast(int64_t, elapsed) - t.cc.k
    distance: uint64_t = away if away >= 0 else -away
    off: uint64_t
    if distance > FAR:
        distance = FAR
    off = distance * distance * distance // 1000000 * mss // 2500
    if away >= 0:
        return cython.cast(uint32_t, t.cc.w_max + off) if off < LARGEST - least(t.cc.w_max, LARGEST) else LARGEST
    return cython.cast(uint32_t, t.cc.w_max - off) if off < t.cc.w_max else 0


# rfc: 9438:4.2-app-limited 4.3-reno-friendly 4.4-target
def avoid(t: cython.pointer[Tcb], now: uint32_t, acked: uint32_t) -> uint32_t:
    """`acked` bytes are acknowledged of a window that was in use, at `now` ms: the new window (sections 4.2 to 4.5)."""
    mss: uint32_t = most(t.snd.mss, 1)
    cwnd: uint32_t = most(least(t.cc.cwnd, LARGEST), 1)
    target: uint32_t
    credit: uint64_t
    acked = least(acked, LARGEST)
    if not t.cc.epoch:
        begin_epoch(t, now, mss)
    elif cython.cast(int32_t, now - t.cc.grown) > cython.cast(int32_t, t.rtt.rto // 1000):
        t.cc.epoch_start += now - t.cc.grown  # the window was not in use meanwhile: that time does not count (5.8)
    t.cc.grown = now
    estimate(t, cwnd, acked, mss)
    if w_cubic(t, now - t.cc.epoch_start, mss) < t.cc.w_est:  # the Reno-friendly region
        return most(cwnd, t.cc.w_est)
    target = least(w_cubic(t, now - t.cc.epoch_start + t.rtt.srtt // 1000, mss), cwnd + cwnd // 2)
    if target <= cwnd:
        return cwnd
    credit = cython.cast(uint64_t, target - cwnd) * acked + least(t.cc.acked, LARGEST)
    t.cc.acked = cython.cast(uint32_t, credit % cwnd)
    return cython.cast(uint32_t, cwnd + least(cython.cast(uint32_t, credit // cwnd), target - cwnd))


# rfc: 9438:4.3-alpha
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def estimate(t: cython.pointer[Tcb], cwnd: uint32_t, acked: uint32_t, mss: uint32_t) -> cython.void:
    """Equation 4, W_est: what Reno would have, with 3 (1 - beta) / (1 + beta) = 9/17 of a segment for each window.

    From where the last loss was on with a whole one (section 4.3).
    """
    credit: uint64_t = cython.cast(uint64_t, mss) * acked
    if t.cc.w_est < t.cc.cwnd_prior:
        credit = credit * 9 // 17
    credit += t.cc.est_rest
    t.cc.est_rest = cython.cast(uint32_t, credit % cwnd)
    credit = credit // cwnd + t.cc.w_est
    t.cc.w_est = cython.cast(uint32_t, credit) if credit < LARGEST else LARGEST


# rfc: 9438:4.6-beta 4.7-fast-convergence
def reduced(t: cython.pointer[Tcb], flight: uint32_t) -> uint32_t:
    """A loss: what is left of `flight`, and what the next epoch has to know (sections 4.6 and 4.7)."""
    cwnd: uint32_t = least(t.cc.cwnd, LARGEST)
    t.cc.w_max = cwnd // 20 * 17 if cwnd < t.cc.w_max else cwnd
    t.cc.cwnd_prior = cwnd
    t.cc.epoch = 0
    return cython.cast(uint32_t, cython.cast(uint64_t, flight) * 7 // 10)
