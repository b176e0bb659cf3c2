"""Explicit congestion notification (RFC 3168). State is in Tcb.ecn and Tcb.cwr_end."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.tcp.tcb cimport ECN_OK, Tcb
from neatstack.dataplane.wire.headers cimport Segment

cdef enum:                   # StackPage.ecn, numbered as Linux's tcp_ecn
    ECN_ACTIVE = 1           # ask for it, too

cdef enum:
    ECT_0 = 2                # RFC 3168 section 5: in the last two bits of the type of service, or traffic class

cdef bint offered(Stack *s, const Segment *seg) noexcept nogil
cdef void answered(Tcb *t, const Segment *seg) noexcept nogil
cdef void text_came(Stack *s, uint32_t i, const Segment *seg) noexcept nogil
cdef void echoed(Stack *s, uint32_t i) noexcept nogil
cdef void window_passed(Tcb *t) noexcept nogil

cdef inline bint transports(const Tcb *t, uint32_t seq, uint32_t length) noexcept nogil:
    """Whether text at `seq` goes as ECN-capable: only what is sent for the first time, and no probe of a window."""
    return t.ecn & ECN_OK and length != 0 and <int>(seq - t.snd.max) >= 0 and <int>(t.snd.nxt - seq) > 0
