"""Timeouts that were not needed, found and undone (F-RTO, RFC 5682)."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.wire.headers cimport Segment

cdef void timer_fires(Stack *s, uint32_t i) noexcept nogil
cdef void answer(Stack *s, uint32_t i, const Segment *seg, bint advanced) noexcept nogil
