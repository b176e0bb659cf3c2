"""Loads and stores of what stands on the wire: unaligned and big-endian."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint16_t neat_get16(const void *p) { uint16_t v; memcpy(&v, p, 2); return __builtin_bswap16(v); }
    static inline uint32_t neat_get32(const void *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
    static inline void neat_put16(void *p, uint16_t v) { v = __builtin_bswap16(v); memcpy(p, &v, 2); }
    static inline void neat_put32(void *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); }
    /* As they stand: fields that are kept in network byte order. */
    static inline uint16_t neat_raw16(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }
    static inline uint32_t neat_raw32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
    static inline void neat_set16(void *p, uint16_t v) { memcpy(p, &v, 2); }
    static inline void neat_set32(void *p, uint32_t v) { memcpy(p, &v, 4); }
    static inline uint16_t neat_swap16(uint16_t v) { return __builtin_bswap16(v); }
    """
    uint16_t get16 "neat_get16"(const void *p)
    uint32_t get32 "neat_get32"(const void *p)
    void put16 "neat_put16"(void *p, uint16_t v)
    void put32 "neat_put32"(void *p, uint32_t v)
    uint16_t raw16 "neat_raw16"(const void *p)
    uint32_t raw32 "neat_raw32"(const void *p)
    void set16 "neat_set16"(void *p, uint16_t v)
    void set32 "neat_set32"(void *p, uint32_t v)
    uint16_t swap16 "neat_swap16"(uint16_t v)
