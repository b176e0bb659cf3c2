"""Invariants: a build with NEAT_CHECKS ends the replica where one is broken."""

cdef extern from * nogil:
    """
    #ifdef NEAT_CHECKS
    #include <stdio.h>
    #include <stdlib.h>
    #define neat_check(c) do { if (!(c)) { fprintf(stderr, "%s:%d: check failed: %s\\n", __FILE__, __LINE__, #c); abort(); } } while (0)
    #else
    #define neat_check(c) ((void)sizeof(c))
    #endif
    """
    void check "neat_check"(bint ok)
