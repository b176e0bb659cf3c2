"""Attach and release the memory that one program and this replica share."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from neatstack.dataplane.stack cimport Channel, Stack

cdef int attach(Stack *s, uint32_t number, void *memory, uint64_t size, int doorbell) noexcept nogil  # 0 or -errno
cdef uint64_t guard_of(const Channel *ch) noexcept nogil
cdef void deactivate(Stack *s, uint32_t number) noexcept nogil   # its program is dead: no more commands or events
cdef void release_memory(Stack *s, uint32_t number) noexcept nogil  # no TCB uses it: forget the memory
cdef void destroy_channels(Stack *s) noexcept nogil

cdef inline uint8_t *rx_ring(Channel *ch, uint32_t socket) noexcept nogil:
    return ch.buffers + <uint64_t>socket * (<uint64_t>ch.header.rx_size + ch.header.tx_size)

cdef inline uint8_t *tx_ring(Channel *ch, uint32_t socket) noexcept nogil:
    return rx_ring(ch, socket) + ch.header.rx_size

cdef inline bint holds_bit(const uint64_t *bits, uint32_t channel) noexcept nogil:
    return (bits[channel >> 6] >> (channel & 63)) & 1

cdef inline void set_bit(uint64_t *bits, uint32_t channel) noexcept nogil:
    bits[channel >> 6] |= <uint64_t>1 << (channel & 63)

cdef inline void clear_bit(uint64_t *bits, uint32_t channel) noexcept nogil:
    bits[channel >> 6] &= ~(<uint64_t>1 << (channel & 63))

cdef inline bint any_bit(const uint64_t *bits) noexcept nogil:
    return (bits[0] | bits[1] | bits[2] | bits[3]) != 0

cdef inline bint only_bit(const uint64_t *bits, uint32_t channel) noexcept nogil:
    cdef uint32_t word = channel >> 6
    return (bits[word] == <uint64_t>1 << (channel & 63)
            and not bits[(word + 1) & 3] | bits[(word + 2) & 3] | bits[(word + 3) & 3])
