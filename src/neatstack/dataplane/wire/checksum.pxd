"""The Internet checksum (RFC 1071)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef uint64_t add(uint64_t total, const uint8_t *data, uint32_t length) noexcept nogil
cdef uint64_t add_piece(uint64_t total, uint32_t offset, const uint8_t *data, uint32_t length) noexcept nogil

cdef inline uint16_t fold(uint64_t total) noexcept nogil:
    """The one's complement sum of 16 bits, in the host's order of bytes, not inverted."""
    total = <uint32_t>total + (total >> 32)
    total = (total & 0xFFFF) + ((total >> 16) & 0xFFFF) + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>((total & 0xFFFF) + (total >> 16))

cdef inline uint64_t pseudo_header(uint32_t source_be, uint32_t destination_be, uint8_t protocol,
                                   uint32_t length) noexcept nogil:
    """Sum of the pseudo header (RFC 9293 section 3.1); `length` is that of the TCP header and its text, up to 65535."""
    cdef uint32_t last = (<uint32_t>protocol << 8) | ((length & 0xFF) << 24) | ((length & 0xFF00) << 8)
    return <uint64_t>source_be + destination_be + last
