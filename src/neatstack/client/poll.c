/* poll and select over our sockets and the kernel's descriptors together.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <stdlib.h>

#define ON_STACK 64 /* descriptors polled without memory from the kernel */

struct polling {
    struct pollfd *fds; /* the caller's */
    nfds_t count;
    struct pollfd *kernel; /* what the kernel is asked: ours are left out, the place comes last */
    bool any_kernel;
    struct sleeper *sleepers; /* one for each of ours, unless the process has one thread */
};

static bool any_ours(const struct pollfd *fds, nfds_t count)
{
    for (nfds_t i = 0; i < count; i++)
        if (sock_of(fds[i].fd))
            return true;
    return false;
}

/* Split the set: our sockets are asked here, the rest is prepared for the kernel. */
static void split(struct polling *p)
{
    for (nfds_t i = 0; i < p->count; i++) {
        struct sock *s = sock_of(p->fds[i].fd);
        p->kernel[i] = p->fds[i];
        p->kernel[i].revents = 0;
        if (!s) {
            p->any_kernel = p->any_kernel || p->fds[i].fd >= 0;
            continue;
        }
        p->kernel[i].fd = -1;
        if (s->phase == PHASE_LISTENING && (p->fds[i].events & (POLLIN | POLLRDNORM)))
            listener_interest(s);
    }
}

/* How many are ready; our sockets are asked, the kernel's answers are in `kernel`. */
static int collect(struct polling *p)
{
    int ready = 0;
    for (nfds_t i = 0; i < p->count; i++) {
        struct sock *s = sock_of(p->fds[i].fd);
        if (s) /* POLLIN and so on have the same values as EPOLLIN and so on */
            p->fds[i].revents = (short)(readiness(s) & ((uint32_t)p->fds[i].events | POLLERR | POLLHUP));
        else
            p->fds[i].revents = p->fds[i].fd < 0 ? 0 : p->kernel[i].revents;
        ready += p->fds[i].revents != 0;
    }
    return ready;
}

static int ask_kernel(struct polling *p, nfds_t count, int64_t deadline, const sigset_t *mask)
{
    struct timespec time;
    struct timespec *left = remaining(deadline, &time);
    return syscall(SYS_ppoll, p->kernel, count, left, mask, _NSIG / 8) < 0 ? -errno : 0;
}

static void link_all(struct polling *p, struct place *place)
{
    lock(&neat.lock);
    for (nfds_t i = 0; i < p->count; i++) {
        struct sock *s = sock_of(p->fds[i].fd);
        p->sleepers[i].place = NULL;
        if (s)
            sleeper_link(&p->sleepers[i], s, place);
    }
    unlock(&neat.lock);
}

static void unlink_all(struct polling *p)
{
    lock(&neat.lock);
    for (nfds_t i = 0; i < p->count; i++)
        if (p->sleepers[i].place)
            sleeper_unlink(&p->sleepers[i]);
    unlock(&neat.lock);
}

/* Sleep once. The place is cleared of old wakes first, since it is polled by level here. */
static int sleep_polling(struct polling *p, struct place *place, int64_t deadline, const sigset_t *mask)
{
    int error = 0;

    if (p->any_kernel)
        place_wait(place, NOW_OR_NEVER, NULL);
    sleep_begin();
    if (!events_waiting() && !collect(p)) {
        if (p->any_kernel) {
            p->kernel[p->count] = (struct pollfd){.fd = place->epoll, .events = POLLIN};
            error = ask_kernel(p, p->count + 1, deadline, mask);
        } else {
            error = place_wait(place, deadline, mask);
        }
    }
    sleep_end();
    drain();
    return error;
}

static int poll_split(struct polling *p, int64_t deadline, const sigset_t *mask)
{
    split(p);
    drain();
    if (p->any_kernel && (collect(p) || deadline == NOW_OR_NEVER))
        ask_kernel(p, p->count, NOW_OR_NEVER, NULL);
    int ready = collect(p);
    if (ready || deadline == NOW_OR_NEVER)
        return ready;
    struct place *place = my_place();
    if (!place)
        return -ENOMEM;
    if (p->sleepers)
        link_all(p, place);
    int error;
    do {
        error = sleep_polling(p, place, deadline, mask);
        if (error && p->any_kernel)
            ask_kernel(p, p->count, NOW_OR_NEVER, NULL);
        ready = collect(p);
    } while (!ready && !error && (deadline == FOREVER || now_ns() < deadline));
    if (p->sleepers)
        unlink_all(p);
    return ready ? ready : error;
}

/* How many of `fds` are ready, or -errno. `mask` as for ppoll(). */
int poll_descriptors(struct pollfd *fds, nfds_t count, int64_t deadline, const sigset_t *mask)
{
    struct pollfd few[ON_STACK + 1];
    struct sleeper few_sleepers[ON_STACK];
    struct polling p = {.fds = fds, .count = count, .kernel = few};
    size_t bytes = 0;

    if (!neat.table || !any_ours(fds, count)) {
        struct timespec time;
        struct timespec *left = remaining(deadline, &time);
        int n = real()->ppoll(fds, count, left, mask);
        return n < 0 ? -errno : n;
    }
    if (!__libc_single_threaded)
        p.sleepers = few_sleepers;
    if (count > ON_STACK) {
        bytes = (count + 1) * sizeof *p.kernel + count * sizeof *p.sleepers;
        bytes = (bytes + 15) & ~(size_t)15;
        uint8_t *memory = pages_new(bytes);
        if (!memory)
            return -ENOMEM;
        if (p.sleepers)
            p.sleepers = (struct sleeper *)memory;
        p.kernel = (struct pollfd *)(memory + count * sizeof *p.sleepers);
    }
    int ready = poll_split(&p, deadline, mask);
    if (bytes)
        pages_free(p.sleepers ? (void *)p.sleepers : (void *)((uint8_t *)p.kernel - count * sizeof *p.sleepers), bytes);
    return ready;
}

/* ---- select ---- */

#define SELECT_IN (POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR)
#define SELECT_OUT (POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR)
#define SELECT_EXCEPT POLLPRI
#define WORD_BITS (8 * (int)sizeof(unsigned long))

static bool is_set(const fd_set *set, int fd)
{
    return set && (((const unsigned long *)set)[fd / WORD_BITS] >> (fd % WORD_BITS) & 1);
}

static int mark(fd_set *set, int fd, bool ready)
{
    if (!is_set(set, fd))
        return 0;
    if (!ready)
        ((unsigned long *)set)[fd / WORD_BITS] &= ~(1ul << (fd % WORD_BITS));
    return ready;
}

static short asked(int fd, const fd_set *in, const fd_set *out, const fd_set *except)
{
    return (short)((is_set(in, fd) ? POLLIN | POLLRDNORM | POLLRDBAND : 0) |
                   (is_set(out, fd) ? POLLOUT | POLLWRNORM | POLLWRBAND : 0) | (is_set(except, fd) ? POLLPRI : 0));
}

/* Whether any descriptor in the sets is a socket of ours. */
bool select_concerns(int count, const fd_set *in, const fd_set *out, const fd_set *except)
{
    if (!neat.table)
        return false;
    for (int fd = 0; fd < count; fd++)
        if (sock_of(fd) && asked(fd, in, out, except))
            return true;
    return false;
}

static int select_polled(struct pollfd *fds, int count, fd_set *in, fd_set *out, fd_set *except, int64_t deadline,
                         const sigset_t *mask)
{
    nfds_t used = 0;
    int ready = 0;

    for (int fd = 0; fd < count; fd++) {
        short events = asked(fd, in, out, except);
        if (events)
            fds[used++] = (struct pollfd){.fd = fd, .events = events};
    }
    int n = poll_descriptors(fds, used, deadline, mask);
    if (n < 0)
        return n;
    for (nfds_t i = 0; i < used; i++)
        if (fds[i].revents & POLLNVAL)
            return -EBADF;
    for (nfds_t i = 0; i < used; i++) {
        ready += mark(in, fds[i].fd, fds[i].revents & SELECT_IN);
        ready += mark(out, fds[i].fd, fds[i].revents & SELECT_OUT);
        ready += mark(except, fds[i].fd, fds[i].revents & SELECT_EXCEPT);
    }
    return ready;
}

/* select() and pselect(), when select_concerns(). Bits set at the end, or -errno. */
int select_descriptors(int count, fd_set *in, fd_set *out, fd_set *except, int64_t deadline, const sigset_t *mask)
{
    struct pollfd few[ON_STACK];

    if (count <= ON_STACK)
        return select_polled(few, count, in, out, except, deadline, mask);
    size_t bytes = (size_t)count * sizeof(struct pollfd);
    struct pollfd *fds = pages_new(bytes);
    if (!fds)
        return -ENOMEM;
    int ready = select_polled(fds, count, in, out, except, deadline, mask);
    pages_free(fds, bytes);
    return ready;
}
