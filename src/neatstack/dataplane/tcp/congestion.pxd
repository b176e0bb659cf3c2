"""Congestion control: how many bytes may be in flight. Another algorithm takes the place of two functions."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from neatstack.dataplane.tcp.tcb cimport Tcb

cdef enum:
    LARGEST = 1 << 30        # bytes: beyond any window that can be offered; ssthresh until there has been a loss

cdef void choose(Tcb *t, uint8_t algorithm) noexcept nogil
cdef void start(Tcb *t) noexcept nogil
cdef void grow(Tcb *t, uint64_t now, uint32_t acked, uint32_t flight, uint32_t round_trip) noexcept nogil
cdef void reduce(Tcb *t, uint32_t flight) noexcept nogil
cdef void timed_out(Tcb *t, uint32_t flight) noexcept nogil
cdef void idle(Tcb *t) noexcept nogil
