"""Listeners: who accepts what."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.stack cimport FastKeys, Listener, Stack

cdef int listen(Stack *s, uint32_t number, Address address_be, uint16_t port_be, uint32_t backlog,
                uint16_t mss, uint8_t defer, uint8_t syn_retries, uint32_t fastopen, uint8_t v6only,
                uint8_t congestion, uint8_t save_syn, uint8_t least_ttl, uint8_t least_hops, FastKeys fast_keys) noexcept nogil
cdef void unlisten(Stack *s, uint32_t number) noexcept nogil
cdef void index_listeners(Stack *s) noexcept nogil
cdef Listener *find_listener(Stack *s, Address address_be, uint16_t port_be) noexcept nogil
cdef Listener *listener_numbered(Stack *s, uint32_t number) noexcept nogil
