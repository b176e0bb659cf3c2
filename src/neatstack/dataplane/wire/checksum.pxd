"""The Internet checksum (RFC 1071)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from neatstack.dataplane.channel.address cimport Address, is_v4, v4

cdef uint64_t add(uint64_t total, const uint8_t *data, uint32_t length) noexcept nogil
cdef uint64_t add_piece(uint64_t total, uint32_t offset, const uint8_t *data, uint32_t length) noexcept nogil

cdef inline uint16_t fold(uint64_t total) noexcept nogil:
    """The one's complement sum of 16 bits, in the host's order of bytes, not inverted."""
    total = <uint32_t>total + (total >> 32)
    total = (total & 0xFFFF) + ((total >> 16) & 0xFFFF) + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>((total & 0xFFFF) + (total >> 16))

cdef inline uint64_t add_address(uint64_t total, Address a) noexcept nogil:
    return total + <uint32_t>a.hi + (a.hi >> 32) + <uint32_t>a.lo + (a.lo >> 32)

cdef inline uint64_t pseudo_header(Address source_be, Address destination_be, uint8_t protocol,
                                   uint32_t length) noexcept nogil:
    """Sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1); `length` is that of the TCP header and its text, up to 65535."""
    cdef uint32_t last = (<uint32_t>protocol << 8) | ((length & 0xFF) << 24) | ((length & 0xFF00) << 8)
    if is_v4(source_be):
        return <uint64_t>v4(source_be) + v4(destination_be) + last
    return add_address(add_address(last, source_be), destination_be)
