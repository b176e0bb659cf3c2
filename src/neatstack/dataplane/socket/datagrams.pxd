"""UDP sockets of programs: their slots, what they send, what they are told."""

from libc.stdint cimport uint16_t, uint32_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.stack cimport Stack

cdef int bind_datagrams(Stack *s, uint32_t number, uint32_t channel, uint32_t cookie, Address address_be, uint16_t port_be,
                        uint32_t flags) noexcept nogil
cdef int hold_datagrams(Stack *s, uint32_t number, uint32_t channel) noexcept nogil
cdef int release_datagrams(Stack *s, uint32_t number, uint32_t channel) noexcept nogil
cdef int unbind_datagrams(Stack *s, uint32_t number) noexcept nogil
cdef void await_binding(Stack *s, uint32_t channel, uint32_t socket) noexcept nogil      # a slot is new
cdef void leave_unbound(Stack *s, uint32_t channel, uint32_t socket) noexcept nogil
cdef void recover_datagrams(Stack *s, uint32_t channel, uint32_t socket) noexcept nogil  # the last incarnation has left it so
cdef void look_at_endpoint(Stack *s, uint32_t i) noexcept nogil
cdef void inherit_endpoints(Stack *s, uint32_t channel, uint32_t parent) noexcept nogil
cdef void drop_endpoints(Stack *s, uint32_t channel) noexcept nogil
cdef void evict_endpoints(Stack *s, uint32_t channel) noexcept nogil
cdef void send_datagrams(Stack *s) noexcept nogil    # plan what waits in the send rings
cdef void tell_datagrams(Stack *s) noexcept nogil    # of what was received: after a fence, before the event rings' heads are published
cdef void datagrams_left(Stack *s) noexcept nogil    # what was planned has been sent
