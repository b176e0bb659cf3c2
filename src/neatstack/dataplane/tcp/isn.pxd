"""Secrets, random numbers, initial sequence numbers (RFC 6528)."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from neatstack.dataplane.channel.address cimport Address, is_v4, v4
from neatstack.dataplane.stack cimport Stack
from neatstack.dataplane.tcp.seq cimport after
from neatstack.dataplane.tcp.tcb cimport Tcb

cdef void draw_secrets(Stack *s) noexcept nogil
cdef uint32_t initial_sequence(Stack *s, Address local_be, uint16_t local_port_be, Address remote_be,
                               uint16_t remote_port_be) noexcept nogil
cdef uint32_t timestamp_offset(Stack *s, Address local_be, uint16_t local_port_be, Address remote_be,
                               uint16_t remote_port_be) noexcept nogil
cdef uint64_t siphash(const uint64_t *key, const uint64_t *words, uint32_t count, uint64_t last) noexcept nogil

cdef inline uint32_t random32(Stack *s) noexcept nogil:
    """SipHash of how many were drawn: whoever has seen some of them cannot foretell the next (RFC 6056, RFC 7739)."""
    s.random_drawn += 1
    return <uint32_t>siphash(s.random_key, &s.random_drawn, 1, <uint64_t>8 << 56)

cdef inline uint32_t used_up(const Tcb *t) noexcept nogil:
    """The sequence number that lies beyond any window of a connection, as Linux takes it; never 0."""
    cdef uint32_t used = t.snd.max + 65536
    return used if used else 1

cdef inline uint32_t beyond(uint32_t used, uint32_t iss) noexcept nogil:
    """`iss` of a connection whose flow has just been used up to `used` (0: it has not)."""
    return used + 1 if used and not after(iss, used) else iss

cdef inline uint32_t flow_words(uint64_t *words, Address local_be, Address remote_be) noexcept nogil:
    """Two addresses as words to be hashed; how many."""
    if is_v4(remote_be):
        words[0] = <uint64_t>v4(local_be) << 32 | v4(remote_be)
        return 1
    words[0] = local_be.hi
    words[1] = local_be.lo
    words[2] = remote_be.hi
    words[3] = remote_be.lo
    return 4
