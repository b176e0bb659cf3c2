"""All TCBs of a replica: found by flow, taken and given back."""

from libc.stdint cimport uint16_t, uint32_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.stack cimport Stack

# 0, or -ENOMEM. Needs s.region, s.tcbs, s.views, s.max_tcbs and s.now; makes the lookup table, the index of listeners, the
# timer wheel and the secrets. What TCBs the region holds is put in by restore().
cdef int init(Stack *s) noexcept nogil
cdef void restore(Stack *s, uint32_t i) noexcept nogil   # TCB i of the region is found again
cdef void give_back(Stack *s, uint32_t i) noexcept nogil
cdef void destroy(Stack *s) noexcept nogil      # frees what init() took
cdef uint32_t find(Stack *s, Address local_be, uint16_t local_port_be, Address remote_be,
                   uint16_t remote_port_be) noexcept nogil
cdef uint32_t allocate(Stack *s) noexcept nogil # index of a cleared TCB, not yet in the table; 0: none left
cdef void insert(Stack *s, uint32_t i) noexcept nogil
cdef void remove(Stack *s, uint32_t i) noexcept nogil
cdef void release(Stack *s, uint32_t i) noexcept nogil  # a TCB that is CLOSED and has no socket
cdef void wait_add(Stack *s, uint32_t i) noexcept nogil
cdef void wait_remove(Stack *s, uint32_t i) noexcept nogil
