/* The names that programs call: sockets and their data. Each passes on what is not ours.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"
#include "preload.h"
#include "vector.h"

#include <stdarg.h>

/* ---- making and naming ---- */

EXPORT int socket(int domain, int type, int protocol)
{
    int kind = type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC);
    bool ours = kind == SOCK_STREAM || (kind == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP));
    if ((domain == AF_INET || domain == AF_INET6) && ours)
        return (int)result(sock_create(domain, type, protocol));
    return real()->socket(domain, type, protocol);
}

EXPORT int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    struct sock *s = sock_of(fd);
    return s ? (int)result(sock_bind(s, address, length)) : real()->bind(fd, address, length);
}

EXPORT int listen(int fd, int backlog)
{
    struct sock *s = sock_of(fd);
    return s ? (int)result(sock_listen(s, backlog)) : real()->listen(fd, backlog);
}

EXPORT int accept(int fd, struct sockaddr *address, socklen_t *length)
{
    struct sock *s = sock_of(fd);
    return s ? (int)result(sock_accept(s, address, length, 0)) : real()->accept(fd, address, length);
}

EXPORT int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    struct sock *s = sock_of(fd);
    return s ? (int)result(sock_accept(s, address, length, flags)) : real()->accept4(fd, address, length, flags);
}

EXPORT int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    struct sock *s = sock_of(fd);
    return s ? (int)result(sock_connect(s, address, length)) : real()->connect(fd, address, length);
}

EXPORT int shutdown(int fd, int how)
{
    struct sock *s = sock_of(fd);
    return s ? (int)result(sock_shutdown(s, how)) : real()->shutdown(fd, how);
}

EXPORT int getsockname(int fd, struct sockaddr *address, socklen_t *length)
{
    struct sock *s = sock_of(fd);
    return s ? (int)result(sock_name(s, address, length, false)) : real()->getsockname(fd, address, length);
}

EXPORT int getpeername(int fd, struct sockaddr *address, socklen_t *length)
{
    struct sock *s = sock_of(fd);
    return s ? (int)result(sock_name(s, address, length, true)) : real()->getpeername(fd, address, length);
}

EXPORT int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
    struct sock *s = sock_of(fd);
    return s ? (int)result(option_get(s, level, name, value, length)) : real()->getsockopt(fd, level, name, value, length);
}

EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    struct sock *s = sock_of(fd);
    return s ? (int)result(option_set(s, level, name, value, length)) : real()->setsockopt(fd, level, name, value, length);
}

/* ---- receiving ---- */

static ssize_t receive_one(struct sock *s, void *buffer, size_t length, int flags)
{
    struct iovec iov = {buffer, length};
    return result(sock_receive(s, &iov, 1, flags));
}

EXPORT ssize_t read(int fd, void *buffer, size_t length)
{
    struct sock *s = sock_of(fd);
    if (!s)
        return real()->read(fd, buffer, length);
    return length ? receive_one(s, buffer, length, 0) : 0; /* of nothing: never waits */
}

EXPORT ssize_t readv(int fd, const struct iovec *iov, int count)
{
    struct sock *s = sock_of(fd);
    if (!s)
        return real()->readv(fd, iov, count);
    int error = vector_refused(iov, (unsigned)count, -EINVAL);
    return result(error ? error : sock_receive(s, iov, count, 0));
}

EXPORT ssize_t recv(int fd, void *buffer, size_t length, int flags)
{
    struct sock *s = sock_of(fd);
    return s ? receive_one(s, buffer, length, flags) : real()->recv(fd, buffer, length, flags);
}

EXPORT ssize_t recvfrom(int fd, void *buffer, size_t length, int flags, struct sockaddr *address, socklen_t *address_length)
{
    struct sock *s = sock_of(fd);
    if (!s)
        return real()->recvfrom(fd, buffer, length, flags, address, address_length);
    if (s->udp) {
        struct iovec iov = {buffer, length};
        struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
        if (address && address_length) {
            message.msg_name = address;
            message.msg_namelen = *address_length;
        }
        ssize_t n = datagram_receive(s, &message, flags);
        if (n >= 0 && message.msg_name)
            *address_length = message.msg_namelen;
        return result(n);
    }
    if (address && address_length)
        *address_length = 0; /* a stream has no sender addresses */
    return receive_one(s, buffer, length, flags);
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    struct sock *s = sock_of(fd);
    if (s)
        return result(sock_receive_message(s, message, flags));
    ssize_t n = real()->recvmsg(fd, message, flags);
    if (unlikely(n >= 0 && message->msg_controllen))
        rights_received(message, flags);
    return n;
}

EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
    struct sock *s = sock_of(fd);
    if (!s) {
        int n = real()->recvmmsg(fd, messages, count, flags, timeout);
        for (int i = 0; i < n; i++)
            if (unlikely(messages[i].msg_hdr.msg_controllen))
                rights_received(&messages[i].msg_hdr, flags);
        return n;
    }
    return (int)result(sock_receive_messages(s, messages, count, flags, timeout));
}

/* What programs compiled with _FORTIFY_SOURCE call: the size of the buffer is known, and must suffice. */
extern void __chk_fail(void) __attribute__((noreturn));

EXPORT ssize_t __read_chk(int fd, void *buffer, size_t length, size_t size)
{
    if (length > size)
        __chk_fail();
    return read(fd, buffer, length);
}

EXPORT ssize_t __recv_chk(int fd, void *buffer, size_t length, size_t size, int flags)
{
    if (length > size)
        __chk_fail();
    return recv(fd, buffer, length, flags);
}

EXPORT ssize_t __recvfrom_chk(int fd, void *buffer, size_t length, size_t size, int flags, struct sockaddr *address,
                              socklen_t *address_length)
{
    if (length > size)
        __chk_fail();
    return recvfrom(fd, buffer, length, flags, address, address_length);
}

/* ---- sending ---- */

static ssize_t send_one(struct sock *s, const void *buffer, size_t length, int flags)
{
    struct iovec iov = {(void *)buffer, length};
    return result(sent_result(sock_send_to(s, &iov, 1, flags, NULL, 0), flags));
}

EXPORT ssize_t write(int fd, const void *buffer, size_t length)
{
    struct sock *s = sock_of(fd);
    return s ? send_one(s, buffer, length, 0) : real()->write(fd, buffer, length);
}

EXPORT ssize_t writev(int fd, const struct iovec *iov, int count)
{
    struct sock *s = sock_of(fd);
    if (!s)
        return real()->writev(fd, iov, count);
    int error = vector_refused(iov, (unsigned)count, -EINVAL);
    return result(error ? error : sent_result(sock_send_to(s, iov, count, 0, NULL, 0), 0));
}

EXPORT ssize_t send(int fd, const void *buffer, size_t length, int flags)
{
    struct sock *s = sock_of(fd);
    return s ? send_one(s, buffer, length, flags) : real()->send(fd, buffer, length, flags);
}

EXPORT ssize_t sendto(int fd, const void *buffer, size_t length, int flags, const struct sockaddr *address,
                      socklen_t address_length)
{
    struct sock *s = sock_of(fd); /* a connected stream ignores the address, as on Linux */
    struct iovec iov = {(void *)buffer, length};
    if (s && s->udp) {
        struct msghdr message = {
            .msg_name = (void *)address, .msg_namelen = address_length, .msg_iov = &iov, .msg_iovlen = 1};
        return result(sent_result(datagram_send(s, &message, flags), flags));
    }
    if (!s)
        return real()->sendto(fd, buffer, length, flags, address, address_length);
    return result(sent_result(sock_send_to(s, &iov, 1, flags, address, address_length), flags));
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    struct sock *s = sock_of(fd);
    if (s)
        return result(sock_send_message(s, message, flags));
    if (unlikely(message && message->msg_controllen) && passes_sockets(message))
        return result(rights_send(fd, message, flags));
    return real()->sendmsg(fd, message, flags);
}

EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    struct sock *s = sock_of(fd);
    if (s)
        return (int)result(sock_send_messages(s, messages, count, flags));
    for (unsigned i = 0; messages && i < count; i++)
        if (unlikely(messages[i].msg_hdr.msg_controllen) && passes_sockets(&messages[i].msg_hdr))
            return (int)result(rights_send_messages(fd, messages, count, flags));
    return real()->sendmmsg(fd, messages, count, flags);
}

EXPORT ssize_t sendfile(int to, int from, off_t *offset, size_t count)
{
    struct sock *s = sock_of(to);
    if (sock_of(from))
        return result(-EINVAL);
    if (!s)
        return real()->sendfile(to, from, offset, count);
    return result(sent_result(sock_sendfile(s, from, offset, count), 0));
}

EXPORT ssize_t sendfile64(int to, int from, off_t *offset, size_t count) __attribute__((alias("sendfile")));

EXPORT ssize_t splice(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t length, unsigned int flags)
{
    struct sock *in = sock_of(from), *out = sock_of(to);
    if (in)
        return result(out ? -EINVAL : sock_splice(in, to, true, from_offset, to_offset, length, flags));
    if (out)
        return result(sent_result(sock_splice(out, from, false, to_offset, from_offset, length, flags), 0));
    return real()->splice(from, from_offset, to, to_offset, length, flags);
}

/* libuv asks for these without libc's functions of that name, and closes so. With io_uring it would put our sockets, and what they
 * wait with, past us: as on a kernel without, it does without. The library's own calls come by here too. */
EXPORT long syscall(long number, ...)
{
    va_list list;
    long a[6];

    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if (unlikely(number == SYS_io_uring_setup) && neat.directory)
        return result(-ENOSYS);
    if (unlikely(number == SYS_close) && file_of((int)a[0]))
        return close((int)a[0]);
    if (unlikely(number == SYS_sendmmsg) && sock_of((int)a[0]))
        return sendmmsg((int)a[0], (struct mmsghdr *)a[1], (unsigned)a[2], (int)a[3]);
    if (unlikely(number == SYS_recvmmsg) && sock_of((int)a[0]))
        return recvmmsg((int)a[0], (struct mmsghdr *)a[1], (unsigned)a[2], (int)a[3], (struct timespec *)a[4]);
    return real()->syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

EXPORT ssize_t __read(int fd, void *buffer, size_t length) __attribute__((alias("read")));
EXPORT ssize_t __write(int fd, const void *buffer, size_t length) __attribute__((alias("write")));
EXPORT ssize_t __send(int fd, const void *buffer, size_t length, int flags) __attribute__((alias("send")));
EXPORT int __connect(int fd, const struct sockaddr *address, socklen_t length) __attribute__((alias("connect")));
