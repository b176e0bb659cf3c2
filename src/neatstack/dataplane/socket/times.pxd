"""When text was sent, acknowledged, received: SO_TIMESTAMPING."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.stack cimport Stack

cdef void tell_times(Stack *s, uint32_t i) noexcept nogil
