"""Words of bits."""

from libc.stdint cimport uint64_t

cdef extern from * nogil:
    """
    static inline int neat_lowest(uint64_t word) { return __builtin_ctzll(word); }
    """
    int lowest "neat_lowest"(uint64_t word)   # the number of the lowest bit that is set; word is not 0
