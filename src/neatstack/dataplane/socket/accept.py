"""Which program gets a connection that a listener has accepted.

A program that wants connections posts free slots. A connection goes to a program that sleeps, else to the one with the
fewest connections not yet taken, in turn among equals; one connection wakes one program. When no slot is posted it
waits: in a hold buffer of the region, or, when more data than that has come, in the slot that it was in. One that ends
meanwhile waits on, with what it has received: accept() returns it, and it fails then, as on Linux.
"""

import cython
from cython.cimports.libc.errno import ECONNABORTED, ENOMEM
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.neatstack.dataplane.channel.atomic import load32, store8_release, store_release, trailing_zeros
from cython.cimports.neatstack.dataplane.channel.channel import clear_bit, holds_bit, rx_ring, set_bit
from cython.cimports.neatstack.dataplane.channel.hold import (
    can_hold,
    checksum_of_hold,
    hold,
    release_hold,
    waiting_bytes,
)
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_STATE_POSTED, SocketReplica
from cython.cimports.neatstack.dataplane.channel.slot import free_slot
from cython.cimports.neatstack.dataplane.journal import broken, touch
from cython.cimports.neatstack.dataplane.socket.slots import bind_slot, put_event, unbind_slot
from cython.cimports.neatstack.dataplane.stack import (
    HOLD_SIZE,
    MAX_CHANNELS,
    MAX_LISTENERS,
    NEWS_EVENT,
    NEWS_GONE,
    NEWS_LINES,
    AcceptQueue,
    Channel,
    Listener,
    Post,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp.listen import listener_numbered
from cython.cimports.neatstack.dataplane.tcp.state import mark
from cython.cimports.neatstack.dataplane.tcp.tcb import NO_CHANNEL, TCB_ACCEPTED, TCB_HELD, TCB_PASSIVE, State, Tcb
from cython.cimports.neatstack.dataplane.tcp.user import abort, accepted, received


def init_queues(s: cython.pointer[Stack]) -> cython.int:
    s.queues = cython.cast(cython.pointer[AcceptQueue], calloc(MAX_LISTENERS, cython.sizeof(AcceptQueue)))
    return 0 if s.queues != cython.NULL else -ENOMEM


def destroy_queues(s: cython.pointer[Stack]) -> cython.void:
    free(s.queues)
    s.queues = cython.NULL


# ---- connections that wait ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def queue_of(s: cython.pointer[Stack], i: uint32_t) -> cython.pointer[AcceptQueue]:
    """The queue of the listener of TCB i; NULL: the listener is gone."""
    entry: cython.pointer[Listener] = listener_numbered(s, s.tcbs[i].listener)
    if entry == cython.NULL:
        return cython.NULL
    return cython.address(s.queues[entry - s.listeners])


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def enter_queue(s: cython.pointer[Stack], q: cython.pointer[AcceptQueue], i: uint32_t) -> cython.void:
    v: cython.pointer[View] = cython.address(s.views[i])
    v.waiting = 1
    v.next_in_list = 0
    v.prev_in_list = q.last
    if q.last:
        s.views[q.last].next_in_list = i
    else:
        q.first = i
    q.last = i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def leave_queue(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """TCB i waits no more, if it did."""
    v: cython.pointer[View] = cython.address(s.views[i])
    if not v.waiting:
        return
    v.waiting = 0
    q: cython.pointer[AcceptQueue] = queue_of(s, i)
    if q == cython.NULL:
        return
    if v.prev_in_list:
        s.views[v.prev_in_list].next_in_list = v.next_in_list
    else:
        q.first = v.next_in_list
    if v.next_in_list:
        s.views[v.next_in_list].prev_in_list = v.prev_in_list
    else:
        q.last = v.prev_in_list


def empty_queue(s: cython.pointer[Stack], index: uint32_t) -> cython.void:
    """The listener at `index` ends: nothing waits there, and its posted slots are free."""
    q: cython.pointer[AcceptQueue] = cython.address(s.queues[index])
    i: uint32_t = q.first
    channel: cython.int
    while i:
        s.views[i].waiting = 0
        i = s.views[i].next_in_list
    for channel in range(MAX_CHANNELS):
        if holds_bit(q.ready, channel):
            unpost_all(s, channel, index)
    memset(q, 0, cython.sizeof(AcceptQueue))


# ---- slots that wait ----


def post(s: cython.pointer[Stack], channel: uint32_t, socket: uint32_t, listener: uint32_t) -> cython.bint:
    """A program offers a slot. False: it may not accept connections of that listener."""
    entry: cython.pointer[Listener] = listener_numbered(s, listener)
    if entry == cython.NULL or not holds_bit(entry.channels, channel):
        return False
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    q: cython.pointer[AcceptQueue] = cython.address(s.queues[entry - s.listeners])
    p: cython.pointer[Post] = cython.address(ch.posts[socket])
    p.listener = cython.cast(uint16_t, entry - s.listeners + 1)
    p.prev = 0
    p.next = q.posted[channel]
    if p.next:
        ch.posts[p.next - 1].prev = socket + 1
    else:
        set_bit(q.ready, channel)
    q.posted[channel] = socket + 1
    r: cython.pointer[SocketReplica] = cython.address(ch.sockets[socket].replica)
    r.seen = 0
    r.error = 0
    r.listener = listener
    store8_release(cython.address(r.state), NEAT_STATE_POSTED)
    store_release(cython.address(r.generation), p.generation)
    if q.first:
        give(s, q, q.first, channel)
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def unlink(s: cython.pointer[Stack], channel: uint32_t, socket: uint32_t) -> cython.void:
    """Take a posted slot out of the list of its listener."""
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    p: cython.pointer[Post] = cython.address(ch.posts[socket])
    q: cython.pointer[AcceptQueue] = cython.address(s.queues[p.listener - 1])
    p.listener = 0
    if p.prev:
        ch.posts[p.prev - 1].next = p.next
    else:
        q.posted[channel] = p.next
        if not p.next:
            clear_bit(q.ready, channel)
    if p.next:
        ch.posts[p.next - 1].prev = p.prev


def unpost(s: cython.pointer[Stack], channel: uint32_t, socket: uint32_t) -> cython.void:
    """A posted slot is free again."""
    unlink(s, channel, socket)
    free_slot(cython.address(s.channels[channel]), socket)
    put_event(s, channel, channel, socket)


def unpost_all(s: cython.pointer[Stack], channel: uint32_t, index: uint32_t) -> cython.void:
    """The slots that a program has posted for the listener at `index` are free again."""
    q: cython.pointer[AcceptQueue] = cython.address(s.queues[index])
    while q.posted[channel]:
        unpost(s, channel, q.posted[channel] - 1)


# ---- bringing the two together ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def choose(s: cython.pointer[Stack], q: cython.pointer[AcceptQueue], avoid: uint32_t) -> cython.int:
    """Who shall have the next connection, `avoid` only if there is no other; -1: nobody has posted a slot."""
    best: cython.int = -1
    least: uint64_t = 0
    n: cython.int
    for n in range(4):
        left: uint64_t = q.ready[n]
        while left:
            channel: uint32_t = n * 64 + trailing_zeros(left)
            left &= left - 1
            ch: cython.pointer[Channel] = cython.address(s.channels[channel])
            # A program that was given a connection is being woken, whatever its sleep_seq still says.
            awake: uint64_t = 0 if not ch.untaken and load32(cython.address(ch.program.sleep_seq)) & 1 else 1
            turn: uint64_t = (channel - q.turn - 1) & (MAX_CHANNELS - 1)
            cost: uint64_t = awake << 40 | cython.cast(uint64_t, ch.untaken) << 8 | turn
            if channel == avoid:
                cost |= cython.cast(uint64_t, 1) << 41
            if best < 0 or cost < least:
                best = channel
                least = cost
    return best


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def move_data(s: cython.pointer[Stack], i: uint32_t, ring: cython.pointer[uint8_t]) -> cython.void:
    """Copy what waits for TCB i, in and out of order, to the start of another ring, which is large enough."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    length: uint32_t = waiting_bytes(s, i)
    if length:
        offset: uint32_t = (0 - t.rcv.base) & (v.rx_size - 1)
        first: uint32_t = v.rx_size - offset
        if length <= first:
            memcpy(ring, v.rx + offset, length)
        else:
            memcpy(ring, v.rx + offset, first)
            memcpy(ring + first, v.rx, length - first)
    t.rcv.base = 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def leave_slot(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Take TCB i from the program that has not taken it, and tell that program that its slot is free."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    channel: uint32_t = t.channel
    socket: uint32_t = t.socket
    if s.views[i].program == cython.NULL:
        return
    unbind_slot(s, i)
    put_event(s, channel, channel, socket)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fits_together(
    s: cython.pointer[Stack], q: cython.pointer[AcceptQueue], i: uint32_t, channel: uint32_t, socket: uint32_t
) -> cython.bint:
    """Whether TCB i and the slot are both what the queue says: a connection must not get into somebody else's hands."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    return (
        0 < i < s.tcbs_used
        and t.flags & (TCB_PASSIVE | TCB_ACCEPTED) == TCB_PASSIVE
        and socket < ch.header.sockets
        and ch.posts[socket].listener == q - s.queues + 1
        and not ch.tcb_of[socket]
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def give(s: cython.pointer[Stack], q: cython.pointer[AcceptQueue], i: uint32_t, channel: uint32_t) -> cython.void:
    """Put TCB i, which is new, waits, or is in a slot that is asked back, into the slot that `channel` posted last."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    socket: uint32_t = q.posted[channel] - 1
    if not fits_together(s, q, i, channel, socket):
        broken(s, "accept queue")
    touch(s, i)
    if t.flags & TCB_HELD and waiting_bytes(s, i) and t.held != checksum_of_hold(s, i):
        give_up(s, i)
        return
    if waiting_bytes(s, i) > ch.header.rx_size:
        give_up(s, i)
        return
    leave_queue(s, i)
    unlink(s, channel, socket)
    move_data(s, i, rx_ring(ch, socket))
    release_hold(s, i)
    leave_slot(s, i)
    bind_slot(s, i, channel, socket)
    memset(t.holders, 0, cython.sizeof(t.holders))
    set_bit(t.holders, channel)
    ch.untaken += 1
    s.views[i].untaken = 1
    q.turn = channel
    mark(s, i, NEWS_LINES | NEWS_EVENT)
    if t.rcv.adv - t.rcv.nxt < 2 * cython.cast(uint32_t, t.rcv.mss) and t.state != State.CLOSED:
        received(s, i)  # the ring is larger than the buffer that has limited the peer


def give_up(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """No program will get TCB i, which may have ended before."""
    leave_queue(s, i)
    abort(s, i, ECONNABORTED)
    mark(s, i, NEWS_GONE)


def arrived(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """TCB i has just become ESTABLISHED: it goes to a program, or waits behind those that wait."""
    q: cython.pointer[AcceptQueue] = queue_of(s, i)
    if q == cython.NULL:
        give_up(s, i)
        return
    channel: cython.int = -1 if q.first else choose(s, q, NO_CHANNEL)
    if channel >= 0:
        give(s, q, i, channel)
    else:
        enter_queue(s, q, i)


def taken(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """accept() has returned TCB i, perhaps after its end."""
    forget_untaken(s, i)
    accepted(s, i)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def forget_untaken(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """The program that TCB i was given to has taken it, or will not."""
    if s.views[i].untaken:
        s.views[i].untaken = 0
        s.channels[s.tcbs[i].channel].untaken -= 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def park(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Move TCB i, which waits, from its slot to a hold buffer, if one is left and takes what has come.

    Else it waits in the slot, whose program has to do without it for that time.
    """
    kept: uint8_t[HOLD_SIZE]
    length: uint32_t = waiting_bytes(s, i)
    if length > HOLD_SIZE or not can_hold(s):
        return
    move_data(s, i, kept)
    leave_slot(s, i)
    hold(s, i)
    memcpy(s.views[i].rx, kept, length)
    s.tcbs[i].held = checksum_of_hold(s, i)


def requeue(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """The program that TCB i was given to does not want it, or is dead: another gets it, or it waits.

    A connection that the program has already read or written cannot begin anew elsewhere, and is reset.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    q: cython.pointer[AcceptQueue] = queue_of(s, i)
    touch(s, i)
    forget_untaken(s, i)
    memset(t.holders, 0, cython.sizeof(t.holders))
    if q == cython.NULL or s.views[i].rx_tail or s.views[i].tx_head:
        give_up(s, i)
        return
    channel: cython.int = choose(s, q, t.channel)
    if channel >= 0:
        give(s, q, i, channel)
    else:
        enter_queue(s, q, i)
        park(s, i)
