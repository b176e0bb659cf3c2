"""What ICMP says of a connection."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.stack cimport Stack

cdef enum:
    MOST_QUOTED = 512        # bytes of what was sent that a program is told with an error

# `mtu`: of the next hop, where fragmentation was needed; `offender_be`: who says so; `quoted`: the IP header of a packet of
# ours; `tcp`: what is quoted from its TCP header on, at least 8 bytes of it, `length` in all. False: it is about no connection here, or must not be believed.
cdef bint error_told(Stack *s, uint8_t kind, uint8_t code, uint32_t mtu, Address offender_be, const uint8_t *quoted,
                     const uint8_t *tcp, uint32_t length) noexcept nogil
cdef int errno_of6(uint8_t kind, uint8_t code) noexcept nogil
cdef uint16_t path_mss(Stack *s, Address remote_be, uint16_t mss) noexcept nogil
