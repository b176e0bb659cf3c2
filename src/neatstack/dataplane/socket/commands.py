"""What programs ask for.

An entry of a command ring says which socket to look at; the socket's own lines say what is wanted. Each field is loaded
once, checked, and the copy used. Looking once too often does no harm.
"""

import cython
from cython.cimports.libc.errno import EADDRNOTAVAIL, ECONNRESET, EINVAL
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.address import (
    Address,
    is_any,
    load_address,
    loopback_beside,
    no_address,
)
from cython.cimports.neatstack.dataplane.channel.atomic import (
    fence,
    load8,
    load16,
    load32,
    load_acquire,
    store8_release,
    store_release,
)
from cython.cimports.neatstack.dataplane.channel.buffers import refresh_rx, refresh_tx
from cython.cimports.neatstack.dataplane.channel.channel import any_bit, clear_bit, holds_bit, set_bit
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_FLAG_FASTOPEN,
    NEAT_FLAG_LEAST_TTL,
    NEAT_FLAG_TAKEN,
    NEAT_FLAG_URGENT,
    NEAT_OP_DETACH,
    NEAT_OP_LOOK,
    NEAT_ROLE_ACCEPT,
    NEAT_ROLE_CONNECT,
    NEAT_ROLE_DATAGRAM,
    NEAT_ROLE_WITHDRAW,
    NEAT_SEEN_RESET,
    NEAT_SHUT_ABORT,
    NEAT_SHUT_READ,
    NEAT_SHUT_WRITE,
    NEAT_STATE_CLOSED,
    SocketProgram,
    SocketReplica,
)
from cython.cimports.neatstack.dataplane.channel.rings import entry_op, load_entry
from cython.cimports.neatstack.dataplane.channel.slot import free_slot
from cython.cimports.neatstack.dataplane.ip.output import is_local, source_for
from cython.cimports.neatstack.dataplane.journal import POINT_COMMAND_TAKEN, POINT_DETACHED, commit, point, touch
from cython.cimports.neatstack.dataplane.socket.accept import post, requeue, taken, unpost
from cython.cimports.neatstack.dataplane.socket.commands import BUDGET, RUN
from cython.cimports.neatstack.dataplane.socket.datagrams import await_binding, leave_unbound, look_at_endpoint
from cython.cimports.neatstack.dataplane.socket.info import tell_info
from cython.cimports.neatstack.dataplane.socket.slots import bind_slot, put_event
from cython.cimports.neatstack.dataplane.stack import (
    DROP_COMMAND,
    MAX_CHANNELS,
    NEWS_GONE,
    NEWS_LINES,
    Channel,
    Post,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp import congestion
from cython.cimports.neatstack.dataplane.tcp.output import output
from cython.cimports.neatstack.dataplane.tcp.state import mark
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    TCB_FIN_QUEUED,
    TCB_LEAST_TTL,
    TCB_READ_SHUT,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.user import (
    abort,
    close,
    connect,
    options_changed,
    received,
    sent,
    shutdown_read,
    shutdown_write,
    unread,
    urge,
)
from cython.cimports.neatstack.dataplane.tcp.window import receive_buffer, set_limit


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def impossible(s: cython.pointer[Stack]) -> cython.void:
    """A channel said what no correct program says."""
    s.counters.drops[cython.cast(cython.int, DROP_COMMAND)] += 1


def run_commands(s: cython.pointer[Stack]) -> cython.void:
    n: uint32_t
    for n in range(s.active_count):
        take_commands(s, s.active[n], BUDGET)


def take_commands(s: cython.pointer[Stack], channel: uint32_t, most: uint32_t) -> cython.void:
    """Take up to `most` entries of a program's command ring."""
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    waiting: uint32_t = load_acquire(cython.address(ch.program.commands_head)) - ch.commands_tail
    if not waiting:
        return
    if waiting > ch.header.entries:
        impossible(s)
        advance(ch, waiting)
        return
    if waiting > most:
        waiting = most
    s.counters.commands += waiting
    while waiting:
        waiting -= take_run(s, channel, waiting)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
@cython.inline
def advance(ch: cython.pointer[Channel], count: uint32_t) -> cython.void:
    ch.commands_tail += count
    store_release(cython.address(ch.replica.commands_tail), ch.commands_tail)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take_run(s: cython.pointer[Stack], channel: uint32_t, waiting: uint32_t) -> uint32_t:
    """Take entries up to the first NEAT_OP_DETACH, or that one alone; how many were taken.

     That sockets shall be looked at is taken first and done then: a program that still finds its last entry in the ring
    does not repeat it, so whoever looks must do so after the entry has gone. A detach is done first and taken then: it
    stands nowhere but in the ring, and must not be lost with this process.
    """
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    run: uint64_t[RUN]
    count: uint32_t = 0
    n: uint32_t
    while count < waiting and count < RUN:
        entry: uint64_t = load_entry(cython.address(ch.commands[(ch.commands_tail + count) & (ch.header.entries - 1)]))
        if entry_op(entry) == NEAT_OP_DETACH:
            if count == 0:
                command(s, channel, entry)
                point(s, POINT_DETACHED)
                advance(ch, 1)
                return 1
            break
        run[count] = entry
        count += 1
    advance(ch, count)
    fence()
    point(s, POINT_COMMAND_TAKEN)
    for n in range(count):
        command(s, channel, run[n])
    return count


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def command(s: cython.pointer[Stack], program: uint32_t, entry: uint64_t) -> cython.void:
    """One entry of the command ring of `program`: see struct neat_entry."""
    channel: uint32_t = cython.cast(uint32_t, entry & 0xFFFF)
    op: uint32_t = entry_op(entry)
    socket: uint32_t = cython.cast(uint32_t, entry >> 32)
    if channel >= MAX_CHANNELS or op > NEAT_OP_DETACH:
        impossible(s)
        return
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    if ch.memory == cython.NULL or socket >= ch.header.sockets:
        impossible(s)
        return
    i: uint32_t = ch.tcb_of[socket]
    if i:
        touch(s, i)
        if not holds_bit(s.tcbs[i].holders, program):
            impossible(s)
        elif op == NEAT_OP_LOOK:
            look(s, i)
        else:
            detach(s, program, i)
    elif ch.endpoint_of[socket]:
        i = ch.endpoint_of[socket]
        if holds_bit(s.udp.ends[i].holders, program):
            look_at_endpoint(s, i)
        elif not s.udp.ends[i].closing:
            impossible(s)
    elif channel != program:
        impossible(s)
    elif op == NEAT_OP_LOOK:
        look_at_slot(s, channel, socket)
    elif ch.posts[socket].listener:
        unpost(s, channel, socket)
    else:
        leave_unbound(s, channel, socket)
        free_slot(ch, socket)
    commit(s)


# ---- a slot without a connection ----


def look_at_slot(s: cython.pointer[Stack], channel: uint32_t, socket: uint32_t) -> cython.void:
    """The program uses a free slot, or asks a posted one back."""
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    p: cython.pointer[Post] = cython.address(ch.posts[socket])
    lines: cython.pointer[SocketProgram] = cython.address(ch.sockets[socket].program)
    generation: uint32_t = load_acquire(cython.address(lines.generation))
    role: uint32_t = load8(cython.address(lines.role))
    if p.listener:
        if role == NEAT_ROLE_WITHDRAW:
            unpost(s, channel, socket)
        elif generation != p.generation:
            impossible(s)
        return
    if role == NEAT_ROLE_WITHDRAW:
        p.generation = generation
        free_slot(ch, socket)
        put_event(s, channel, channel, socket)
        return
    if generation == p.generation:  # what this use of the slot wanted was done, and is over
        return
    leave_unbound(s, channel, socket)
    if role == NEAT_ROLE_CONNECT:
        p.generation = generation
        open_connection(s, channel, socket)
    elif role == NEAT_ROLE_DATAGRAM:
        p.generation = generation
        await_binding(s, channel, socket)
    elif role == NEAT_ROLE_ACCEPT:
        p.generation = generation
        if not post(s, channel, socket, load32(cython.address(lines.listener))):
            impossible(s)
            refuse(s, channel, socket, EINVAL)


# rfc: 9293:MUST-44 MUST-45
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def open_connection(s: cython.pointer[Stack], channel: uint32_t, socket: uint32_t) -> cython.void:
    """connect(): NEAT_ROLE_CONNECT in a free slot."""
    lines: cython.pointer[SocketProgram] = cython.address(s.channels[channel].sockets[socket].program)
    remote_be: Address = load_address(cython.address(lines.remote_be))
    remote_port_be: uint16_t = load16(cython.address(lines.remote_port_be))
    local_be: Address = load_address(cython.address(lines.local_be))
    local_port_be: uint16_t = load16(cython.address(lines.local_port_be))
    if is_any(remote_be):  # Linux: this host
        remote_be = loopback_beside(remote_be)
    if is_any(local_be):
        local_be = source_for(s, remote_be)
    i: cython.int = -EADDRNOTAVAIL
    if is_local(s, local_be):
        i = connect(s, channel, socket, local_be, local_port_be, remote_be, remote_port_be)
    if i <= 0:
        refuse(s, channel, socket, -i)
        return
    bind_slot(s, i, channel, socket)
    set_bit(s.tcbs[i].holders, channel)
    apply_options(s, i)
    v: cython.pointer[View] = cython.address(s.views[i])
    if v.options & NEAT_FLAG_FASTOPEN and not refresh_tx(v, cython.address(s.tcbs[i])):
        impossible(s)
    mark(s, i, NEWS_LINES)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def refuse(s: cython.pointer[Stack], channel: uint32_t, socket: uint32_t, error: uint32_t) -> cython.void:
    """The slot is CLOSED, without a peer, until the program detaches it.

    connect() has failed at once, or the slot was posted for a listener that is not the program's.
    """
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    r: cython.pointer[SocketReplica] = cython.address(ch.sockets[socket].replica)
    r.seen = NEAT_SEEN_RESET
    r.tcp_state = cython.cast(uint8_t, State.CLOSED)
    r.error = error
    r.remote_be = no_address()
    r.remote_port_be = 0
    store8_release(cython.address(r.state), NEAT_STATE_CLOSED)
    store_release(cython.address(r.generation), ch.posts[socket].generation)
    put_event(s, channel, channel, socket)


# ---- a connection ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def apply_options(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Copy the socket options that concern packets, and tell TCP when they have changed."""
    congestion.choose(cython.address(s.tcbs[i]), load8(cython.address(s.views[i].program.congestion)))
    if copy_options(cython.address(s.views[i])):
        options_changed(s, i)


# rfc: 9293:MUST-48 SHLD-21 MUST-49, 3168:5-tos
def copy_options(v: cython.pointer[View]) -> cython.bint:
    """Copy the socket options that concern packets. True: they have changed."""
    flags: uint16_t = load16(cython.address(v.program.flags))
    tos: uint8_t = load8(cython.address(v.program.tos)) & 0xFC  # the last bits are TCP's own (RFC 3168 section 5)
    ttl: uint8_t = load8(cython.address(v.program.ttl))
    limit: uint32_t = load32(cython.address(v.program.receive_buffer))
    limit = receive_buffer(limit, v.rx_size) if limit else v.rx_limit
    pacing: uint32_t = load32(cython.address(v.program.pacing_rate))
    idle: uint16_t = load16(cython.address(v.program.keep_idle_s))
    same: cython.bint = flags == v.options and tos == v.tos and ttl == v.ttl and idle == v.keep_idle_s
    if same and limit == v.rx_limit and pacing == v.pacing_rate:
        return False
    v.options = flags
    v.tos = tos
    v.ttl = ttl
    if limit != v.rx_limit:
        set_limit(v, limit)
    v.pacing_rate = pacing
    v.keep_idle_s = idle
    return True


def look(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """The program has changed its lines of the socket of TCB i."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    p: cython.pointer[SocketProgram] = v.program
    if load_acquire(cython.address(p.generation)) != t.generation:
        impossible(s)
        return
    if v.untaken:
        if load16(cython.address(p.flags)) & NEAT_FLAG_TAKEN:
            taken(s, i)
        elif load8(cython.address(p.role)) == NEAT_ROLE_WITHDRAW:
            withdraw(s, i)
            return
    if t.state != State.CLOSED:
        heed(s, i, t, v, p)
    if cython.unlikely(load32(cython.address(p.info_asked)) != load32(cython.address(v.replica.info_answered))):
        tell_info(s, i)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def heed(
    s: cython.pointer[Stack],
    i: uint32_t,
    t: cython.pointer[Tcb],
    v: cython.pointer[View],
    p: cython.pointer[SocketProgram],
) -> cython.void:
    """Options, cursors, shutdown, in this order."""
    apply_options(s, i)
    rx_tail: uint32_t = v.rx_tail
    if not refresh_rx(v, t):
        impossible(s)
    elif v.rx_tail != rx_tail:
        received(s, i)
    tx_head: uint32_t = v.tx_head
    if not refresh_tx(v, t):
        impossible(s)
    elif v.tx_head != tx_head:
        sent(s, i)
    if cython.unlikely(v.options & (NEAT_FLAG_URGENT | NEAT_FLAG_LEAST_TTL)):
        heed_seldom(s, i, v.options, p)
    shut: uint32_t = load8(cython.address(p.shut))
    if shut:
        look_at_shutdown(s, i, shut)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def heed_seldom(
    s: cython.pointer[Stack], i: uint32_t, options: uint16_t, p: cython.pointer[SocketProgram]
) -> cython.void:
    """Urgent data; IP_MINTTL or IPV6_MINHOPCOUNT, which 0 switches off again."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if options & NEAT_FLAG_URGENT:
        urge(s, i, load32(cython.address(p.tx_urgent)))
    if options & NEAT_FLAG_LEAST_TTL:
        t.least_ttl = load8(cython.address(p.least_ttl))
        t.flags = t.flags | TCB_LEAST_TTL if t.least_ttl else t.flags & ~cython.cast(uint32_t, TCB_LEAST_TTL)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def look_at_shutdown(s: cython.pointer[Stack], i: uint32_t, shut: uint32_t) -> cython.void:
    """shutdown(), or SO_LINGER 0 (NEAT_SHUT_ABORT)."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if shut & NEAT_SHUT_ABORT:
        output(s, i)  # what was sent before may still go, as if there had been time for it
        abort(s, i, ECONNRESET)
        return
    if shut & NEAT_SHUT_READ and not t.flags & TCB_READ_SHUT:
        shutdown_read(s, i)
    if shut & NEAT_SHUT_WRITE and not t.flags & TCB_FIN_QUEUED:
        shutdown_write(s, i)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def withdraw(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """NEAT_ROLE_WITHDRAW came after the slot was given TCB i: somebody else gets that."""
    if s.views[i].waiting:  # it already waits, in this slot
        return
    requeue(s, i)


def detach(s: cython.pointer[Stack], program: uint32_t, i: uint32_t) -> cython.void:
    """A program has closed its last descriptor of the socket of TCB i. What it sent before that still counts."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    if load8(cython.address(v.program.role)) != NEAT_ROLE_WITHDRAW:
        look(s, i)
    clear_bit(t.holders, program)
    v.event_at = 0
    if any_bit(t.holders):
        return
    taken(s, i)
    if t.state == State.CLOSED:
        mark(s, i, NEWS_GONE)
    else:
        if unread(s, i):  # then the peer is reset, but may have what was sent before
            output(s, i)
        close(s, i)
        mark(s, i, NEWS_LINES)
