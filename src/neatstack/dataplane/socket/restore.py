"""Slots of channels that the last incarnation has left.

What it knew of them is derived from the TCBs and from the slots' own lines. A command that it took and did not carry
out is found because every slot is looked at.
"""

import cython
from cython.cimports.libc.errno import ECONNRESET
from cython.cimports.libc.stdint import uint8_t, uint32_t
from cython.cimports.neatstack.dataplane.channel.atomic import load8, load32, load_acquire, store8_release
from cython.cimports.neatstack.dataplane.channel.buffers import rx_head, tx_tail
from cython.cimports.neatstack.dataplane.channel.channel import any_bit, holds_bit, rx_ring, set_bit, tx_ring
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_FLAG_KEEPALIVE,
    NEAT_ROLE_ACCEPT,
    NEAT_ROLE_DATAGRAM,
    NEAT_SEEN_DETACHED,
    NEAT_SEEN_RESET,
    NEAT_STATE_CLOSED,
    NEAT_STATE_CONNECTING,
    NEAT_STATE_FREE,
    NEAT_STATE_OPEN,
    NEAT_STATE_POSTED,
    Socket,
    SocketProgram,
)
from cython.cimports.neatstack.dataplane.channel.slot import free_slot
from cython.cimports.neatstack.dataplane.journal import commit
from cython.cimports.neatstack.dataplane.socket.accept import post
from cython.cimports.neatstack.dataplane.socket.commands import copy_options, look_at_slot
from cython.cimports.neatstack.dataplane.socket.datagrams import recover_datagrams
from cython.cimports.neatstack.dataplane.socket.slots import put_event
from cython.cimports.neatstack.dataplane.stack import DROP_COMMAND, MAX_CHANNELS, Channel, Stack, View
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    TCB_ACCEPTED,
    TCB_DETACHED,
    TCB_FIN_QUEUED,
    TCB_PASSIVE,
    TIMER_KEEPALIVE,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.window import receive_buffer, set_limit, update_due

# ---- with a connection ----


def restore_slot(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Put TCB i back into the slot that it names."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    ch: cython.pointer[Channel] = cython.address(s.channels[t.channel])
    if ch.memory == cython.NULL or t.socket >= ch.header.sockets or ch.tcb_of[t.socket]:
        return
    ch.tcb_of[t.socket] = i
    ch.bound += 1
    ch.posts[t.socket].generation = t.generation
    v.program = cython.address(ch.sockets[t.socket].program)
    v.replica = cython.address(ch.sockets[t.socket].replica)
    v.rx = rx_ring(ch, t.socket)
    v.tx = tx_ring(ch, t.socket)
    v.rx_size = ch.header.rx_size
    set_limit(v, restored_limit(v))
    v.tx_size = ch.header.tx_size
    copy_options(v)
    restore_cursors(s, v, t)
    inherit(s, t)
    restore_untaken(ch, v, t)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def restored_limit(v: cython.pointer[cython.const[View]]) -> uint32_t:
    """What of the receive ring was offered, as the lines say. The program can write there, too: so within bounds."""
    told: uint32_t = load32(cython.address(v.replica.rx_limit))
    return receive_buffer(told, v.rx_size) if told else v.rx_size


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def restore_cursors(s: cython.pointer[Stack], v: cython.pointer[View], t: cython.pointer[Tcb]) -> cython.void:
    """The program's cursors, as far as they can be.

    We know for sure how far we have sent and received.
    """
    tail: uint32_t = load32(cython.address(v.program.rx_tail))
    head: uint32_t = rx_head(t)
    v.rx_tail = tail
    if head - tail > v.rx_size:
        s.counters.drops[cython.cast(cython.int, DROP_COMMAND)] += 1
        v.rx_tail = head
    if t.flags & TCB_FIN_QUEUED:
        v.tx_head = t.snd.fin - (t.snd.iss + 1)
    else:
        v.tx_head = t.snd.max - (t.snd.iss + 1) if t.snd.max != t.snd.iss else 0
    v.tx_base = load32(cython.address(v.program.tx_base))
    v.tx_told = tx_tail(v, t)
    # What the program has put there since stays unknown until look() sees it, so that it is sent.


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def inherit(s: cython.pointer[Stack], t: cython.pointer[cython.const[Tcb]]) -> cython.void:
    """Programs that hold a socket in somebody else's memory have it by fork()."""
    n: cython.int
    for n in range(MAX_CHANNELS):
        if holds_bit(t.holders, n) and n != t.channel:
            set_bit(s.channels[n].inherited, t.channel)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def restore_untaken(
    ch: cython.pointer[Channel], v: cython.pointer[View], t: cython.pointer[cython.const[Tcb]]
) -> cython.void:
    """Whether accept() is still to return it."""
    if t.flags & (TCB_PASSIVE | TCB_ACCEPTED) == TCB_PASSIVE and any_bit(t.holders):
        v.untaken = 1
        ch.untaken += 1


def to_be_looked_at(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    """Whether the program's lines ask for something that may not have been done."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    p: cython.pointer[SocketProgram] = v.program
    if p == cython.NULL or t.flags & TCB_DETACHED:
        return False
    return (
        v.untaken
        or load32(cython.address(p.tx_head)) != v.tx_head
        or load8(cython.address(p.shut)) != 0
        or load32(cython.address(p.info_asked)) != load32(cython.address(v.replica.info_answered))
        or (v.options & NEAT_FLAG_KEEPALIVE != 0) != (t.timers[cython.cast(cython.int, TIMER_KEEPALIVE)] != 0)
        or update_due(v, t)
    )


# ---- without a connection ----


def recover_slots(s: cython.pointer[Stack], channel: uint32_t) -> cython.void:
    """Make good what the last incarnation has left in the slots of a channel that have no TCB.

    Posted slots are linked again, lost connections are told, new wishes are seen to.
    """
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    used: uint32_t = load32(cython.address(ch.program.slots_used))
    k: uint32_t
    if used > ch.header.sockets:
        used = ch.header.sockets
    for k in range(used):
        if not ch.tcb_of[k]:
            recover_slot(s, channel, k)
            commit(s)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def recover_slot(s: cython.pointer[Stack], channel: uint32_t, k: uint32_t) -> cython.void:
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    lines: cython.pointer[Socket] = cython.address(ch.sockets[k])
    state: uint32_t = load8(cython.address(lines.replica.state))
    ch.posts[k].generation = load32(cython.address(lines.replica.generation))
    if load8(cython.address(lines.program.role)) == NEAT_ROLE_DATAGRAM:
        recover_datagrams(s, channel, k)
        return
    if state == NEAT_STATE_OPEN or state == NEAT_STATE_CONNECTING:
        if load8(cython.address(lines.replica.seen)) & NEAT_SEEN_DETACHED:
            free_slot(ch, k)
        else:
            tell_lost(s, channel, k)
    elif state == NEAT_STATE_POSTED and asks_for_connection(ch, k):
        if not post(s, channel, k, load32(cython.address(lines.program.listener))):
            free_slot(ch, k)
            put_event(s, channel, channel, k)
        return
    if state != NEAT_STATE_FREE or load_acquire(cython.address(lines.program.generation)) != ch.posts[k].generation:
        look_at_slot(s, channel, k)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def asks_for_connection(ch: cython.pointer[Channel], k: uint32_t) -> cython.bint:
    """Whether a posted slot still is what it was posted for."""
    p: cython.pointer[SocketProgram] = cython.address(ch.sockets[k].program)
    return (
        load_acquire(cython.address(p.generation)) == ch.posts[k].generation
        and load8(cython.address(p.role)) == NEAT_ROLE_ACCEPT
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tell_lost(s: cython.pointer[Stack], channel: uint32_t, k: uint32_t) -> cython.void:
    """The connection of a slot is no more."""
    lines: cython.pointer[Socket] = cython.address(s.channels[channel].sockets[k])
    lines.replica.seen |= NEAT_SEEN_RESET
    lines.replica.error = ECONNRESET
    lines.replica.tcp_state = cython.cast(uint8_t, State.CLOSED)
    store8_release(cython.address(lines.replica.state), NEAT_STATE_CLOSED)
    put_event(s, channel, channel, k)
