"""Multiplicative hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4)."""

from libc.stdint cimport uint32_t

cdef inline uint32_t spread(uint32_t word, uint32_t bits) noexcept nogil:
    """The top `bits` bits, 1 to 32, of the product with 2^32 divided by the golden ratio: neighbours lie far apart."""
    return word * <uint32_t>2654435761u >> (32 - bits)
