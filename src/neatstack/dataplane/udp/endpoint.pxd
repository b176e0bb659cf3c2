"""The UDP sockets of the stack, as a replica knows them, and which of them a datagram is for."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.stack cimport Endpoint, Stack

cdef enum EndpointNews:
    ENDPOINT_RECEIVED = 1    # there is something to receive
    ENDPOINT_SENT = 2        # datagrams have been planned: the tail moves when they have left

cdef int init_datagrams(Stack *s) noexcept nogil                     # 0, or -ENOMEM
cdef void destroy_datagrams(Stack *s) noexcept nogil
cdef uint32_t add_endpoint(Stack *s, uint32_t number, uint32_t channel, uint32_t cookie) noexcept nogil  # 0: no room
cdef void publish_endpoint(Stack *s, uint32_t i, Address address_be, uint16_t port_be) noexcept nogil
cdef void hide_endpoint(Stack *s, uint32_t i) noexcept nogil         # nothing is received any more
cdef void remove_endpoint(Stack *s, uint32_t i) noexcept nogil
cdef void connect_endpoint(Stack *s, uint32_t i, Address local_be, Address remote_be, uint16_t remote_port_be) noexcept nogil
cdef uint32_t endpoint_numbered(Stack *s, uint32_t number) noexcept nogil            # 0: none, as in all that follows
cdef uint32_t endpoint_of_cookie(Stack *s, uint32_t channel, uint32_t cookie) noexcept nogil
cdef uint32_t find_endpoint(Stack *s, Address local_be, uint16_t local_port_be, Address remote_be,
                            uint16_t remote_port_be) noexcept nogil
cdef uint32_t next_member(Stack *s, uint32_t i, Address group_be, uint16_t local_port_be, Address remote_be,
                          uint16_t remote_port_be) noexcept nogil
cdef void told(Stack *s, uint32_t i, uint8_t news) noexcept nogil
cdef bint joined(Stack *s, Address group_be) noexcept nogil
cdef int join_group(Stack *s, Address group_be) noexcept nogil      # 0, or -ENOBUFS
cdef void leave_group(Stack *s, Address group_be) noexcept nogil
