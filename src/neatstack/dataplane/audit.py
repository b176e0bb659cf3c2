"""Is our memory still what we have made it? Looked at ten times a second while there is traffic.

Whatever is wrong was done by a failing memory cell or a stray store, and what it leads to cannot be foreseen. So the
process ends, and the next incarnation builds all that is private anew, from TCBs that it checks one by one.
"""

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.audit import AUDIT_EVERY, AUDIT_SLICE
from cython.cimports.neatstack.dataplane.channel.channel import guard_of, holds_bit
from cython.cimports.neatstack.dataplane.journal import broken, checksum_of_tcb, checksum_of_view
from cython.cimports.neatstack.dataplane.stack import (
    LISTENER_SLOTS,
    MAX_CHANNELS,
    MAX_LISTENERS,
    AcceptQueue,
    Channel,
    Listener,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp import table
from cython.cimports.neatstack.dataplane.tcp.listen import listener_numbered
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    NO_CHANNEL,
    TCB_ACCEPTED,
    TCB_FASTOPEN,
    TCB_HELD,
    TCB_PASSIVE,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timers import TICK_BITS, earliest
from cython.cimports.neatstack.dataplane.wire.crc import checksum


def audit(s: cython.pointer[Stack]) -> cython.void:
    """Look at what is constant, and at the next slice of connections. Nothing may be half done."""
    i: uint32_t
    s.audit_at = s.now + AUDIT_EVERY
    if s.guard == 0:
        s.guard = guard_of_stack(s)
    elif s.guard != guard_of_stack(s):
        broken(s, "part of the stack that does not change")
    if s.listeners_guard == 0:
        s.listeners_guard = guard_of_listeners(s)
    elif s.listeners_guard != guard_of_listeners(s):
        broken(s, "listener")
    audit_header(s)
    audit_channels(s)
    audit_queues(s)
    if s.tcbs_used <= AUDIT_SLICE:
        count_queues(s)
    if s.audited >= s.tcbs_used:
        s.audited = 1
    i = s.audited
    while i < s.tcbs_used and i < s.audited + AUDIT_SLICE:
        if s.tcbs[i].state != State.FREE:
            audit_connection(s, i)
        i += 1
    s.audited = i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def guard_of_stack(s: cython.pointer[Stack]) -> uint64_t:
    start: cython.p_const_char = cython.cast(cython.p_const_char, cython.address(s.region))
    end: cython.p_const_char = cython.cast(cython.p_const_char, cython.address(s.guard))
    return checksum(start, end - start)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def guard_of_listeners(s: cython.pointer[Stack]) -> uint64_t:
    """Of the lookup tables, and of what each listener in them is: not of how many wait there."""
    total: uint64_t = checksum(s.listeners_by_port, cython.sizeof(s.listeners_by_port))
    entry: cython.pointer[Listener]
    k: uint32_t
    total ^= checksum(s.listeners_by_number, cython.sizeof(s.listeners_by_number)) << 1
    for k in range(LISTENER_SLOTS):
        if s.listeners_by_number[k]:
            if s.listeners_by_number[k] > MAX_LISTENERS:
                return 1
            entry = cython.address(s.listeners[s.listeners_by_number[k] - 1])
            total = total * 31 + checksum(entry.channels, cython.sizeof(entry.channels))
            total = total * 31 + (cython.cast(uint64_t, entry.number) << 32 | entry.v6only)
            total = total * 31 + checksum(cython.address(entry.address_be), cython.sizeof(entry.address_be))
            total = total * 31 + (cython.cast(uint64_t, entry.port_be) << 32 | entry.backlog)
            total = total * 31 + (cython.cast(uint64_t, entry.mss) << 16 | entry.defer << 8 | entry.syn_retries)
            total = total * 31 + (cython.cast(uint64_t, entry.fastopen) << 24 | entry.save_syn << 16)
            total = total * 31 + (cython.cast(uint64_t, entry.least_ttl) << 8 | entry.least_hops)
            total = total * 31 + checksum(cython.address(entry.fast_keys), cython.sizeof(entry.fast_keys))
    return total | 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def audit_header(s: cython.pointer[Stack]) -> cython.void:
    if (
        s.region.undo_valid
        or s.region.retired_count
        or s.region.tcbs_used != s.tcbs_used
        or s.region.tcbs_used_again != s.tcbs_used
        or s.tcbs_used > s.max_tcbs
    ):
        broken(s, "header of the region")
    if s.wheel_tick > s.now >> TICK_BITS:
        broken(s, "timer wheel")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def audit_channels(s: cython.pointer[Stack]) -> cython.void:
    ch: cython.pointer[Channel]
    n: uint32_t
    for n in range(MAX_CHANNELS):
        ch = cython.address(s.channels[n])
        if ch.memory == cython.NULL:
            if holds_bit(s.live, n):
                broken(s, "channel")
        elif ch.guard != guard_of(ch):
            broken(s, "channel")
        elif not ch.gone and (ch.place >= s.active_count or s.active[ch.place] != n or not holds_bit(s.live, n)):
            broken(s, "channel")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def audit_queues(s: cython.pointer[Stack]) -> cython.void:
    """Who has posted slots for a listener is said twice, and the first of them knows for whom it waits."""
    q: cython.pointer[AcceptQueue]
    ch: cython.pointer[Channel]
    first: uint32_t
    n: uint32_t
    k: uint32_t
    for k in range(LISTENER_SLOTS):
        if not s.listeners_by_number[k]:
            continue
        q = cython.address(s.queues[s.listeners_by_number[k] - 1])
        for n in range(s.active_count):
            ch = cython.address(s.channels[s.active[n]])
            first = q.posted[s.active[n]]
            if (first != 0) != holds_bit(q.ready, s.active[n]) or first > ch.header.sockets:
                broken(s, "accept queue")
            if first and ch.posts[first - 1].listener != s.listeners_by_number[k]:
                broken(s, "accept queue")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def count_queues(s: cython.pointer[Stack]) -> cython.void:
    """How many connections are half open and how many wait, over all listeners, against what the listeners say."""
    half_open: uint32_t = 0
    waiting: uint32_t = 0
    t: cython.pointer[Tcb]
    k: uint32_t
    for k in range(LISTENER_SLOTS):
        if s.listeners_by_number[k]:
            half_open += s.listeners[s.listeners_by_number[k] - 1].half_open
            waiting += s.listeners[s.listeners_by_number[k] - 1].waiting
    for k in range(1, s.tcbs_used):
        t = cython.address(s.tcbs[k])
        if t.flags & (TCB_PASSIVE | TCB_ACCEPTED) != TCB_PASSIVE or t.state == State.FREE:
            continue
        if listener_numbered(s, t.listener) == cython.NULL:
            continue
        if t.state == State.SYN_RECEIVED and not t.flags & TCB_FASTOPEN:
            half_open -= 1
        else:
            waiting -= 1
    if half_open or waiting:
        broken(s, "listener")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def audit_connection(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    if t.checksum != checksum_of_tcb(t):
        broken(s, "connection")
    if v.checksum != checksum_of_view(v):
        broken(s, "view of a connection")
    if (v.dirty or v.news) and not s.dirty_count:
        broken(s, "view of a connection")
    if t.state != State.CLOSED:
        if table.find(s, t.local_be, t.local_port_be, t.remote_be, t.remote_port_be) != i:
            broken(s, "table of connections")
        if not rightly_timed(s, t, v, i):
            broken(s, "timer wheel")
    if t.channel != NO_CHANNEL and not t.flags & TCB_HELD and s.channels[t.channel].tcb_of[t.socket] != i:
        broken(s, "slot of a connection")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def rightly_timed(
    s: cython.pointer[Stack], t: cython.pointer[cython.const[Tcb]], v: cython.pointer[cython.const[View]], i: uint32_t
) -> cython.bint:
    """Whether a connection with a deadline has its place in the wheel, and the wheel knows."""
    waits: cython.bint = earliest(t) != 0
    slot: uint32_t
    if not v.wheel_slot:
        return not waits
    slot = v.wheel_slot - 1
    if slot >= cython.sizeof(s.wheel) // cython.sizeof(s.wheel[0]) or not s.wheel_map[slot >> 6] >> (slot & 63) & 1:
        return False
    if v.wheel_prev:
        return v.wheel_prev < s.tcbs_used and s.views[v.wheel_prev].wheel_next == i
    return s.wheel[slot] == i
