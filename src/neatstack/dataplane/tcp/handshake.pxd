"""Opening a connection from a segment (RFC 9293 sections 3.10.7.1 to 3.10.7.3, and SYN-RECEIVED of 3.10.7.4)."""

from libc.stdint cimport uint16_t, uint32_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.wire.headers cimport Segment

cdef void no_connection(Stack *s, const Segment *seg) noexcept nogil
cdef bint opens_anew(Stack *s, uint32_t i, const Segment *seg) noexcept nogil
cdef bint syn_sent(Stack *s, uint32_t i, Segment *seg) noexcept nogil
cdef bint repeated_syn(Stack *s, uint32_t i, Segment *seg) noexcept nogil
cdef bint syn_received(Stack *s, uint32_t i, const Segment *seg) noexcept nogil
cdef uint16_t our_mss(Stack *s) noexcept nogil
