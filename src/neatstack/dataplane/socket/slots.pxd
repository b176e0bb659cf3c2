"""A slot of a channel: where a connection meets its program."""

from libc.stdint cimport uint32_t, uint64_t

from neatstack.dataplane.stack cimport Stack

cdef void bind_slot(Stack *s, uint32_t i, uint32_t channel, uint32_t socket) noexcept nogil
cdef void unbind_slot(Stack *s, uint32_t i) noexcept nogil
cdef void write_lines(Stack *s, uint32_t i) noexcept nogil
cdef uint32_t put(Stack *s, uint32_t number, uint64_t bits, uint32_t last) noexcept nogil
cdef void put_event(Stack *s, uint32_t number, uint32_t channel, uint32_t socket) noexcept nogil
cdef void put_events(Stack *s, uint32_t i) noexcept nogil
