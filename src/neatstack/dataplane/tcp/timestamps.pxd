"""Timestamps (RFC 7323 sections 3 to 5)."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.tcp.tcb cimport TCB_TIMESTAMPS, Tcb
from neatstack.dataplane.wire.bytes cimport put32
from neatstack.dataplane.wire.headers cimport Segment

cdef enum:
    STAMPS = 12              # bytes of options, with the NOPs that align them
    STAMPS_FRONT = 0x0101080A                # NOP, NOP, kind 8, length 10 (RFC 7323 appendix A)

cdef void find_stamps(Segment *seg) noexcept nogil
cdef uint32_t echoed(const Stack *s, const Tcb *t, const Segment *seg) noexcept nogil
cdef bint outdated(Stack *s, const Tcb *t, const Segment *seg) noexcept nogil

# rfc: 7323:5.4a
cdef inline uint32_t stamp(const Stack *s, const Tcb *t) noexcept nogil:
    """Our clock, ms."""
    return <uint32_t>(s.now // 1000000) + t.stamps.offset

# rfc: 7323:3.2f
cdef inline void write_stamps(const Stack *s, const Tcb *t, uint8_t *to) noexcept nogil:
    put32(to, STAMPS_FRONT)
    put32(to + 4, stamp(s, t))
    put32(to + 8, t.stamps.recent)

cdef inline uint32_t full_text(const Tcb *t) noexcept nogil:
    """Bytes of text in the peer's full segments: what we announced, less what timestamps take of it (RFC 6691)."""
    return t.rcv.mss - STAMPS if t.flags & TCB_TIMESTAMPS else t.rcv.mss

cdef inline bint more_than_stamps(const Segment *seg) noexcept nogil:
    """Whether a segment has options besides timestamps: it may have selective acknowledgments."""
    return seg.options_length > <uint32_t>(STAMPS if seg.stamped else 0)
