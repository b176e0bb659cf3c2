"""The one place where a connection changes its state, and what follows from a state alone (RFC 9293 section 3.3.2)."""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.check import check
from cython.cimports.neatstack.dataplane.journal import touch
from cython.cimports.neatstack.dataplane.stack import NEWS_ACCEPT, NEWS_EVENT, NEWS_GONE, NEWS_LINES, Listener, Stack
from cython.cimports.neatstack.dataplane.tcp import table, timers
from cython.cimports.neatstack.dataplane.tcp.listen import listener_numbered
from cython.cimports.neatstack.dataplane.tcp.state import TIME_WAIT_SECONDS, mark
from cython.cimports.neatstack.dataplane.tcp.tcb import (
    TCB_ACCEPTED,
    TCB_FASTOPEN,
    TCB_PASSIVE,
    TIMER_TIME_WAIT,
    State,
    Tcb,
)
from cython.cimports.neatstack.dataplane.tcp.timers import SECOND, set_timer

# RFC 9293 figure 5, and the edges that it leaves out: to CLOSED from everywhere (RST, ABORT, timeouts). LISTEN is not a
# state of a TCB here, but a Listener; FREE is a TCB that nobody uses.
EDGES = {
    State.FREE: (State.SYN_SENT, State.SYN_RECEIVED),
    State.SYN_SENT: (State.ESTABLISHED, State.SYN_RECEIVED, State.CLOSED),
    State.SYN_RECEIVED: (State.ESTABLISHED, State.FIN_WAIT_1, State.CLOSED),
    State.ESTABLISHED: (State.FIN_WAIT_1, State.CLOSE_WAIT, State.CLOSED),
    State.FIN_WAIT_1: (State.FIN_WAIT_2, State.CLOSING, State.TIME_WAIT, State.CLOSED),
    State.FIN_WAIT_2: (State.TIME_WAIT, State.CLOSED),
    State.CLOSE_WAIT: (State.LAST_ACK, State.CLOSED),
    State.CLOSING: (State.TIME_WAIT, State.CLOSED),
    State.LAST_ACK: (State.CLOSED,),
    State.TIME_WAIT: (State.CLOSED,),
    State.CLOSED: (State.FREE,),
}

_legal = cython.declare(uint16_t[16])  # bit n of element m: m may become n

for _state, _next in EDGES.items():
    for _other in _next:
        _legal[int(_state)] |= 1 << int(_other)


def become(s: cython.pointer[Stack], i: uint32_t, state: State) -> cython.void:
    """Put TCB i into `state`."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    touch(s, i)
    old: uint8_t = t.state
    check(_legal[old] >> cython.cast(cython.int, state) & 1)
    t.state = cython.cast(uint8_t, state)
    if old == State.FREE:
        s.counters.connections += 1
    if t.flags & TCB_PASSIVE:
        count_queues(s, i, old, state)
    if old == State.TIME_WAIT:
        table.wait_remove(s, i)
    if state == State.ESTABLISHED:
        s.counters.connections_opened += 1
    elif state == State.TIME_WAIT:
        memset(t.timers, 0, cython.sizeof(t.timers))
        set_timer(s, i, TIMER_TIME_WAIT, s.now + TIME_WAIT_SECONDS * SECOND)
        table.wait_add(s, i)
    elif state == State.CLOSED:
        memset(t.timers, 0, cython.sizeof(t.timers))
        timers.disarm(s, i)
        table.remove(s, i)
        s.counters.connections -= 1
        s.counters.connections_closed += 1
    if state != State.FREE:
        mark(s, i, NEWS_LINES)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def count_queues(s: cython.pointer[Stack], i: uint32_t, old: uint8_t, state: State) -> cython.void:
    """Keep a listener's queues: half_open counts SYN-RECEIVED, waiting what was established and not accept()ed.

    That waits also when it has ended: as on Linux accept() returns it, and it counts for the backlog until then.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    listener: cython.pointer[Listener] = listener_numbered(s, t.listener)
    fast: cython.bint = t.flags & TCB_FASTOPEN
    if state == State.ESTABLISHED:
        s.counters.connections_accepted += 1
    if state == (State.SYN_RECEIVED if fast else State.ESTABLISHED):
        mark(s, i, NEWS_ACCEPT)
    if state == State.SYN_RECEIVED:
        s.half_open += 1
    elif old == State.SYN_RECEIVED:
        s.half_open -= 1
        if state == State.CLOSED and not fast:
            t.flags |= TCB_ACCEPTED  # counted out: it was never established
    if listener == cython.NULL:
        return
    if fast and state == State.SYN_RECEIVED:
        listener.fast_pending += 1
        listener.waiting += 1
    elif fast and old == State.SYN_RECEIVED:
        listener.fast_pending -= 1
    elif state == State.SYN_RECEIVED:
        listener.half_open += 1
    elif old == State.SYN_RECEIVED:
        listener.half_open -= 1
        if state == State.ESTABLISHED:
            listener.waiting += 1
    elif state == State.FREE and not t.flags & TCB_ACCEPTED:
        listener.waiting -= 1


def end(s: cython.pointer[Stack], i: uint32_t, error: cython.int) -> cython.void:
    """The connection is over, and the peer knows or does not matter.

    `error`: errno for the program; 0: an orderly end.
    """
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    touch(s, i)
    if error and not t.error:
        t.error = cython.cast(uint8_t, error)
    become(s, i, State.CLOSED)
    mark(s, i, NEWS_LINES | NEWS_EVENT | NEWS_GONE)
