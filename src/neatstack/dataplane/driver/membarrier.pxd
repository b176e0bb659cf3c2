"""Waiting for all read-side critical sections of the kernel's RCU to end."""

cdef extern from "<sys/syscall.h>" nogil:
    enum:
        SYS_membarrier

cdef extern from "<linux/membarrier.h>" nogil:
    enum:
        MEMBARRIER_CMD_GLOBAL

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)
    int usleep(unsigned int microseconds)
