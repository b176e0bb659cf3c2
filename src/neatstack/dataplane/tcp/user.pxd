"""What the layer above asks of a connection (RFC 9293 section 3.10.1 to 3.10.6)."""

from libc.stdint cimport uint16_t, uint32_t

from neatstack.dataplane.channel.address cimport Address
from neatstack.dataplane.stack cimport Stack

# The index of a TCB in SYN-SENT, or -errno. local_port_be 0: choose one.
cdef int connect(Stack *s, uint32_t channel, uint32_t socket, Address local_be, uint16_t local_port_be,
                 Address remote_be, uint16_t remote_port_be) noexcept nogil
cdef void accepted(Stack *s, uint32_t i) noexcept nogil         # accept() has returned it: Listener.waiting falls
cdef void sent(Stack *s, uint32_t i) noexcept nogil
cdef void urge(Stack *s, uint32_t i, uint32_t end) noexcept nogil
cdef void received(Stack *s, uint32_t i) noexcept nogil
cdef void shutdown_read(Stack *s, uint32_t i) noexcept nogil
cdef void shutdown_write(Stack *s, uint32_t i) noexcept nogil
cdef void options_changed(Stack *s, uint32_t i) noexcept nogil  # v.options or the program's keepalive lines
cdef bint unread(Stack *s, uint32_t i) noexcept nogil
cdef void close(Stack *s, uint32_t i) noexcept nogil
cdef void abort(Stack *s, uint32_t i, int error) noexcept nogil
cdef void fin_wait_2_limit(Stack *s, uint32_t i) noexcept nogil
