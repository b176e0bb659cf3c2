"""Loss found, and repaired (RFC 5681 section 3.2, RFC 6582, RFC 6675)."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack

cdef void duplicate(Stack *s, uint32_t i) noexcept nogil
cdef void lost(Stack *s, uint32_t i) noexcept nogil
cdef void repaired(Stack *s, uint32_t i, uint32_t acked) noexcept nogil
