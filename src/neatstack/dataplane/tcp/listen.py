"""Listeners: who accepts what. Found by port and by number in two small hash tables over Stack.listeners."""

import cython
from cython.cimports.libc.errno import ECONNABORTED, ENOBUFS
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.channel.address import Address, is_v4, mapped, no_address, same, v4
from cython.cimports.neatstack.dataplane.stack import (
    LISTENER_SLOTS,
    MAX_LISTENERS,
    NEWS_GONE,
    FastKeys,
    Listener,
    Stack,
)
from cython.cimports.neatstack.dataplane.tcp.state import mark
from cython.cimports.neatstack.dataplane.tcp.tcb import TCB_ACCEPTED, TCB_PASSIVE, State, Tcb
from cython.cimports.neatstack.dataplane.tcp.user import abort
from cython.cimports.neatstack.dataplane.wire.spread import spread


# rfc: 9293:MUST-41 MUST-42
def listen(
    s: cython.pointer[Stack],
    number: uint32_t,
    address_be: Address,
    port_be: uint16_t,
    backlog: uint32_t,
    mss: uint16_t,
    defer: uint8_t,
    syn_retries: uint8_t,
    fastopen: uint32_t,
    v6only: uint8_t,
    congestion: uint8_t,
    save_syn: uint8_t,
    least_ttl: uint8_t,
    least_hops: uint8_t,
    fast_keys: FastKeys,
) -> cython.int:
    """Accept connections as listener `number`, or change its backlog and options. 0; -ENOBUFS: too many listeners."""
    listener: cython.pointer[Listener] = listener_numbered(s, number)
    if listener == cython.NULL:
        listener = new_listener(s, number, address_be, port_be)
        if listener == cython.NULL:
            return -ENOBUFS
    listener.backlog = backlog
    listener.mss = mss
    listener.defer = defer
    listener.syn_retries = syn_retries
    listener.fastopen = fastopen
    listener.v6only = v6only
    listener.congestion = congestion
    listener.save_syn = save_syn
    listener.least_ttl = least_ttl
    listener.least_hops = least_hops
    listener.fast_keys = fast_keys
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def new_listener(
    s: cython.pointer[Stack], number: uint32_t, address_be: Address, port_be: uint16_t
) -> cython.pointer[Listener]:
    """NULL: there is no room for another."""
    listener: cython.pointer[Listener]
    k: uint32_t
    for k in range(MAX_LISTENERS):
        listener = cython.address(s.listeners[k])
        if not listener.number:
            memset(listener, 0, cython.sizeof(Listener))
            listener.number = number
            listener.address_be = address_be
            listener.port_be = port_be
            index_one(s, k)
            return listener
    return cython.NULL


def unlisten(s: cython.pointer[Stack], number: uint32_t) -> cython.void:
    """Stop, and reset what is half open or waits to be accept()ed."""
    listener: cython.pointer[Listener] = listener_numbered(s, number)
    t: cython.pointer[Tcb]
    i: uint32_t
    if listener == cython.NULL:
        return
    for i in range(1, s.region.tcbs_used):
        t = cython.address(s.tcbs[i])
        if t.listener == number and t.flags & (TCB_PASSIVE | TCB_ACCEPTED) == TCB_PASSIVE:
            if t.state != State.FREE:
                abort(s, i, ECONNABORTED)
                mark(s, i, NEWS_GONE)  # also what had ended, and waited
    memset(listener, 0, cython.sizeof(Listener))
    index_listeners(s)


# ---- lookup ----


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def place(number: uint32_t) -> uint32_t:
    """Where the probing for a number starts."""
    return spread(number, 11) & (LISTENER_SLOTS - 1)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def by_port(address_be: Address, port_be: uint16_t) -> uint32_t:
    return place(
        v4(address_be)
        ^ cython.cast(uint32_t, address_be.hi ^ address_be.hi >> 32)
        ^ (cython.cast(uint32_t, port_be) << 16 | port_be)
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def index_one(s: cython.pointer[Stack], k: uint32_t) -> cython.void:
    listener: cython.pointer[Listener] = cython.address(s.listeners[k])
    at: uint32_t = by_port(listener.address_be, listener.port_be)
    while s.listeners_by_port[at]:
        at = (at + 1) & (LISTENER_SLOTS - 1)
    s.listeners_by_port[at] = cython.cast(uint16_t, k + 1)
    at = place(listener.number)
    while s.listeners_by_number[at]:
        at = (at + 1) & (LISTENER_SLOTS - 1)
    s.listeners_by_number[at] = cython.cast(uint16_t, k + 1)


def index_listeners(s: cython.pointer[Stack]) -> cython.void:
    """Build both tables from the listeners in the region. Stopping to listen is rare enough for it, too."""
    k: uint32_t
    memset(s.listeners_by_port, 0, cython.sizeof(s.listeners_by_port))
    memset(s.listeners_by_number, 0, cython.sizeof(s.listeners_by_number))
    for k in range(MAX_LISTENERS):
        if s.listeners[k].number:
            index_one(s, k)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def exact(s: cython.pointer[Stack], address_be: Address, port_be: uint16_t) -> cython.pointer[Listener]:
    at: uint32_t = by_port(address_be, port_be)
    listener: cython.pointer[Listener]
    while s.listeners_by_port[at]:
        listener = cython.address(s.listeners[s.listeners_by_port[at] - 1])
        if listener.port_be == port_be and same(listener.address_be, address_be):
            return listener
        at = (at + 1) & (LISTENER_SLOTS - 1)
    return cython.NULL


def find_listener(s: cython.pointer[Stack], address_be: Address, port_be: uint16_t) -> cython.pointer[Listener]:
    """The listener for a local address and port: one bound to that address before one bound to any; NULL: none.

    One bound to :: takes IPv4 too, unless it is for IPv6 only (RFC 3493 section 3.7 and 5.3).
    """
    listener: cython.pointer[Listener] = exact(s, address_be, port_be)
    if listener == cython.NULL and is_v4(address_be):
        listener = exact(s, mapped(0), port_be)
    if listener == cython.NULL:
        listener = exact(s, no_address(), port_be)
        if listener != cython.NULL and listener.v6only and is_v4(address_be):
            return cython.NULL
    return listener


def listener_numbered(s: cython.pointer[Stack], number: uint32_t) -> cython.pointer[Listener]:
    """The listener with the manager's number; NULL: none."""
    at: uint32_t = place(number)
    while s.listeners_by_number[at]:
        if s.listeners[s.listeners_by_number[at] - 1].number == number:
            return cython.address(s.listeners[s.listeners_by_number[at] - 1])
        at = (at + 1) & (LISTENER_SLOTS - 1)
    return cython.NULL
