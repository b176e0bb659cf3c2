"""Loss found by time (RACK, RFC 8985 section 6)."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack, Stretch, View
from neatstack.dataplane.wire.headers cimport Segment

cdef void delivered(Stack *s, uint32_t i, const Stretch *x, uint32_t end, const Segment *seg) noexcept nogil
cdef void least_round_trip(View *v, uint32_t round_trip, uint32_t second) noexcept nogil
cdef void detect(Stack *s, uint32_t i) noexcept nogil
cdef void timed_out(Stack *s, uint32_t i) noexcept nogil
cdef void recovered(Stack *s, uint32_t i) noexcept nogil
