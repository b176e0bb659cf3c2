"""A TCP segment has come in (RFC 9293 section 3.10.7)."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.stack cimport Stack

cdef void segment_arrives(Stack *s, const uint8_t *packet, uint32_t ip_header, uint32_t length, bint checked,
                          bint loopback) noexcept nogil
