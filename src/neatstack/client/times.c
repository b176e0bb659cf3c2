/* When text, or a datagram, was sent, acknowledged, received: SO_TIMESTAMPING, SO_TIMESTAMP, SO_TIMESTAMPNS.
 *
 * The end of each send that is to be reported is a key in the memory that is shared with the replica, which puts the times beside it. What
 * finds no room there is not reported.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stream.h"

#include <linux/errqueue.h>
#include <linux/net_tstamp.h>

#define TIMES_REPORTED (SOF_TIMESTAMPING_TX_SCHED | SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_TX_ACK)
#define TIMES_OF_SEND (TIMES_REPORTED | SOF_TIMESTAMPING_TX_HARDWARE) /* what ancillary data may say */
#define TIMES_NONE (1u << 31)                                         /* it says: nothing */

/* ---- telling ---- */

/* A time by the clock that programs want, from CLOCK_MONOTONIC. */
static struct timespec real_time(uint64_t monotonic_ns)
{
    struct timespec real;
    clock_gettime(CLOCK_REALTIME, &real);
    int64_t ns = real.tv_sec * INT64_C(1000000000) + real.tv_nsec - (now_ns() - (int64_t)monotonic_ns);
    return (struct timespec){ns / 1000000000, ns % 1000000000};
}

/* `wanted`: whether SO_TIMESTAMPING asks for this one. */
static void write_time(struct writer *w, const struct sock *s, uint64_t monotonic_ns, bool wanted)
{
    struct timespec times[3] = {real_time(monotonic_ns)}; /* by software, and two by what there is not */
    struct timeval micro = {times[0].tv_sec, times[0].tv_nsec / 1000};

    if (s->options.timestamp_ns)
        add_control(w, SOL_SOCKET, SO_TIMESTAMPNS, times, sizeof *times);
    if (s->options.timestamp)
        add_control(w, SOL_SOCKET, SO_TIMESTAMP, &micro, sizeof micro);
    if (wanted && (s->options.times & SOF_TIMESTAMPING_SOFTWARE))
        add_control(w, SOL_SOCKET, SO_TIMESTAMPING, times, sizeof times);
}

/* When something was received. */
void times_write_control(struct writer *w, const struct sock *s, uint64_t monotonic_ns)
{
    write_time(w, s, monotonic_ns, s->options.times & SOF_TIMESTAMPING_RX_SOFTWARE);
}

/* In the error queue: `kind` has happened to what has this number. */
void times_report(struct msghdr *message, const struct sock *s, uint64_t monotonic_ns, uint32_t kind, uint32_t number)
{
    bool six = s->family == AF_INET6;
    struct writer w = {message, 0};
    struct {
        struct sock_extended_err error;
        struct sockaddr_in6 nobody;
    } told = {.error = {.ee_errno = ENOMSG, .ee_origin = SO_EE_ORIGIN_TIMESTAMPING, .ee_info = kind}};

    if (s->options.times & SOF_TIMESTAMPING_OPT_ID)
        told.error.ee_data = number;
    message->msg_namelen = 0;
    write_time(&w, s, monotonic_ns, true);
    add_control(&w, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_RECVERR : IP_RECVERR, &told,
                sizeof told.error + (six ? sizeof told.nobody : sizeof(struct sockaddr_in)));
    message->msg_controllen = w.used;
}

/* ---- asking ---- */

/* SO_TIMESTAMPING as ancillary data of a send. 0 or -errno. */
int times_read_one(const struct cmsghdr *c, uint32_t *times)
{
    if (c->cmsg_len != CMSG_LEN(sizeof *times))
        return -EINVAL;
    memcpy(times, CMSG_DATA(c), sizeof *times);
    if (*times & ~(uint32_t)TIMES_OF_SEND)
        return -EINVAL;
    *times |= TIMES_NONE;
    return 0;
}

/* What the ancillary data of a stream's send wants to be told of it. 0 or -errno. */
int times_read_control(const struct msghdr *message, uint32_t *times)
{
    struct msghdr copy = *message;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(&copy); c; c = CMSG_NXTHDR(&copy, c)) {
        size_t left = (size_t)((uint8_t *)message->msg_control + message->msg_controllen - (uint8_t *)c);
        if (c->cmsg_len < sizeof *c || c->cmsg_len > left)
            return -EINVAL;
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SO_TIMESTAMPING)
            continue;
        int error = times_read_one(c, times);
        if (error)
            return error;
    }
    return 0;
}

static uint32_t wanted_now(const struct sock *s)
{
    return (s->times_once ? s->times_once : s->options.times) & TIMES_REPORTED;
}

/* A send ends at `head`, which the replica does not know yet. The socket is locked. */
void times_put(struct sock *s, uint32_t head, int flags)
{
    struct neat_times *t = slot_times(s);
    uint32_t what = wanted_now(s);

    if (!what || (flags & SEND_GOES_ON))
        return;
    if (t->generation != s->generation) {
        t->head = t->told_sent = t->told_acked = 0;
        store_release(&t->generation, s->generation);
    }
    if (t->head - t->told_acked >= NEAT_TIMES || t->head - t->told_sent / 2 >= NEAT_TIMES) /* nobody listens */
        return;
    t->keys[t->head % NEAT_TIMES] = (struct neat_time_key){head, what};
    store_release(&t->head, t->head + 1);
}

/* ---- what has come of it ---- */

struct passage {
    uint64_t time_ns;
    uint32_t kind, at;
};

static bool both_know(const struct sock *s, const struct neat_times *t)
{
    return load_acquire(&t->generation_seen) == s->generation && load_relaxed(&t->generation) == s->generation;
}

/* The next one that was asked for, by time; *sent and *acked are moved behind it. False: there is none. */
static bool next_report(const struct neat_times *t, uint32_t *sent, uint32_t *acked, struct passage *report)
{
    uint32_t are_sent = 2 * load_acquire(&t->sent), are_acked = load_acquire(&t->acked);

    while (*sent != are_sent || *acked != are_acked) {
        const struct neat_time *left = &t->times[*sent / 2 % NEAT_TIMES], *arrived = &t->times[*acked % NEAT_TIMES];
        bool sending = *sent != are_sent && (*acked == are_acked || left->sent_ns <= arrived->acked_ns);
        const struct neat_time_key *key = &t->keys[(sending ? *sent / 2 : *acked) % NEAT_TIMES];
        bool planned = sending && !(*sent & 1);
        uint32_t asked = planned ? SOF_TIMESTAMPING_TX_SCHED : sending ? SOF_TIMESTAMPING_TX_SOFTWARE : SOF_TIMESTAMPING_TX_ACK;
        uint32_t kind = planned ? SCM_TSTAMP_SCHED : sending ? SCM_TSTAMP_SND : SCM_TSTAMP_ACK;
        *report = (struct passage){sending ? left->sent_ns : arrived->acked_ns, kind, key->at};
        *(sending ? sent : acked) += 1;
        if (key->what & asked)
            return true;
    }
    return false;
}

/* Whether there is something to tell. Takes no lock. */
bool times_untold(const struct sock *s)
{
    const struct neat_times *t = slot_times(s);
    uint32_t sent = load_relaxed(&t->told_sent), acked = load_relaxed(&t->told_acked);
    struct passage report;

    return both_know(s, t) && next_report(t, &sent, &acked, &report);
}

/* How much has come of it so far, in a number that changes with it. */
uint32_t times_count(const struct sock *s)
{
    const struct neat_times *t = slot_times(s);
    return load_relaxed(&t->sent) + load_relaxed(&t->acked);
}

/* MSG_ERRQUEUE: 0, or -EAGAIN when there is nothing to tell. Linux gives the packet back without SOF_TIMESTAMPING_OPT_TSONLY, we none
 * of it. The socket is locked, and has a slot. */
int times_tell(struct sock *s, struct msghdr *message)
{
    struct neat_times *t = slot_times(s);
    struct passage report;

    if (!(s->options.reports & REPORT_TIMES) || !both_know(s, t) ||
        !next_report(t, &t->told_sent, &t->told_acked, &report))
        return -EAGAIN;
    message->msg_flags = MSG_ERRQUEUE | (s->options.times & SOF_TIMESTAMPING_OPT_TSONLY ? 0 : MSG_TRUNC);
    times_report(message, s, report.time_ns, report.kind, report.at - 1 - s->options.times_first);
    return 0;
}

/* ---- datagrams: the replica puts a record beside those that are received ---- */

/* A datagram that is about to be sent: what shall be told of it, and its number. The socket is locked. */
void times_mark(struct sock *s, struct neat_datagram *d)
{
    uint32_t what = wanted_now(s);

    s->times_once = 0;
    d->icmp_type = (uint8_t)((what & SOF_TIMESTAMPING_TX_SCHED ? TIMES_PLANNED : 0) |
                             (what & SOF_TIMESTAMPING_TX_SOFTWARE ? TIMES_LEFT : 0));
    if (!d->icmp_type)
        return;
    d->flags |= NEAT_DATAGRAM_TIME;
    d->mtu = s->options.times_first;
    if (s->options.times & SOF_TIMESTAMPING_OPT_ID)
        s->options.times_first++;
}

/* It was not sent after all. */
void times_unmark(struct sock *s, const struct neat_datagram *d)
{
    if ((d->flags & NEAT_DATAGRAM_TIME) && (s->options.times & SOF_TIMESTAMPING_OPT_ID))
        s->options.times_first--;
}

static void put16(uint8_t *to, size_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

/* The headers of a frame with the datagram, into what is all 0: without hardware addresses and checksums, as who asks for the packet looks for its
 * payload behind them. Bytes. */
static size_t put_headers(uint8_t *to, const struct neat_datagram *d)
{
    bool four = neat_is_v4(d->remote);
    size_t network = four ? 20 : 40, udp = 8 + d->length;
    uint8_t *ip = to + 14, *transport = ip + network;

    put16(to + 12, four ? 0x0800 : 0x86dd);
    if (four) {
        ip[0] = 0x45;
        ip[1] = d->tos;
        put16(ip + 2, network + udp);
        ip[8] = d->ttl ? d->ttl : neat.page->ttl;
        ip[9] = IPPROTO_UDP;
        memcpy(ip + 12, (const uint8_t *)&d->local + 12, 4);
        memcpy(ip + 16, (const uint8_t *)&d->remote + 12, 4);
    } else {
        ip[0] = 0x60;
        put16(ip + 4, udp);
        ip[6] = IPPROTO_UDP;
        ip[7] = d->ttl ? d->ttl : neat.page->hop_limit;
        memcpy(ip + 8, &d->local, 16);
        memcpy(ip + 24, &d->remote, 16);
    }
    memcpy(transport, &d->local_port_be, 2);
    memcpy(transport + 2, &d->remote_port_be, 2);
    put16(transport + 4, udp);
    return 14 + network + 8;
}

/* MSG_ERRQUEUE: bytes of the frame that had room; none is given with SOF_TIMESTAMPING_OPT_TSONLY. */
ssize_t times_tell_datagram(const struct sock *s, struct msghdr *message, const struct failure *f, bool planned)
{
    uint8_t frame[14 + 40 + 8 + MOST_QUOTED] = {0};
    size_t length = 0;

    if (!(s->options.times & SOF_TIMESTAMPING_OPT_TSONLY)) {
        length = put_headers(frame, &f->about);
        memcpy(frame + length, f->quoted, f->about.length);
        length += f->about.length;
    }
    size_t copied = scatter(frame, length, message->msg_iov, message->msg_iovlen);
    message->msg_flags = MSG_ERRQUEUE | (copied < length ? MSG_TRUNC : 0);
    times_report(message, s, f->about.time_ns, planned ? SCM_TSTAMP_SCHED : SCM_TSTAMP_SND, f->about.mtu);
    return (ssize_t)copied;
}
