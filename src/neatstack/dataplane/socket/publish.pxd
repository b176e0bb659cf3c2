"""What programs are told."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack

cdef void publish(Stack *s) noexcept nogil
cdef void finish(Stack *s, uint32_t i) noexcept nogil    # TCB i is CLOSED, and no program holds it
