"""A slot of a channel: where a connection meets its program."""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.atomic import (
    load32,
    load_acquire,
    store8_release,
    store_release,
)
from cython.cimports.neatstack.dataplane.channel.buffers import rx_head, tx_sent, tx_tail
from cython.cimports.neatstack.dataplane.channel.channel import holds_bit, only_bit, rx_ring, tx_ring
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_FLAG_TIMES,
    NEAT_OP_LOOK,
    NEAT_SEEN_DETACHED,
    NEAT_SEEN_EOF,
    NEAT_SEEN_FIN_ACKED,
    NEAT_SEEN_RESET,
    NEAT_SEEN_URGENT,
    NEAT_STATE_CLOSED,
    NEAT_STATE_CONNECTING,
    NEAT_STATE_OPEN,
    SocketReplica,
)
from cython.cimports.neatstack.dataplane.channel.rings import entry_bits, load_entry, store_entry
from cython.cimports.neatstack.dataplane.channel.slot import retire
from cython.cimports.neatstack.dataplane.socket.times import tell_times
from cython.cimports.neatstack.dataplane.stack import MAX_CHANNELS, Channel, Stack, View
from cython.cimports.neatstack.dataplane.tcp.send_buffer import expand, send_most
from cython.cimports.neatstack.dataplane.tcp.seq import before, least
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    NO_CHANNEL,
    TCB_DETACHED,
    TCB_FIN_RECEIVED,
    TCB_FIN_SENT,
    TCB_LOOPBACK,
    TCB_PASSIVE,
    TCB_URGENT_IN,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.window import FIRST_LIMIT, receive_buffer, set_limit


def bind_slot(s: cython.pointer[Stack], i: uint32_t, channel: uint32_t, socket: uint32_t) -> cython.void:
    """Put TCB i into a slot that has none. The receive cursor and what is in the rings are the caller's."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    ch.tcb_of[socket] = i
    ch.bound += 1
    t.channel = cython.cast(uint16_t, channel)
    t.socket = socket
    t.generation = ch.posts[socket].generation
    v.program = cython.address(ch.sockets[socket].program)
    v.replica = cython.address(ch.sockets[socket].replica)
    v.rx = rx_ring(ch, socket)
    v.tx = tx_ring(ch, socket)
    v.rx_size = ch.header.rx_size
    limit: uint32_t = load32(cython.address(v.program.receive_buffer))
    if limit:  # from the first: what was offered for a moment would stand
        set_limit(v, receive_buffer(limit, v.rx_size))
    else:
        set_limit(v, v.rx_size if t.flags & TCB_LOOPBACK else least(v.rx_size, FIRST_LIMIT))
    v.tuned_at = s.now
    v.tx_size = ch.header.tx_size
    v.tx_head = 0
    v.tx_base = 0
    v.tx_told = 0
    v.replica.send_most = v.replica.soft_error = 0  # whatever had the slot before
    expand(v, t)
    v.tx_enough = send_most(v) - send_most(v) // 3
    v.event_at = 0


def unbind_slot(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Take TCB i out of its slot, which is free with the commit. The TCB's cursors stay."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    if v.program == cython.NULL:
        return
    ch: cython.pointer[Channel] = cython.address(s.channels[t.channel])
    retire(s, t.channel, t.socket, t.bytes_in, t.bytes_out)
    ch.tcb_of[t.socket] = 0
    ch.bound -= 1
    if ch.gone and not ch.bound:
        s.unused += 1
    t.channel = NO_CHANNEL
    t.socket = 0
    v.program = cython.NULL
    v.replica = cython.NULL
    v.rx = cython.NULL
    v.tx = cython.NULL
    v.rx_size = 0
    v.rx_limit = 0
    v.tx_size = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def state_of(t: cython.pointer[Tcb]) -> uint8_t:
    if t.state == State.CLOSED:
        return NEAT_STATE_CLOSED
    if t.state == State.SYN_SENT or (t.state == State.SYN_RECEIVED and not t.flags & TCB_PASSIVE):
        return NEAT_STATE_CONNECTING
    return NEAT_STATE_OPEN


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def seen_of(v: cython.pointer[View], t: cython.pointer[Tcb]) -> uint8_t:
    seen: uint32_t = 0
    if cython.likely(
        not t.flags & (TCB_FIN_RECEIVED | TCB_FIN_SENT | TCB_DETACHED | TCB_URGENT_IN) and t.state != State.CLOSED
    ):
        return 0
    if t.flags & TCB_FIN_RECEIVED:
        seen |= NEAT_SEEN_EOF
    if t.flags & TCB_FIN_SENT and t.snd.una - t.snd.iss - 2 == v.tx_head:
        seen |= NEAT_SEEN_FIN_ACKED
    if t.flags & TCB_DETACHED:
        seen |= NEAT_SEEN_DETACHED
    if t.state == State.CLOSED and t.error:
        seen |= NEAT_SEEN_RESET
    if t.flags & TCB_URGENT_IN and not before(t.rcv.up, t.rcv.irs + 1 + v.rx_tail):
        seen |= NEAT_SEEN_URGENT
    return cython.cast(uint8_t, seen)


def write_lines(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Write what the TCB says into the socket's lines. Idempotent: derived from the TCB alone."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    r: cython.pointer[SocketReplica] = v.replica
    if r == cython.NULL:
        return
    if cython.unlikely(v.options & NEAT_FLAG_TIMES):
        tell_times(s, i)
    state: uint8_t = state_of(t)
    if cython.unlikely(r.state != state):  # where it begins, too: that is of a slot in another state
        r.local_be = t.local_be
        r.remote_be = t.remote_be
        r.local_port_be = t.local_port_be
        r.remote_port_be = t.remote_port_be
    r.tcp_state = t.state
    r.error = t.error
    r.rx_base = t.rcv.base
    store_release(cython.address(r.rx_head), rx_head(t))  # after the base and the bytes
    store_release(cython.address(r.tx_tail), tx_tail(v, t))
    r.tx_sent = tx_sent(v, t)
    r.rx_urgent = t.rcv.up - (t.rcv.irs + 1)
    store8_release(cython.address(r.seen), seen_of(v, t))  # after rx_head: who sees the end has seen the last byte
    r.mss = t.snd.mss
    r.peer_window = t.snd.wnd
    r.cwnd = t.cc.cwnd
    store8_release(cython.address(r.state), state)
    store_release(cython.address(r.generation), t.generation)  # last: now the lines speak of this use of the slot


def put(s: cython.pointer[Stack], number: uint32_t, bits: uint64_t, last: uint32_t) -> uint32_t:
    """Put an entry into a program's event ring, unless the one at `last` - 1 says the same and was not taken yet.

    Returns the position after the entry; 0: there was no room, and the program was told to look at all its sockets.
    """
    ch: cython.pointer[Channel] = cython.address(s.channels[number])
    if ch.memory == cython.NULL or ch.gone:
        return 0
    tail: uint32_t = load_acquire(cython.address(ch.program.events_tail))
    waiting: uint32_t = ch.events_head - tail
    mask: uint32_t = ch.header.entries - 1
    if last and last - 1 - tail < waiting and load_entry(cython.address(ch.events[(last - 1) & mask])) == bits:
        return last
    ch.ring = 1
    if waiting > mask:
        store_release(cython.address(ch.replica.rescan), load32(cython.address(ch.replica.rescan)) + 1)
        return 0
    store_entry(cython.address(ch.events[ch.events_head & mask]), bits)
    ch.events_head += 1
    s.counters.events += 1
    return ch.events_head


def put_event(s: cython.pointer[Stack], number: uint32_t, channel: uint32_t, socket: uint32_t) -> cython.void:
    """Tell program `number` to look at a socket in the memory of `channel`, which has no TCB."""
    put(s, number, entry_bits(cython.cast(uint16_t, channel), NEAT_OP_LOOK, socket), 0)


def put_events(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Tell every program that holds the socket of TCB i to look at it.

    Its lines are written, and a fence lies between.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    number: cython.int
    if v.program == cython.NULL:
        return
    bits: uint64_t = entry_bits(t.channel, NEAT_OP_LOOK, t.socket)
    if only_bit(t.holders, t.channel):
        v.event_at = put(s, t.channel, bits, v.event_at)
        return
    for number in range(MAX_CHANNELS):
        if holds_bit(t.holders, number):
            put(s, number, bits, 0)
