/* Opening connections.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include "neatstack/dataplane/driver/flowhash.h"

#define MOVE_LOOK_NS 1000000
#define MOVE_LOOKS 200 /* 0.2 s; a bucket moves in some 50 ms */

/* ---- which replica ---- */

struct flow { /* of a connection that is to be opened; local.port_be 0: the replica chooses, and the address is any */
    struct end local, remote;
};

static struct flow flow_to(const struct sock *s, struct end remote)
{
    struct flow f = {.local.address = any_of(neat_is_v4(remote.address) ? AF_INET : AF_INET6), .remote = remote};
    if (s->local.port_be) {
        f.local = s->local;
        if (neat_is_any(f.local.address))
            f.local.address = source_for(remote.address);
    }
    return f;
}

/* Whether the answers will be steered to a replica that we cannot choose: the port is given, and they come from outside. */
static bool is_steered(const struct flow *f)
{
    return f->local.port_be && !is_own(f->remote.address);
}

/* What the stack page says about the bucket of the answers. */
static unsigned table_entry(const struct flow *f)
{
    uint32_t hash = neat_flow_hash(neat.page->hash_key, f->remote.address, f->local.address, f->remote.port_be, f->local.port_be);
    return load_relaxed(&neat.page->table[neat_bucket(hash)]);
}

static bool has_bucket(unsigned replica)
{
    for (unsigned i = 0; i < NEAT_BUCKETS; i++)
        if (load_relaxed(&neat.page->table[i]) == replica)
            return true;
    return false;
}

/* Whether the replica opens connections from ports that it chooses itself. */
static bool takes_new(unsigned replica)
{
    return load_acquire(&neat.page->active) >> replica & 1 && has_bucket(replica);
}

/* A replica that takes new connections: any, so that nobody outside can choose. */
static unsigned random_replica(void)
{
    uint32_t candidates = load_acquire(&neat.page->active) & (uint32_t)((UINT64_C(1) << neat.replicas) - 1);
    unsigned replica = 0;

    while (candidates) {
        uint32_t left = candidates;
        for (unsigned skip = (unsigned)(random_u64() % (unsigned)__builtin_popcount(left)); skip; skip--)
            left &= left - 1;
        replica = (unsigned)__builtin_ctz(left);
        if (likely(has_bucket(replica)))
            break;
        candidates &= ~(1u << replica);
    }
    return replica;
}

/* The replica that answers are steered to. While their bucket moves no replica opens connections in it, so that is waited for;
 * if it takes long, the next owner may say what it thinks of it. */
static unsigned steered_replica(const struct flow *f)
{
    unsigned entry = table_entry(f);
    for (int look = 0; look < MOVE_LOOKS && entry >= NEAT_TABLE_MOVING; look++) {
        syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = MOVE_LOOK_NS}, NULL);
        entry = table_entry(f);
    }
    unsigned replica = entry & NEAT_TABLE_MOVED ? entry & ~NEAT_TABLE_MOVED : entry;
    return replica < neat.replicas ? replica : random_replica();
}

/* Whether it is right, as far as the stack page says now, to open the connection at this replica. */
static bool is_right(unsigned replica, const struct flow *f)
{
    return is_steered(f) ? table_entry(f) == replica : takes_new(replica);
}

/* ---- connecting ---- */

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
        s->failed = true;
        story_keep(s);
        s->phase = PHASE_FRESH;
        sock_leave_slot(s);
    }
}

/* The socket is locked. 0 or -errno. */
static int start_connect(struct sock *s, const struct flow *f, const struct text *text)
{
    unsigned replica = is_steered(f) ? steered_replica(f) : random_replica();

    lock(&neat.lock);
    bool taken = slot_take(s, replica);
    unlock(&neat.lock);
    if (!taken)
        return -EAGAIN;
    s->program->local_be = f->local.address;
    s->program->local_port_be = f->local.port_be;
    s->program->remote_be = f->remote.address;
    s->program->remote_port_be = f->remote.port_be;
    apply_options(s);
    if (text)
        put_first(s, text);
    s->error = 0;
    s->failed = false;
    s->phase = PHASE_CONNECTING;
    slot_start(s, NEAT_ROLE_CONNECT);
    fence();
    ring_replica(replica);
    return 0;
}

/* The replica had no port because it takes no new connections any more, or because the bucket of ours has moved: connect where
 * it is right by now. True: that is under way. The socket is locked. */
static bool started_anew(struct sock *s, const struct flow *f, const struct text *text)
{
    if (s->phase != PHASE_FRESH || s->error != EADDRNOTAVAIL || is_right(s->replica, f))
        return false;
    int error = start_connect(s, f, text);
    s->error = -error;
    return !error;
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
    s->deferred = s->failed = false;
    return 0;
}

static struct flow flow_under_way(const struct sock *s)
{
    const struct neat_socket_program *p = s->program;
    return (struct flow){{p->local_be, p->local_port_be}, {p->remote_be, p->remote_port_be}};
}

/* Wait for the outcome, at most `timeout_ns` (0: as long as it takes); `under_way`: not for the first time. The socket is locked, and is so again at the end unless the
 * result is -EBADF. */
static int await_connect(struct sock *s, int64_t timeout_ns, const struct text *text, bool under_way)
{
    uint32_t serial = s->file.serial;
    int64_t deadline = deadline_after(timeout_ns ? timeout_ns : -1);
    int tries = NEAT_MAX_REPLICAS;

    while (s->phase == PHASE_CONNECTING) {
        struct flow f = flow_under_way(s);
        sock_unlock(s);
        int error = wait_for(s, EPOLLOUT, 0, deadline);
        int gone = sock_relock(s, serial);
        if (gone)
            return gone;
        settle_connect(s);
        if (tries && started_anew(s, &f, text)) {
            tries--;
            continue;
        }
        if (s->phase != PHASE_CONNECTING)
            break;
        if (error == -EAGAIN)
            return under_way ? -EALREADY : -EINPROGRESS;
        if (error && !(error == -EINTR && (s->nonblocking || restarts(timeout_ns))))
            return error;
    }
    int error = take_error(s);
    if (s->phase == PHASE_OPEN && !error)
        return 0;
    return error ? -error : -ECONNABORTED;
}

/* Without blocking: but a replica that has stopped taking new connections while we asked it may refuse this one for that alone,
 * and would be quick to. It looks at all that it was asked before it stops, so we need not wait if it has not stopped yet. */
static int leave_connecting(struct sock *s, const struct text *text)
{
    struct flow f = flow_under_way(s);
    if (likely(is_right(s->replica, &f)))
        return -EINPROGRESS;
    return await_connect(s, MOVE_LOOKS * MOVE_LOOK_NS, text, false);
}

int sock_connect(struct sock *s, const struct sockaddr *address, socklen_t length)
{
    return sock_connect_with(s, address, length, NULL, true);
}

/* Whether text may go with a SYN to a host: some replica has its cookie, or the operator wants none. */
bool takes_text_in_syn(struct neat_address remote)
{
    uint32_t tag = neat_fast_tag(remote);

    if (neat.page->fastopen & NEAT_FASTOPEN_CLIENT_BARE)
        return true;
    for (unsigned r = 0; r < neat.replicas; r++)
        if (load_relaxed(&neat.peers[r].page->fast[tag % NEAT_FAST]) == tag)
            return true;
    return false;
}

/* connect(), with text for the SYN. `wait`: as the socket says, else not. */
int sock_connect_with(struct sock *s, const struct sockaddr *address, socklen_t length, const struct text *text, bool wait)
{
    struct end remote;
    int error = 0;

    if (!address)
        return -EFAULT;
    if (length < sizeof address->sa_family)
        return -EINVAL;
    if (s->udp)
        return datagram_connect(s, address, length);
    if (address->sa_family != AF_UNSPEC) {
        error = get_peer_address(s, address, length, &remote);
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
    if (s->phase == PHASE_OPEN && s->untold && !text) { /* as on Linux, who asks again hears of success once */
        s->untold = false;
        goto out;
    }
    if (s->phase == PHASE_OPEN || s->phase == PHASE_LISTENING)
        error = -EISCONN;
    else if (s->phase == PHASE_FRESH && s->error) /* the outcome of an earlier connect() */
        error = -take_error(s);
    else if (s->phase == PHASE_FRESH) {
        struct flow f = flow_to(s, remote);
        static const struct text none;
        if (s->options.fastopen_connect && !text && !s->deferred) {
            if (takes_text_in_syn(remote.address)) {
                s->deferred_to = remote;
                s->deferred = true;
                goto out;
            }
            text = &none; /* the SYN asks for a cookie */
        }
        error = s->deferred ? -EISCONN : start_connect(s, &f, text);
    }
    if (!error && under_way && text)
        error = -EALREADY;
    else if (!error && (s->nonblocking || !wait))
        error = under_way ? -EALREADY : leave_connecting(s, text);
    else if (!error)
        error = await_connect(s, s->options.send_timeout_ns, text, under_way);
    if (error == -EBADF)
        return error;
    s->untold = error == -EINPROGRESS || error == -EALREADY || error == -EINTR;
out:
    sock_unlock(s);
    return error;
}
