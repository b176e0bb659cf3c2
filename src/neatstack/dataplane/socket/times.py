"""When text was sent, acknowledged, received: what a program hears that has asked with SO_TIMESTAMPING.

What a dead incarnation has not told yet its successor tells, as of its own time.
"""

import cython
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.neatstack.dataplane.channel.atomic import load32, load_acquire, store64, store_release
from cython.cimports.neatstack.dataplane.channel.buffers import rx_head, tx_sent, tx_tail
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_TIMES, Times
from cython.cimports.neatstack.dataplane.stack import NEWS_EVENT, Stack, View
from cython.cimports.neatstack.dataplane.tcp.seq import before
from cython.cimports.neatstack.dataplane.tcp.tcb import Tcb


def tell_times(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Write the times of what has happened to the text of TCB i since its lines were written, which come after this."""
    t: cython.pointer[Tcb] = cython.address(s.tcbs[i])
    v: cython.pointer[View] = cython.address(s.views[i])
    times: cython.pointer[Times] = cython.address(s.channels[t.channel].asides[t.socket].times)
    head: uint32_t
    sent: uint32_t
    acked: uint32_t
    if times.generation_seen != t.generation:
        times.sent = times.acked = 0
        store64(cython.address(v.replica.rx_time_ns), 0)
        store_release(cython.address(times.generation_seen), t.generation)
    if v.replica.rx_head != rx_head(t):
        store64(cython.address(v.replica.rx_time_ns), s.now)
    if load_acquire(cython.address(times.generation)) != t.generation:
        return
    head = load_acquire(cython.address(times.head))
    sent = passed(times, times.sent, head, tx_sent(v, t), False, s.now)
    acked = passed(times, times.acked, head, tx_tail(v, t), True, s.now)
    if sent != times.sent or acked != times.acked:
        store_release(cython.address(times.sent), sent)
        store_release(cython.address(times.acked), acked)
        v.news |= NEWS_EVENT


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def passed(
    times: cython.pointer[Times], known: uint32_t, head: uint32_t, cursor: uint32_t, acked: cython.bint, now: uint64_t
) -> uint32_t:
    """How many keys the cursor has reached, of which `known` were known; the others get their time."""
    n: uint32_t = known
    k: uint32_t
    if head - n > NEAT_TIMES:  # which no library does
        n = head - NEAT_TIMES
    while n != head:
        k = n & (NEAT_TIMES - 1)
        if before(cursor, load32(cython.address(times.keys[k].at))):
            break
        if acked:
            times.times[k].acked_ns = now
        else:
            times.times[k].sent_ns = now
        n += 1
    return n
