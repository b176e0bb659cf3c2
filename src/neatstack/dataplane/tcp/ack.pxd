"""Acknowledgments that come in (RFC 9293 section 3.10.7.4, fifth; loss and its repair: RFC 5681, RFC 6582)."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.wire.headers cimport Segment

cdef bint acknowledge(Stack *s, uint32_t i, const Segment *seg) noexcept nogil
cdef void round_trip(Stack *s, uint32_t i, uint32_t ack) noexcept nogil
cdef void take_window(Stack *s, uint32_t i, const Segment *seg) noexcept nogil
cdef bint fin_acknowledged(Stack *s, uint32_t i) noexcept nogil
cdef void challenge(Stack *s, uint32_t i) noexcept nogil
