"""TCP options (RFC 9293 section 3.2)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from neatstack.dataplane.channel.layout cimport StackPage
from neatstack.dataplane.wire.headers cimport Options

cdef enum:
    LONGEST_SHIFT = 14       # RFC 7323 section 2.3

cdef void parse(const uint8_t *data, uint32_t length, Options *options) noexcept nogil
cdef void overlook(const StackPage *page, Options *options) noexcept nogil
cdef uint32_t write_cookie(uint8_t *to, const uint8_t *cookie, uint32_t length,
                           bint experimental) noexcept nogil
cdef uint32_t write_syn(uint8_t *to, uint16_t mss, bint scaling, uint8_t wscale, bint sack,
                        bint stamped) noexcept nogil
