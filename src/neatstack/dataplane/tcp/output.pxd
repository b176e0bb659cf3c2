"""What to send now (RFC 9293 section 3.8)."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack

cdef void output(Stack *s, uint32_t i) noexcept nogil
