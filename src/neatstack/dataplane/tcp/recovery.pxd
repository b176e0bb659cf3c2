"""Loss found by duplicate ACKs, and repaired (RFC 5681 section 3.2, RFC 6582)."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack

cdef void duplicate(Stack *s, uint32_t i) noexcept nogil
cdef void selected(Stack *s, uint32_t i) noexcept nogil
cdef void repaired(Stack *s, uint32_t i, uint32_t acked) noexcept nogil
