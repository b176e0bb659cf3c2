/* UDP: ancillary data of messages, both ways.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <netinet/udp.h>

/* ---- ancillary data of what is sent ---- */

static int read_one(const struct cmsghdr *c, struct sending *how)
{
    size_t length = c->cmsg_len - CMSG_LEN(0);
    struct in_pktinfo info;
    int number = 0;

    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
        if (length != sizeof info)
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
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TXTIME)
        return -EINVAL; /* there is no SO_TXTIME */
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPING)
        return times_read_one(c, &how->times);
    if (c->cmsg_level != IPPROTO_IP || (c->cmsg_type != IP_TOS && c->cmsg_type != IP_TTL))
        return c->cmsg_level == IPPROTO_IP ? -EINVAL : 0;
    if (length == sizeof number)
        memcpy(&number, CMSG_DATA(c), sizeof number);
    else if (length == 1 && c->cmsg_type == IP_TOS)
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

/* `four`: of a datagram to an address of IPv4. A source must be an address of ours. */
int datagram_read_control(const struct sock *s, const struct msghdr *message, bool four, struct sending *how)
{
    struct msghdr copy = *message;
    int error = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(&copy); c && !error; c = CMSG_NXTHDR(&copy, c)) {
        size_t left = (size_t)((uint8_t *)message->msg_control + message->msg_controllen - (uint8_t *)c);
        if (c->cmsg_len < sizeof *c || c->cmsg_len > left)
            error = -EINVAL;
        else if (c->cmsg_level == IPPROTO_IPV6 && s->family == AF_INET6 && (!four || c->cmsg_type == IPV6_PKTINFO))
            error = ipv6_read_control(c, four, how);
        else if (four || c->cmsg_level != IPPROTO_IP)
            error = read_one(c, how);
    }
    if (!error && !neat_is_any(how->source) && !is_own(how->source))
        error = four ? -ENETUNREACH : -EINVAL;
    return error;
}

/* ---- ancillary data of what was received ---- */

/* As Linux: what does not fit is cut short, if there is room for its header. */
void add_control(struct writer *w, int level, int type, const void *data, size_t length)
{
    struct msghdr *m = w->message;
    size_t room = m->msg_control ? m->msg_controllen - w->used : 0;
    size_t taken = CMSG_LEN(length);

    if (room < taken)
        m->msg_flags |= MSG_CTRUNC;
    if (room < sizeof(struct cmsghdr))
        return;
    if (room < taken)
        taken = room;
    struct cmsghdr *c = (struct cmsghdr *)((uint8_t *)m->msg_control + w->used);
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = taken;
    memcpy(CMSG_DATA(c), data, taken - sizeof *c);
    w->used += CMSG_SPACE(length) < room ? CMSG_SPACE(length) : room;
}

/* In the order in which Linux tells these. `segment`: the size of those that were put together, 0: it is one. */
void datagram_write_control(const struct sock *s, struct msghdr *message, const struct neat_datagram *d, uint32_t segment)
{
    const struct datagrams *u = s->udp;
    struct writer w = {message, 0};

    if (unlikely(s->options.reports) && wants_times(&s->options))
        times_write_control(&w, s, d->time_ns);
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
