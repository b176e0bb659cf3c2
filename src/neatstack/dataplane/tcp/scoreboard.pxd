"""What the peer has acknowledged selectively, and what that says about the rest (RFC 6675)."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.tcp.tcb cimport Range
from neatstack.dataplane.wire.headers cimport Segment

cdef bint take_blocks(Stack *s, uint32_t i, const Segment *seg) noexcept nogil
cdef void prune(Stack *s, uint32_t i) noexcept nogil
cdef bint first_is_lost(Stack *s, uint32_t i) noexcept nogil
cdef uint32_t pipe(Stack *s, uint32_t i) noexcept nogil
cdef bint next_hole(Stack *s, uint32_t i, bint surely, Range *hole) noexcept nogil
