"""One replica's stack, put together: what replica.py and tests drive.

A round of the loop is `receive(s, most)`, then `batch(s)`. Before sleeping: make the replica page's sleep_seq odd, fence, and sleep only
if `idle(s)`, until `deadline(s)`.
"""

from libc.stdint cimport uint32_t, uint64_t

from neatstack.dataplane.driver.device cimport Device
from neatstack.dataplane.stack cimport Stack

cdef int receive(Stack *s, int most) noexcept nogil  # feeds frames of the device and of the loopback queue: how many, or -errno of the device
cdef bint batch(Stack *s) noexcept nogil        # commands, timers, output, publish, send, doorbells; True: there is more to do
cdef uint64_t deadline(Stack *s) noexcept nogil # ns when a timer wants a batch; 0: never
cdef bint idle(Stack *s) noexcept nogil         # no command waits, and nothing is left over from the last batch

cdef class Engine:
    cdef Stack *s
    cdef bint in_memory      # the device is driver/memory.py's
    cdef dict kept           # objects whose memory the stack points into
    cdef void *keep(self, object name, object buffer, uint64_t least, bint writable) except NULL
    cdef object map(self, object region, uint32_t max_tcbs, uint32_t incarnation, bint keep)
    cdef Device *memory(self) except NULL
    cdef object forget(self, uint32_t number)
