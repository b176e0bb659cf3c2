"""Receive buffers in the region, for connections that no program has been given yet."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.stack cimport HOLD_BUFFERS, Stack, View

cdef int init_holds(Stack *s) noexcept nogil                 # 0, or -ENOMEM
cdef void destroy_holds(Stack *s) noexcept nogil
cdef bint hold(Stack *s, uint32_t i) noexcept nogil          # True: TCB i has a receive buffer
cdef bint restore_hold(Stack *s, uint32_t i, uint8_t *used) noexcept nogil   # False: it is another's
cdef void rebuild_holds(Stack *s, const uint8_t *used) noexcept nogil
cdef uint32_t waiting_bytes(const Stack *s, uint32_t i) noexcept nogil
cdef uint32_t checksum_of_hold(const Stack *s, uint32_t i) noexcept nogil    # of what waits in the buffer
cdef void release_hold(Stack *s, uint32_t i) noexcept nogil  # TCB i has none any more

cdef inline bint can_hold(Stack *s) noexcept nogil:
    """A hold buffer is left."""
    return s.free_holds_count > 0 or s.holds_used < HOLD_BUFFERS
