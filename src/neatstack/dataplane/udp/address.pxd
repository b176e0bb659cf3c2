"""Addresses as they stand in the datagrams of a channel: 16 bytes, those of IPv4 mapped (RFC 4291 section 2.5.5.2)."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from neatstack.dataplane.wire.bytes cimport raw32, set32


cdef inline void put_address(uint8_t *to, uint32_t address_be) noexcept nogil:
    memset(to, 0, 10)
    to[10] = to[11] = 0xFF
    set32(to + 12, address_be)


cdef inline bint is_mapped(const uint8_t *address) noexcept nogil:
    return not (raw32(address) | raw32(address + 4)) and not (address[8] | address[9]) and address[10] & address[11] == 0xFF


cdef inline bint is_unset(const uint8_t *address) noexcept nogil:
    """All zero, or 0.0.0.0."""
    return not (raw32(address) | raw32(address + 4) | raw32(address + 12)) and (is_mapped(address) or not raw32(address + 8))
