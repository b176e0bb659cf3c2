"""The structures of recvmsg() with descriptors attached."""

cdef extern from "<sys/uio.h>" nogil:
    ctypedef struct iovec "struct iovec":
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_CMSG_CLOEXEC
        MSG_CTRUNC
        MSG_DONTWAIT
        MSG_NOSIGNAL
        MSG_TRUNC
        SCM_RIGHTS
        SOL_SOCKET
    ctypedef struct msghdr "struct msghdr":
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    ctypedef struct cmsghdr "struct cmsghdr":
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *item)
    unsigned char *CMSG_DATA(cmsghdr *item)
    size_t CMSG_LEN(size_t length)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    ssize_t send(int fd, const void *data, size_t length, int flags)
