"""SYN cookies (RFC 4987 section 3.6)."""

from libc.stdint cimport int32_t, uint32_t

from neatstack.dataplane.stack cimport Listener, Stack
from neatstack.dataplane.wire.headers cimport Segment

cdef enum:
    COOKIE_SECONDS = 64      # between two values of the counter in a cookie; one is good for one to two of these

cdef void answer_with_cookie(Stack *s, Listener *listener, const Segment *seg) noexcept nogil
cdef bint cookies_expected(Stack *s) noexcept nogil
cdef int32_t take_cookie(Stack *s, Listener *listener, const Segment *seg) noexcept nogil
