"""A slot of a channel: where a connection meets its program."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Channel, Stack

cdef enum:
    RETAINED = 4096          # bytes of a ring whose memory a free slot keeps
    TOUCHED = 65536          # bytes: a connection that has carried more gives the rest of the memory back

cdef void bind_slot(Stack *s, uint32_t i, uint32_t channel, uint32_t socket) noexcept nogil
cdef void unbind_slot(Stack *s, uint32_t i) noexcept nogil
cdef void free_slot(Channel *ch, uint32_t socket) noexcept nogil
cdef void write_lines(Stack *s, uint32_t i) noexcept nogil
cdef void put_event(Stack *s, uint32_t number, uint32_t channel, uint32_t socket) noexcept nogil
cdef void put_events(Stack *s, uint32_t i) noexcept nogil
