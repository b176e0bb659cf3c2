"""Text and FIN that come in (RFC 9293 section 3.10.7.4, seventh and eighth)."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.wire.headers cimport Segment

cdef enum:
    ACK_DELAY = 40           # ms, as Linux; RFC 9293 section 3.8.6.3 allows 500
    FIRST_ACK_DELAY = 1      # ms, of the first text that comes
    FIRST_SEGMENTS = 16      # so much of it, as Linux's TCP_MAX_QUICKACKS

cdef void text(Stack *s, uint32_t i, Segment *seg) noexcept nogil
cdef void fin(Stack *s, uint32_t i, const Segment *seg) noexcept nogil
