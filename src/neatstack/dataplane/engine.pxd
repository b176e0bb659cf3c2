"""One replica's stack, put together: what replica.py and tests drive."""

from libc.stdint cimport uint32_t, uint64_t

from neatstack.dataplane.driver.device cimport Device
from neatstack.dataplane.stack cimport Stack

cdef class Engine:
    cdef Stack *s
    cdef bint in_memory      # the device is driver/memory.py's
    cdef dict kept           # objects whose memory the stack points into
    cdef void *keep(self, object name, object buffer, uint64_t least, bint writable) except NULL
    cdef object map(self, object region, uint32_t max_tcbs, uint32_t incarnation, bint keep)
    cdef Device *memory(self) except NULL
    cdef object forget(self, uint32_t number)
