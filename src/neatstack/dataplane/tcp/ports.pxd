"""Local ports of connections that we open (RFC 6056)."""

from libc.stdint cimport uint16_t, uint32_t

from neatstack.dataplane.stack cimport Stack

cdef bint usable(Stack *s, uint32_t local_be, uint16_t local_port_be, uint32_t remote_be,
                 uint16_t remote_port_be) noexcept nogil
cdef uint16_t choose(Stack *s, uint32_t local_be, uint32_t remote_be, uint16_t remote_port_be) noexcept nogil
