"""The way out of a datagram."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.channel.layout cimport Datagram
from neatstack.dataplane.stack cimport Endpoint, Stack

cdef struct Payload:         # where it lies in the send ring
    const uint8_t *first
    uint32_t first_length
    const uint8_t *second    # its continuation where the ring wraps
    uint32_t second_length

cdef int send_datagram(Stack *s, const Endpoint *e, const Datagram *d, const Payload *p) noexcept nogil
cdef Address source_of(Stack *s, const Endpoint *e, const Datagram *d, Address remote_be) noexcept nogil
