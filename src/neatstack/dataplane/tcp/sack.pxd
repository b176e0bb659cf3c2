"""Selective acknowledgments that we send (RFC 2018, RFC 2883)."""

from libc.stdint cimport uint8_t, uint32_t

from neatstack.dataplane.tcp.tcb cimport Tcb

cdef void arrived(Tcb *t, uint32_t left, uint32_t right) noexcept nogil
cdef void came_again(Tcb *t, uint32_t left, uint32_t right) noexcept nogil
cdef uint32_t write_blocks(Tcb *t, uint8_t *to, uint32_t room) noexcept nogil

cdef inline uint32_t write_sack(Tcb *t, uint8_t *to, uint32_t room) noexcept nogil:
    """Write what is to be said besides the ACK; how many bytes, a multiple of 4, at most `room`."""
    if not t.rcv.ranges and t.rcv.duplicate.left == t.rcv.duplicate.right:
        return 0
    return write_blocks(t, to, room)
