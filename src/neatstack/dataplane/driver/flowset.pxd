"""A set of flow records, to compare many with many."""

from libc.stdint cimport uint64_t

from neatstack.dataplane.driver.maps cimport SteerFlow

cdef enum:
    WORDS = 5                # of 64 bits in a flow

cdef struct FlowSet:
    uint64_t *slots          # WORDS for each flow; the last is 0: free
    uint64_t mask            # slots - 1

cdef int flowset_open(FlowSet *set, uint64_t most) noexcept nogil      # 0; -ENOMEM
cdef void flowset_close(FlowSet *set) noexcept nogil
cdef void flowset_add(FlowSet *set, const SteerFlow *flow) noexcept nogil   # at most `most` times
cdef bint flowset_has(const FlowSet *set, const SteerFlow *flow) noexcept nogil
cdef int flowset_of(FlowSet *set, const SteerFlow *flows, uint64_t count) noexcept nogil   # opened, with these in it
