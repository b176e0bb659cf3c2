"""The way out: next hop, Ethernet and IPv4 headers, a place in the outbox."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from neatstack.dataplane.channel.address cimport Address, is_loopback, is_multicast, is_v4, mapped, same, v4
from neatstack.dataplane.channel.layout cimport NEAT_OWN_TENTATIVE
from neatstack.dataplane.driver.device cimport OUTBOX, Outgoing
from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.wire.headers cimport DEFAULT_MSS, DEFAULT_MSS6, IP6_HEADER, IP_HEADER

cdef inline bint outbox_full(Stack *s) noexcept nogil:
    return s.outbox_count >= OUTBOX

cdef inline bint is_own(Stack *s, Address address_be) noexcept nogil:
    """One of the stack's addresses that it may use."""
    cdef uint32_t k
    for k in range(s.page.own_count):
        if same(s.page.own[k].address, address_be):
            return not s.page.own[k].flags & NEAT_OWN_TENTATIVE
    return False

cdef inline bint is_own4(Stack *s, uint32_t address_be) noexcept nogil:
    """One of the stack's IPv4 addresses."""
    return address_be == s.page.address_be or (s.page.own_count > 1 and is_own(s, mapped(address_be)))

cdef inline bint is_local(Stack *s, Address address_be) noexcept nogil:
    """Our own address, or one of the loopback."""
    if is_v4(address_be) and v4(address_be) == s.page.address_be:
        return True
    return is_own(s, address_be) or is_loopback(address_be)

cdef bint is_broadcast_elsewhere(Stack *s, Address address_be) noexcept nogil

cdef inline bint is_broadcast(Stack *s, Address address_be) noexcept nogil:
    """255.255.255.255, or all hosts of a network of ours, unless that is too small to have such an address (RFC 3021)."""
    cdef uint32_t mask = s.page.netmask_be
    cdef uint32_t last = v4(address_be)
    if not is_v4(address_be) or (last >> 24 & 3) != 3:  # mostly that is all that has to be looked at
        return False
    if not ~last:
        return True
    if not (last ^ s.page.address_be) & mask:
        return not ~(last | mask) and (mask >> 24) < 0xFE
    return s.page.own_count > 1 and is_broadcast_elsewhere(s, address_be)

cdef inline bint is_group(Stack *s, Address address_be) noexcept nogil:
    """More than one host: broadcast or multicast."""
    return is_multicast(address_be) or is_broadcast(s, address_be)

cdef inline uint32_t ip_header(Address address_be) noexcept nogil:
    """Bytes of header before the packets of this family, as we send them."""
    return IP_HEADER if is_v4(address_be) else IP6_HEADER

cdef inline uint32_t link_mtu(Stack *s, Address address_be) noexcept nogil:
    return s.page.mtu if is_v4(address_be) else s.page.mtu6

cdef inline uint16_t default_mss(Address address_be) noexcept nogil:
    """Of a peer that does not say (RFC 9293 section 3.7.1, MUST-15)."""
    return DEFAULT_MSS if is_v4(address_be) else DEFAULT_MSS6

cdef Address next_hop(Stack *s, Address remote_be) noexcept nogil
cdef uint32_t neighbour_place(Address address_be) noexcept nogil
cdef const uint8_t *neighbour(Stack *s, Address address_be) noexcept nogil
cdef Address source_for(Stack *s, Address remote_be) noexcept nogil
cdef void headers(Stack *s, Outgoing *out, const uint8_t *mac, Address local_be, Address remote_be) noexcept nogil
cdef void set_class(Outgoing *out, uint8_t tos, uint8_t ttl) noexcept nogil
cdef void set_protocol(Outgoing *out, uint8_t protocol) noexcept nogil
cdef bint routable(Stack *s, Address remote_be) noexcept nogil
cdef Outgoing *begin(Stack *s, Address local_be, Address remote_be, uint8_t tos, uint8_t ttl) noexcept nogil
cdef void depart(Stack *s, Outgoing *out, uint32_t length) noexcept nogil
cdef void commit(Stack *s, Outgoing *out, uint32_t tcp_header, uint32_t text, uint32_t gso_size) noexcept nogil
