"""Is our memory still what we have made it?"""

from libc.stdint cimport uint64_t

from neatstack.dataplane.stack cimport Stack

cdef extern from * nogil:
    """
    #define NEAT_AUDIT_EVERY 100000000ull
    """
    const uint64_t AUDIT_EVERY "NEAT_AUDIT_EVERY"    # ns

cdef enum:
    AUDIT_SLICE = 2048       # TCBs looked at in one audit

cdef void audit(Stack *s) noexcept nogil             # ends the process if it is not
