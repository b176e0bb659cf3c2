"""A slot that is left: free for its program when the change that leaves it is committed."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from neatstack.dataplane.stack cimport Channel, Stack

cdef enum:
    RETAINED = 4096          # bytes of a ring whose memory a free slot keeps
    TOUCHED = 65536          # bytes: a connection that has carried more gives the rest of the memory back

cdef void give_back(uint8_t *ring, uint32_t size, uint64_t carried) noexcept nogil
cdef void free_slot(Channel *ch, uint32_t socket) noexcept nogil
cdef void retire(Stack *s, uint32_t channel, uint32_t socket, uint64_t bytes_in, uint64_t bytes_out) noexcept nogil
cdef void free_retired(Stack *s) noexcept nogil
