"""Opening a connection from a segment (RFC 9293 sections 3.10.7.1 to 3.10.7.3, and SYN-RECEIVED of 3.10.7.4)."""

from libc.stdint cimport uint16_t, uint32_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.stack cimport Listener, Stack
from neatstack.dataplane.tcp.tcb cimport Tcb
from neatstack.dataplane.wire.headers cimport Options, Segment

cdef uint32_t no_connection(Stack *s, const Segment *seg) noexcept nogil
cdef bint opens_anew(Stack *s, uint32_t i, const Segment *seg) noexcept nogil
cdef bint syn_sent(Stack *s, uint32_t i, Segment *seg) noexcept nogil
cdef bint repeated_syn(Stack *s, uint32_t i, Segment *seg) noexcept nogil
cdef bint syn_received(Stack *s, uint32_t i, const Segment *seg) noexcept nogil
cdef void new_connection(Stack *s, Tcb *t, Listener *listener, const Segment *seg) noexcept nogil
cdef void take_offers(Stack *s, Tcb *t, uint32_t irs, const Options *options) noexcept nogil
cdef uint32_t first_room(Stack *s, Listener *listener) noexcept nogil
cdef uint16_t our_mss(Stack *s, bint loopback, Address remote_be) noexcept nogil
