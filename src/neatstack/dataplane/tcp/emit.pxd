"""Segments are built and planned."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.wire.headers cimport Segment

cdef void emit(Stack *s, uint32_t i, uint32_t seq, uint32_t length, uint8_t flags) noexcept nogil
cdef bint emit_syn(Stack *s, uint32_t i) noexcept nogil
cdef void emit_reset(Stack *s, uint32_t i) noexcept nogil
cdef void emit_ack(Stack *s, uint32_t i) noexcept nogil
cdef void refuse(Stack *s, const Segment *seg, bint acknowledging) noexcept nogil
