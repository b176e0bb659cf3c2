"""The state region: what a replica leaves to its next incarnation."""

from libc.stdint cimport uint32_t, uint64_t

from neatstack.dataplane.stack cimport RegionHeader, Stack

cdef enum:
    REGION_MAGIC = 0x4e4f4752    # "RGON"
    REGION_VERSION = 16          # of the structures in it; a region of another version is not taken over

cdef uint64_t layout(RegionHeader *header, uint32_t max_tcbs) noexcept nogil       # fills in sizes and offsets
cdef int map_region(Stack *s, void *memory, uint64_t size, uint32_t max_tcbs, bint keep) noexcept nogil
cdef bint valid(const RegionHeader *header, uint64_t size) noexcept nogil
