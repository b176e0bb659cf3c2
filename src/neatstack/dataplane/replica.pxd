"""What replica.py takes from the kernel's headers, and its loop's own variables."""

from libc.stdint cimport uint32_t, uint64_t

from neatstack.dataplane.stack cimport Stack

cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_MONOTONIC
    ctypedef struct timespec "struct timespec":
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLLET
        EPOLLIN
    ctypedef union EventData "epoll_data_t":
        int fd
    ctypedef struct Event "struct epoll_event":
        uint32_t events
        EventData data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, Event *event)
    int epoll_pwait2(int epoll, Event *events, int most, const timespec *timeout, const void *signals)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
    ssize_t send(int fd, const void *data, size_t length, int flags)

cdef extern from "<signal.h>" nogil:
    enum:
        SIGINT
    ctypedef void (*Handler "sighandler_t")(int)
    Handler SIG_IGN
    Handler signal(int number, Handler handler)

cdef struct Loop:
    Stack *s
    int epoll
    int control
    int link                 # datagram socket to link
    uint32_t busy            # rounds since control was last looked at
    int limit                # frames to take in the next round
    bint frames              # the device may have some
    bint faulty              # the fault injector holds frames back until it is asked again
