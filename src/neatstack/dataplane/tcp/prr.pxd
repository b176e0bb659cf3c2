"""Proportional rate reduction (RFC 9937): how much may go while a loss is repaired."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.tcp.tcb cimport Tcb

cdef void begin(Stack *s, uint32_t i, uint32_t more) noexcept nogil
cdef uint32_t reached(Stack *s, uint32_t i) noexcept nogil
cdef void delivered(Stack *s, uint32_t i, uint32_t more, bint safe) noexcept nogil
cdef void leave(Tcb *t) noexcept nogil
