"""One batch of a replica.

A round of the loop is `receive(s, most)`, then `batch(s)`. Before sleeping: make the replica page's sleep_seq odd, fence, and
sleep only if `idle(s)`, until `deadline(s)`.
"""

from libc.stdint cimport uint64_t

from neatstack.dataplane.stack cimport Stack

cdef int receive(Stack *s, int most) noexcept nogil  # feeds frames of the device and of the loopback queue: how many, or -errno of the device
cdef bint batch(Stack *s) noexcept nogil        # commands, timers, output, publish, send, doorbells; True: there is more to do
cdef uint64_t deadline(Stack *s) noexcept nogil # ns when a timer wants a batch; 0: never
cdef bint idle(Stack *s) noexcept nogil         # no command waits, and nothing is left over from the last batch
cdef void rounds(void *stack) noexcept nogil    # all rounds that there are now
