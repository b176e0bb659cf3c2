"""Programs come, fork and die; listeners are granted to them."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack

cdef void inherit_all(Stack *s, uint32_t channel, uint32_t parent) noexcept nogil
cdef int hold(Stack *s, uint32_t channel, uint32_t socket, uint32_t holder, uint32_t other) noexcept nogil
cdef int end_flight(Stack *s, uint32_t channel, uint32_t socket) noexcept nogil
cdef int drop(Stack *s, uint32_t channel) noexcept nogil
cdef int grant(Stack *s, uint32_t number, uint32_t channel) noexcept nogil
cdef int revoke(Stack *s, uint32_t number, uint32_t channel) noexcept nogil
cdef int end_listener(Stack *s, uint32_t number) noexcept nogil
cdef void evict(Stack *s, uint32_t channel) noexcept nogil
