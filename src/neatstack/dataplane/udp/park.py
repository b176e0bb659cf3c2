"""Datagrams that wait until the next hop's hardware address is known (RFC 1122 section 2.3.2.2).

Copies, so that the others in the socket's send ring go on; they are lost if we die, as any datagram may be.
"""

import cython
from cython.cimports.libc.errno import EAGAIN, ENOBUFS
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_DATAGRAM_TIME, Datagram
from cython.cimports.neatstack.dataplane.stack import PARKED, Datagrams, Drop, Endpoint, Parked, Stack
from cython.cimports.neatstack.dataplane.tcp.timeouts import ROUTE_PATIENCE
from cython.cimports.neatstack.dataplane.tcp.timers import SECOND
from cython.cimports.neatstack.dataplane.udp.error import datagram_timed, neighbour_failed
from cython.cimports.neatstack.dataplane.udp.output import Payload, send_datagram

MOST_BYTES = cython.declare(uint32_t, 256 * 1024)
AGAIN = cython.declare(
    uint64_t, 2000000
)  # ns; link answers by writing the table of neighbours, which nobody is told of


# rfc: 1122:arp-queue arp-no-error, 4861:7.2.2-3
def park(
    s: cython.pointer[Stack],
    e: cython.pointer[cython.const[Endpoint]],
    d: cython.pointer[cython.const[Datagram]],
    p: cython.pointer[cython.const[Payload]],
) -> cython.void:
    """Keep a copy, to be sent later; without room it is dropped."""
    u: cython.pointer[Datagrams] = s.udp
    k: uint32_t = 0
    while k < PARKED and u.parked[k].state:
        k += 1
    if k == PARKED or u.parked_bytes + d.length > MOST_BYTES:
        s.counters.drops[cython.cast(cython.int, Drop.DROP_NEIGHBOUR)] += 1
        return
    w: cython.pointer[Parked] = cython.address(u.parked[k])
    w.payload = cython.cast(cython.pointer[uint8_t], malloc(d.length + 1))
    if w.payload == cython.NULL:
        s.counters.drops[cython.cast(cython.int, Drop.DROP_NO_MEMORY)] += 1
        return
    memcpy(w.payload, p.first, p.first_length)
    memcpy(w.payload + p.first_length, p.second, p.second_length)
    w.datagram = d[0]
    w.endpoint = e[0]
    w.until = s.now + ROUTE_PATIENCE * SECOND
    w.number = u.parked_next
    w.state = 1
    u.parked_next += 1
    u.parked_count += 1
    u.parked_bytes += d.length
    if not u.parked_at:
        u.parked_at = s.now + AGAIN


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def forget(u: cython.pointer[Datagrams], w: cython.pointer[Parked]) -> cython.void:
    free(w.payload)
    w.payload = cython.NULL
    w.state = 0
    u.parked_count -= 1
    u.parked_bytes -= w.datagram.length


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def retry(s: cython.pointer[Stack], w: cython.pointer[Parked]) -> cython.bint:
    """Try to send one. False: the outbox is full."""
    p: Payload
    failed: cython.int
    p.first = w.payload
    p.first_length = w.datagram.length
    p.second = w.payload
    p.second_length = 0
    failed = send_datagram(s, cython.address(w.endpoint), cython.address(w.datagram), cython.address(p))
    if failed == -ENOBUFS:
        return False
    if failed == 0:
        w.state = 2  # the outbox refers to it
        if w.datagram.flags & NEAT_DATAGRAM_TIME:
            datagram_timed(s, cython.address(w.endpoint), cython.address(w.datagram), cython.address(p))
    elif failed != -EAGAIN or s.now >= w.until:
        s.counters.drops[cython.cast(cython.int, Drop.DROP_NEIGHBOUR)] += 1
        if failed == -EAGAIN:
            neighbour_failed(s, cython.address(w.endpoint), cython.address(w.datagram), w.payload)
        forget(s.udp, w)
    return True


def retry_parked(s: cython.pointer[Stack]) -> cython.void:
    """In the order in which they came."""
    u: cython.pointer[Datagrams] = s.udp
    number: uint32_t = u.parked_first
    k: uint32_t
    while number != u.parked_next:
        for k in range(PARKED):
            if u.parked[k].state == 1 and u.parked[k].number == number:
                if not retry(s, cython.address(u.parked[k])):
                    return
                break
        number += 1
    while u.parked_first != u.parked_next and not waits(u, u.parked_first):
        u.parked_first += 1
    u.parked_at = s.now + AGAIN if u.parked_first != u.parked_next else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def waits(u: cython.pointer[Datagrams], number: uint32_t) -> cython.bint:
    k: uint32_t
    for k in range(PARKED):
        if u.parked[k].state == 1 and u.parked[k].number == number:
            return True
    return False


def free_parked(s: cython.pointer[Stack]) -> cython.void:
    k: uint32_t
    for k in range(PARKED):
        if s.udp.parked[k].state == 2:
            forget(s.udp, cython.address(s.udp.parked[k]))
