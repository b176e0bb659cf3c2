"""The journal: a change of a TCB counts when it is committed, and is undone when the process dies before.

Everything that happens (a packet, a command, a timer, a plan to send) is an event, which changes one TCB after the other:

    touch(i)     the TCB is checked, copied to the region's undo slot, and the slot is valid
    ...          it changes
    commit()     its checksum is written, the undo slot is invalid: that is the commit

Touching another TCB commits the one before. What programs and the wire see (lines, events, packets, free slots) follows
the commit, so that a process may die between any two instructions: adopt.py puts together what it has left.

The order of stores is all that this needs. A process that dies has executed its instructions in order up to one of them, and
all that they stored is seen by whoever looks afterwards; so barriers for the compiler are enough.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from neatstack.dataplane.stack cimport Stack, View
from neatstack.dataplane.tcp.tcb cimport Tcb

cdef extern from * nogil:
    """
    #if defined(NEAT_NO_JOURNAL)
    #define NEAT_JOURNAL 0
    #else
    #define NEAT_JOURNAL 1
    #endif
    """
    const bint JOURNAL "NEAT_JOURNAL"                                  # 0: compiled out, to measure what it costs

cpdef enum Point:            # the steps between taking an event and having sent its consequences, where tests let a replica die
    POINT_NONE
    POINT_TAKEN              # frames have come, and none was handled
    POINT_TOUCHED            # the undo slot is valid, nothing has changed
    POINT_COPIED             # received bytes are in their ring; rcv.nxt stands before them
    POINT_CHANGED            # all has changed, the checksum is the old one
    POINT_SEALED             # the checksum is right, the undo slot valid
    POINT_COMMITTED          # the undo slot is invalid; slots that were left are not free yet
    POINT_FREED              # they are free
    POINT_COMMAND_TAKEN      # a command is out of its ring, and was not looked at
    POINT_DETACHED           # a detach is committed, and still in its ring
    POINT_PLANNED            # all that is to be sent is in the outbox
    POINT_LINES              # the lines of one socket are written
    POINT_EVENT              # an entry is in an event ring, and the head does not show it
    POINT_PUBLISHED          # programs can see everything, and sleep
    POINT_SENT               # one segment of the outbox has gone
    POINT_FLUSHED            # all of them
    POINT_RUNG               # doorbells have rung
    POINT_FINISHED           # the batch is over

cdef enum Strike:            # Stack.trap: what happens at the point
    STRIKE_NOTHING
    STRIKE_COUNT             # only count
    STRIKE_JUMP              # leave everything as it is and jump to Stack.trap_jump
    STRIKE_KILL
    STRIKE_SEGV
    STRIKE_ABORT
    STRIKE_HANG

cdef enum:
    WORDS_OF_VIEW = 8        # 64-bit words of a View up to its checksum, which is half of the last

cdef uint32_t checksum_of_tcb(const Tcb *t) noexcept nogil
cdef void copy_tcb(Tcb *to, const Tcb *t) noexcept nogil
cdef uint32_t checksum_of_view(const View *v) noexcept nogil
cdef void open_undo(Stack *s, uint32_t i) noexcept nogil
cdef void touch_new(Stack *s, uint32_t i) noexcept nogil     # as touch(), of a TCB that is FREE: there is nothing to check
cdef void seal(Stack *s) noexcept nogil
cdef void strike(Stack *s, Point where) noexcept nogil
cdef void broken(Stack *s, const char *what) noexcept nogil  # memory is not what we left there: the process ends

cdef inline void point(Stack *s, Point where) noexcept nogil:
    if s.trap:
        strike(s, where)

cdef inline void touch(Stack *s, uint32_t i) noexcept nogil:
    """TCB i is about to change."""
    if JOURNAL and s.hand != i:
        open_undo(s, i)

cdef inline void commit(Stack *s) noexcept nogil:
    """The event is over."""
    if JOURNAL and s.hand:
        seal(s)
    elif not JOURNAL and s.region.retired_count:
        seal(s)
