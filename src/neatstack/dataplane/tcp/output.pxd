"""What to send now (RFC 9293 section 3.8)."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.stack cimport Stack, View
from neatstack.dataplane.tcp.tcb cimport Tcb

cdef void output(Stack *s, uint32_t i) noexcept nogil
cdef void send(Stack *s, uint32_t i, uint32_t seq, uint32_t length, uint8_t fin, uint32_t end) noexcept nogil
cdef uint32_t up_to_border(Stack *s, uint32_t i, uint32_t seq, uint32_t length, uint32_t end) noexcept nogil
cdef uint32_t end_of_text(const View *v, const Tcb *t) noexcept nogil
