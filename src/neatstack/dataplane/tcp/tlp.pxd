"""The retransmission timer of text, and the tail loss probe that comes before it (RFC 6298, RFC 8985 section 7)."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.wire.headers cimport Segment

cdef void restart(Stack *s, uint32_t i) noexcept nogil
cdef void schedule(Stack *s, uint32_t i) noexcept nogil
cdef void stop(Stack *s, uint32_t i) noexcept nogil
cdef void probe(Stack *s, uint32_t i) noexcept nogil
cdef void acknowledged(Stack *s, uint32_t i, const Segment *seg, bint advanced) noexcept nogil
