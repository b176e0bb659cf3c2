"""What is counted of a connection, and what its sending side waits for: see tally.pxd."""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.buffers import tx_tail
from cython.cimports.neatstack.dataplane.stack import Stack, View
from cython.cimports.neatstack.dataplane.tcp.send_buffer import send_most
from cython.cimports.neatstack.dataplane.tcp.seq import before, least
from cython.cimports.neatstack.dataplane.tcp.tally import segments
from cython.cimports.neatstack.dataplane.tcp.tcb import CHRONO_BUFFER, CHRONO_BUSY, CHRONO_IDLE, Tcb
from cython.cimports.neatstack.dataplane.tcp.timers import MILLISECOND
from cython.cimports.neatstack.dataplane.tcp.timestamps import full_text

MARKED = cython.declare(uint32_t, 3)


def count_longer(t: cython.pointer[Tcb], length: uint32_t) -> cython.void:
    """The text is longer than any before, or that of several segments that came as one."""
    full: uint32_t = full_text(t)
    more: uint32_t = segments(length, full) - 1
    t.tally.segments_in += more
    t.tally.texts_in += more
    t.tally.full_text = least(length, full)


def wait_for(t: cython.pointer[Tcb], now: uint64_t, chrono: uint32_t) -> cython.void:
    """The sending side waits for this, from now on or still."""
    if t.tally.chrono == chrono:
        return
    if t.tally.chrono != CHRONO_IDLE:
        t.tally.spent[t.tally.chrono & 3] += now - t.tally.chrono_at
    t.tally.chrono = cython.cast(uint8_t, chrono)
    t.tally.chrono_at = now


def account(s: cython.pointer[Stack], i: uint32_t, flight: uint32_t) -> cython.void:
    """Text goes. If that was all in a full ring, then the user's room is what is short."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    queued: uint32_t = v.tx_head - tx_tail(v, t)
    short: cython.bint = queued >= send_most(v) and flight >= queued
    wait_for(t, s.now, CHRONO_BUFFER if short else CHRONO_BUSY)


def take_sample(t: cython.pointer[Tcb], now: uint64_t, end: uint32_t) -> cython.void:
    """snd.una has moved. After a round trip, or when all is acknowledged, the sample of the rate of delivery counts.

    One that says how little the user had to send counts only if it is the higher one, as in Linux's tcp_rate.c.
    """
    took: uint64_t = now - t.tally.sample_at
    size: uint64_t = t.snd.una - t.tally.sample
    user_limited: cython.bint = not before(t.snd.max, end)
    if not took:
        return
    if not user_limited or not t.tally.rate_ns or size * t.tally.rate_ns > t.tally.rate_bytes * took:
        t.tally.rate_bytes = size
        t.tally.rate_ns = took
        t.tally.user_limited = user_limited
    t.tally.sample = t.snd.una
    t.tally.sample_at = now


def count_timeout(t: cython.pointer[Tcb], now: uint64_t) -> cython.void:
    """The retransmission timer has fired, and something is sent again."""
    t.tally.timeouts += 1
    if not t.tally.timeout_at:
        t.tally.timeout_repairs += 1
        t.tally.timeout_at = cython.cast(uint32_t, now // MILLISECOND)


def timeout_repaired(t: cython.pointer[Tcb], now: uint64_t) -> cython.void:
    """All that was on its way at the timeout is acknowledged, or was not lost."""
    if t.tally.timeout_at:
        t.tally.timeout_spent += cython.cast(uint32_t, now // MILLISECOND) - t.tally.timeout_at
        t.tally.timeout_at = 0


def count_capable(t: cython.pointer[Tcb], marks: uint32_t, length: uint32_t) -> cython.void:
    """A segment with so many bytes of text has come whose IP header has these bits (RFC 3168 section 5), not both 0."""
    t.tally.capable_in[(marks - 1) & 3] += length
    if marks == MARKED:
        t.tally.marks_in += segments(length, t.tally.full_text)
