"""Loads and stores of memory that another process writes at the same time.

Each is one access: what was loaded is a copy that nobody can change between a check and its use.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #define neat_load(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define neat_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define neat_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define neat_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define neat_load_acquire64(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define neat_store_release64(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define neat_trailing_zeros(v) ((uint32_t)__builtin_ctzll(v))
    #define neat_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define neat_compiler_barrier() __asm__ __volatile__("" ::: "memory")
    """
    uint8_t load8 "neat_load"(const uint8_t *p)
    uint16_t load16 "neat_load"(const uint16_t *p)
    uint32_t load32 "neat_load"(const uint32_t *p)
    uint64_t load64 "neat_load"(const uint64_t *p)
    uint32_t load_acquire "neat_load_acquire"(const uint32_t *p)
    void store32 "neat_store"(uint32_t *p, uint32_t v)
    void store64 "neat_store"(uint64_t *p, uint64_t v)
    void store8_release "neat_store_release"(uint8_t *p, uint8_t v)
    void store_release "neat_store_release"(uint32_t *p, uint32_t v)
    uint64_t load_acquire64 "neat_load_acquire64"(const uint64_t *p)
    void store_release64 "neat_store_release64"(uint64_t *p, uint64_t v)
    uint32_t trailing_zeros "neat_trailing_zeros"(uint64_t v)    # of a number that is not 0
    void fence "neat_fence"()
    void barrier "neat_compiler_barrier"()                       # enough for who looks only after this process has died
