"""A datagram has come in."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.channel.layout cimport Datagram
from neatstack.dataplane.stack cimport Stack

cdef void datagram_arrives(Stack *s, const uint8_t *packet, uint32_t header, uint32_t length, bint checked, bint loopback) noexcept nogil
cdef void deliver(Stack *s, uint32_t i, Datagram *d, const uint8_t *payload) noexcept nogil
