/* Sleeping, and the places where threads sleep.
 *
 * A place is an epoll descriptor of the library's own that holds the process's doorbell, edge-triggered and exclusive, so that one
 * ring wakes one thread. sleep_seq is odd in every channel while any thread sleeps; whoever wakes gives it a new
 * value before looking, so that the doorbell works again for the others.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <pthread.h>
#include <sys/eventfd.h>

/* ---- sleeping ---- */

/* Give sleep_seq a new value in every channel, odd while any thread sleeps. Under neat.lock. */
void sleep_mark(void)
{
    for (unsigned r = 0; neat.own && r < neat.replicas; r++) {
        uint32_t *sleep = &neat.own->at[r].program->sleep_seq;
        store_relaxed(sleep, neat.sleepers ? (*sleep + 1) | 1 : (*sleep + 1) & ~1u);
    }
    fence();
}

/* This thread is about to sleep: from here on events ring the doorbell. Look once more before sleeping. */
void sleep_begin(void)
{
    lock(&neat.lock);
    if (neat.sleepers++ == 0)
        sleep_mark();
    unlock(&neat.lock);
    fence();
}

/* This thread is awake again. What came in between has rung for the old value only: look after this. */
void sleep_end(void)
{
    lock(&neat.lock);
    neat.sleepers--;
    sleep_mark();
    unlock(&neat.lock);
}

/* ---- places ---- */

static __thread struct place own_place __attribute__((tls_model("initial-exec")));
static pthread_key_t place_key;
static pthread_once_t place_once = PTHREAD_ONCE_INIT;

void place_close_locked(struct place *place)
{
    if (!place->linked)
        return;
    *place->previous = place->next;
    if (place->next)
        place->next->previous = place->previous;
    place->linked = false;
    own_close(&place->epoll);
    own_close(&place->wake);
}

static void thread_ends(void *place)
{
    lock(&neat.lock);
    place_close_locked(place);
    unlock(&neat.lock);
}

static void make_key(void)
{
    pthread_key_create(&place_key, thread_ends);
}

static int watch(struct place *place, int fd, uint32_t events, uint32_t what)
{
    struct epoll_event event = {.events = events, .data.u32 = what};
    return syscall(SYS_epoll_ctl, place->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* Other threads can wake this place; needed, and made, only when there are other threads. */
static int place_reachable(struct place *place)
{
    if (__libc_single_threaded || place->wake >= 0)
        return 0;
    place->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (place->wake < 0)
        return -errno;
    own_add(&place->wake);
    return watch(place, place->wake, EPOLLIN | EPOLLET, 0);
}

/* Under neat.lock. 0 or -errno. */
int place_open(struct place *place)
{
    if (!place->linked) {
        place->wake = -1;
        place->doorbell = -1;
        place->epoll = (int)syscall(SYS_epoll_create1, EPOLL_CLOEXEC);
        if (place->epoll < 0)
            return -errno;
        own_add(&place->epoll);
        place->linked = true;
        place->next = neat.places;
        place->previous = &neat.places;
        if (place->next)
            place->next->previous = &place->next;
        neat.places = place;
    }
    if (neat.doorbell >= 0 && place->doorbell != neat.doorbell) {
        int error = watch(place, neat.doorbell, EPOLLIN | EPOLLET | EPOLLEXCLUSIVE, 0);
        if (error)
            return error;
        place->doorbell = neat.doorbell;
    }
    return place_reachable(place);
}

/* The kernel's epoll wakes the place too. */
int place_nest(struct place *place, int epfd)
{
    return watch(place, epfd, EPOLLIN, PLACE_KERNEL);
}

/* The place of this thread, or NULL (no descriptors left). */
struct place *my_place(void)
{
    struct place *place = &own_place;

    if (likely(place->linked && place->doorbell == neat.doorbell && (__libc_single_threaded || place->wake >= 0)))
        return place;
    pthread_once(&place_once, make_key);
    pthread_setspecific(place_key, place);
    lock(&neat.lock);
    int error = place_open(place);
    unlock(&neat.lock);
    return error ? NULL : place;
}

void place_wake(struct place *place)
{
    static const uint64_t one = 1;
    int saved = errno;
    if (place->wake >= 0)
        syscall(SYS_write, place->wake, &one, sizeof one);
    errno = saved;
}

int64_t deadline_after(int64_t timeout_ns)
{
    if (timeout_ns <= 0)
        return timeout_ns < 0 ? FOREVER : NOW_OR_NEVER;
    int64_t now = now_ns();
    return timeout_ns > FOREVER - now ? FOREVER : now + timeout_ns;
}

/* Time left, for a system call: NULL for ever. */
struct timespec *remaining(int64_t deadline, struct timespec *out)
{
    if (deadline == FOREVER)
        return NULL;
    int64_t left = deadline == NOW_OR_NEVER ? 0 : deadline - now_ns();
    if (left < 0)
        left = 0;
    out->tv_sec = left / 1000000000;
    out->tv_nsec = left % 1000000000;
    return out;
}

/* epoll_pwait2 where the kernel has it (5.11), else to the millisecond. */
static int wait_kernel(int epoll, struct epoll_event *events, int most, struct timespec *left, const sigset_t *mask)
{
    static bool old_kernel;
    if (!old_kernel) {
        int n = (int)syscall(SYS_epoll_pwait2, epoll, events, most, left, mask, _NSIG / 8);
        if (n >= 0 || errno != ENOSYS)
            return n < 0 ? -errno : n;
        old_kernel = true;
    }
    int64_t ms = left ? left->tv_sec * INT64_C(1000) + (left->tv_nsec + 999999) / 1000000 : -1;
    int n = (int)syscall(SYS_epoll_pwait, epoll, events, most, ms > INT_MAX ? INT_MAX : (int)ms, mask, _NSIG / 8);
    return n < 0 ? -errno : n;
}

/* Sleep until somebody wakes the place. PLACE_KERNEL when a nested epoll has something, else 0, also when nothing has
 * happened; -EINTR. */
int place_wait(struct place *place, int64_t deadline, const sigset_t *mask)
{
    struct epoll_event events[4];
    struct timespec time;
    int n = wait_kernel(place->epoll, events, 4, remaining(deadline, &time), mask);
    int result = n < 0 ? n : 0;

    for (int i = 0; i < n; i++)
        if (events[i].data.u32 == PLACE_KERNEL)
            result = PLACE_KERNEL;
    return result;
}
