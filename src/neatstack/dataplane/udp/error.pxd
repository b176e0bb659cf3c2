"""Programs hear what ICMP says of their datagrams."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.channel.layout cimport Datagram
from neatstack.dataplane.stack cimport Endpoint, Stack
from neatstack.dataplane.udp.output cimport Payload

# `packet` is what the error quotes: an IP packet of ours with a UDP header after `header` bytes, of which `length` bytes are there, at least that header.
# `offender_be` has reported the error; `mtu` of its next hop, when it says so.
cdef void datagram_failed(Stack *s, const uint8_t *packet, uint32_t header, uint32_t length, uint8_t kind, uint8_t code, Address offender_be,
                          uint32_t mtu) noexcept nogil
cdef void datagram_timed(Stack *s, const Endpoint *e, const Datagram *sent, const Payload *p) noexcept nogil
cdef void neighbour_failed(Stack *s, const Endpoint *e, const Datagram *sent, const uint8_t *payload) noexcept nogil
