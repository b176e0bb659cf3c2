/* UDP: errors, which replicas report or the library finds, and the story of each (IP_RECVERR).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <linux/errqueue.h>

size_t scatter(const uint8_t *from, size_t length, const struct iovec *iov, size_t count)
{
    size_t done = 0;
    for (size_t i = 0; i < count && done < length; i++) {
        size_t piece = iov[i].iov_len < length - done ? iov[i].iov_len : length - done;
        memcpy(iov[i].iov_base, from + done, piece);
        done += piece;
    }
    return done;
}

/* Whether a replica has reported an error that was not told. Takes no lock. */
bool datagram_failing(const struct sock *s)
{
    for (unsigned r = 0; s->binding && r < neat.replicas; r++) {
        const struct sock *leg = load_relaxed(&s->udp->leg[r]);
        const struct neat_socket_program *p = leg ? load_relaxed(&leg->program) : NULL;
        if (p && load_acquire(&leg->remote->listener) != load_relaxed(&p->scratch[SCRATCH_ERRORS]))
            return true;
    }
    return false;
}

/* The pending error, which is told once: positive, 0 for none. The socket is locked. */
int datagram_error(struct sock *s)
{
    for (unsigned r = 0; s->binding && r < neat.replicas; r++) {
        const struct sock *leg = s->udp->leg[r];
        uint32_t count = load_acquire(&leg->remote->listener);
        if (likely(count == leg->program->scratch[SCRATCH_ERRORS]))
            continue;
        leg->program->scratch[SCRATCH_ERRORS] = count;
        s->error = (int)load_relaxed(&leg->remote->error);
    }
    int error = s->error;
    s->error = 0;
    return error;
}

/* The oldest may have to go. */
static struct failure *keep(struct sock *s, const struct neat_datagram *about)
{
    struct datagrams *u = s->udp;

    if (u->failure_count == MOST_ERRORS)
        memmove(u->failures, u->failures + 1, --u->failure_count * sizeof *u->failures);
    struct failure *f = &u->failures[u->failure_count++];
    f->about = *about;
    if (f->about.length > MOST_QUOTED)
        f->about.length = MOST_QUOTED;
    return f;
}

/* News of an error had its turn among the datagrams: it is kept until somebody asks, or newer ones need its place. */
void datagram_keep_error(struct sock *s, const struct sock *leg, const struct neat_datagram *d, uint32_t at)
{
    if (!wants_errors(s) && !(d->flags & NEAT_DATAGRAM_TIME))
        return;
    struct failure *f = keep(s, d);
    take_bytes(f->quoted, leg, at, f->about.length);
}

/* The library itself has refused a datagram that is longer than what its way can carry. */
void datagram_refused(struct sock *s, const struct neat_datagram *d, uint32_t mtu)
{
    struct neat_datagram about = *d;
    struct end peer;

    if (!wants_errors(s))
        return;
    about.flags = 0;
    about.length = 0;
    about.error = EMSGSIZE;
    about.mtu = mtu;
    if (neat_is_v4(d->remote)) /* Linux tells that of the peer, if there is one */
        about.remote_port_be = datagram_peer(s, &peer) ? peer.port_be : 0;
    keep(s, &about);
}

static bool next_failure(struct sock *s, struct failure *f)
{
    struct datagrams *u = s->udp;
    uint32_t at;

    if (u->failure_count) {
        *f = u->failures[0];
        memmove(u->failures, u->failures + 1, --u->failure_count * sizeof *u->failures);
        return true;
    }
    struct sock *leg = datagram_find_error(s, &f->about, &at);
    if (!leg)
        return false;
    if (f->about.length > MOST_QUOTED)
        f->about.length = MOST_QUOTED;
    take_bytes(f->quoted, leg, at, f->about.length);
    return true;
}

/* What was sent, to whom, and what became of it. Bytes of what was quoted of it that had room. */
ssize_t failure_tell(const struct sock *s, struct msghdr *message, const struct failure *f)
{
    const struct neat_datagram *d = &f->about;
    bool six = s->family == AF_INET6;
    struct {
        struct sock_extended_err error;
        struct sockaddr_in6 offender;
    } told = {.error = {.ee_origin = SO_EE_ORIGIN_ICMP}};
    socklen_t offender = sizeof told.offender;

    told.error.ee_errno = d->error;
    told.error.ee_type = d->icmp_type;
    told.error.ee_code = d->icmp_code;
    told.error.ee_info = d->mtu;
    if (!neat_is_v4(d->remote))
        told.error.ee_origin = SO_EE_ORIGIN_ICMP6;
    put_address(s, (struct sockaddr *)&told.offender, &offender, &(struct end){d->local, 0});
    if (!(d->flags & NEAT_DATAGRAM_ERROR)) {
        told.error.ee_origin = SO_EE_ORIGIN_LOCAL;
        memset(&told.offender, 0, sizeof told.offender);
    }
    size_t copied = scatter(f->quoted, d->length, message->msg_iov, message->msg_iovlen);
    message->msg_flags = MSG_ERRQUEUE | (copied < d->length ? MSG_TRUNC : 0);
    if (message->msg_name)
        put_address(s, message->msg_name, &message->msg_namelen, &(struct end){d->remote, d->remote_port_be});
    struct writer w = {message, 0};
    add_control(&w, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_RECVERR : IP_RECVERR, &told, sizeof told.error + offender);
    message->msg_controllen = w.used;
    return (ssize_t)copied;
}

/* recvmsg() with MSG_ERRQUEUE. Bytes, or -EAGAIN when there is nothing to tell. */
ssize_t datagram_receive_error(struct sock *s, struct msghdr *message)
{
    struct datagrams *u = s->udp;
    struct failure f;

    if (!next_failure(s, &f))
        return -EAGAIN;
    if (f.about.flags & NEAT_DATAGRAM_TIME) {
        bool planned = f.about.icmp_type & TIMES_PLANNED;
        if (f.about.icmp_type == (TIMES_PLANNED | TIMES_LEFT)) { /* first one, then the other; its place has become free */
            memmove(u->failures + 1, u->failures, u->failure_count++ * sizeof *u->failures);
            u->failures[0] = f;
            u->failures[0].about.icmp_type = TIMES_LEFT;
        }
        return times_tell_datagram(s, message, &f, planned);
    }
    datagram_error(s); /* this one has been told */
    s->error = u->failure_count ? u->failures[0].about.error : 0;
    return failure_tell(s, message, &f);
}
