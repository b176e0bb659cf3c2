"""What programs are told, once for a batch: sockets' lines, then (after one fence) entries of the event rings.

All of it is derived from TCBs that are committed, and may be done again without harm.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t
from cython.cimports.neatstack.dataplane.channel.atomic import fence, load32, store_release
from cython.cimports.neatstack.dataplane.channel.buffers import tx_sent, tx_tail
from cython.cimports.neatstack.dataplane.channel.channel import any_bit
from cython.cimports.neatstack.dataplane.channel.hold import release_hold
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_FLAG_SEND_BUFFER, NEAT_FLAG_UNSENT_MOST
from cython.cimports.neatstack.dataplane.journal import POINT_EVENT, POINT_LINES, POINT_PUBLISHED, commit, point, touch
from cython.cimports.neatstack.dataplane.socket.accept import arrived
from cython.cimports.neatstack.dataplane.socket.datagrams import tell_datagrams
from cython.cimports.neatstack.dataplane.socket.slots import put_events, unbind_slot, write_lines
from cython.cimports.neatstack.dataplane.stack import (
    NEWS_ACCEPT,
    NEWS_EVENT,
    NEWS_GONE,
    NEWS_OUTPUT,
    Channel,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp.send_buffer import send_most
from cython.cimports.neatstack.dataplane.tcp.seq import least
from cython.cimports.neatstack.dataplane.tcp.table import release
from cython.cimports.neatstack.dataplane.tcp.tcb import TCB_DETACHED, TCB_RESET_OWED, State, Tcb


def welcome(s: cython.pointer[Stack], k: uint32_t) -> cython.void:
    """Give what was established since there were `k` dirty TCBs to programs, before its text comes.

    A program's ring takes all that the SYN-ACK has offered, a hold buffer does not.
    """
    n: uint32_t
    for n in range(k, s.dirty_count):
        i: uint32_t = s.dirty[n]
        if s.views[i].news & NEWS_ACCEPT:
            hand_over(s, i)
            s.views[i].news &= cython.cast(uint8_t, ~NEWS_ACCEPT)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def hand_over(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    touch(s, i)
    arrived(s, i)
    commit(s)


def publish(s: cython.pointer[Stack]) -> cython.void:
    """Tell the programs all that the dirty TCBs have to tell, and take those off the list that need nothing more."""
    count: uint32_t = s.dirty_count
    kept: uint32_t = 0
    k: uint32_t
    for k in range(count):
        i: uint32_t = s.dirty[k]
        if s.views[i].news & NEWS_ACCEPT:
            hand_over(s, i)
        write_lines(s, i)
        point(s, POINT_LINES)
    fence()  # who finds no entry in its ring has seen these lines
    for k in range(count):
        j: uint32_t = s.dirty[k]
        tell(s, j)
        if s.views[j].news:
            s.dirty[kept] = j
            kept += 1
        else:
            s.views[j].dirty = 0
    for k in range(count, s.dirty_count):  # marked meanwhile
        s.dirty[kept] = s.dirty[k]
        kept += 1
    s.dirty_count = kept
    if s.udp.told:
        tell_datagrams(s)
    point(s, POINT_EVENT)
    publish_heads(s)
    point(s, POINT_PUBLISHED)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def became_enough(v: cython.pointer[View], before: uint32_t, now: uint32_t) -> cython.bint:
    """Whether so many bytes in the send ring were too many for more, and are not any longer."""
    limit: uint32_t = send_most(v)
    if v.options & NEAT_FLAG_SEND_BUFFER:
        limit = least(v.tx_size, load32(cython.address(v.program.send_buffer)))
    enough: uint32_t = limit - limit // 3
    known: uint32_t = least(v.tx_enough, enough)  # it may have grown since the program began to wait
    v.tx_enough = enough
    return before > known and now <= enough


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def made_room(v: cython.pointer[View], t: cython.pointer[Tcb]) -> cython.bint:
    """Whether the program may wait for room in its send ring, and now has it: a third of it, as Linux wants it.

    Asked after the new tail was published and a fence: a program that has seen the old tail, and waits, has written its
    head before. So the head is loaded anew, for our copy may be older.
    """
    if v.program == cython.NULL:
        return False
    tail: uint32_t = tx_tail(v, t)
    told: uint32_t = v.tx_told
    if tail == told:
        return False
    v.tx_told = tail
    head: uint32_t = load32(cython.address(v.program.tx_head))
    if cython.unlikely(head - told > v.tx_enough or v.options & NEAT_FLAG_SEND_BUFFER):
        if became_enough(v, head - told, head - tail):
            return True
    if cython.likely(not v.options & NEAT_FLAG_UNSENT_MOST):
        return False
    return head - tx_sent(v, t) <= load32(cython.address(v.program.unsent_most)) // 2  # half of it, as Linux


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def tell(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Events of one TCB whose lines are written; then what its end leaves to do.

    Output that waits stays in its news.
    """
    v: cython.pointer[View] = cython.address(s.views[i])
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    news: uint32_t = v.news
    v.news = cython.cast(uint8_t, news & NEWS_OUTPUT)
    if made_room(v, t) or news & (NEWS_EVENT | NEWS_GONE):
        put_events(s, i)
    if news & NEWS_GONE:
        if news & NEWS_OUTPUT or not reset_has_left(s, i):  # the peer is still to be told
            v.news |= NEWS_GONE
        elif not any_bit(t.holders) and not v.waiting:  # else TCB and slot stay until every program has detached
            finish(s, i)
    elif t.flags & TCB_DETACHED and (t.state == State.FIN_WAIT_2 or t.state == State.TIME_WAIT):
        if v.program != cython.NULL:  # the peer has all of the send ring, and nobody will read
            touch(s, i)
            unbind_slot(s, i)
            commit(s)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def reset_has_left(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    """Whether no RST is owed, or it went out with an earlier batch.

    TCB i must last until then, lest the RST be lost with us.
    """
    v: cython.pointer[View] = cython.address(s.views[i])
    if not s.tcbs[i].flags & TCB_RESET_OWED:
        return True
    if v.reset_sent < 2:
        v.reset_sent += 1
        return False
    touch(s, i)
    s.tcbs[i].flags &= ~cython.cast(uint32_t, TCB_RESET_OWED)
    commit(s)
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def finish(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """TCB i is CLOSED, and no program holds it or will get it: give back its slot, its buffer and itself."""
    touch(s, i)
    unbind_slot(s, i)
    release_hold(s, i)
    release(s, i)
    commit(s)


def publish_heads(s: cython.pointer[Stack]) -> cython.void:
    n: uint32_t
    for n in range(s.active_count):
        ch: cython.pointer[Channel] = cython.address(s.channels[s.active[n]])
        if ch.ring:
            store_release(cython.address(ch.replica.events_head), ch.events_head)
