"""Which program gets a connection that a listener has accepted."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack

cdef int init_queues(Stack *s) noexcept nogil                                 # 0, or -ENOMEM
cdef void destroy_queues(Stack *s) noexcept nogil
cdef void arrived(Stack *s, uint32_t i) noexcept nogil                        # TCB i has just become ESTABLISHED, or is to wait anew
cdef void taken(Stack *s, uint32_t i) noexcept nogil                          # accept() has returned TCB i
cdef void requeue(Stack *s, uint32_t i) noexcept nogil                        # its program does not want TCB i after all
cdef void give_up(Stack *s, uint32_t i) noexcept nogil                        # no program will get TCB i
cdef bint post(Stack *s, uint32_t channel, uint32_t socket, uint32_t listener) noexcept nogil    # False: not allowed
cdef void unpost(Stack *s, uint32_t channel, uint32_t socket) noexcept nogil
cdef void unpost_all(Stack *s, uint32_t channel, uint32_t index) noexcept nogil
cdef void empty_queue(Stack *s, uint32_t index) noexcept nogil
