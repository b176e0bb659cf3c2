"""Segments are built and planned."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.tcp.tcb cimport Tcb
from neatstack.dataplane.wire.bytes cimport put16, put32, set16
from neatstack.dataplane.wire.headers cimport Segment

cdef void emit(Stack *s, uint32_t i, uint32_t seq, uint32_t length, uint8_t flags) noexcept nogil
cdef void limit_mss(Tcb *t, uint16_t mss) noexcept nogil     # TCP_MAXSEG
cdef bint emit_syn(Stack *s, uint32_t i) noexcept nogil
cdef void emit_reset(Stack *s, uint32_t i) noexcept nogil
cdef void emit_ack(Stack *s, uint32_t i) noexcept nogil
cdef void refuse(Stack *s, const Segment *seg, bint acknowledging) noexcept nogil

cdef inline void write_header(uint8_t *to, uint16_t source_be, uint16_t destination_be, uint32_t seq, uint32_t ack,
                              uint32_t length, uint8_t flags, uint16_t window) noexcept nogil:
    """A TCP header of `length` bytes (RFC 9293 section 3.1); commit() writes the checksum."""
    set16(to, source_be)
    set16(to + 2, destination_be)
    put32(to + 4, seq)
    put32(to + 8, ack)
    to[12] = <uint8_t>(length << 2)
    to[13] = flags
    put16(to + 14, window)
    set16(to + 18, 0)
