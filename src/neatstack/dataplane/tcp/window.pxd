"""The receive window: what is offered, and when a change of it is worth a segment (RFC 9293 section 3.8.6)."""

from libc.stdint cimport uint16_t, uint32_t

from neatstack.dataplane.tcp.tcb cimport Tcb
from neatstack.dataplane.stack cimport View

cdef enum:
    RECEIVE_SHIFT = 7        # RFC 7323 section 2: windows up to 8 MB, in steps of 128 bytes

cdef uint16_t offer(View *v, Tcb *t) noexcept nogil
cdef uint16_t offer_in_syn(View *v, Tcb *t) noexcept nogil
cdef bint update_due(View *v, const Tcb *t) noexcept nogil

cdef inline uint32_t acknowledged(const Tcb *t) noexcept nogil:
    """rcv.nxt when the last ACK was sent."""
    return t.rcv.adv - t.rcv.wnd
