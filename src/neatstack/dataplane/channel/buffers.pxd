"""The byte rings of a socket, and the program's cursors into them.

A cursor counts bytes since the connection opened, modulo 2**32. The byte with cursor c lies at (c - base) & (size - 1) of its
ring, so that whatever base and cursors a hostile program makes up, every access stays inside the ring.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from neatstack.dataplane.channel.atomic cimport load32, load_acquire
from neatstack.dataplane.stack cimport View
from neatstack.dataplane.tcp.tcb cimport TCB_FIN_QUEUED, TCB_FIN_RECEIVED, State, Tcb


cdef inline uint32_t rx_head(const Tcb *t) noexcept nogil:
    """Receive cursor after the last byte that has come in order. The peer's FIN takes a sequence number but no byte."""
    if t.rcv.nxt == t.rcv.irs and not t.bytes_in:    # before the peer's SYN
        return 0
    return t.rcv.nxt - (t.rcv.irs + 1) - (1 if t.flags & TCB_FIN_RECEIVED else 0)


cdef inline uint32_t tx_tail(const View *v, const Tcb *t) noexcept nogil:
    """Send cursor before the first byte that is not acknowledged. Our SYN and FIN take sequence numbers but no bytes."""
    cdef uint32_t acked = t.snd.una - t.snd.iss
    if not acked and (not t.bytes_out or t.state == State.SYN_SENT or t.state == State.SYN_RECEIVED):
        return 0                         # our SYN is not acknowledged
    acked -= 1
    return v.tx_head if acked - v.tx_head == 1 else acked


cdef inline uint32_t tx_sent(const View *v, const Tcb *t) noexcept nogil:
    """Send cursor after the last byte that was ever sent."""
    cdef uint32_t sent = t.snd.max - t.snd.iss
    if sent < 2:
        return 0 if not t.bytes_out else sent - 1
    sent -= 1
    return v.tx_head if sent - v.tx_head == 1 else sent


cdef inline uint32_t rx_room(const View *v, const Tcb *t) noexcept nogil:
    """Bytes that the receive ring can take beyond rcv.nxt."""
    cdef uint32_t waiting = rx_head(t) - v.rx_tail
    return v.rx_limit - waiting if waiting < v.rx_limit else 0


cdef inline void ring_write(uint8_t *ring, uint32_t size, uint32_t offset, const uint8_t *data, uint32_t length) noexcept nogil:
    """Copy `data` to `offset`, wrapping; size is a power of two, offset < size, length <= size."""
    cdef uint32_t first = size - offset
    if length <= first:
        memcpy(ring + offset, data, length)
    else:
        memcpy(ring + offset, data, first)
        memcpy(ring, data + first, length - first)


cdef inline bint refresh_rx(View *v, const Tcb *t) noexcept nogil:
    """Copy how far the program has read. False: it claims the impossible, and the old copy stays."""
    cdef uint32_t tail, waiting
    if v.program == NULL:
        return True
    tail = load32(&v.program.rx_tail)
    waiting = rx_head(t) - v.rx_tail
    if tail - v.rx_tail > waiting:
        return False
    v.rx_tail = tail
    return True


cdef inline bint refresh_tx(View *v, const Tcb *t) noexcept nogil:
    """Copy how far the program has written. False: it claims the impossible, and the old copy stays.

    The head is loaded before the base: the program moves the base first, and only while the ring is empty.
    """
    cdef uint32_t head, unacked
    if v.program == NULL or t.flags & TCB_FIN_QUEUED:    # nothing can follow the FIN
        return True
    head = load_acquire(&v.program.tx_head)
    unacked = v.tx_head - tx_tail(v, t)
    if unacked > v.tx_size or head - v.tx_head > v.tx_size - unacked:
        return False
    if head != v.tx_head:
        if not unacked:
            v.tx_base = load32(&v.program.tx_base)
        v.tx_head = head
    return True


cdef inline void rx_write(View *v, Tcb *t, uint32_t cursor, const uint8_t *data, uint32_t length) noexcept nogil:
    """Put received bytes at their place. The caller has cut them to the window, so cursor + length is within rx_room().

    Data that arrives at an empty ring goes to its start: short requests and answers touch one page for ever.
    """
    cdef uint32_t head
    if length > v.rx_size:           # no ring (any more)
        return
    if cursor != t.rcv.base and not t.rcv.ranges:
        head = rx_head(t)
        if cursor == head and (v.rx_tail == head or (refresh_rx(v, t) and v.rx_tail == head)):
            t.rcv.base = cursor
    ring_write(v.rx, v.rx_size, (cursor - t.rcv.base) & (v.rx_size - 1), data, length)


cdef inline void tx_span(const View *v, uint32_t cursor, uint32_t length, const uint8_t **first, uint32_t *first_length,
                         const uint8_t **second) noexcept nogil:
    """Where the `length` bytes from `cursor` lie in the send ring: `first`, and from the ring's start what is left over."""
    cdef uint32_t offset
    if length > v.tx_size:           # no ring (any more)
        first[0] = NULL
        second[0] = NULL
        first_length[0] = 0
        return
    offset = (cursor - v.tx_base) & (v.tx_size - 1)
    first[0] = v.tx + offset
    second[0] = v.tx
    first_length[0] = length if length < v.tx_size - offset else v.tx_size - offset
