"""The receive window: what is offered, and when a change of it is worth a segment (RFC 9293 section 3.8.6)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from neatstack.dataplane.tcp.tcb cimport Tcb
from neatstack.dataplane.stack cimport Stack, View

cdef enum:
    RECEIVE_SHIFT = 7        # windows up to 8 MB, in steps of 128 bytes, unless buffers are larger; and
    MOST_SHIFT = 14          # up to 1 GiB (RFC 7323 section 2.3)
    LEAST_RECEIVE_BUFFER = 2048  # bytes, of SO_RCVBUF
    FIRST_LIMIT = 65536      # bytes of a receive ring that are offered at first, as Linux

cdef inline uint8_t receive_shift(const Stack *s) noexcept nogil:
    """What a connection's windows are scaled by, if the peer knows of that."""
    cdef uint8_t shift = s.page.receive_shift
    return RECEIVE_SHIFT if not shift else shift if shift < MOST_SHIFT else MOST_SHIFT

cdef inline uint32_t receive_buffer(uint32_t option, uint32_t size) noexcept nogil:
    """What SO_RCVBUF, which is not 0, makes of a ring of `size` bytes."""
    if option > size:
        return size
    return option if option > LEAST_RECEIVE_BUFFER else LEAST_RECEIVE_BUFFER

cdef inline void set_limit(View *v, uint32_t limit) noexcept nogil:
    """How much of the receive ring is offered; also in the lines, for the program and for a successor."""
    v.rx_limit = limit
    if v.replica != NULL:
        v.replica.rx_limit = limit

cdef uint16_t offer(View *v, Tcb *t, uint64_t now) noexcept nogil
cdef uint16_t offer_in_syn(View *v, Tcb *t) noexcept nogil
cdef void tune(View *v, const Tcb *t, uint64_t now) noexcept nogil  # the program has read
cdef bint update_due(View *v, const Tcb *t) noexcept nogil

cdef inline uint32_t acknowledged(const Tcb *t) noexcept nogil:
    """rcv.nxt when the last ACK was sent."""
    return t.rcv.adv - t.rcv.wnd
