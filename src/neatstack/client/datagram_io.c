/* UDP: sending and receiving. Under load there is no system call here.
 *
 * The rings hold records: a struct neat_datagram, then the payload. A header never wraps, for records start at multiples of its size.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"
#include "vector.h"

#include "neatstack/dataplane/driver/flowhash.h"

#include <netinet/udp.h>

#define NO_ROOM_NS 200000
#define HEADERS4 28 /* bytes of IP and UDP headers */
#define HEADERS6 48
#define HEADER ((uint32_t)sizeof(struct neat_datagram))

static uint32_t record_size(uint32_t length)
{
    return (HEADER + length + NEAT_DATAGRAM_ALIGN - 1) & ~(uint32_t)(NEAT_DATAGRAM_ALIGN - 1);
}

/* ---- sending ---- */

/* The leg to send by: of the replica that answers are steered to; while their bucket moves, any. */
static struct sock *leg_to(const struct sock *s, const struct neat_datagram *d)
{
    uint32_t hash = neat_flow_hash(neat.page->hash_key, d->remote, d->local, d->remote_port_be, s->local.port_be);
    unsigned replica = load_relaxed(&neat.page->table[neat_bucket(hash)]);

    if (unlikely(replica >= NEAT_TABLE_MOVING))
        replica = replica & NEAT_TABLE_MOVED ? replica & ~NEAT_TABLE_MOVED
                                             : (unsigned)__builtin_ctz(load_relaxed(&neat.page->active) | 1u << 31);
    return s->udp->leg[replica < neat.replicas ? replica : 0];
}

static void put_bytes(struct sock *leg, uint32_t offset, const uint8_t *from, size_t length)
{
    offset &= leg->tx_mask;
    size_t first = leg->tx_mask + 1 - offset;
    if (first > length)
        first = length;
    memcpy(leg->tx + offset, from, first);
    memcpy(leg->tx, from + first, length - first);
}

/* Whether the leg's send ring has room for a record; as on Linux, SO_SNDBUF bounds what was there before. */
static bool has_room(const struct sock *leg, size_t length)
{
    uint32_t need = record_size((uint32_t)length);
    uint32_t used = leg->program->tx_head - load_acquire(&leg->remote->tx_tail);

    return likely(need <= leg->tx_mask + 1 && used <= leg->tx_mask + 1 - need && used < send_limit(leg));
}

/* Put a record into the leg's send ring. False: there is no room now. */
static bool put_record(struct sock *leg, const struct neat_datagram *d, const struct iovec *iov, size_t count)
{
    uint32_t need = record_size(d->length);
    uint32_t head = leg->program->tx_head;

    if (!has_room(leg, d->length))
        return false;
    if (head == load_acquire(&leg->remote->tx_tail))
        store_relaxed(&leg->program->tx_base, head);
    uint32_t at = head - leg->program->tx_base;
    put_bytes(leg, at, (const uint8_t *)d, HEADER);
    at += HEADER;
    for (size_t i = 0; i < count; at += (uint32_t)iov[i++].iov_len)
        put_bytes(leg, at, iov[i].iov_base, iov[i].iov_len);
    store_release(&leg->program->tx_head, head + need);
    return true;
}

static const uint16_t mtu_flags[] = {
    [IP_PMTUDISC_DONT] = NEAT_DATAGRAM_NO_DF,
    [IP_PMTUDISC_WANT] = 0,
    [IP_PMTUDISC_DO] = NEAT_DATAGRAM_DONT_FRAGMENT,
    [IP_PMTUDISC_PROBE] = NEAT_DATAGRAM_DONT_FRAGMENT | NEAT_DATAGRAM_DEVICE,
    [IP_PMTUDISC_INTERFACE] = NEAT_DATAGRAM_DONT_FRAGMENT | NEAT_DATAGRAM_DEVICE | NEAT_DATAGRAM_NO_DF,
    [IP_PMTUDISC_OMIT] = NEAT_DATAGRAM_DEVICE | NEAT_DATAGRAM_NO_DF,
};

/* Where it goes, and as what, but for the length. The socket is locked. 0 or -errno. */
static int fill_in(struct sock *s, struct neat_datagram *d, const struct msghdr *message)
{
    const struct datagrams *u = s->udp;
    const struct options *o = &s->options;
    struct sending how = {.segment = u->segment};
    struct end remote = {0};
    bool connected = datagram_peer(s, &remote);
    int error = 0;

    if (message->msg_name) {
        error = get_address(s, message->msg_name, message->msg_namelen, &remote);
        if (!error && !remote.port_be)
            error = -EINVAL;
    } else if (!connected) {
        error = -EDESTADDRREQ;
    }
    bool four = neat_is_v4(remote.address);
    uint8_t ttl = four ? o->ttl : hop_limit(o);
    how.tos = four ? o->tos : o->traffic_class;
    how.ttl = ttl;
    if (!error && message->msg_controllen) {
        error = datagram_read_control(s, message, four, &how);
        s->times_once = how.times;
        s->options.reports |= how.times ? REPORT_TIMES : 0;
    }
    if (!error)
        error = datagram_reach(s, remote.address);
    if (error)
        return error;
    bool multicast = neat_is_multicast(remote.address);
    d->local = neat_is_any(how.source) ? datagram_source(s, remote.address) : how.source;
    if (multicast && neat_is_any(how.source) && u->multicast_if_be && neat_is_v4(remote.address))
        d->local = neat_map(u->multicast_if_be);
    d->tos = how.tos;
    d->ttl = how.ttl;
    if (multicast && how.ttl == ttl)
        d->ttl = !four ? u->multicast_hops : u->multicast_ttl_set ? u->multicast_ttl : 1;
    d->segment = how.segment;
    d->flags = (uint16_t)(((four ? u->no_loop : o->no_loop6) ? 0 : NEAT_DATAGRAM_LOOP) |
                          mtu_flags[four ? u->mtu_discover : o->mtu_discover6] |
                          (!four && (o->whole || how.whole) ? NEAT_DATAGRAM_DONT_FRAGMENT : 0));
    d->remote = remote.address;
    d->remote_port_be = remote.port_be;
    return 0;
}

/* What Linux refuses because of its size. */
static int fits(struct sock *s, const struct neat_datagram *d, size_t length)
{
    bool four = neat_is_v4(d->remote);

    if (length > (four ? NEAT_DATAGRAM_LARGEST : NEAT_DATAGRAM_LARGEST6))
        return -EMSGSIZE;
    if (d->segment || (d->flags & NEAT_DATAGRAM_DONT_FRAGMENT)) {
        uint32_t mtu = d->flags & NEAT_DATAGRAM_DEVICE ? device_mtu(d->remote) : path_mtu(d->remote);
        uint32_t most = mtu - (four ? HEADERS4 : HEADERS6);
        if (d->segment && (d->segment < length ? d->segment : length) > most)
            return -EMSGSIZE; /* none of them may be cut into fragments */
        if (d->segment && length > d->segment)
            return length > (size_t)d->segment * NEAT_DATAGRAM_SEGMENTS ? -EINVAL : 0;
        if (length > most) {
            datagram_refused(s, d, mtu);
            return -EMSGSIZE;
        }
    }
    return record_size((uint32_t)length) > s->udp->leg[0]->tx_mask + 1 ? -EMSGSIZE : 0;
}

/* Wait for room. The socket is locked, and is so again at the end unless the result is -EBADF. 0 or -errno. */
static int await_room(struct sock *s, uint32_t serial, int flags, int64_t *deadline)
{
    int64_t timeout = s->options.send_timeout_ns;

    s->space_edges++;
    if (s->nonblocking || (flags & MSG_DONTWAIT))
        return -EAGAIN;
    if (!*deadline)
        *deadline = deadline_after(timeout ? timeout : -1);
    bool ready = datagram_readiness(s, false) & EPOLLOUT; /* but this one is too large */
    sock_unlock(s);
    int error = ready ? 0 : wait_for(s, EPOLLOUT, 0, *deadline);
    if (ready)
        syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = NO_ROOM_NS}, NULL);
    if (ready && *deadline != FOREVER && now_ns() >= *deadline)
        error = -EAGAIN;
    if (sock_relock(s, serial))
        return -EBADF;
    return error == -EINTR && restarts(timeout) ? 0 : error;
}

/* What a datagram is to be, and the socket bound. 0 or -errno. */
static int prepare(struct sock *s, struct neat_datagram *d, const struct msghdr *message)
{
    int error = s->udp->shut & NEAT_SHUT_WRITE ? -EPIPE : 0;

    if (!error)
        error = -datagram_error(s);
    if (!error)
        error = fill_in(s, d, message);
    if (!error)
        error = datagram_bound(s);
    if (unlikely(s->options.reports) && !error)
        times_mark(s, d);
    return error;
}

/* What was held back goes, as one datagram. The socket is locked. 0 or -errno. */
int datagram_uncork(struct sock *s)
{
    struct datagrams *u = s->udp;
    struct iovec all = {u->text, u->first.length};

    if (!u->held)
        return 0;
    u->held = false;
    int error = datagram_bound(s); /* connect(AF_UNSPEC) may have unbound it */
    if (error)
        return error;
    struct sock *leg = leg_to(s, &u->first);
    if (!put_record(leg, &u->first, &all, 1)) /* there was room in another one: its bucket has moved */
        return -ENOBUFS;
    tell(leg);
    return 0;
}

/* UDP_CORK, MSG_MORE: a piece of a datagram. Address, ancillary data and options count with the first one. 0 or -errno. */
static int hold_back(struct sock *s, const struct msghdr *message, size_t length)
{
    struct datagrams *u = s->udp;
    struct neat_datagram d = {0};
    int error = 0;

    if (!u->text && !(u->text = pages_new(MOST_HELD)))
        return -ENOBUFS;
    if (u->held)
        d = u->first;
    else
        error = prepare(s, &d, message);
    if (!error)
        error = fits(s, &d, d.length + length);
    if (!error && !has_room(leg_to(s, &d), d.length + length))
        error = -EAGAIN;
    if (!error && vector_nowhere(message->msg_iov, message->msg_iovlen, length))
        error = -EFAULT;
    if (error) {
        if (!u->held)
            times_unmark(s, &d);
        return error;
    }
    for (size_t i = 0; i < message->msg_iovlen; d.length += (uint32_t)message->msg_iov[i++].iov_len)
        memcpy(u->text + d.length, message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
    u->first = d;
    u->held = true;
    return 0;
}

static int send_alone(struct sock *s, const struct msghdr *message, size_t length)
{
    struct neat_datagram d = {0};
    int error = prepare(s, &d, message);

    if (error)
        return error;
    error = fits(s, &d, length);
    if (!error && vector_nowhere(message->msg_iov, message->msg_iovlen, length))
        error = -EFAULT;
    d.length = (uint32_t)length;
    struct sock *leg = leg_to(s, &d);
    if (!error && unlikely(!put_record(leg, &d, message->msg_iov, message->msg_iovlen)))
        error = -EAGAIN;
    if (unlikely(error)) {
        times_unmark(s, &d);
        return error;
    }
    tell(leg);
    return 0;
}

/* All of the send() family. Bytes or -errno. */
ssize_t datagram_send(struct sock *s, const struct msghdr *message, int flags)
{
    struct datagrams *u = s->udp;
    int64_t deadline = 0;
    size_t length = iovec_length(message->msg_iov, message->msg_iovlen);
    int error;

    if (s->family == AF_INET && length > UINT16_MAX)
        return -EMSGSIZE;
    if (flags & MSG_OOB)
        return -EOPNOTSUPP;
    sock_lock(s);
    uint32_t serial = s->file.serial;
    do {
        bool more = u->cork || (flags & MSG_MORE);
        if (likely(!more && !u->held))
            error = send_alone(s, message, length);
        else
            error = hold_back(s, message, length);
        if (!error && !more)
            error = datagram_uncork(s);
    } while (unlikely(error == -EAGAIN) && !(error = await_room(s, serial, flags, &deadline)));
    if (error == -EBADF)
        return error;
    if (unlikely(error))
        u->held = false; /* as on Linux, a piece that fails takes the others along */
    sock_unlock(s);
    return error ? error : (ssize_t)length;
}

/* ---- receiving ---- */

void take_bytes(uint8_t *to, const struct sock *leg, uint32_t offset, size_t length)
{
    offset &= leg->rx_mask;
    size_t first = leg->rx_mask + 1 - offset;
    if (first > length)
        first = length;
    memcpy(to, leg->rx + offset, first);
    memcpy(to + first, leg->rx, length - first);
}

/* The next record of a leg `skip` bytes from its tail. False: there is none. */
static bool look_at_record(const struct sock *leg, uint32_t skip, struct neat_datagram *d, uint32_t *at)
{
    uint32_t tail = load_relaxed(&leg->program->rx_tail) + skip;
    uint32_t waiting = load_acquire(&leg->remote->rx_head) - tail;

    if (waiting < HEADER || waiting > leg->rx_mask + 1)
        return false;
    *at = tail - load_relaxed(&leg->remote->rx_base);
    take_bytes((uint8_t *)d, leg, *at, HEADER);
    return record_size(d->length) <= waiting;
}

static bool is_for(const struct datagrams *u, const struct neat_datagram *d)
{
    return likely(!(d->flags & NEAT_DATAGRAM_ERROR)) && (likely(!u->picky) || datagram_wants(u, d));
}

/* A leg that has something, beginning where it is due. NULL: none has. */
static struct sock *leg_with_datagram(struct sock *s, struct neat_datagram *d, uint32_t *at)
{
    for (unsigned i = 0; s->binding && i < neat.replicas; i++) {
        unsigned r = (s->udp->turn + i) % neat.replicas;
        struct sock *leg = s->udp->leg[r];
        while (look_at_record(leg, 0, d, at)) {
            if (likely(is_for(s->udp, d))) {
                s->udp->turn = (uint8_t)r;
                return leg;
            }
            if ((d->flags & NEAT_DATAGRAM_ERROR) && !(d->flags & NEAT_DATAGRAM_TAKEN))
                datagram_keep_error(s, leg, d, *at + HEADER);
            store_release(&leg->program->rx_tail, leg->program->rx_tail + record_size(d->length));
        }
    }
    return NULL;
}

/* The first record of a leg, from `skip` bytes behind its tail on, that is a datagram, or news of an error that was not read yet.
 * `skip` becomes its place. */
static bool find_record(const struct datagrams *u, const struct sock *leg, bool error, uint32_t *skip, struct neat_datagram *d,
                        uint32_t *at)
{
    for (; look_at_record(leg, *skip, d, at); *skip += record_size(d->length))
        if (error ? (d->flags & (NEAT_DATAGRAM_ERROR | NEAT_DATAGRAM_TAKEN)) == NEAT_DATAGRAM_ERROR
                  : is_for(u, d))
            return true;
    return false;
}

/* Whether there is something to receive: a datagram, or with `error` news of one. Takes no lock. */
bool datagram_waits(const struct sock *s, bool error)
{
    struct neat_datagram d;
    uint32_t at;

    for (unsigned r = 0; s->binding && r < neat.replicas; r++) {
        const struct sock *leg = load_relaxed(&s->udp->leg[r]);
        const struct neat_socket_program *p = leg ? load_relaxed(&leg->program) : NULL;
        if (!p || load_acquire(&leg->remote->rx_head) == load_relaxed(&p->rx_tail))
            continue;
        if (likely(!s->options.reports && !s->udp->picky))
            return true;
        struct sock copy = *leg; /* which no other thread takes out of its slot */
        if (copy.program && find_record(s->udp, &copy, error, &(uint32_t){0}, &d, &at))
            return true;
    }
    return false;
}

static void mark_taken(struct sock *leg, uint32_t at)
{
    ((struct neat_datagram *)(leg->rx + (at & leg->rx_mask)))->flags |= NEAT_DATAGRAM_TAKEN;
}

/* MSG_PEEK with SO_PEEK_OFF: the datagram with the byte that is *offset bytes behind the first that waits, in the order in which they
 * will be received; *offset becomes its place in it. One without text is seen once. */
static struct sock *leg_behind(struct sock *s, uint32_t *offset, struct neat_datagram *d, uint32_t *at)
{
    uint32_t skip[NEAT_MAX_REPLICAS] = {0};

    for (bool more = true; s->binding && more;) {
        more = false;
        for (unsigned i = 0; i < neat.replicas; i++) {
            unsigned r = (s->udp->turn + i) % neat.replicas;
            struct sock *leg = s->udp->leg[r];
            if (!find_record(s->udp, leg, false, &skip[r], d, at))
                continue;
            if (*offset < d->length || (!*offset && !(d->flags & NEAT_DATAGRAM_TAKEN))) {
                if (!d->length)
                    mark_taken(leg, *at);
                return leg;
            }
            *offset -= d->length;
            skip[r] += record_size(d->length);
            more = true;
        }
    }
    return NULL;
}

/* News of an error somewhere in the rings: marked as read. NULL: there is none. The payload is at *at. */
struct sock *datagram_find_error(struct sock *s, struct neat_datagram *d, uint32_t *at)
{
    for (unsigned r = 0; s->binding && r < neat.replicas; r++) {
        struct sock *leg = s->udp->leg[r];
        if (!find_record(s->udp, leg, true, &(uint32_t){0}, d, at))
            continue;
        mark_taken(leg, *at);
        *at += HEADER;
        return leg;
    }
    return NULL;
}

/* Copy out of the ring into the caller's buffers, `skip` bytes from their start; how many fitted. */
static size_t scatter_ring(const struct sock *leg, uint32_t at, size_t length, const struct iovec *iov, size_t count, size_t skip)
{
    size_t done = 0;
    for (size_t i = 0; i < count && done < length; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        size_t piece = iov[i].iov_len - skip;
        if (piece > length - done)
            piece = length - done;
        take_bytes((uint8_t *)iov[i].iov_base + skip, leg, at + (uint32_t)done, piece);
        done += piece;
        skip = 0;
    }
    return done;
}

static bool same_flow(const struct neat_datagram *a, const struct neat_datagram *b)
{
    return neat_same(a->remote, b->remote) && neat_same(a->local, b->local) && a->remote_port_be == b->remote_port_be &&
           a->tos == b->tos && a->ttl == b->ttl && !b->flags;
}

/* UDP_GRO: datagrams that follow the first one `d` of the same flow and size, as far as they fit. Bytes of payload; `skip` becomes
 * what they take in the ring. */
static size_t coalesce(const struct sock *leg, const struct neat_datagram *d, const struct msghdr *message, size_t room, uint32_t *skip)
{
    struct neat_datagram next;
    size_t total = d->length;
    uint32_t at;

    for (int n = 1; n < NEAT_DATAGRAM_SEGMENTS && look_at_record(leg, *skip, &next, &at); n++) {
        if (!same_flow(d, &next) || next.length > d->length || next.length == 0 || total + next.length > room)
            break;
        scatter_ring(leg, at + HEADER, next.length, message->msg_iov, message->msg_iovlen, total);
        total += next.length;
        *skip += record_size(next.length);
        if (next.length < d->length)
            break;
    }
    return total;
}

/* Take what is there. Bytes, -EAGAIN or an error. The socket is locked. */
static ssize_t receive_now(struct sock *s, struct msghdr *message, int flags)
{
    struct neat_datagram d;
    uint32_t at, passed = 0;
    int error = datagram_error(s);
    bool behind = unlikely(s->options.peek_off < 0) && (flags & MSG_PEEK);

    if (error)
        return -error;
    if (behind)
        passed = (uint32_t)~s->options.peek_off;
    struct sock *leg = behind ? leg_behind(s, &passed, &d, &at) : leg_with_datagram(s, &d, &at);
    if (!leg) /* as Linux: who does not wait is not told of the end */
        return (s->udp->shut & NEAT_SHUT_READ) && !s->nonblocking && !(flags & MSG_DONTWAIT) ? 0 : -EAGAIN;
    size_t room = iovec_length(message->msg_iov, message->msg_iovlen);
    uint32_t taken = record_size(d.length);
    size_t length = d.length;
    bool lost = vector_nowhere(message->msg_iov, message->msg_iovlen, s->udp->coalesce ? room : d.length);
    if (likely(!lost))
        scatter_ring(leg, at + HEADER + passed, d.length - passed, message->msg_iov, message->msg_iovlen, 0);
    if (!lost && s->udp->coalesce && d.length && d.length < room && !(flags & MSG_PEEK))
        length = coalesce(leg, &d, message, room, &taken);
    message->msg_flags = room < d.length && room <= d.length - passed ? MSG_TRUNC : 0; /* as Linux */
    put_address(s, message->msg_name, message->msg_name ? &message->msg_namelen : NULL, &(struct end){d.remote, d.remote_port_be});
    if (!message->msg_name)
        message->msg_namelen = 0;
    datagram_write_control(s, message, &d, length > d.length ? d.length : 0);
    if (!(flags & MSG_PEEK)) {
        store_release(&leg->program->rx_tail, leg->program->rx_tail + taken);
        s->udp->turn = (uint8_t)((s->udp->turn + 1) % neat.replicas);
    }
    if (unlikely(lost)) /* and gone, as on Linux */
        return -EFAULT;
    if (!(flags & MSG_TRUNC))
        length = length - passed > room ? room : length - passed;
    if (unlikely(s->options.peek_off))
        peek_moves(&s->options, flags & MSG_PEEK, length);
    return (ssize_t)length;
}

/* All of the recv() family. Bytes or -errno. */
ssize_t datagram_receive(struct sock *s, struct msghdr *message, int flags)
{
    int64_t deadline = 0, timeout = s->options.receive_timeout_ns;
    ssize_t n;

    if (flags & MSG_OOB)
        return -EOPNOTSUPP;
    sock_lock(s);
    uint32_t serial = s->file.serial;
    if (flags & MSG_ERRQUEUE)
        n = datagram_receive_error(s, message);
    else
        for (;;) {
            n = receive_now(s, message, flags);
            if (n != -EAGAIN || s->nonblocking || (flags & MSG_DONTWAIT))
                break;
            if (!deadline)
                deadline = deadline_after(timeout ? timeout : -1);
            sock_unlock(s);
            bool behind = unlikely(flags & MSG_PEEK) && s->options.peek_off < 0 && datagram_waits(s, false);
            int error = behind ? wait_for_more(deadline) : wait_for(s, EPOLLIN, 0, deadline);
            if (sock_relock(s, serial))
                return -EBADF;
            if (error && !(error == -EINTR && restarts(timeout))) {
                n = error;
                break;
            }
        }
    sock_unlock(s);
    return n;
}

/* FIONREAD: the payload of the next datagram. */
uint32_t datagram_waiting(struct sock *s)
{
    struct neat_datagram d;
    uint32_t at;

    sock_lock(s);
    uint32_t length = leg_with_datagram(s, &d, &at) ? d.length : 0;
    sock_unlock(s);
    return length;
}

uint32_t datagram_unsent(struct sock *s)
{
    uint32_t sum = 0;

    sock_lock(s);
    for (unsigned r = 0; s->binding && r < neat.replicas; r++)
        sum += load_relaxed(&s->udp->leg[r]->program->tx_head) - load_acquire(&s->udp->leg[r]->remote->tx_tail);
    sock_unlock(s);
    return sum;
}
