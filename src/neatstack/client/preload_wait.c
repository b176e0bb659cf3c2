/* The names that programs call: select, poll, epoll.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"
#include "preload.h"

#include <sys/select.h>

static int64_t ns_of(const struct timespec *time)
{
    return time ? time->tv_sec * INT64_C(1000000000) + time->tv_nsec : -1;
}

static bool valid(const struct timespec *time)
{
    return !time || (time->tv_sec >= 0 && time->tv_nsec >= 0 && time->tv_nsec < 1000000000);
}

/* ---- poll ---- */

EXPORT int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    return (int)result(poll_descriptors(fds, count, deadline_after(timeout_ms < 0 ? -1 : timeout_ms * INT64_C(1000000)), NULL));
}

EXPORT int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    if (!valid(timeout))
        return (int)result(-EINVAL);
    return (int)result(poll_descriptors(fds, count, deadline_after(ns_of(timeout)), mask));
}

extern void __chk_fail(void) __attribute__((noreturn));

EXPORT int __poll_chk(struct pollfd *fds, nfds_t count, int timeout_ms, size_t size)
{
    if (size / sizeof *fds < count)
        __chk_fail();
    return poll(fds, count, timeout_ms);
}

EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask, size_t size)
{
    if (size / sizeof *fds < count)
        __chk_fail();
    return ppoll(fds, count, timeout, mask);
}

EXPORT int __poll(struct pollfd *fds, nfds_t count, int timeout_ms) __attribute__((alias("poll")));

/* ---- select ---- */

EXPORT int select(int count, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout)
{
    if (!select_concerns(count, in, out, except))
        return real()->select(count, in, out, except, timeout);
    if (timeout && (timeout->tv_sec < 0 || timeout->tv_usec < 0))
        return (int)result(-EINVAL);
    int64_t deadline =
        deadline_after(timeout ? timeout->tv_sec * INT64_C(1000000000) + timeout->tv_usec * INT64_C(1000) : -1);
    int ready = select_descriptors(count, in, out, except, deadline, NULL);
    struct timespec left;
    if (timeout && remaining(deadline, &left)) { /* Linux tells what was left */
        timeout->tv_sec = left.tv_sec;
        timeout->tv_usec = left.tv_nsec / 1000;
    }
    return (int)result(ready);
}

EXPORT int pselect(int count, fd_set *in, fd_set *out, fd_set *except, const struct timespec *timeout, const sigset_t *mask)
{
    if (!select_concerns(count, in, out, except))
        return real()->pselect(count, in, out, except, timeout, mask);
    if (!valid(timeout))
        return (int)result(-EINVAL);
    return (int)result(select_descriptors(count, in, out, except, deadline_after(ns_of(timeout)), mask));
}

EXPORT int __select(int count, fd_set *in, fd_set *out, fd_set *except, struct timeval *timeout)
    __attribute__((alias("select")));

/* ---- epoll ---- */

/* A set of ours may come to hold sockets: remember it from the start, so that duplicates share it. */
static int remember(int epfd)
{
    if (epfd < 0)
        return epfd;
    lock(&neat.lock);
    struct epoll *e = epoll_new();
    if (e && table_put(epfd, &e->file) < 0)
        epoll_free(e);
    unlock(&neat.lock);
    return epfd;
}

EXPORT int epoll_create(int size)
{
    return remember(real()->epoll_create(size));
}

EXPORT int epoll_create1(int flags)
{
    return remember(real()->epoll_create1(flags));
}

EXPORT int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    return (int)result(epoll_control(epfd, op, fd, event));
}

EXPORT int epoll_wait(int epfd, struct epoll_event *events, int most, int timeout_ms)
{
    struct epoll *e = epoll_of(epfd);
    if (!e || !epoll_concerns(e))
        return real()->epoll_wait(epfd, events, most, timeout_ms);
    int64_t deadline = deadline_after(timeout_ms < 0 ? -1 : timeout_ms * INT64_C(1000000));
    return (int)result(epoll_wait_for(e, epfd, events, most, deadline, NULL));
}

EXPORT int epoll_pwait(int epfd, struct epoll_event *events, int most, int timeout_ms, const sigset_t *mask)
{
    struct epoll *e = epoll_of(epfd);
    if (!e || !epoll_concerns(e))
        return real()->epoll_pwait(epfd, events, most, timeout_ms, mask);
    int64_t deadline = deadline_after(timeout_ms < 0 ? -1 : timeout_ms * INT64_C(1000000));
    return (int)result(epoll_wait_for(e, epfd, events, most, deadline, mask));
}

EXPORT int epoll_pwait2(int epfd, struct epoll_event *events, int most, const struct timespec *timeout, const sigset_t *mask)
{
    struct epoll *e = epoll_of(epfd);
    if (!e || !epoll_concerns(e))
        return (int)syscall(SYS_epoll_pwait2, epfd, events, most, timeout, mask, _NSIG / 8);
    if (!valid(timeout))
        return (int)result(-EINVAL);
    return (int)result(epoll_wait_for(e, epfd, events, most, deadline_after(ns_of(timeout)), mask));
}
