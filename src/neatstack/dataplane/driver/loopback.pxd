"""The queue of frames from this replica to itself."""

from libc.stdint cimport uint32_t

from neatstack.dataplane.driver.device cimport Frame, Outgoing
from neatstack.dataplane.stack cimport Stack

cdef enum:
    LOOP_SIZE = 8388608      # bytes of the queue

cdef int init_loopback(Stack *s) noexcept nogil                          # 0, or -ENOMEM
cdef void destroy_loopback(Stack *s) noexcept nogil
cdef bint put_loopback(Stack *s, const Outgoing *out) noexcept nogil     # False: no room
cdef bint take_loopback(Stack *s, Frame *frame) noexcept nogil           # False: empty. Valid until the next put
