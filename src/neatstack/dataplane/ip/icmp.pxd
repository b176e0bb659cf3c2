"""ICMP errors (RFC 792), both ways. Echo is link's."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.stack cimport Stack

cdef enum:
    UNREACHABLE = 3          # types
    TIME_EXCEEDED = 11
    PARAMETER_PROBLEM = 12
    HOST = 1                 # codes of UNREACHABLE
    PROTOCOL = 2
    PORT = 3
    TOO_LONG = 4
    REASSEMBLY = 1           # code of TIME_EXCEEDED
    QUOTED = 84              # bytes of a packet, at most, so that all of it has room among the headers; RFC 792 wants 28

cdef void error_arrives(Stack *s, const uint8_t *packet, uint32_t length) noexcept nogil
cdef void send_error(Stack *s, const uint8_t *packet, uint32_t length, uint8_t kind, uint8_t code) noexcept nogil
cdef bint may_send(Stack *s) noexcept nogil             # an error; a bounded number in each second
