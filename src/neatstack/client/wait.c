/* Waiting: what a socket is ready for, taking events, blocking until there are more.
 *
 * Whoever is woken by the doorbell takes all events, and wakes those threads that wait for the sockets concerned through
 * their own places.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#define BATCH 64 /* events taken before the sockets are looked at */

/* ---- what a socket is ready for ---- */

static uint32_t readiness_unconnected(const struct sock *s)
{
    uint32_t events = EPOLLOUT | EPOLLWRNORM | EPOLLHUP;
    if (s->deferred)
        return EPOLLOUT | EPOLLWRNORM;
    if (s->error || s->failed)
        events |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
    if (s->error || s->story)
        events |= EPOLLERR;
    return events;
}

/* Linux calls a socket writable when a third of its buffer is free, and half of what TCP_NOTSENT_LOWAT allows. */
static bool roomy(const struct sock *s)
{
    uint32_t used = load_relaxed(&s->program->tx_head) - load_acquire(&s->remote->tx_tail);
    if (unlikely(s->options.unsent_most) && 2 * (uint64_t)held_bytes(s) >= s->options.unsent_most)
        return false;
    uint32_t limit = stream_limit(s);
    return used <= limit - limit / 3;
}

/* EPOLLPRI while the urgent byte waits to be taken apart; it is nothing to read. */
static uint32_t readiness_urgent(const struct sock *s, uint32_t *waiting)
{
    uint32_t distance;

    if (!urgent_ahead(s, &distance) || distance >= *waiting)
        return 0;
    if (distance == 0 && !s->options.oob_inline)
        *waiting -= 1;
    return urgent_taken(s, distance) ? 0 : EPOLLPRI;
}

/* Half of what the peer may send is enough in any case: more of it may not come before that was read. */
static bool enough(const struct sock *s, uint32_t waiting, uint32_t least)
{
    return waiting && (likely(waiting >= least) || waiting >= offered_bytes(s) / 2);
}

static uint32_t readiness_connected(struct sock *s, uint32_t least, bool queue)
{
    if (!answered(s))
        return 0;
    uint8_t state = load_acquire(&s->remote->state);
    uint8_t seen = load_acquire(&s->remote->seen);
    uint8_t shut = load_relaxed(&s->program->shut);
    bool over = state == NEAT_STATE_CLOSED || (seen & NEAT_SEEN_RESET);
    uint32_t events = 0;

    if (state == NEAT_STATE_CONNECTING)
        return 0;
    if (over && load_relaxed(&s->remote->error) && !(s->program->scratch[SCRATCH_TAKEN]))
        events |= EPOLLERR;
    if (unlikely(s->options.reports) && (soft_pending(s) || (queue && queue_waits(s))))
        events |= EPOLLERR;
    bool in_shut = over || (seen & NEAT_SEEN_EOF) || (shut & NEAT_SHUT_READ);
    bool out_shut = over || (shut & NEAT_SHUT_WRITE);
    uint32_t waiting = load_acquire(&s->remote->rx_head) - load_relaxed(&s->program->rx_tail);
    if (unlikely(seen & NEAT_SEEN_URGENT))
        events |= readiness_urgent(s, &waiting);
    if (in_shut)
        events |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
    else if (enough(s, waiting, least))
        events |= EPOLLIN | EPOLLRDNORM;
    if (in_shut && out_shut)
        events |= EPOLLHUP;
    if (out_shut || roomy(s))
        events |= EPOLLOUT | EPOLLWRNORM;
    return events;
}

/* EPOLLIN and so on, as tcp_poll() of Linux computes it; of a stream EPOLLIN when `least` bytes wait. `queue`: EPOLLERR also for what
 * nobody but who asks with MSG_ERRQUEUE is told. Takes no lock. */
static uint32_t readiness_for(struct sock *s, uint32_t least, bool queue)
{
    if (s->udp)
        return datagram_readiness(s, queue);
    switch (s->phase) {
    case PHASE_CONNECTING:
    case PHASE_OPEN:
        return s->program ? readiness_connected(s, least, queue) : 0;
    case PHASE_LISTENING:
        return s->arrived ? EPOLLIN | EPOLLRDNORM : 0;
    default:
        return readiness_unconnected(s);
    }
}

uint32_t readiness(struct sock *s)
{
    return readiness_for(s, s->options.low_water, true);
}

/* ---- events ---- */

/* Something has happened to the socket: wake who waits for it. Under neat.lock. */
void wake_socket(struct sock *s)
{
    if (s->items)
        epoll_notify(s);
    for (struct sleeper *sleeper = s->sleepers; sleeper; sleeper = sleeper->next)
        place_wake(sleeper->place);
}

static void happened(struct neat_entry entry, unsigned replica)
{
    struct channels *set = entry.channel < NEAT_MAX_CHANNELS ? neat.known[entry.channel] : NULL;

    if (!set || entry.socket >= set->at[replica].header.sockets)
        return;
    struct sock *s = set->at[replica].slots[entry.socket].sock;
    if (!s)
        return;
    if (s->phase == PHASE_POSTED)
        post_answered(s);
    else
        wake_socket(s->phase == PHASE_LEG ? s->listener : s);
}

/* The event ring was full once: look at everything. */
static void happened_everywhere(unsigned replica)
{
    for (unsigned n = 0; n < NEAT_MAX_CHANNELS; n++)
        if (neat.known[n])
            for (uint32_t i = 0; i < neat.known[n]->at[replica].header.sockets; i++)
                if (neat.known[n]->at[replica].slots[i].sock)
                    happened((struct neat_entry){.channel = (uint16_t)n, .socket = i}, replica);
}

static void drain_channel(struct channel *ch, unsigned replica)
{
    struct neat_entry batch[BATCH];
    uint32_t head, count;

    while ((head = load_acquire(&ch->remote->events_head)) != ch->events_tail) {
        for (count = 0; count < BATCH && ch->events_tail != head; count++, ch->events_tail++)
            batch[count] = ch->events[ch->events_tail & (ch->header.entries - 1)];
        store_release(&ch->program->events_tail, ch->events_tail);
        fence(); /* the tail is out before any socket is looked at */
        for (uint32_t i = 0; i < count; i++)
            happened(batch[i], replica);
    }
    uint32_t rescan = load_acquire(&ch->remote->rescan);
    if (unlikely(rescan != ch->rescan)) {
        ch->rescan = rescan;
        happened_everywhere(replica);
    }
}

/* Whether there are events to take. */
bool events_waiting(void)
{
    for (unsigned r = 0; neat.own && r < neat.replicas; r++) {
        const struct channel *ch = &neat.own->at[r];
        if (load_acquire(&ch->remote->events_head) != load_relaxed(&ch->events_tail) ||
            load_relaxed(&ch->remote->rescan) != load_relaxed(&ch->rescan))
            return true;
    }
    return false;
}

/* Take all events. Under neat.lock. */
void drain_locked(void)
{
    for (unsigned r = 0; neat.own && r < neat.replicas; r++)
        drain_channel(&neat.own->at[r], r);
}

void drain(void)
{
    if (!events_waiting())
        return;
    lock(&neat.lock);
    drain_locked();
    unlock(&neat.lock);
}

/* ---- waiting for one socket ---- */

void sleeper_link(struct sleeper *sleeper, struct sock *s, struct place *place)
{
    sleeper->place = place;
    sleeper->next = s->sleepers;
    sleeper->previous = &s->sleepers;
    if (sleeper->next)
        sleeper->next->previous = &sleeper->next;
    s->sleepers = sleeper;
}

void sleeper_unlink(struct sleeper *sleeper)
{
    *sleeper->previous = sleeper->next;
    if (sleeper->next)
        sleeper->next->previous = sleeper->previous;
}

/* Sleep once, unless there is something to see already. 0 or -EINTR. */
static int sleep_once(struct sock *s, uint32_t serial, uint32_t wanted, uint32_t least, struct place *place, int64_t deadline)
{
    int result = 0;

    sleep_begin();
    if (!events_waiting() && !(readiness_for(s, least, false) & wanted) && s->file.serial == serial)
        result = place_wait(place, deadline, NULL);
    sleep_end();
    return result;
}

/* Block until the socket is ready for one of `events` (or has failed), EPOLLIN of a stream with `least` bytes. 0; -EAGAIN when
 * time is up; -EINTR; -EBADF when another thread has closed it. No lock is held. */
int wait_for(struct sock *s, uint32_t events, uint32_t least, int64_t deadline)
{
    uint32_t wanted = events | EPOLLERR | EPOLLHUP;
    uint32_t serial = s->file.serial;
    struct sleeper sleeper;
    int result = -EAGAIN;

    drain();
    if (readiness_for(s, least, false) & wanted)
        return 0;
    struct place *place = my_place();
    if (!place)
        return -ENOBUFS;
    lock(&neat.lock);
    sleeper_link(&sleeper, s, place);
    unlock(&neat.lock);
    while (deadline == FOREVER || now_ns() < deadline) {
        int error = sleep_once(s, serial, wanted, least, place, deadline);
        drain();
        if (s->file.serial != serial)
            result = -EBADF;
        else if (readiness_for(s, least, false) & wanted)
            result = 0;
        else if (error)
            result = error;
        else
            continue;
        break;
    }
    lock(&neat.lock);
    sleeper_unlink(&sleeper);
    unlock(&neat.lock);
    return result;
}

/* A signal has interrupted a blocking call. Whether the kernel would restart the call: not with a timeout on the socket, and only
 * if the handler was installed with SA_RESTART. Which handler ran cannot be known, so all of them must have been. */
bool restarts(int64_t timeout_ns)
{
    struct { /* the kernel's struct sigaction */
        void (*handler)(int);
        unsigned long flags;
        void (*restorer)(void);
        uint64_t mask;
    } action;

    if (timeout_ns)
        return false;
    for (int signal = 1; signal < _NSIG; signal++)
        if (syscall(SYS_rt_sigaction, signal, NULL, &action, sizeof action.mask) == 0 && action.handler != SIG_DFL &&
            action.handler != SIG_IGN && !(action.flags & SA_RESTART))
            return false;
    return true;
}
