"""HyStart++ (RFC 9406): the first slow start ends when the round trip grows."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.tcp.tcb cimport Tcb

cdef void begin(Tcb *t) noexcept nogil
cdef uint32_t acknowledged(Tcb *t, uint32_t acked, uint32_t round_trip) noexcept nogil
