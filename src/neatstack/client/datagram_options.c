/* UDP: socket options, and ancillary data of messages both ways.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "options.h"

#include <linux/errqueue.h>
#include <netinet/udp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#define DEFAULT_BUFFER 212992 /* Linux: rmem_default, wmem_default */

/* ---- ancillary data of what is sent ---- */

static int read_one(const struct cmsghdr *c, struct sending *how)
{
    size_t length = c->cmsg_len - CMSG_LEN(0);
    struct in_pktinfo info;
    int number = 0;

    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
        if (length < sizeof info)
            return -EINVAL;
        memcpy(&info, CMSG_DATA(c), sizeof info);
        how->source = neat_map(info.ipi_spec_dst.s_addr);
        return 0;
    }
    if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_SEGMENT) {
        if (length != sizeof how->segment)
            return -EINVAL;
        memcpy(&how->segment, CMSG_DATA(c), sizeof how->segment);
        return 0;
    }
    if (c->cmsg_level != IPPROTO_IP || (c->cmsg_type != IP_TOS && c->cmsg_type != IP_TTL))
        return c->cmsg_level == IPPROTO_IP ? -EINVAL : 0;
    if (length >= sizeof number)
        memcpy(&number, CMSG_DATA(c), sizeof number);
    else if (length == 1)
        number = *CMSG_DATA(c);
    else
        return -EINVAL;
    if (c->cmsg_type == IP_TOS) {
        how->tos = (uint8_t)number;
        return number < 0 || number > 255 ? -EINVAL : 0;
    }
    how->ttl = (uint8_t)number;
    return number < 1 || number > 255 ? -EINVAL : 0;
}

/* `four`: of a datagram to an address of IPv4. */
int datagram_read_control(const struct msghdr *message, bool four, struct sending *how)
{
    struct msghdr copy = *message;
    int error = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(&copy); c && !error; c = CMSG_NXTHDR(&copy, c)) {
        size_t left = (size_t)((uint8_t *)message->msg_control + message->msg_controllen - (uint8_t *)c);
        if (c->cmsg_len < sizeof *c || c->cmsg_len > left)
            error = -EINVAL;
        else if (c->cmsg_level == IPPROTO_IPV6 && (!four || c->cmsg_type == IPV6_PKTINFO))
            error = ipv6_read_control(c, how);
        else if (four || c->cmsg_level != IPPROTO_IP)
            error = read_one(c, how);
    }
    return error;
}

/* ---- ancillary data of what was received ---- */

void add_control(struct writer *w, int level, int type, const void *data, size_t length)
{
    struct msghdr *m = w->message;

    if (!m->msg_control || w->used + CMSG_LEN(length) > m->msg_controllen) {
        m->msg_flags |= MSG_CTRUNC;
        return;
    }
    struct cmsghdr *c = (struct cmsghdr *)((uint8_t *)m->msg_control + w->used);
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(length);
    memcpy(CMSG_DATA(c), data, length);
    w->used += CMSG_SPACE(length) < m->msg_controllen - w->used ? CMSG_SPACE(length) : m->msg_controllen - w->used;
}

/* Arrival by the clock that programs want, from CLOCK_MONOTONIC. */
static struct timespec arrival(uint64_t monotonic_ns)
{
    struct timespec real;
    clock_gettime(CLOCK_REALTIME, &real);
    int64_t ns = real.tv_sec * INT64_C(1000000000) + real.tv_nsec - (now_ns() - (int64_t)monotonic_ns);
    return (struct timespec){ns / 1000000000, ns % 1000000000};
}

static void add_time(struct writer *w, const struct sock *s, uint64_t monotonic_ns)
{
    struct timespec time = arrival(monotonic_ns);
    struct timeval micro = {time.tv_sec, time.tv_nsec / 1000};

    if (s->udp->timestamp_ns)
        add_control(w, SOL_SOCKET, SO_TIMESTAMPNS, &time, sizeof time);
    else
        add_control(w, SOL_SOCKET, SO_TIMESTAMP, &micro, sizeof micro);
}

/* In the order in which Linux tells these. `segment`: the size of those that were put together, 0: it is one. */
void datagram_write_control(const struct sock *s, struct msghdr *message, const struct neat_datagram *d, uint32_t segment)
{
    const struct datagrams *u = s->udp;
    struct writer w = {message, 0};

    if (s->options.timestamp || u->timestamp_ns)
        add_time(&w, s, d->time_ns);
    if (segment)
        add_control(&w, IPPROTO_UDP, UDP_GRO, &(int){(int)segment}, sizeof(int));
    if (s->family == AF_INET6)
        ipv6_write_control(s, &w, d);
    if (!neat_is_v4(d->local)) {
        message->msg_controllen = w.used;
        return;
    }
    if (u->want_info) {
        uint32_t local_be = neat_v4(d->local);
        uint32_t own_be = is_own(d->local) ? local_be : neat_v4(source_for(d->remote));
        struct in_pktinfo info = {INTERFACE, {own_be}, {local_be}};
        add_control(&w, IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    }
    if (u->want_ttl)
        add_control(&w, IPPROTO_IP, IP_TTL, &(int){d->ttl}, sizeof(int));
    if (u->want_tos)
        add_control(&w, IPPROTO_IP, IP_TOS, &d->tos, 1);
    if (u->want_destination) {
        struct sockaddr_in in = {
            .sin_family = AF_INET, .sin_port = d->local_port_be, .sin_addr.s_addr = neat_v4(d->local)};
        add_control(&w, IPPROTO_IP, IP_ORIGDSTADDR, &in, sizeof in);
    }
    message->msg_controllen = w.used;
}

static int read_interface(const void *value, socklen_t length, uint32_t *address_be);

/* ---- errors ---- */

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

/* News of an error had its turn among the datagrams: it is kept until somebody asks, or newer ones need its place. */
void datagram_keep_error(struct sock *s, const struct sock *leg, const struct neat_datagram *d, uint32_t at)
{
    struct datagrams *u = s->udp;

    if (!wants_errors(s))
        return;
    if (u->failure_count == MOST_ERRORS)
        memmove(u->failures, u->failures + 1, --u->failure_count * sizeof *u->failures);
    struct failure *f = &u->failures[u->failure_count++];
    f->about = *d;
    if (f->about.length > MOST_QUOTED)
        f->about.length = MOST_QUOTED;
    take_bytes(f->quoted, leg, at, f->about.length);
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

/* recvmsg() with MSG_ERRQUEUE: what was sent, to whom, and what became of it. */
ssize_t datagram_receive_error(struct sock *s, struct msghdr *message)
{
    struct datagrams *u = s->udp;
    struct failure f;
    struct {
        struct sock_extended_err error;
        struct sockaddr_in6 offender;
    } told = {.error = {.ee_origin = SO_EE_ORIGIN_ICMP}};
    socklen_t offender = sizeof told.offender;

    if (!next_failure(s, &f))
        return -EAGAIN;
    told.error.ee_errno = f.about.error;
    told.error.ee_type = f.about.icmp_type;
    told.error.ee_code = f.about.icmp_code;
    told.error.ee_info = f.about.mtu;
    if (!neat_is_v4(f.about.remote))
        told.error.ee_origin = SO_EE_ORIGIN_ICMP6;
    put_address(s, (struct sockaddr *)&told.offender, &offender, &(struct end){f.about.local, 0});
    size_t copied = scatter(f.quoted, f.about.length, message->msg_iov, message->msg_iovlen);
    message->msg_flags = MSG_ERRQUEUE | (copied < f.about.length ? MSG_TRUNC : 0);
    if (message->msg_name)
        put_address(s, message->msg_name, &message->msg_namelen, &(struct end){f.about.remote, f.about.remote_port_be});
    struct writer w = {message, 0};
    datagram_error(s); /* this one has been told */
    s->error = u->failure_count ? u->failures[0].about.error : 0;
    bool six = s->family == AF_INET6;
    add_control(&w, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_RECVERR : IP_RECVERR, &told, sizeof told.error + offender);
    message->msg_controllen = w.used;
    return (ssize_t)copied;
}

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

/* ---- groups ---- */

/* The socket is locked. 0 or -errno. */
int datagram_join(struct sock *s, struct neat_address group, bool leave)
{
    struct datagrams *u = s->udp;
    uint32_t i = 0;
    int error = 0;

    while (i < u->group_count && !neat_same(u->groups[i], group))
        i++;
    if (leave && i == u->group_count)
        error = -EADDRNOTAVAIL;
    if (!error && !leave && i < u->group_count)
        error = -EADDRINUSE;
    if (!error && !leave && i == MOST_GROUPS)
        error = -ENOBUFS;
    if (!error && s->binding)
        error = manager_group(s->binding, group, leave);
    if (error)
        return error;
    if (leave)
        u->groups[i] = u->groups[--u->group_count];
    else
        u->groups[u->group_count++] = group;
    return 0;
}

/* IP_ADD_MEMBERSHIP and IP_DROP_MEMBERSHIP: a struct ip_mreq or ip_mreqn. The socket is locked. 0 or -errno. */
static int set_group(struct sock *s, const void *value, socklen_t length, bool leave)
{
    uint32_t group_be, interface_be;

    if (length < sizeof(struct ip_mreq))
        return -EINVAL;
    memcpy(&group_be, value, sizeof group_be);
    int error = IN_MULTICAST(ntohl(group_be)) ? read_interface(value, length, &interface_be) : -EINVAL;
    if (error == -EADDRNOTAVAIL && !leave)
        error = -ENODEV;
    return error ? error : datagram_join(s, neat_map(group_be), leave);
}

/* ---- options ---- */

static int set_ip(struct datagrams *u, int name, int value)
{
    switch (name) {
    case IP_PKTINFO:
        u->want_info = value;
        return 0;
    case IP_RECVTOS:
        u->want_tos = value;
        return 0;
    case IP_RECVTTL:
        u->want_ttl = value;
        return 0;
    case IP_RECVORIGDSTADDR:
        u->want_destination = value;
        return 0;
    case IP_RECVERR:
        u->want_errors = value;
        return 0;
    case IP_MTU_DISCOVER:
        if (within(value, IP_PMTUDISC_DONT, IP_PMTUDISC_OMIT))
            return -EINVAL;
        u->mtu_discover = (uint8_t)value;
        return 0;
    case IP_MULTICAST_TTL:
        u->multicast_ttl = (uint8_t)(value == -1 ? 1 : value);
        u->multicast_ttl_set = true;
        return value == -1 ? 0 : within(value, 0, 255);
    case IP_MULTICAST_LOOP:
        u->no_loop = !value;
        return 0;
    case IP_MULTICAST_ALL:
        return within(value, 0, 1);
    default:
        return -ENOPROTOOPT;
    }
}

/* The address of the interface in a struct ip_mreq, ip_mreqn or in_addr: any, or ours. */
static int read_interface(const void *value, socklen_t length, uint32_t *address_be)
{
    struct ip_mreqn request = {0};

    if (length >= sizeof(struct ip_mreq)) {
        memcpy(&request, value, length < sizeof request ? length : sizeof request);
        *address_be = request.imr_address.s_addr;
        if (request.imr_ifindex && request.imr_ifindex != INTERFACE)
            return -ENODEV;
    } else if (length >= sizeof(struct in_addr)) {
        memcpy(address_be, value, sizeof *address_be);
    } else {
        return -EINVAL;
    }
    if (*address_be == INADDR_ANY || is_own(neat_map(*address_be)))
        return 0;
    return -EADDRNOTAVAIL;
}

static int set_udp(struct datagrams *u, int name, int value)
{
    switch (name) {
    case UDP_SEGMENT:
        u->segment = (uint16_t)value;
        return within(value, 0, UINT16_MAX);
    case UDP_GRO:
        u->coalesce = value;
        return 0;
    case UDP_CORK:
        u->cork = value;
        return 0;
    default:
        return -ENOPROTOOPT;
    }
}

static int get_udp(const struct datagrams *u, int name, int *value)
{
    switch (name) {
    case UDP_SEGMENT:
        *value = u->segment;
        return 0;
    case UDP_GRO:
        *value = u->coalesce;
        return 0;
    case UDP_CORK:
        *value = u->cork;
        return 0;
    default:
        return -ENOPROTOOPT;
    }
}

/* An option that only UDP sockets have. 0, -errno, or OPTION_COMMON: it is as for streams. The socket is locked. */
int datagram_set_option(struct sock *s, int level, int name, const void *value, socklen_t length)
{
    struct datagrams *u = s->udp;
    uint32_t address_be;
    int number = 0;

    if (level == IPPROTO_TCP)
        return -ENOPROTOOPT;
    if (level == IPPROTO_IP && name == IP_MULTICAST_IF) {
        int error = read_interface(value, length, &address_be);
        u->multicast_if_be = error ? u->multicast_if_be : address_be;
        return error;
    }
    if (level == IPPROTO_IP && (name == IP_ADD_MEMBERSHIP || name == IP_DROP_MEMBERSHIP))
        return set_group(s, value, length, name == IP_DROP_MEMBERSHIP);
    if (level == IPPROTO_IP && length == 1)
        number = *(const uint8_t *)value;
    else if (length >= sizeof number)
        memcpy(&number, value, sizeof number);
    else
        return OPTION_COMMON;
    if (level == IPPROTO_UDP) {
        int error = set_udp(u, name, number);
        if (name == UDP_CORK && !u->cork)
            datagram_uncork(s);
        return error;
    }
    if (level == SOL_SOCKET && name == SO_TIMESTAMPNS) {
        u->timestamp_ns = number;
        return 0;
    }
    if (level == SOL_SOCKET && name == SO_NO_CHECK)
        return 0;
    if (level != IPPROTO_IP)
        return OPTION_COMMON;
    int error = set_ip(u, name, number);
    return error == -ENOPROTOOPT ? OPTION_COMMON : error;
}

static int get_ip(const struct datagrams *u, int name, int *value)
{
    switch (name) {
    case IP_PKTINFO:
        *value = u->want_info;
        return 0;
    case IP_RECVTOS:
        *value = u->want_tos;
        return 0;
    case IP_RECVTTL:
        *value = u->want_ttl;
        return 0;
    case IP_RECVORIGDSTADDR:
        *value = u->want_destination;
        return 0;
    case IP_RECVERR:
        *value = u->want_errors;
        return 0;
    case IP_MTU_DISCOVER:
        *value = u->mtu_discover;
        return 0;
    case IP_MULTICAST_TTL:
        *value = u->multicast_ttl_set ? u->multicast_ttl : 1;
        return 0;
    case IP_MULTICAST_LOOP:
        *value = !u->no_loop;
        return 0;
    case IP_MULTICAST_ALL:
        *value = 1;
        return 0;
    case IP_MULTICAST_IF:
        *value = (int)u->multicast_if_be;
        return 0;
    default:
        return OPTION_COMMON;
    }
}

/* The same for getsockopt(). */
int datagram_get_option(struct sock *s, int level, int name, int *value)
{
    struct end peer;

    if (level == IPPROTO_UDP)
        return get_udp(s->udp, name, value);
    if (level == IPPROTO_TCP)
        return -ENOPROTOOPT;
    if (level == IPPROTO_IP && name == IP_MTU) {
        if (!datagram_peer(s, &peer))
            return -ENOTCONN;
        *value = (int)datagram_mtu(s, peer.address);
        return 0;
    }
    if (level == IPPROTO_IP)
        return get_ip(s->udp, name, value);
    if (level != SOL_SOCKET)
        return OPTION_COMMON;
    switch (name) {
    case SO_TYPE:
        *value = SOCK_DGRAM;
        return 0;
    case SO_PROTOCOL:
        *value = IPPROTO_UDP;
        return 0;
    case SO_ERROR:
        *value = datagram_error(s);
        return 0;
    case SO_TIMESTAMPNS:
        *value = s->udp->timestamp_ns;
        return 0;
    case SO_RCVBUF:
        *value = s->options.receive_buffer ? (int)s->options.receive_buffer : DEFAULT_BUFFER;
        return 0;
    case SO_SNDBUF:
        *value = s->options.send_buffer ? (int)s->options.send_buffer : DEFAULT_BUFFER;
        return 0;
    default:
        return OPTION_COMMON;
    }
}
