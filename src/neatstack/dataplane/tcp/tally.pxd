"""What is counted of a connection for TCP_INFO (RFC 4898 has names for most of it); see struct Tally."""

from libc.stdint cimport uint32_t, uint64_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.tcp.tcb cimport CHRONO_BUSY, CHRONO_IDLE, Tcb

cdef void count_longer(Tcb *t, uint32_t length) noexcept nogil
cdef void wait_for(Tcb *t, uint64_t now, uint32_t chrono) noexcept nogil
cdef void account(Stack *s, uint32_t i, uint32_t flight) noexcept nogil
cdef void count_timeout(Tcb *t, uint64_t now) noexcept nogil
cdef void timeout_repaired(Tcb *t, uint64_t now) noexcept nogil
cdef void count_capable(Tcb *t, uint32_t marks, uint32_t length) noexcept nogil
cdef void take_sample(Tcb *t, uint64_t now, uint32_t end) noexcept nogil

cdef inline uint32_t segments(uint32_t length, uint32_t full) noexcept nogil:
    """How many segments bring so many bytes, if `full` bytes go into one."""
    if length <= full or not full:
        return 1
    return (length + full - 1) // full

cdef inline void count_in(Tcb *t, uint32_t length) noexcept nogil:
    """A segment with so many bytes of text has come."""
    t.tally.segments_in += 1
    if length:
        t.tally.texts_in += 1
        if length > t.tally.full_text:
            count_longer(t, length)

cdef inline void count_out(Tcb *t, uint32_t length) noexcept nogil:
    """A segment with so many bytes of text leaves."""
    cdef uint32_t count = 1
    if length:
        if length > t.snd.mss:
            count = segments(length, t.snd.mss)
        t.tally.texts_out += count
    t.tally.segments_out += count

cdef inline void begin_sample(Tcb *t, uint64_t now) noexcept nogil:
    """Of the rate of delivery: nothing is on its way, and text goes."""
    t.tally.sample = t.snd.una
    t.tally.sample_at = now

cdef inline void goes(Stack *s, uint32_t i, Tcb *t, uint32_t flight) noexcept nogil:
    """Text goes, and then so many bytes are on their way."""
    if t.tally.chrono > CHRONO_BUSY or flight > s.views[i].tx_enough:
        account(s, i, flight)
    elif t.tally.chrono == CHRONO_IDLE:
        t.tally.chrono = CHRONO_BUSY
        t.tally.chrono_at = s.now
