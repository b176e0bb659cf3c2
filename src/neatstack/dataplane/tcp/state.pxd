"""Where a connection's state changes, and how the layers above hear of it."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.tcp.tcb cimport ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, State

cdef enum:
    TIME_WAIT_SECONDS = 60   # 2 MSL, as Linux takes it

cdef void become(Stack *s, uint32_t i, State state) noexcept nogil
cdef void end(Stack *s, uint32_t i, int error) noexcept nogil

cdef inline void mark(Stack *s, uint32_t i, uint32_t news) noexcept nogil:
    """Note `news` (enum News) of TCB i, and that this batch has to look at it."""
    s.views[i].news |= <uint8_t>news
    if not s.views[i].dirty:
        s.views[i].dirty = 1
        s.dirty[s.dirty_count] = i
        s.dirty_count += 1

cdef inline bint receives(uint8_t state) noexcept nogil:
    """States in which text is taken (RFC 9293 section 3.10.7.4, seventh)."""
    return state == ESTABLISHED or state == FIN_WAIT_1 or state == FIN_WAIT_2
