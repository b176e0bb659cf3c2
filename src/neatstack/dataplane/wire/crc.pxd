"""CRC32C, a word at a time, by the processor's own instruction."""

from libc.stdint cimport uint64_t

cdef extern from * nogil:
    """
    #if defined(__x86_64__)
    #define neat_crc32c(crc, word) __builtin_ia32_crc32di((crc), (word))
    #elif defined(__aarch64__)
    #define neat_crc32c(crc, word) __builtin_aarch64_crc32cx((unsigned int)(crc), (word))
    #endif
    """
    uint64_t crc32c "neat_crc32c"(uint64_t crc, uint64_t word)

cdef uint64_t checksum(const void *at, uint64_t length) noexcept nogil
