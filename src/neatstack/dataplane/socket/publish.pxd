"""What programs are told."""

from neatstack.dataplane.stack cimport Stack

cdef void publish(Stack *s) noexcept nogil
