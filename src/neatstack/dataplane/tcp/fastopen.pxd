"""TCP Fast Open (RFC 7413): text on the SYN, for peers that have shown before that they are where they say."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.driver.device cimport Outgoing
from neatstack.dataplane.stack cimport FastKeys, Listener, Stack
from neatstack.dataplane.tcp.tcb cimport Tcb
from neatstack.dataplane.wire.headers cimport Segment

cdef FastKeys keys_from(const uint8_t *text, uint32_t length) noexcept nogil
cdef void open_fast(Stack *s, Tcb *t, Listener *listener, const Segment *seg) noexcept nogil
cdef void take_text_of_syn(Stack *s, uint32_t i, const Segment *seg) noexcept nogil
cdef uint32_t write_fast(Stack *s, uint32_t i, Outgoing *out, uint32_t length, uint32_t *text) noexcept nogil
cdef void learn(Stack *s, const Tcb *t, const Segment *seg) noexcept nogil
cdef void forget(Stack *s, const Tcb *t) noexcept nogil
