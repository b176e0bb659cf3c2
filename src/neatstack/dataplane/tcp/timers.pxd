"""Timers: five deadlines in each TCB, one entry for it in a hierarchical wheel."""

from libc.stdint cimport uint32_t, uint64_t

from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.tcp.tcb cimport Tcb, Timer

cdef enum:
    TICK_BITS = 20           # a tick is 2**20 ns, about a millisecond

cdef extern from * nogil:
    """
    #define NEAT_MILLISECOND 1000000ull
    #define NEAT_SECOND 1000000000ull
    """
    const uint64_t MILLISECOND "NEAT_MILLISECOND"   # ns
    const uint64_t SECOND "NEAT_SECOND"

cdef void init(Stack *s) noexcept nogil          # empty wheel at s.now; then arm() every TCB in use
cdef void run(Stack *s) noexcept nogil           # act on the deadlines up to s.now
cdef uint64_t earliest(const Tcb *t) noexcept nogil    # its earliest deadline, ns; 0: none
cdef uint64_t next_deadline(Stack *s) noexcept nogil  # ns when run() has something to do; 0: never
cdef void arm(Stack *s, uint32_t i) noexcept nogil    # see to it that the wheel looks at i at its earliest deadline
cdef void disarm(Stack *s, uint32_t i) noexcept nogil # take i out of the wheel
cdef void relink(Stack *s, uint32_t i, uint64_t at) noexcept nogil

cdef inline void set_timer(Stack *s, uint32_t i, Timer timer, uint64_t at) noexcept nogil:
    """Deadline `at`, ns. The wheel entry is moved only forward in time, so that most calls cost a comparison."""
    s.tcbs[i].timers[<int>timer] = at
    if not s.views[i].wheel_slot or at < s.views[i].wheel_at:
        relink(s, i, at)

cdef inline void clear_timer(Stack *s, uint32_t i, Timer timer) noexcept nogil:
    s.tcbs[i].timers[<int>timer] = 0
