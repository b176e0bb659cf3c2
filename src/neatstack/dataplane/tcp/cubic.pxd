"""CUBIC (RFC 9438): congestion avoidance by the time since the last loss."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.tcp.tcb cimport Tcb

cdef void forget(Tcb *t) noexcept nogil
cdef uint32_t avoid(Tcb *t, uint32_t now, uint32_t acked) noexcept nogil
cdef uint32_t reduced(Tcb *t, uint32_t flight) noexcept nogil
