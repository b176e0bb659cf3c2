/* The names that programs call: descriptors in general, and stdio on sockets.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"
#include "preload.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

EXPORT int close(int fd)
{
    if (likely(!file_of(fd))) {
        if (unlikely(own_has(fd)))
            return (int)result(-EBADF);
        return real()->close(fd);
    }
    if (!is_us())
        return real()->close(fd);
    return (int)result(descriptor_close(fd));
}

/* Close the kernel's descriptors from `first` to `last`, but not the library's own. */
static int close_gaps(unsigned first, unsigned last, int flags)
{
    while (first <= last) {
        unsigned mine = own_next(first);
        unsigned end = mine <= last ? mine - 1 : last;
        if (mine != first && syscall(SYS_close_range, first, end, flags) < 0)
            return -errno;
        if (mine > last)
            break;
        first = mine + 1;
    }
    return 0;
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
    if (first > last)
        return (int)result(-EINVAL);
    if ((flags & CLOSE_RANGE_CLOEXEC) || !is_us())
        return (int)syscall(SYS_close_range, first, last, flags);
    for (unsigned fd = first; (int)fd < neat.table_end && fd <= last; fd++)
        if (file_of((int)fd))
            descriptor_close((int)fd);
    return (int)result(close_gaps(first, last, flags));
}

EXPORT void closefrom(int first)
{
    close_range(first < 0 ? 0 : (unsigned)first, ~0u, 0);
}

EXPORT int dup(int fd)
{
    struct file *file = file_of(fd);
    int new = real()->dup(fd);
    return new < 0 || !file || !is_us() ? new : (int)result(descriptor_duplicated(new, file));
}

/* dup2 and dup3 have made `new` a duplicate of `old`. */
static int replaced(int old, int new)
{
    if (new < 0 || old == new || !is_us())
        return new;
    struct file *file = file_of(old);
    lock(&neat.lock);
    struct file *former = table_take(new);
    unlock(&neat.lock);
    if (file)
        new = (int)result(descriptor_duplicated(new, file));
    if (former)
        file_drop(former);
    return new;
}

EXPORT int dup2(int old, int new)
{
    if (old != new && own_has(new))
        own_move(new);
    return replaced(old, real()->dup2(old, new));
}

EXPORT int dup3(int old, int new, int flags)
{
    if (old != new && own_has(new))
        own_move(new);
    return replaced(old, real()->dup3(old, new, flags));
}

EXPORT int __dup2(int old, int new) __attribute__((alias("dup2"), nothrow, leaf));
EXPORT int __close(int fd) __attribute__((alias("close")));

/* ---- fcntl, ioctl ---- */

static int control(struct sock *s, int fd, int command, void *argument)
{
    switch (command) {
    case F_GETFL:
        return O_RDWR | (s->nonblocking ? O_NONBLOCK : 0);
    case F_SETFL:
        s->nonblocking = (int)(intptr_t)argument & O_NONBLOCK;
        return 0;
    case F_GETOWN: /* the placeholder, which all sockets share, is told nothing */
        return s->owner;
    case F_SETOWN:
        s->owner = (int)(intptr_t)argument;
        return 0;
    default:
        return real()->fcntl(fd, command, argument);
    }
}

EXPORT int fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);

    struct file *file = file_of(fd);
    if (!file)
        return real()->fcntl(fd, command, argument);
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) {
        int new = real()->fcntl(fd, command, argument);
        return new < 0 || !is_us() ? new : (int)result(descriptor_duplicated(new, file));
    }
    if (file->kind != KIND_SOCKET)
        return real()->fcntl(fd, command, argument);
    return control((struct sock *)file, fd, command, argument);
}

EXPORT int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));
EXPORT int __fcntl(int fd, int command, ...) __attribute__((alias("fcntl")));

EXPORT int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);

    struct sock *s = sock_of(fd);
    int answer = s ? sock_ioctl(s, request, argument) : IOCTL_KERNEL;
    return answer == IOCTL_KERNEL ? real()->ioctl(fd, request, argument) : (int)result(answer);
}

/* ---- stdio: libc's own streams do not come through here, so a stream on a socket gets functions of ours ---- */

static int stream_fd(void *cookie)
{
    return (int)(intptr_t)cookie;
}

static ssize_t stream_read(void *cookie, char *buffer, size_t length)
{
    struct sock *s = sock_of(stream_fd(cookie));
    struct iovec iov = {buffer, length};
    return result(s ? sock_receive(s, &iov, 1, 0) : -EBADF);
}

static ssize_t stream_write(void *cookie, const char *buffer, size_t length)
{
    struct sock *s = sock_of(stream_fd(cookie));
    struct iovec iov = {(void *)buffer, length};
    ssize_t n = result(s ? sent_result(sock_send(s, &iov, 1, 0), 0) : -EBADF);
    return n < 0 ? 0 : n; /* as fopencookie() wants errors */
}

static int stream_close(void *cookie)
{
    return (int)result(descriptor_close(stream_fd(cookie)));
}

EXPORT FILE *fdopen(int fd, const char *mode)
{
    const cookie_io_functions_t functions = {stream_read, stream_write, NULL, stream_close};

    if (!sock_of(fd))
        return real()->fdopen(fd, mode);
    FILE *stream = fopencookie((void *)(intptr_t)fd, mode, functions);
    if (stream)
        stream->_fileno = fd; /* for fileno() */
    return stream;
}
