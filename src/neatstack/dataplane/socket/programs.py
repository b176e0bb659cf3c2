"""Programs come, fork and die; listeners are granted to them. All of it is rare, and asked for by the manager.

Before a program's rights change, the commands that it has already given are taken: accept() followed by close() of the
listener, or by fork(), means what it says whichever message comes first.
"""

import cython
from cython.cimports.libc.errno import ECONNRESET, EINVAL
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.channel.channel import any_bit, clear_bit, deactivate, holds_bit, set_bit
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_IN_FLIGHT
from cython.cimports.neatstack.dataplane.journal import commit, touch
from cython.cimports.neatstack.dataplane.socket.accept import empty_queue, give_up, requeue, unpost_all
from cython.cimports.neatstack.dataplane.socket.commands import detach, take_commands
from cython.cimports.neatstack.dataplane.socket.datagrams import drop_endpoints, evict_endpoints, inherit_endpoints
from cython.cimports.neatstack.dataplane.socket.slots import unbind_slot
from cython.cimports.neatstack.dataplane.stack import (
    MAX_CHANNELS,
    MAX_LISTENERS,
    NEWS_GONE,
    Channel,
    Listener,
    Stack,
)
from cython.cimports.neatstack.dataplane.tcp.listen import listener_numbered, unlisten
from cython.cimports.neatstack.dataplane.tcp.state import mark
from cython.cimports.neatstack.dataplane.tcp.tcb import State, Tcb
from cython.cimports.neatstack.dataplane.tcp.user import abort


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def in_use(s: cython.pointer[Stack], channel: uint32_t) -> cython.bint:
    return channel < MAX_CHANNELS and s.channels[channel].memory != cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def settle(s: cython.pointer[Stack], channel: uint32_t) -> cython.void:
    """Take all commands that the program has given so far."""
    if in_use(s, channel) and not s.channels[channel].gone:
        take_commands(s, channel, s.channels[channel].header.entries)


# ---- fork ----


def inherit_all(s: cython.pointer[Stack], channel: uint32_t, parent: uint32_t) -> cython.void:
    """`channel` is a forked child's: it holds every socket and listener that the parent's program holds.

    Connections that the parent has not taken are not the child's: it will never hear of them.
    """
    if not in_use(s, parent) or parent == channel:
        return
    settle(s, parent)
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    n: cython.int
    for n in range(4):
        ch.inherited[n] |= s.channels[parent].inherited[n]
    set_bit(ch.inherited, parent)
    for n in range(MAX_CHANNELS):
        if holds_bit(ch.inherited, n) and in_use(s, n):
            inherit_sockets(s, n, channel, parent)
    inherit_endpoints(s, channel, parent)
    for n in range(MAX_LISTENERS):
        if s.listeners[n].number and holds_bit(s.listeners[n].channels, parent):
            set_bit(s.listeners[n].channels, channel)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def inherit_sockets(s: cython.pointer[Stack], memory: uint32_t, channel: uint32_t, parent: uint32_t) -> cython.void:
    """The part of inherit_all() that concerns sockets in the memory of one channel."""
    ch: cython.pointer[Channel] = cython.address(s.channels[memory])
    k: uint32_t
    for k in range(ch.header.sockets):
        i: uint32_t = ch.tcb_of[k]
        if i and holds_bit(s.tcbs[i].holders, parent) and not s.views[i].untaken:
            touch(s, i)
            set_bit(s.tcbs[i].holders, channel)
            s.views[i].event_at = 0


# ---- SCM_RIGHTS ----


def hold(
    s: cython.pointer[Stack], channel: uint32_t, socket: uint32_t, holder: uint32_t, other: uint32_t
) -> cython.int:
    """What `holder` holds, a socket in the memory of `channel`, the `other` holds too. 0, or -EINVAL: it does not.

    A slot whose connection has failed at once is nobody's but the program's whose memory it is.
    """
    if not in_use(s, channel) or socket >= s.channels[channel].header.sockets:
        return -EINVAL
    if holder >= MAX_CHANNELS or other >= MAX_CHANNELS:
        return -EINVAL
    if other != NEAT_IN_FLIGHT and (not in_use(s, other) or s.channels[other].gone):
        return -EINVAL
    settle(s, holder)
    settle(s, other)
    i: uint32_t = s.channels[channel].tcb_of[socket]
    if not i:
        return 0 if holder == channel or holder == NEAT_IN_FLIGHT else -EINVAL
    if not holds_bit(s.tcbs[i].holders, holder) or s.views[i].untaken:
        return -EINVAL
    touch(s, i)
    set_bit(s.tcbs[i].holders, other)
    set_bit(s.channels[other].inherited, channel)
    s.views[i].event_at = 0
    return 0


def end_flight(s: cython.pointer[Stack], channel: uint32_t, socket: uint32_t) -> cython.int:
    """The socket is on its way to nobody any more. 0, or -EINVAL: no such channel."""
    if not in_use(s, channel) or socket >= s.channels[channel].header.sockets:
        return -EINVAL
    i: uint32_t = s.channels[channel].tcb_of[socket]
    if i and holds_bit(s.tcbs[i].holders, NEAT_IN_FLIGHT):
        touch(s, i)
        detach(s, NEAT_IN_FLIGHT, i)
    return 0


# ---- death ----


def drop(s: cython.pointer[Stack], channel: uint32_t) -> cython.int:
    """The program is dead. 0, or -EINVAL.

    What nobody else holds is reset, except what it had closed itself; what it had not taken goes to others. Its memory
    stays until nothing uses it (`Stack.unused`).
    """
    if not in_use(s, channel) or s.channels[channel].gone:
        return -EINVAL
    settle(s, channel)
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    n: cython.int
    for n in range(MAX_LISTENERS):
        if s.listeners[n].number and holds_bit(s.listeners[n].channels, channel):
            clear_bit(s.listeners[n].channels, channel)
            unpost_all(s, channel, n)
    deactivate(s, channel)
    drop_endpoints(s, channel)
    let_go(s, channel, channel)
    for n in range(MAX_CHANNELS):
        if holds_bit(ch.inherited, n) and in_use(s, n):
            let_go(s, n, channel)
    if not ch.bound:
        s.unused += 1
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def let_go(s: cython.pointer[Stack], memory: uint32_t, channel: uint32_t) -> cython.void:
    """A dead program no longer holds the sockets in the memory of one channel."""
    ch: cython.pointer[Channel] = cython.address(s.channels[memory])
    k: uint32_t
    for k in range(ch.header.sockets):
        i: uint32_t = ch.tcb_of[k]
        if not i or not holds_bit(s.tcbs[i].holders, channel):
            continue
        t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
        touch(s, i)
        clear_bit(t.holders, channel)
        s.views[i].event_at = 0
        if any_bit(t.holders):
            continue
        if s.views[i].untaken:
            requeue(s, i)
        elif t.state == State.CLOSED:
            mark(s, i, NEWS_GONE)
        else:
            abort(s, i, ECONNRESET)


def evict(s: cython.pointer[Stack], channel: uint32_t) -> cython.void:
    """The number of a dead program is needed again: reset what still uses its memory."""
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    k: uint32_t
    for k in range(ch.header.sockets):
        i: uint32_t = ch.tcb_of[k]
        if not i:
            continue
        touch(s, i)
        give_up(s, i)
        memset(s.tcbs[i].holders, 0, cython.sizeof(s.tcbs[i].holders))
        unbind_slot(s, i)
        commit(s)
    evict_endpoints(s, channel)


# ---- listeners ----


def grant(s: cython.pointer[Stack], number: uint32_t, channel: uint32_t) -> cython.int:
    """A program may accept connections of a listener. 0, or -EINVAL."""
    entry: cython.pointer[Listener] = listener_numbered(s, number)
    if entry == cython.NULL or not in_use(s, channel):
        return -EINVAL
    set_bit(entry.channels, channel)
    return 0


def revoke(s: cython.pointer[Stack], number: uint32_t, channel: uint32_t) -> cython.int:
    """A program may no longer accept.

    Its posted slots are free; what it has not taken goes to others. 0, or -EINVAL.
    """
    entry: cython.pointer[Listener] = listener_numbered(s, number)
    if entry == cython.NULL or not in_use(s, channel):
        return -EINVAL
    settle(s, channel)
    clear_bit(entry.channels, channel)
    unpost_all(s, channel, cython.cast(uint32_t, entry - s.listeners))
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    k: uint32_t
    for k in range(ch.header.sockets):
        i: uint32_t = ch.tcb_of[k]
        if i and s.views[i].untaken and s.tcbs[i].listener == number:
            requeue(s, i)
    return 0


def end_listener(s: cython.pointer[Stack], number: uint32_t) -> cython.int:
    """Nobody listens any more: what no program has taken is reset. 0, or -EINVAL."""
    entry: cython.pointer[Listener] = listener_numbered(s, number)
    if entry == cython.NULL:
        return -EINVAL
    n: uint32_t
    for n in range(s.active_count):
        settle(s, s.active[n])
    empty_queue(s, cython.cast(uint32_t, entry - s.listeners))
    unlisten(s, number)
    return 0
