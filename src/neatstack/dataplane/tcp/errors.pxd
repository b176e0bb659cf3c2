"""What ICMP says of a connection."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.stack cimport Stack

# `mtu`: of the next hop, where fragmentation was needed; `quoted`: the IP header of a packet of ours; `tcp`: 8 bytes
# of its TCP header. False: it is about no connection here, or must not be believed.
cdef bint error_told(Stack *s, uint8_t kind, uint8_t code, uint32_t mtu, const uint8_t *quoted,
                     const uint8_t *tcp) noexcept nogil
cdef int errno_of6(uint8_t kind, uint8_t code) noexcept nogil
cdef uint16_t path_mss(Stack *s, Address remote_be, uint16_t mss) noexcept nogil
