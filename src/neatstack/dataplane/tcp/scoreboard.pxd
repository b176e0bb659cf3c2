"""What is on its way: when it was sent, what the peer has of it, and what is lost (RFC 6675, RFC 8985)."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport STRETCHES, Board, Stack, Stretch
from neatstack.dataplane.tcp.tcb cimport Range
from neatstack.dataplane.wire.headers cimport Segment

cdef void close_stretch(Stack *s, uint32_t i) noexcept nogil
cdef bint take_blocks(Stack *s, uint32_t i, const Segment *seg) noexcept nogil
cdef void prune(Stack *s, uint32_t i, const Segment *seg, uint32_t old_una) noexcept nogil
cdef void resent(Stack *s, uint32_t i, uint32_t left, uint32_t right) noexcept nogil
cdef void mark_lost(Stack *s, uint32_t i, uint32_t k) noexcept nogil
cdef void forget_selected(Stack *s, uint32_t i) noexcept nogil
cdef void none_lost(Stack *s, uint32_t i) noexcept nogil
cdef uint32_t ranges_sacked(Stack *s, uint32_t i) noexcept nogil
cdef uint32_t pipe(Stack *s, uint32_t i) noexcept nogil
cdef bint next_lost(Stack *s, uint32_t i, Range *hole) noexcept nogil

cdef inline Stretch *stretch(Board *b, uint32_t k) noexcept nogil:
    """The k-th stretch in use."""
    return &b.stretch[(b.first + k) & (STRETCHES - 1)]
