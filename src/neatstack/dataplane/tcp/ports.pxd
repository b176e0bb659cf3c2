"""Local ports of connections that we open (RFC 6056)."""

from libc.stdint cimport uint16_t, uint32_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.stack cimport Stack

cdef bint usable(Stack *s, Address local_be, uint16_t local_port_be, Address remote_be,
                 uint16_t remote_port_be) noexcept nogil
cdef uint16_t choose(Stack *s, Address local_be, Address remote_be, uint16_t remote_port_be) noexcept nogil
