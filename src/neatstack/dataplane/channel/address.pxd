"""An address of either family (address.h)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "neatstack/dataplane/channel/address.h" nogil:
    ctypedef struct Address "struct neat_address":
        uint64_t hi
        uint64_t lo
    uint32_t v4 "neat_v4"(Address a)
    Address mapped "neat_map"(uint32_t address_be)
    bint is_v4 "neat_is_v4"(Address a)
    bint same "neat_same"(Address a, Address b)
    bint is_loopback "neat_is_loopback"(Address a)
    bint is_multicast "neat_is_multicast"(Address a)
    bint is_all_nodes "neat_is_all_nodes"(Address a)
    bint is_link_local "neat_is_link_local"(Address a)
    bint matches "neat_matches"(Address a, Address b, uint32_t prefix)
    uint32_t common "neat_common"(Address a, Address b)
    bint is_any "neat_is_any"(Address a)

cdef inline Address no_address() noexcept nogil:
    cdef Address a
    a.hi = a.lo = 0
    return a

cdef inline Address loopback_beside(Address a) noexcept nogil:
    """The loopback address of the same family."""
    cdef Address b
    if is_v4(a):
        return mapped(0x0100007F)
    b.hi = 0
    b.lo = <uint64_t>1 << 56
    return b

cdef inline Address load_address(const Address *a) noexcept nogil:
    """From memory that somebody else may write meanwhile: whatever comes is used once."""
    cdef Address b
    b.hi = (<const volatile uint64_t *>&a.hi)[0]
    b.lo = (<const volatile uint64_t *>&a.lo)[0]
    return b

cdef inline Address get_address(const uint8_t *at) noexcept nogil:
    """16 bytes of a packet."""
    cdef Address a
    memcpy(&a, at, 16)
    return a

cdef inline void set_address(uint8_t *at, Address a) noexcept nogil:
    memcpy(at, &a, 16)
