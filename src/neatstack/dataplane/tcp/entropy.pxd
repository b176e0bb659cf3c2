"""Random bytes from the kernel."""

cdef extern from * nogil:
    """
    #include <stdlib.h>
    #include <sys/random.h>
    /* Secrets are drawn once, at the start: without them the replica must not run. */
    static inline void neat_fill_random(void *to, size_t length)
    {
        if (getrandom(to, length, 0) != (ssize_t)length)
            abort();
    }
    """
    void fill_random "neat_fill_random"(void *to, size_t length)
