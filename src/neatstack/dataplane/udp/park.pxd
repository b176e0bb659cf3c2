"""Datagrams that wait until the next hop's hardware address is known."""

from libc.stdint cimport uint64_t

from neatstack.dataplane.channel.layout cimport Datagram
from neatstack.dataplane.stack cimport Endpoint, Stack
from neatstack.dataplane.udp.output cimport Payload

cdef void park(Stack *s, const Endpoint *e, const Datagram *d, const Payload *p) noexcept nogil
cdef void retry_parked(Stack *s) noexcept nogil      # plan those whose way is known by now, and give up those that wait too long
cdef void free_parked(Stack *s) noexcept nogil       # what was planned has left the outbox
