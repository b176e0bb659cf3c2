/* Opening connections.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include "neatstack/dataplane/driver/flowhash.h"

static bool is_loopback(uint32_t address_be)
{
    return (ntohl(address_be) >> 24) == 127;
}

/* A replica that takes new connections: any, so that nobody outside can choose. */
static unsigned random_replica(void)
{
    uint32_t active = load_acquire(&neat.page->active) & (uint32_t)((UINT64_C(1) << neat.replicas) - 1);
    if (!active)
        return 0;
    unsigned skip = (unsigned)(random_u64() % (unsigned)__builtin_popcount(active));
    while (skip--)
        active &= active - 1;
    return (unsigned)__builtin_ctz(active);
}

/* The replica that answers to a port we are bound to are steered to. */
static unsigned steered_replica(uint32_t local_be, uint16_t local_port_be, uint32_t remote_be, uint16_t remote_port_be)
{
    uint32_t hash = neat_flow_hash(neat.page->hash_key, remote_be, local_be, remote_port_be, local_port_be);
    unsigned replica = neat.page->table[neat_bucket(hash)];
    return replica < neat.replicas ? replica : 0;
}

/* What became of a connect() that was under way. The socket is locked. */
void settle_connect(struct sock *s)
{
    if (s->phase != PHASE_CONNECTING || !answered(s))
        return;
    uint8_t state = load_acquire(&s->remote->state);
    if (state == NEAT_STATE_OPEN || (state == NEAT_STATE_CLOSED && !load_relaxed(&s->remote->error))) {
        s->phase = PHASE_OPEN;
    } else if (state == NEAT_STATE_CLOSED) {
        s->error = take_error(s);
        s->phase = PHASE_FRESH;
        sock_leave_slot(s);
    }
}

static int start_connect(struct sock *s, uint32_t remote_be, uint16_t remote_port_be)
{
    bool bound = s->local_port_be != 0;
    uint32_t local_be = bound ? s->local_be : 0;

    if (remote_be == INADDR_ANY)
        remote_be = htonl(INADDR_LOOPBACK);
    if (bound && local_be == INADDR_ANY)
        local_be = is_loopback(remote_be) ? htonl(INADDR_LOOPBACK) : neat.page->address_be;
    unsigned replica = bound && !is_loopback(remote_be) && remote_be != neat.page->address_be
                           ? steered_replica(local_be, s->local_port_be, remote_be, remote_port_be)
                           : random_replica();
    lock(&neat.lock);
    bool taken = slot_take(s, replica);
    unlock(&neat.lock);
    if (!taken)
        return -EAGAIN;
    apply_options(s);
    s->program->local_be = local_be;
    s->program->local_port_be = bound ? s->local_port_be : 0;
    s->program->remote_be = remote_be;
    s->program->remote_port_be = remote_port_be;
    s->error = 0;
    s->phase = PHASE_CONNECTING;
    slot_start(s, NEAT_ROLE_CONNECT);
    fence();
    ring_replica(replica);
    return 0;
}

/* connect(AF_UNSPEC): be as new. */
static int disconnect(struct sock *s)
{
    if (s->phase == PHASE_LISTENING)
        listener_stop(s);
    if (s->program) {
        __atomic_fetch_or(&s->program->shut, NEAT_SHUT_ABORT, __ATOMIC_RELEASE);
        tell(s);
        sock_leave_slot(s);
    }
    s->phase = PHASE_FRESH;
    return 0;
}

/* Wait for the outcome. The socket is locked, and is so again at the end unless the result is -EBADF. */
static int await_connect(struct sock *s)
{
    uint32_t serial = s->file.serial;
    int64_t timeout = s->options.send_timeout_ns;
    int64_t deadline = deadline_after(timeout ? timeout : -1);

    while (s->phase == PHASE_CONNECTING) {
        sock_unlock(s);
        int error = wait_for(s, EPOLLOUT, deadline);
        int gone = sock_relock(s, serial);
        if (gone)
            return gone;
        settle_connect(s);
        if (s->phase != PHASE_CONNECTING)
            break;
        if (error == -EAGAIN)
            return -EINPROGRESS;
        if (error && !(error == -EINTR && restarts(timeout)))
            return error;
    }
    int error = take_error(s);
    if (s->phase == PHASE_OPEN && !error)
        return 0;
    return error ? -error : -ECONNABORTED;
}

int sock_connect(struct sock *s, const struct sockaddr *address, socklen_t length)
{
    uint32_t remote_be;
    uint16_t remote_port_be;
    int error = 0;

    if (!address)
        return -EFAULT;
    if (length < sizeof address->sa_family)
        return -EINVAL;
    if (address->sa_family != AF_UNSPEC) {
        error = get_address(address, length, &remote_be, &remote_port_be);
        if (error)
            return error;
        manager_settle(); /* a listener that we have closed must not accept */
    }
    sock_lock(s);
    settle_connect(s);
    bool under_way = s->phase == PHASE_CONNECTING;
    if (address->sa_family == AF_UNSPEC) {
        error = disconnect(s);
        goto out;
    }
    if (s->phase == PHASE_OPEN || s->phase == PHASE_LISTENING)
        error = -EISCONN;
    else if (s->phase == PHASE_FRESH && s->error) /* the outcome of an earlier connect() */
        error = -take_error(s);
    else if (s->phase == PHASE_FRESH)
        error = start_connect(s, remote_be, remote_port_be);
    if (!error && s->nonblocking)
        error = under_way ? -EALREADY : -EINPROGRESS;
    else if (!error)
        error = await_connect(s);
    if (error == -EBADF)
        return error;
out:
    sock_unlock(s);
    return error;
}
