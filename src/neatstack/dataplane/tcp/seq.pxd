"""Arithmetic of sequence numbers, modulo 2**32 (RFC 9293 section 3.4)."""

from libc.stdint cimport int32_t, uint32_t

cdef inline bint before(uint32_t a, uint32_t b) noexcept nogil:
    """a < b"""
    return <int32_t>(a - b) < 0

cdef inline bint after(uint32_t a, uint32_t b) noexcept nogil:
    """a > b"""
    return <int32_t>(b - a) < 0

cdef inline uint32_t earlier(uint32_t a, uint32_t b) noexcept nogil:
    return a if before(a, b) else b

cdef inline uint32_t later(uint32_t a, uint32_t b) noexcept nogil:
    return b if before(a, b) else a

cdef inline uint32_t least(uint32_t a, uint32_t b) noexcept nogil:
    """The smaller of two lengths."""
    return a if a < b else b

cdef inline uint32_t most(uint32_t a, uint32_t b) noexcept nogil:
    """The larger of two lengths."""
    return a if a > b else b
