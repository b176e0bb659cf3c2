"""The way out: next hop, Ethernet and IPv4 headers, a place in the outbox."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from neatstack.dataplane.driver.device cimport OUTBOX, Outgoing
from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.wire.headers cimport ETHERNET_HEADER, IP_HEADER

cdef enum:
    TCP_AT = ETHERNET_HEADER + IP_HEADER   # where in Outgoing.header the TCP header starts

cdef inline bint outbox_full(Stack *s) noexcept nogil:
    return s.outbox_count >= OUTBOX

cdef inline bint is_local(Stack *s, uint32_t address_be) noexcept nogil:
    """Our own address, or 127.0.0.0/8 (which in memory starts with the byte 127)."""
    return address_be == s.page.address_be or (address_be & 0xFF) == 127

cdef inline bint is_multicast(uint32_t address_be) noexcept nogil:
    return (address_be & 0xF0) == 0xE0

cdef inline bint is_broadcast(Stack *s, uint32_t address_be) noexcept nogil:
    """255.255.255.255, or all hosts of our network, unless that is too small to have such an address (RFC 3021)."""
    cdef uint32_t mask = s.page.netmask_be
    if not ~address_be:
        return True
    return not (address_be ^ s.page.address_be) & mask and not ~(address_be | mask) and (mask >> 24) < 0xFE

cdef inline bint is_group(Stack *s, uint32_t address_be) noexcept nogil:
    """More than one host: broadcast or multicast."""
    return is_multicast(address_be) or is_broadcast(s, address_be)

cdef uint32_t next_hop(Stack *s, uint32_t remote_be) noexcept nogil
cdef const uint8_t *neighbour(Stack *s, uint32_t address_be) noexcept nogil
cdef void headers(Stack *s, Outgoing *out, const uint8_t *mac, uint32_t local_be, uint32_t remote_be) noexcept nogil
cdef bint routable(Stack *s, uint32_t remote_be) noexcept nogil
cdef Outgoing *begin(Stack *s, uint32_t local_be, uint32_t remote_be, uint8_t tos, uint8_t ttl) noexcept nogil
cdef void depart(Stack *s, Outgoing *out, uint32_t length) noexcept nogil
cdef void commit(Stack *s, Outgoing *out, uint32_t tcp_header, uint32_t text, uint32_t gso_size) noexcept nogil
