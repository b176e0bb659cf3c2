"""A new incarnation takes over what the last one has left: see journal.pxd for what that may be.

The stack is mapped, and knows its channels, listeners and grants. Every TCB is checked and gets its place in the
private structures; every slot of every channel is looked at, for a command may have been lost; what the batch in hand
had to tell and to send is told and sent again. All of it may be done twice: an adoption that dies is begun anew by the
next.
"""

import cython
from cython.cimports.libc.errno import ECONNABORTED, ECONNRESET, ENOMEM
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.adopt import ADOPT_ALL, ADOPT_NOTHING, Adoption, Manner, Order
from cython.cimports.neatstack.dataplane.channel.atomic import load32, store_release
from cython.cimports.neatstack.dataplane.channel.channel import any_bit, clear_bit, set_bit
from cython.cimports.neatstack.dataplane.channel.hold import rebuild_holds, restore_hold
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_IN_FLIGHT
from cython.cimports.neatstack.dataplane.channel.slot import free_retired
from cython.cimports.neatstack.dataplane.driver.device import Frame
from cython.cimports.neatstack.dataplane.driver.inbox import kept_frame
from cython.cimports.neatstack.dataplane.ip.input import frame_arrives
from cython.cimports.neatstack.dataplane.journal import checksum_of_tcb, checksum_of_view, commit, copy_tcb, touch
from cython.cimports.neatstack.dataplane.socket.accept import requeue
from cython.cimports.neatstack.dataplane.socket.commands import look
from cython.cimports.neatstack.dataplane.socket.restore import recover_slots, restore_slot, to_be_looked_at
from cython.cimports.neatstack.dataplane.stack import (
    HOLD_BUFFERS,
    MAX_CHANNELS,
    NEWS_ACCEPT,
    NEWS_EVENT,
    NEWS_GONE,
    NEWS_LINES,
    NEWS_OUTPUT,
    UNDO,
    Channel,
    Listener,
    RegionHeader,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp import prr, rtt, table
from cython.cimports.neatstack.dataplane.tcp.listen import listener_numbered
from cython.cimports.neatstack.dataplane.tcp.state import mark
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    NO_CHANNEL,
    RANGES,
    TCB_ACCEPTED,
    TCB_ACK_NOW,
    TCB_DETACHED,
    TCB_FASTOPEN,
    TCB_HELD,
    TCB_LOOPBACK,
    TCB_PASSIVE,
    TCB_RECOVERY,
    TCB_RESET_OWED,
    TCB_RETRANSMIT,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.user import abort, received

LAST_STATE = cython.declare(uint8_t, State.CLOSING)
LISTENS = cython.declare(uint8_t, State.LISTEN)


def adopt(s: cython.pointer[Stack], manner: Manner, result: cython.pointer[Adoption]) -> cython.int:
    """Take over, in this manner. 0, or -ENOMEM."""
    memory: cython.p_void = calloc(s.tcbs_used + HOLD_BUFFERS // 4, cython.sizeof(uint32_t))
    todo: cython.pointer[uint32_t] = cython.cast(cython.pointer[uint32_t], memory)
    holds: cython.pointer[uint8_t] = cython.cast(cython.pointer[uint8_t], todo + s.tcbs_used)
    count: uint32_t = 0
    in_hand: uint32_t = undo(s)
    none: cython.bint = manner == ADOPT_NOTHING
    i: uint32_t
    if memory == cython.NULL:
        return -ENOMEM
    memset(result, 0, cython.sizeof(Adoption))
    set_bit(s.live, NEAT_IN_FLIGHT)  # the manager says it of each socket that is not any more
    if manner == ADOPT_ALL:
        in_hand = 0  # nothing was wrong with it
    elif s.region.inbox.done < s.region.inbox.count:
        s.region.inbox.done += 1  # the frame that it broke on
    for i in range(1, s.tcbs_used):
        if take_over(s, i, holds, result) and attention(s, i, none or i == in_hand):
            todo[count] = i
            count += 1
    rebuild_holds(s, holds)
    free_retired(s)
    for i in range(s.active_count):
        recover_slots(s, s.active[i])
    for i in range(count):
        settle(s, todo[i], none or todo[i] == in_hand, result)
        commit(s)
    clear_bit(s.live, NEAT_IN_FLIGHT)
    free(memory)
    again(s)
    return 0


def adopt_as(order: cython.p_void) -> cython.void:
    t: cython.pointer[Order] = cython.cast(cython.pointer[Order], order)
    t.failed = adopt(t.s, t.manner, cython.address(t.result))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def undo(s: cython.pointer[Stack]) -> uint32_t:
    """Undo the change that was not committed; the TCB that was in hand, 0: none."""
    header: cython.pointer[RegionHeader] = s.region
    i: uint32_t = header.undo_index
    if not header.undo_valid:
        return 0
    if header.undo_valid != UNDO ^ i or not 0 < i < s.tcbs_used:
        header.undo_valid = 0  # damaged at rest: nothing was being changed
        return 0
    copy_tcb(cython.address(s.tcbs[i]), cython.address(header.undo))
    s.tcbs[i].stamp = header.batch
    header.retired_count = 0
    header.undo_valid = 0
    return i


# ---- one TCB ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def sound(t: cython.pointer[cython.const[Tcb]]) -> cython.bint:
    """Whether a TCB is one that was committed, and can be."""
    return (
        t.checksum == checksum_of_tcb(t)
        and t.state <= LAST_STATE
        and t.state != LISTENS
        and t.rcv.ranges <= RANGES
        and cython.cast(int32_t, t.snd.max - t.snd.una) >= 0
        and cython.cast(int32_t, t.snd.max - t.snd.nxt) >= 0
        and (t.channel == NO_CHANNEL or t.channel < MAX_CHANNELS)
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def take_over(
    s: cython.pointer[Stack], i: uint32_t, holds: cython.pointer[uint8_t], result: cython.pointer[Adoption]
) -> cython.bint:
    """Give TCB i its places in the private structures. False: there is no connection there (any more)."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    if t.state == State.FREE:
        table.give_back(s, i)
        return False
    if not sound(t) or (t.flags & TCB_HELD and not restore_hold(s, i, holds)):
        memset(t, 0, cython.sizeof(Tcb))
        memset(cython.address(s.views[i]), 0, cython.sizeof(View))
        table.give_back(s, i)
        result.lost += 1
        return False
    if t.channel != NO_CHANNEL and not t.flags & TCB_HELD:
        restore_slot(s, i)
    s.views[i].checksum = checksum_of_view(cython.address(s.views[i]))
    table.restore(s, i)
    count_in(s, t)
    if t.state != State.CLOSED:
        result.kept += 1
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def count_in(s: cython.pointer[Stack], t: cython.pointer[cython.const[Tcb]]) -> cython.void:
    """Count the connection in its listener's queues, which are told anew."""
    listener: cython.pointer[Listener]
    if not t.flags & TCB_PASSIVE:
        return
    if t.state == State.SYN_RECEIVED:
        s.half_open += 1
    listener = listener_numbered(s, t.listener)
    if listener == cython.NULL:
        return
    if t.state == State.SYN_RECEIVED and t.flags & TCB_FASTOPEN:
        listener.fast_pending += 1
    if t.flags & TCB_ACCEPTED:
        return
    if t.state == State.SYN_RECEIVED and not t.flags & TCB_FASTOPEN:
        listener.half_open += 1
    else:
        listener.waiting += 1


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def unfinished(s: cython.pointer[Stack], t: cython.pointer[cython.const[Tcb]]) -> cython.bint:
    """Whether the batch in hand has changed the TCB, so that what it had to tell and to send may be lost.

    What one end of a connection to ourselves has sent to the other is lost in any case.
    """
    return cython.cast(int32_t, t.stamp - s.region.batch) >= 0 or t.flags & TCB_LOOPBACK


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def orphaned(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    """The memory of its rings is gone, or a program that holds it."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    n: cython.int
    if t.channel != NO_CHANNEL and not t.flags & TCB_HELD and s.views[i].program == cython.NULL:
        return True
    for n in range(4):
        if t.holders[n] & ~s.live[n]:
            return True
    return False


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def unclaimed(t: cython.pointer[cython.const[Tcb]]) -> cython.bint:
    """Accepted by a listener, and given to no program."""
    return (
        t.flags & (TCB_PASSIVE | TCB_ACCEPTED) == TCB_PASSIVE
        and (t.state != State.SYN_RECEIVED or t.flags & TCB_FASTOPEN)
        and not any_bit(t.holders)
        and not t.flags & TCB_DETACHED
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def attention(s: cython.pointer[Stack], i: uint32_t, doomed: cython.bint) -> cython.bint:
    """Whether settle() has something to do for TCB i."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    return (
        doomed
        or t.state == State.CLOSED
        or unfinished(s, t)
        or orphaned(s, i)
        or unclaimed(t)
        or (t.flags & (TCB_PASSIVE | TCB_ACCEPTED) == TCB_PASSIVE and listener_numbered(s, t.listener) == cython.NULL)
        or to_be_looked_at(s, i)
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def settle(s: cython.pointer[Stack], i: uint32_t, doomed: cython.bint, result: cython.pointer[Adoption]) -> cython.void:
    """Bring a connection to where it is in order, and have it told and sent again."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    was_open: cython.bint = t.state != State.CLOSED
    touch(s, i)
    if orphaned(s, i):
        leave_dead(s, i)
    if doomed:
        abort(s, i, ECONNRESET)
    elif t.flags & (TCB_PASSIVE | TCB_ACCEPTED) == TCB_PASSIVE and listener_numbered(s, t.listener) == cython.NULL:
        abort(s, i, ECONNABORTED)
    if was_open and t.state == State.CLOSED:
        result.kept -= 1
        result.lost += 1
    elif unclaimed(t) and not doomed:
        if s.views[i].program != cython.NULL:
            requeue(s, i)  # it waits in a slot
        else:
            mark(s, i, NEWS_ACCEPT)
    elif s.views[i].program != cython.NULL and to_be_looked_at(s, i):
        look(s, i)
        received(s, i)
    if t.state == State.CLOSED:
        mark(s, i, NEWS_LINES | NEWS_EVENT | NEWS_GONE | (NEWS_OUTPUT if t.flags & TCB_RESET_OWED else 0))
    elif unfinished(s, t):
        go_back(s, i)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def leave_dead(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Programs that held the connection have died meanwhile, or the memory of its rings is gone."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    n: cython.int
    for n in range(4):
        t.holders[n] &= s.live[n]
    if t.channel != NO_CHANNEL and not t.flags & TCB_HELD and v.program == cython.NULL:
        t.channel = NO_CHANNEL
        t.socket = 0
        memset(t.holders, 0, cython.sizeof(t.holders))
        abort(s, i, ECONNRESET)
    elif not any_bit(t.holders) and not t.flags & TCB_DETACHED:
        if v.untaken:
            requeue(s, i)
        else:
            abort(s, i, ECONNRESET)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def go_back(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Send again from snd.una, as after a timeout but without its consequences for the congestion window."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    rtt.stop_timing(t)
    if t.state == State.SYN_SENT or t.state == State.SYN_RECEIVED:
        t.snd.nxt = t.snd.iss
    else:
        t.flags |= TCB_ACK_NOW
        if t.snd.una != t.snd.max:
            t.snd.nxt = t.snd.una
            prr.leave(t)
            t.cc.recover = t.snd.max
            t.cc.dupacks = 0
            t.flags &= ~cython.cast(uint32_t, TCB_RECOVERY | TCB_RETRANSMIT)
    mark(s, i, NEWS_LINES | NEWS_EVENT | NEWS_OUTPUT)


# ---- what concerns all ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def again(s: cython.pointer[Stack]) -> cython.void:
    """Let every program look at all its sockets, and take the frames again whose change was not committed."""
    n: uint32_t
    frame: Frame
    for n in range(s.active_count):
        ch: cython.pointer[Channel] = cython.address(s.channels[s.active[n]])
        store_release(cython.address(ch.replica.rescan), load32(cython.address(ch.replica.rescan)) + 1)
        ch.ring = 1
    n = s.region.inbox.done
    while kept_frame(cython.address(s.region.inbox), s.frames, n, cython.address(frame)):
        frame_arrives(s, cython.address(frame))
        commit(s)
        n += 1
        s.region.inbox.done = n
