"""Datagrams are put together from their fragments."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from neatstack.dataplane.stack cimport Counters, Partial, Reassembly

cdef enum Gathered:          # what became of a fragment, if it was not dropped for a reason of enum Drop
    KEPT = -1
    WHOLE = -2               # the datagram is complete: Reassembly.whole, until the next fragment

cdef struct Fragment:        # as its headers say
    uint8_t ends[32]         # source and destination, of 16 bytes each
    uint32_t number          # identification
    uint32_t offset          # bytes
    uint8_t protocol         # 0 where it is no part of what names a datagram
    uint8_t version
    uint8_t more             # others follow
    uint8_t congestion       # ECN codepoint
    const uint8_t *header    # of the first: what goes before the data again
    uint32_t header_length
    const uint8_t *data
    uint32_t length

cdef int init_reassembly(Reassembly *r, Counters *counters, uint64_t key0, uint64_t key1) noexcept nogil    # 0, or -ENOMEM
cdef void destroy_reassembly(Reassembly *r) noexcept nogil
cdef int gather(Reassembly *r, uint64_t now, const Fragment *f) noexcept nogil      # enum Gathered, or enum Drop
cdef int gather_packet(Reassembly *r, uint64_t now, const uint8_t *packet) noexcept nogil   # the same, of an IPv4 packet
cdef int gather_packet6(
    Reassembly *r, uint64_t now, Fragment *f, const uint8_t *packet, uint32_t named, uint32_t at) noexcept nogil
cdef uint64_t reassembly_deadline(const Reassembly *r) noexcept nogil               # ns; 0: nothing waits
cdef Partial *overdue(Reassembly *r, uint64_t now) noexcept nogil                   # one whose time is over; NULL: none
cdef uint32_t beginning(const Reassembly *r, const Partial *p, uint8_t *out, uint32_t most) noexcept nogil
cdef void expire(Reassembly *r, Partial *p) noexcept nogil
