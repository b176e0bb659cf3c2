"""ICMPv6 errors (RFC 4443), both ways. Echo and neighbour discovery are link's."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.stack cimport Stack

cdef enum:
    UNREACHABLE6 = 1         # types
    TOO_BIG6 = 2
    TIME_EXCEEDED6 = 3
    PARAMETER6 = 4
    ADDRESS6 = 3             # codes of UNREACHABLE6
    PORT6 = 4
    REASSEMBLY6 = 1          # code of TIME_EXCEEDED6
    BAD_HEADER6 = 0          # codes of PARAMETER6
    NEXT_HEADER6 = 1
    OPTION6 = 2
    FIRST_FRAGMENT6 = 3      # which has not all headers

cdef void error6_arrives(Stack *s, const uint8_t *packet, uint32_t header, uint32_t length) noexcept nogil
# `header`: where in the packet the upper layer's header starts, as far as it is known; `value`: pointer, MTU or nothing
cdef void send_error6(Stack *s, const uint8_t *packet, uint32_t header, uint32_t length, uint8_t kind, uint8_t code,
                      uint32_t value) noexcept nogil
