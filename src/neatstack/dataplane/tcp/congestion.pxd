"""Congestion control: how many bytes may be in flight. Another algorithm takes the place of these five functions."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.tcp.tcb cimport Tcb

cdef void start(Tcb *t) noexcept nogil
cdef void grow(Tcb *t, uint32_t acked, uint32_t flight) noexcept nogil
cdef void reduce(Tcb *t, uint32_t flight) noexcept nogil
cdef void timed_out(Tcb *t, uint32_t flight) noexcept nogil
cdef void idle(Tcb *t) noexcept nogil
