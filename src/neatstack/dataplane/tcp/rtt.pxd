"""The round trip and the retransmission timeout (RFC 6298)."""

from libc.stdint cimport uint32_t, uint64_t

from neatstack.dataplane.tcp.tcb cimport TCB_RTT_TIMING, Tcb

cdef enum:                   # microseconds
    RTO_INITIAL = 1000000    # section 2.1
    RTO_FALLBACK = 3000000   # (5.7): a SYN had to be sent again
    RTO_LEAST = 200000       # section 2.4 asks for a second; Linux takes this
    RTO_MOST = 120000000     # section 2.5

cdef void start(Tcb *t) noexcept nogil
cdef void measured(Tcb *t, uint32_t round_trip) noexcept nogil

cdef inline void begin_timing(Tcb *t, uint32_t seq, uint64_t now) noexcept nogil:
    """The segment at seq has been sent for the first time. One segment at a time is measured."""
    if not t.flags & TCB_RTT_TIMING:
        t.flags |= TCB_RTT_TIMING
        t.rtt.seq = seq
        t.rtt.sent_at = now

cdef inline void stop_timing(Tcb *t) noexcept nogil:
    """Karn's algorithm (section 3): what has been sent twice is not measured."""
    t.flags &= ~<uint32_t>TCB_RTT_TIMING
