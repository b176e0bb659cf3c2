"""The receive window: what is offered, and when a change of it is worth a segment (RFC 9293 section 3.8.6).

rcv.adv is the right edge of all that was ever offered, and what is accepted; it never moves left. rcv.wnd is the
distance to it from rcv.nxt when the last ACK was sent.
"""

import cython
from cython.cimports.libc.stdint import int32_t, uint16_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.atomic import load32
from cython.cimports.neatstack.dataplane.channel.buffers import refresh_rx, rx_room
from cython.cimports.neatstack.dataplane.stack import View
from cython.cimports.neatstack.dataplane.tcp.seq import later, least, most
from cython.cimports.neatstack.dataplane.tcp.tcb import TCB_WINDOW_SCALING, Tcb
from cython.cimports.neatstack.dataplane.tcp.window import set_limit

LONG = cython.declare(uint64_t, 1 << 32)  # us: whatever is read in that is read slowly; no product with it overflows
PATIENCE = cython.declare(uint32_t, 10_000)  # us that a program may have to wait for a core


def tune(v: cython.pointer[View], t: cython.pointer[cython.const[Tcb]], now: uint64_t) -> cython.void:
    """The program has read: offer twice as much of the ring if that was a quarter of what is offered in a round trip.

    Else the window would bound the rate (dynamic right-sizing: Fisk, Feng 2001), for of what is offered one half may
    wait for the program while the other is on its way. Who reads slowly gets no more to keep, and with SO_RCVBUF
    nothing changes.
    """
    taken: uint32_t = v.rx_tail - v.tuned_tail
    half: uint32_t = v.rx_limit // 2
    spent: uint64_t = (now - v.tuned_at) // 1000
    if v.rx_limit == v.rx_size or taken < half:
        return
    if v.program == cython.NULL or load32(cython.address(v.program.receive_buffer)):
        return
    if spent < LONG and spent * (half // 2) <= cython.cast(uint64_t, most(t.rtt.srtt, PATIENCE)) * taken:
        set_limit(v, least(2 * v.rx_limit, v.rx_size))
    v.tuned_tail = v.rx_tail
    v.tuned_at = now


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def room(v: cython.pointer[View], t: cython.pointer[Tcb], now: uint64_t) -> uint32_t:
    """Bytes that can be taken beyond rcv.nxt.

    The program's cursor, a cache line of another core, is looked at only when the room that we know of gets short.
    Without a buffer (no program has the connection yet, or none any more) what was offered stands.
    """
    free: uint32_t
    if not v.rx_size:
        return t.rcv.adv - t.rcv.nxt
    free = rx_room(v, t)
    if free < v.rx_limit // 2 and refresh_rx(v, t):
        tune(v, t, now)
        free = rx_room(v, t)
    return free


# rfc: 9293:SHLD-14 MUST-39 MAY-8, 7323:2.3a 2.4a 2.4b
def offer(v: cython.pointer[View], t: cython.pointer[Tcb], now: uint64_t) -> uint16_t:
    """The window field of a segment that is about to leave.

    Silly window avoidance (3.8.6.2.2): the right edge moves by a segment or half the buffer, or not at all. When the
    buffer has become smaller than what was offered, the honest answer is a smaller window.
    """
    free: uint32_t = room(v, t, now)
    edge: uint32_t = t.rcv.nxt + free
    gain: int32_t = edge - t.rcv.adv
    shift: uint32_t = t.rcv.wscale if t.flags & TCB_WINDOW_SCALING else 0
    if gain >= 0 and cython.cast(uint32_t, gain) < least(t.rcv.mss, v.rx_limit // 2):
        free = t.rcv.adv - t.rcv.nxt
    free = least(free, cython.cast(uint32_t, 65535) << shift) >> shift
    t.rcv.adv = later(t.rcv.adv, t.rcv.nxt + (free << shift))
    t.rcv.wnd = t.rcv.adv - t.rcv.nxt
    return cython.cast(uint16_t, free)


# rfc: 7323:2.2b
def offer_in_syn(v: cython.pointer[View], t: cython.pointer[Tcb]) -> uint16_t:
    """The window field of a SYN: never scaled (RFC 7323 section 2.2)."""
    if v.rx_size:
        t.rcv.wnd = least(rx_room(v, t), 65535)
        t.rcv.adv = t.rcv.nxt + t.rcv.wnd
    return cython.cast(uint16_t, t.rcv.wnd)


def update_due(v: cython.pointer[View], t: cython.pointer[cython.const[Tcb]]) -> cython.bint:
    """Whether the peer should hear now that the program has read.

    Only when the peer may be short of window, and the edge can move by two segments or half the buffer: otherwise the
    next ACK will tell it.
    """
    left: uint32_t = t.rcv.adv - t.rcv.nxt
    gain: int32_t = t.rcv.nxt + rx_room(v, t) - t.rcv.adv
    if gain <= 0 or cython.cast(uint32_t, gain) < least(2 * t.rcv.mss, v.rx_limit // 2):
        return False
    return left < 2 * t.rcv.mss or left < v.rx_limit // 8
