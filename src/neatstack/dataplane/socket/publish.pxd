"""What programs are told."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack

cdef void welcome(Stack *s, uint32_t k) noexcept nogil
cdef void publish_heads(Stack *s) noexcept nogil
cdef void publish(Stack *s) noexcept nogil
