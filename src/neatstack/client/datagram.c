/* UDP sockets: making, binding, connecting, names, readiness, end.
 *
 * A UDP socket has a slot in the channel with every replica, since what is sent to it may come to any of them. Such a slot is a
 * `struct sock` of its own without descriptor (PHASE_LEG), a leg of the socket. The legs exist while the socket is bound.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

/* ---- legs ---- */

/* Give up the slots. `bound`: the replicas free them when the manager has unbound the socket; else because we say so. */
static void drop_legs(struct sock *s, bool bound)
{
    struct datagrams *u = s->udp;

    lock(&neat.lock);
    for (unsigned r = 0; r < neat.replicas; r++) {
        struct sock *leg = u->leg[r];
        if (!leg)
            continue;
        u->leg[r] = NULL;
        if (leg->program && bound)
            slot_leave(leg);
        else if (leg->program)
            slot_release(leg);
        leg->file.serial++;
        sock_free(leg);
    }
    unlock(&neat.lock);
}

static int new_leg(struct sock *s, unsigned replica)
{
    struct sock *leg = sock_new();

    if (!leg)
        return -ENOBUFS;
    leg->phase = PHASE_LEG;
    leg->listener = s;
    if (!slot_take(leg, replica)) {
        sock_free(leg);
        return -ENOBUFS;
    }
    s->udp->leg[replica] = leg;
    return 0;
}

static void apply_to_leg(const struct sock *s, struct sock *leg)
{
    struct neat_socket_program *p = leg->program;

    leg->options.send_buffer = s->options.send_buffer;
    store_relaxed(&p->receive_buffer, s->options.receive_buffer);
    store_relaxed(&p->send_buffer, s->options.send_buffer);
    store_relaxed(&p->flags, (uint16_t)((s->options.flags & NEAT_FLAG_SEND_BUFFER) | (wants_errors(s) ? NEAT_FLAG_ERRORS : 0)));
}

/* Take a slot with every replica. One that does not run yet finds its slot when it starts: it has an incarnation before it looks. */
static int take_legs(struct sock *s)
{
    int error = 0;

    lock(&neat.lock);
    for (unsigned r = 0; r < neat.replicas && !error; r++)
        error = new_leg(s, r);
    for (unsigned r = 0; r < neat.replicas && !error; r++) {
        struct sock *leg = s->udp->leg[r];
        leg->program->listener = s->udp->leg[0]->slot;
        apply_to_leg(s, leg);
        slot_start_quietly(leg, NEAT_ROLE_DATAGRAM);
    }
    unlock(&neat.lock);
    if (error)
        drop_legs(s, false);
    return error;
}

/* The lines of all legs have changed. */
static void tell_legs(struct sock *s)
{
    fence();
    for (unsigned r = 0; r < neat.replicas; r++)
        if (s->udp->leg[r] && replica_runs(r))
            tell(s->udp->leg[r]);
}

/* ---- binding ---- */

/* The socket is locked. 0 or -errno. */
int datagram_bind(struct sock *s, struct end local)
{
    if (s->binding)
        return -EINVAL;
    s->udp->chosen = local.port_be == 0;
    int error = take_legs(s);
    if (error)
        return error;
    error = manager_bind(s, local);
    if (error)
        drop_legs(s, false);
    for (uint32_t i = 0; !error && i < s->udp->group_count; i++)
        manager_group(s->binding, s->udp->groups[i].group, false);
    if (!error && s->shared) /* from here on relatives' turns are taken by the lock in the first leg, which nobody else knows yet */
        lock(&s->udp->leg[0]->program->lock);
    return error;
}

/* Bind to any port, before the first datagram. */
int datagram_bound(struct sock *s)
{
    if (likely(s->binding))
        return 0;
    return datagram_bind(s, (struct end){s->local.address, 0});
}

/* Nobody else holds the socket: what this process sends to its port from now on shall find it closed already. */
static void deafen(struct sock *s)
{
    for (unsigned r = 0; r < neat.replicas; r++)
        store_release(&s->udp->leg[r]->program->shut, NEAT_SHUT_ABORT);
    tell_legs(s);
}

static void unbind(struct sock *s)
{
    uint32_t binding = s->binding;

    if (!binding)
        return;
    if (s->shared)
        unlock(&s->udp->leg[0]->program->lock);
    else
        deafen(s);
    s->binding = 0;
    s->local.port_be = 0; /* the address stays for the next time */
    drop_legs(s, true);
    manager_close_shared(binding);
}

/* ---- connecting ---- */

/* Whom it is connected to: forked relatives may have changed it. False: nobody. */
bool datagram_peer(const struct sock *s, struct end *peer)
{
    if (!s->binding)
        return false;
    peer->address = s->udp->leg[0]->program->remote_be;
    peer->port_be = load_relaxed(&s->udp->leg[0]->program->remote_port_be);
    return !neat_is_any(peer->address);
}

static void set_peer(struct sock *s, struct end peer)
{
    for (unsigned r = 0; r < neat.replicas; r++) {
        struct sock *leg = s->udp->leg[r];
        leg->program->remote_be = peer.address;
        store_relaxed(&leg->program->remote_port_be, peer.port_be);
        leg->generation = leg->program->generation + 1;
        store_release(&leg->program->generation, leg->generation);
    }
    tell_legs(s);
}

/* The source address of what goes to `remote`. */
struct neat_address datagram_source(const struct sock *s, struct neat_address remote)
{
    return neat_is_any(s->local.address) ? source_for(remote) : s->local.address;
}

/* The socket is locked. 0 or -errno. */
static int connect_locked(struct sock *s, const struct sockaddr *address, socklen_t length)
{
    struct end remote;

    if (address->sa_family == AF_UNSPEC) {
        if (!datagram_peer(s, &remote))
            return 0;
        if (s->udp->chosen)
            unbind(s);
        else
            set_peer(s, (struct end){any_of(s->family), 0});
        return 0;
    }
    int error = get_peer_address(s, address, length, &remote);
    if (error)
        return error;
    error = datagram_reach(s, remote.address);
    if (!error)
        error = datagram_bound(s);
    if (error)
        return error;
    set_peer(s, remote);
    if (s->udp->held && neat_is_v4(remote.address)) { /* Linux: what waits for the rest of it goes there, too */
        s->udp->first.remote = remote.address;
        s->udp->first.remote_port_be = remote.port_be;
        s->udp->first.local = datagram_source(s, remote.address);
    }
    return 0;
}

int datagram_connect(struct sock *s, const struct sockaddr *address, socklen_t length)
{
    sock_lock(s);
    int error = connect_locked(s, address, length);
    sock_unlock(s);
    return error;
}

/* getsockname() and getpeername(). The socket is locked. */
int datagram_name(const struct sock *s, bool peer, struct end *name)
{
    struct end remote = {0};
    bool connected = datagram_peer(s, &remote);

    if (peer) {
        *name = remote;
        return connected && remote.port_be ? 0 : -ENOTCONN;
    }
    *name = s->local;
    if (connected)
        name->address = datagram_source(s, remote.address);
    return 0;
}

/* ---- readiness: without a lock, so that a leg may go away under it; its memory stays, and whoever closes wakes who waits ---- */

/* Linux calls a socket writable when a third of its buffer is free; here that of any replica may be wanted next. */
static bool roomy(const struct sock *s)
{
    for (unsigned r = 0; r < neat.replicas; r++) {
        const struct sock *leg = load_relaxed(&s->udp->leg[r]);
        const struct neat_socket_program *p = leg ? load_relaxed(&leg->program) : NULL;
        if (!p)
            continue;
        uint32_t used = load_relaxed(&p->tx_head) - load_acquire(&leg->remote->tx_tail);
        uint32_t limit = send_limit(leg);
        if (unlikely(used > limit - limit / 3))
            return false;
    }
    return true;
}

/* As datagram_poll() and udp_poll() of Linux compute it; `queue`: with what only MSG_ERRQUEUE takes. Takes no lock. */
uint32_t datagram_readiness(const struct sock *s, bool queue)
{
    uint8_t shut = s->udp->shut;
    uint32_t events = 0;

    if (s->error || datagram_failing(s) || (queue && unlikely(s->options.reports) && (s->udp->failure_count || datagram_waits(s, true))))
        events |= EPOLLERR | (s->options.error_priority ? EPOLLPRI : 0);
    if (shut & NEAT_SHUT_READ)
        events |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
    if (shut == (NEAT_SHUT_READ | NEAT_SHUT_WRITE))
        events |= EPOLLHUP;
    if (datagram_waits(s, false))
        events |= EPOLLIN | EPOLLRDNORM;
    if (!s->binding || roomy(s))
        events |= EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
    return events;
}

/* For edge-triggered epoll: changes with every datagram. */
uint32_t datagram_arrivals(const struct sock *s)
{
    const struct sock *leg;
    uint32_t sum = 0;

    for (unsigned r = 0; s->binding && r < neat.replicas; r++)
        if ((leg = load_relaxed(&s->udp->leg[r])) && leg->remote)
            sum += load_relaxed(&leg->remote->rx_head);
    return sum;
}

/* ---- options, end ---- */

/* Write the options into the legs' lines. The socket is locked. */
void datagram_apply_options(struct sock *s)
{
    for (unsigned r = 0; s->binding && r < neat.replicas; r++)
        apply_to_leg(s, s->udp->leg[r]);
}

/* The socket is locked. 0 or -errno; as on Linux, a socket that is not connected is shut all the same. */
int datagram_shutdown(struct sock *s, uint8_t bits)
{
    struct end peer;

    s->udp->shut |= bits;
    return datagram_peer(s, &peer) ? 0 : -ENOTCONN;
}

/* The last descriptor is closed. The socket is locked, and has no shared lock any more at the end. Other threads may still look at
 * what was s->udp, until the memory of the socket is used again. */
void datagram_close(struct sock *s)
{
    unbind(s);
    if (s->udp->text)
        pages_free(s->udp->text, MOST_HELD);
    datagrams_free(s->udp);
}

/* In a forked child that has no channels: what it has inherited is dead. */
void datagram_strand(struct sock *s)
{
    memset(s->udp->leg, 0, sizeof s->udp->leg);
    s->binding = 0;
}
