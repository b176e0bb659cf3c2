/* epoll for our sockets, beside the kernel's epoll for everything else.
 *
 * The program's epoll descriptor is a real one and holds the kernel's descriptors only. Our sockets are items of a ready list:
 * an event puts an item on it, epoll_wait() asks the items on it, and keeps those that are level-triggered and still
 * ready. So the cost is that of what is ready, not of what is registered. A thread that has to sleep does so on the set's place,
 * which holds the process's doorbell and, when needed, the kernel's epoll.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#define KERNEL_ROUNDS 8         /* rounds with work for our sockets before the kernel's descriptors are looked at */
#define KERNEL_NS 1000000       /* and the longest time */

/* ---- the ready list, under neat.lock ---- */

static void ready_remove(struct item *item)
{
    struct epoll *e = item->epoll;
    if (!item->ready)
        return;
    item->ready = false;
    e->ready_count--;
    if (item->ready_next == item) {
        e->ready = NULL;
        return;
    }
    item->ready_next->ready_previous = item->ready_previous;
    item->ready_previous->ready_next = item->ready_next;
    if (e->ready == item)
        e->ready = item->ready_next;
}

static void ready_add(struct item *item)
{
    struct epoll *e = item->epoll;
    if (item->ready || item->disabled)
        return;
    item->ready = true;
    e->ready_count++;
    if (!e->ready) {
        e->ready = item->ready_next = item->ready_previous = item;
        return;
    }
    item->ready_next = e->ready;
    item->ready_previous = e->ready->ready_previous;
    item->ready_previous->ready_next = item;
    e->ready->ready_previous = item;
}

/* Something has happened to the socket. */
void epoll_notify(struct sock *s)
{
    for (struct item *item = s->items; item; item = item->next_of_sock) {
        ready_add(item);
        if (item->epoll->sleepers)
            place_wake(&item->epoll->place);
    }
}

/* Edge-triggered: whether anything has happened since it was last told. */
static bool edge(struct item *item, uint32_t events)
{
    struct sock *s = item->sock;
    bool connected = s->program && s->phase != PHASE_LISTENING;
    uint32_t in = s->udp ? datagram_arrivals(s) : connected ? load_relaxed(&s->remote->rx_head) : s->arrivals;
    uint8_t state = (uint8_t)(s->phase << 4 | (connected ? load_relaxed(&s->remote->state) : 0));
    uint8_t seen = connected ? load_relaxed(&s->remote->seen) : 0;
    bool changed = item->edge_fresh || state != item->edge_state || seen != item->edge_seen;

    changed |= (events & EPOLLIN) && in != item->edge_in;
    changed |= (events & EPOLLOUT) && s->space_edges != item->edge_space;
    if (unlikely(events & EPOLLERR)) {
        uint32_t errors = s->error_edges + (s->udp ? in : connected ? queue_edges(s) : 0);
        changed |= errors != item->edge_error;
        item->edge_error = errors;
    }
    item->edge_fresh = false;
    item->edge_state = state;
    item->edge_seen = seen;
    item->edge_in = in;
    if (events & EPOLLOUT)
        item->edge_space = s->space_edges;
    return changed;
}

/* Fill in up to `most` events from the ready list. */
static int collect(struct epoll *e, struct epoll_event *events, int most)
{
    int found = 0;

    for (uint32_t left = e->ready_count; left && found < most; left--) {
        struct item *item = e->ready;
        uint32_t now = readiness(item->sock) & (item->events | EPOLLERR | EPOLLHUP);
        ready_remove(item);
        if (!now || ((item->events & EPOLLET) && !edge(item, now)))
            continue;
        events[found].events = now;
        events[found++].data.u64 = item->data;
        if (item->events & EPOLLONESHOT)
            item->disabled = true;
        else if (!(item->events & EPOLLET))
            ready_add(item);
    }
    return found;
}

/* ---- epoll_ctl ---- */

static struct item *find(struct epoll *e, struct sock *s, int fd)
{
    for (struct item *item = s->items; item; item = item->next_of_sock)
        if (item->epoll == e && item->fd == fd)
            return item;
    return NULL;
}

static void item_remove(struct item *item)
{
    struct item **at = &item->sock->items;
    ready_remove(item);
    item->epoll->count--;
    while (*at != item)
        at = &(*at)->next_of_sock;
    *at = item->next_of_sock;
    item_free(item);
}

static void item_set(struct item *item, const struct epoll_event *event)
{
    item->events = event->events;
    item->data = event->data.u64;
    item->disabled = false;
    item->edge_fresh = true;
    ready_add(item);
    if (item->epoll->sleepers)
        place_wake(&item->epoll->place);
}

static int item_add(struct epoll *e, struct sock *s, int fd, const struct epoll_event *event)
{
    struct item *item = item_new();
    if (!item)
        return -ENOMEM;
    item->epoll = e;
    item->sock = s;
    item->fd = fd;
    item->next_of_sock = s->items;
    s->items = item;
    e->count++;
    place_open(&e->place); /* now, if it can be: who has no descriptors left still can wait */
    item_set(item, event);
    return 0;
}

static int control_ours(struct epoll *e, int op, int fd, struct sock *s, const struct epoll_event *event)
{
    struct item *item = find(e, s, fd);

    if (op != EPOLL_CTL_DEL && !event)
        return -EFAULT;
    switch (op) {
    case EPOLL_CTL_ADD:
        return item ? -EEXIST : item_add(e, s, fd, event);
    case EPOLL_CTL_MOD:
        if (!item)
            return -ENOENT;
        if ((event->events | item->events) & EPOLLEXCLUSIVE)
            return -EINVAL;
        item_set(item, event);
        return 0;
    case EPOLL_CTL_DEL:
        if (!item)
            return -ENOENT;
        item_remove(item);
        return 0;
    default:
        return -EINVAL;
    }
}

/* The set of an epoll descriptor whose making we have not seen (it came over exec or from another process). Under neat.lock. */
static struct epoll *adopt(int epfd)
{
    struct epoll *e = epoll_of(epfd);
    if (e)
        return e;
    struct epoll_event none = {0};
    if (syscall(SYS_epoll_ctl, epfd, EPOLL_CTL_DEL, neat.placeholder, &none) == 0 || errno != ENOENT)
        return NULL;
    e = epoll_new();
    if (e)
        table_put(epfd, &e->file);
    return e;
}

int epoll_control(int epfd, int op, int fd, struct epoll_event *event)
{
    struct sock *s = sock_of(fd);

    if (!s) {
        struct epoll *e = epoll_of(epfd);
        if (real()->epoll_ctl(epfd, op, fd, event) < 0)
            return -errno;
        if (e && op == EPOLL_CTL_ADD)
            __atomic_add_fetch(&e->kernel, 1, __ATOMIC_RELAXED);
        else if (e && op == EPOLL_CTL_DEL)
            __atomic_sub_fetch(&e->kernel, 1, __ATOMIC_RELAXED);
        return 0;
    }
    lock(&neat.lock);
    struct epoll *e = adopt(epfd);
    int error = e ? control_ours(e, op, fd, s, event) : -EINVAL;
    unlock(&neat.lock);
    if (!error && op != EPOLL_CTL_DEL && (event->events & EPOLLIN))
        listener_interest(s);
    return error;
}

/* The socket is no more. Under neat.lock. */
void epoll_remove_all(struct sock *s)
{
    while (s->items)
        item_remove(s->items);
}

static struct epoll *dropped; /* whose items each_sock() shall remove */

static void remove_items_of_dropped(struct file *file)
{
    struct sock *s = (struct sock *)file;
    for (struct item *item = s->items, *next; item; item = next) {
        next = item->next_of_sock;
        if (item->epoll == dropped)
            item_remove(item);
    }
}

/* The last descriptor of the set is closed. */
void epoll_drop(struct epoll *e)
{
    lock(&neat.lock);
    if (e->count) {
        dropped = e;
        each_sock(remove_items_of_dropped);
    }
    place_close_locked(&e->place);
    epoll_free(e);
    unlock(&neat.lock);
}

/* ---- epoll_wait ---- */

/* Whether a wait on this set concerns the library. With more than one thread it may at any time. */
bool epoll_concerns(const struct epoll *e)
{
    return e->count || !__libc_single_threaded;
}

static int ask_kernel(int epfd, struct epoll_event *events, int most)
{
    int n = (int)syscall(SYS_epoll_pwait, epfd, events, most, 0, NULL, 0);
    return n < 0 ? 0 : n;
}

/* Whether it is time to look at the kernel's descriptors, although our sockets have work. */
static bool kernel_is_due(struct epoll *e)
{
    struct timespec now;

    if (!e->kernel)
        return false;
    if (++e->rounds < KERNEL_ROUNDS) {
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        if (now.tv_sec * INT64_C(1000000000) + now.tv_nsec - e->kernel_seen_ns < KERNEL_NS)
            return false;
    }
    e->rounds = 0;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    e->kernel_seen_ns = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
    return true;
}

static int collect_all(struct epoll *e, int epfd, struct epoll_event *events, int most)
{
    int found = kernel_is_due(e) ? ask_kernel(epfd, events, most) : 0;

    lock(&neat.lock);
    drain_locked();
    if (e->ready)
        found += collect(e, events + found, most - found);
    unlock(&neat.lock);
    return found;
}

/* See to it that the set can be slept on. 0 or -errno. */
static int prepare_place(struct epoll *e, int epfd)
{
    lock(&neat.lock);
    int error = place_open(&e->place);
    if (!error && e->kernel && !e->nested) {
        error = place_nest(&e->place, epfd);
        e->nested = !error;
    }
    unlock(&neat.lock);
    return error;
}

/* PLACE_KERNEL when the kernel's epoll has something, else 0, or -errno. */
static int sleep_on_set(struct epoll *e, int64_t deadline, const sigset_t *mask)
{
    int result = 0;

    __atomic_add_fetch(&e->sleepers, 1, __ATOMIC_SEQ_CST);
    sleep_begin();
    if (!events_waiting() && !load_acquire(&e->ready))
        result = place_wait(&e->place, deadline, mask);
    sleep_end();
    __atomic_sub_fetch(&e->sleepers, 1, __ATOMIC_SEQ_CST);
    return result;
}

static struct sock *listener_not_posted_for(struct epoll *e)
{
    struct sock *found = NULL;
    struct item *item = e->ready;

    lock(&neat.lock);
    for (uint32_t left = e->ready_count; left && !found; left--, item = item->ready_next)
        if ((item->events & EPOLLIN) && item->sock->phase == PHASE_LISTENING && !item->sock->interested)
            found = item->sock;
    unlock(&neat.lock);
    return found;
}

/* A forked child has inherited the set, and posts for its listeners when it first waits. */
static void post_for_listeners(struct epoll *e)
{
    struct sock *listener;

    e->inherited = false;
    while ((listener = listener_not_posted_for(e)))
        listener_interest(listener);
}

/* Events, up to `most`, of a set that epoll_concerns(); 0 when time is up; -errno. */
int epoll_wait_for(struct epoll *e, int epfd, struct epoll_event *events, int most, int64_t deadline, const sigset_t *mask)
{
    int result = deadline == NOW_OR_NEVER ? PLACE_KERNEL : 0;

    if (most <= 0)
        return -EINVAL;
    if (unlikely(e->inherited))
        post_for_listeners(e);
    for (;;) {
        int found = collect_all(e, epfd, events, most);
        if (!found && result == PLACE_KERNEL && e->kernel)
            found = ask_kernel(epfd, events, most);
        if (found)
            return found;
        if (result < 0)
            return result;
        if (deadline == NOW_OR_NEVER || (deadline != FOREVER && now_ns() >= deadline))
            return 0;
        result = prepare_place(e, epfd);
        if (!result)
            result = sleep_on_set(e, deadline, mask);
    }
}
