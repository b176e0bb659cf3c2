"""What the layer above asks of a connection (RFC 9293 sections 3.10.1 to 3.10.6)."""

import cython
from cython.cimports.libc.errno import EADDRNOTAVAIL, EINVAL, ENETUNREACH, ENOBUFS
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.neatstack.dataplane.channel.address import Address, is_loopback, is_v4
from cython.cimports.neatstack.dataplane.channel.atomic import load8
from cython.cimports.neatstack.dataplane.channel.buffers import refresh_rx, rx_head, tx_tail
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_FLAG_QUICKACK, NEAT_NO_FIN_WAIT
from cython.cimports.neatstack.dataplane.ip.output import is_local, routable
from cython.cimports.neatstack.dataplane.journal import touch
from cython.cimports.neatstack.dataplane.stack import NEWS_OUTPUT, Listener, Stack, View
from cython.cimports.neatstack.dataplane.tcp import ports, rtt, table
from cython.cimports.neatstack.dataplane.tcp.handshake import our_mss
from cython.cimports.neatstack.dataplane.tcp.isn import beyond, initial_sequence, timestamp_offset, used_up
from cython.cimports.neatstack.dataplane.tcp.listen import listener_numbered
from cython.cimports.neatstack.dataplane.tcp.state import become, end, mark
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    TCB_ACCEPTED,
    TCB_ACK_DELAYED,
    TCB_ACK_NOW,
    TCB_DETACHED,
    TCB_FIN_QUEUED,
    TCB_FIN_RECEIVED,
    TCB_LOOPBACK,
    TCB_PASSIVE,
    TCB_READ_SHUT,
    TCB_RESET_OWED,
    TCB_TIMESTAMPS,
    TCB_URGENT_OUT,
    TIMER_TIME_WAIT,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timeouts import keepalive_start
from cython.cimports.neatstack.dataplane.tcp.timers import SECOND, set_timer
from cython.cimports.neatstack.dataplane.tcp.window import tune, update_due

FIN_WAIT_2_SECONDS = cython.declare(uint32_t, 60)  # Linux: tcp_fin_timeout


# ---- 3.10.1 OPEN ----


# rfc: 9293:MUST-43 MUST-46
def connect(
    s: cython.pointer[Stack],
    channel: uint32_t,
    socket: uint32_t,
    local_be: Address,
    local_port_be: uint16_t,
    remote_be: Address,
    remote_port_be: uint16_t,
) -> cython.int:
    """Active open, for a socket of a channel. The index of the TCB, in SYN-SENT; the SYN leaves with this batch.

    -EADDRNOTAVAIL: the local address is not ours or of the other family, or the flow is in use (TIME-WAIT with
    timestamps is not, from a port that the program has chosen), or not steered here, or no port is left;
    -EINVAL: from a loopback address to elsewhere; -ENETUNREACH: no way there; -ENOBUFS: no TCB is left.
    """
    i: uint32_t
    used: uint32_t = 0
    if not is_local(s, local_be) or is_v4(local_be) != is_v4(remote_be):
        return -EADDRNOTAVAIL
    if is_loopback(local_be) and not is_local(s, remote_be):
        return -EINVAL
    if not routable(s, remote_be):
        return -ENETUNREACH
    if local_port_be == 0:
        local_port_be = ports.choose(s, local_be, remote_be, remote_port_be)
        if local_port_be == 0:
            return -EADDRNOTAVAIL
    else:
        used = end_time_wait(s, local_be, local_port_be, remote_be, remote_port_be)
        if not ports.usable(s, local_be, local_port_be, remote_be, remote_port_be):
            return -EADDRNOTAVAIL  # as Linux: EADDRINUSE is bind()'s
    i = table.allocate(s)
    if not i:
        return -ENOBUFS
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    t.local_be = local_be
    t.remote_be = remote_be
    t.local_port_be = local_port_be
    t.remote_port_be = remote_port_be
    t.channel = cython.cast(uint16_t, channel)
    t.socket = socket
    t.flags = TCB_LOOPBACK if is_local(s, remote_be) else 0
    t.last_received = s.now
    t.snd.iss = beyond(used, initial_sequence(s, local_be, local_port_be, remote_be, remote_port_be))
    t.stamps.offset = timestamp_offset(s, local_be, local_port_be, remote_be, remote_port_be)
    t.snd.una = t.snd.nxt = t.snd.max = t.snd.small = t.cc.recover = t.snd.iss
    t.rcv.mss = our_mss(s, t.flags & TCB_LOOPBACK, remote_be)
    rtt.start(t)
    table.insert(s, i)
    become(s, i, State.SYN_SENT)
    mark(s, i, NEWS_OUTPUT)
    return i


# rfc: 9293:MAY-2, 6191:2e
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def end_time_wait(
    s: cython.pointer[Stack], local_be: Address, local_port_be: uint16_t, remote_be: Address, remote_port_be: uint16_t
) -> uint32_t:
    """A program opens the flow again that it has closed: as Linux, where timestamps tell old segments from new ones.

    The first sequence number that is beyond the old connection's; 0: there was none to end.
    """
    i: uint32_t = table.find(s, local_be, local_port_be, remote_be, remote_port_be)
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if not i or t.state != State.TIME_WAIT or not t.flags & TCB_TIMESTAMPS:
        return 0
    touch(s, i)
    end(s, i, 0)
    return used_up(t)


def accepted(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """accept() has returned the connection: it no longer counts for the listener's backlog."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    listener: cython.pointer[Listener]
    if t.flags & (TCB_PASSIVE | TCB_ACCEPTED) != TCB_PASSIVE:
        return
    t.flags |= TCB_ACCEPTED
    listener = listener_numbered(s, t.listener)
    if listener != cython.NULL:
        listener.waiting -= 1


# ---- 3.10.2 SEND, 3.10.3 RECEIVE ----


def sent(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """The send ring has grown."""
    mark(s, i, NEWS_OUTPUT)


def received(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """The program has read (or there is a larger ring): perhaps the peer should hear of the room."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    if t.state == State.SYN_SENT or t.flags & TCB_FIN_RECEIVED:
        return
    tune(v, t, s.now)
    if update_due(v, t):
        t.flags |= TCB_ACK_NOW
        mark(s, i, NEWS_OUTPUT)


def options_changed(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """TCP_NODELAY or TCP_CORK may let something go; keepalive starts or stops; SO_RCVBUF may have opened the window."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    keepalive_start(s, i)
    if s.views[i].options & NEAT_FLAG_QUICKACK and t.flags & TCB_ACK_DELAYED:
        t.flags |= TCB_ACK_NOW
    mark(s, i, NEWS_OUTPUT)


def urge(s: cython.pointer[Stack], i: uint32_t, end: uint32_t) -> cython.void:
    """SEND with the URGENT flag (3.10.2): urgent data ends before send cursor `end`, which may be acknowledged."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    tail: uint32_t = tx_tail(v, t)
    if 0 < end - tail <= v.tx_head - tail and t.snd.up != t.snd.iss + 1 + end:
        t.snd.up = t.snd.iss + 1 + end
        t.flags |= TCB_URGENT_OUT
        mark(s, i, NEWS_OUTPUT)


# ---- 3.10.4 CLOSE ----


def shutdown_read(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """The user waits for no more data. As on Linux it may read what comes, until it has no more to send either."""
    s.tcbs[i].flags |= TCB_READ_SHUT


def shutdown_write(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """The user has no more data to send: a FIN follows the last byte of the send ring."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if t.flags & TCB_FIN_QUEUED or t.state == State.CLOSED:
        return
    t.flags |= TCB_FIN_QUEUED
    t.snd.fin = t.snd.iss + 1 + s.views[i].tx_head
    if t.state == State.ESTABLISHED:
        become(s, i, State.FIN_WAIT_1)
    elif t.state == State.CLOSE_WAIT:
        become(s, i, State.LAST_ACK)
    mark(s, i, NEWS_OUTPUT)  # before ESTABLISHED: established() goes on


# rfc: 9293:SHLD-3 MAY-1
def close(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """No program holds the connection any more."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    t.flags |= TCB_DETACHED
    if s.views[i].program != cython.NULL:
        t.fin_wait_s = load8(cython.address(s.views[i].program.fin_wait_s))
    if t.state == State.CLOSED:
        return
    if t.state == State.SYN_SENT:
        end(s, i, 0)
        return
    if unread(s, i):  # RFC 2525 section 2.17: the peer must not think that it was read
        abort(s, i, 0)
        return
    shutdown_write(s, i)
    if t.state == State.FIN_WAIT_2:
        fin_wait_2_limit(s, i)


def unread(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    """Whether data has been acknowledged that no program has read."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    if not v.rx_size or t.state == State.TIME_WAIT:
        return False
    refresh_rx(v, t)
    return rx_head(t) != v.rx_tail


def fin_wait_2_limit(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """A peer may keep its side open for ever; when nobody listens here any more, we do not.

    Not at all with a negative TCP_LINGER2, as Linux.
    """
    seconds: uint32_t = s.tcbs[i].fin_wait_s
    if seconds == NEAT_NO_FIN_WAIT:
        abort(s, i, 0)
        return
    set_timer(s, i, TIMER_TIME_WAIT, s.now + (seconds if seconds else FIN_WAIT_2_SECONDS) * SECOND)


# ---- 3.10.5 ABORT ----


def abort(s: cython.pointer[Stack], i: uint32_t, error: cython.int) -> cython.void:
    """End the connection now; the peer hears it by RST, where RFC 9293 section 3.10.5 wants one.

    `error`: for the program.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    state: uint8_t = t.state
    if state == State.CLOSED or state == State.FREE:
        return
    s.counters.connections_reset += 1
    touch(s, i)
    end(s, i, error)
    if state == State.SYN_SENT or state == State.TIME_WAIT:
        return
    t.flags |= TCB_RESET_OWED
    mark(s, i, NEWS_OUTPUT)
