"""Reading a state region from outside, or from the engine that owns it."""

from libc.stdint cimport uint8_t

from neatstack.dataplane.stack cimport Counters, Listener, RegionHeader
from neatstack.dataplane.tcp.tcb cimport Tcb

cdef class Region:           # a region's memory, checked to be one
    cdef Py_buffer _view
    cdef RegionHeader header # a copy
    cdef const uint8_t *base

cdef dict counters_of(const Counters *c)
cdef dict connection_of(unsigned int i, const Tcb *t)
cdef list connections_of(const RegionHeader *header, const Tcb *tcbs, int limit)
cdef list listeners_of(const Listener *listeners)
