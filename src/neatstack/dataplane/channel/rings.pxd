"""The command ring, the event ring and the doorbell of a channel."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from neatstack.dataplane.channel.atomic cimport load32, load64, load_acquire, store64
from neatstack.dataplane.channel.layout cimport Entry
from neatstack.dataplane.stack cimport Channel, Stack

cdef void ring_doorbells(Stack *s) noexcept nogil  # of the programs that sleep and have new events
cdef bint any_commands(Stack *s) noexcept nogil    # some program has put commands that were not taken

cdef inline uint64_t entry_bits(uint16_t channel, uint16_t op, uint32_t socket) noexcept nogil:
    """An Entry as one load or store moves it, so that the other side never sees half of one."""
    return channel | <uint64_t>op << 16 | <uint64_t>socket << 32

cdef inline uint32_t entry_op(uint64_t bits) noexcept nogil:
    return <uint32_t>(bits >> 16) & 0xFFFF

cdef inline uint64_t load_entry(const Entry *e) noexcept nogil:
    return load64(<const uint64_t *>e)

cdef inline void store_entry(Entry *e, uint64_t bits) noexcept nogil:
    store64(<uint64_t *>e, bits)
