/* Sockets of AF_INET6: their options, and ancillary data both ways (RFC 3542, RFC 3493).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "options.h"

#include <linux/in6.h>

#ifndef IPV6_RECVORIGDSTADDR
#define IPV6_RECVORIGDSTADDR 74
#endif
#ifndef IPV6_MINHOPCOUNT
#define IPV6_MINHOPCOUNT 73
#endif
#ifndef IPV6_TRANSPARENT
#define IPV6_TRANSPARENT 75
#endif

/* ---- setting ---- */

static int set_common(struct sock *s, struct options *o, int name, int value)
{
    switch (name) {
    case IPV6_V6ONLY:
        o->v6only = value;
        return s->binding || s->phase != PHASE_FRESH ? -EINVAL : 0;
    case IPV6_UNICAST_HOPS:
        o->hops = (int16_t)(value + 1);
        return within(value, -1, 255);
    case IPV6_TCLASS:
        o->traffic_class = (uint8_t)(value < 0 ? 0 : s->udp ? value : value & ~3); /* RFC 3168: the last bits are TCP's own */
        return within(value, -1, 255);
    case IPV6_MTU:
        return value && value < 1280 ? -EINVAL : 0;
    case IPV6_MINHOPCOUNT:
        o->least_hops = (uint8_t)value;
        option_flag(o, NEAT_FLAG_LEAST_TTL, true);
        return within(value, 0, 255);
    case IPV6_TRANSPARENT:
        return value ? -EPERM : 0;
    case IPV6_ADDRFORM:
        return -ENOTCONN;
    default:
        return -ENOPROTOOPT;
    }
}

/* What only datagrams have a use for; Linux keeps it of streams, too. */
static int set_wish(struct options *o, int name, int value)
{
    switch (name) {
    case IPV6_RECVPKTINFO:
        o->want_info6 = value;
        return 0;
    case IPV6_RECVHOPLIMIT:
        o->want_hops = value;
        return 0;
    case IPV6_RECVTCLASS:
        o->want_class = value;
        return 0;
    case IPV6_RECVORIGDSTADDR:
        o->want_destination6 = value;
        return 0;
    case IPV6_RECVERR:
        o->want_errors6 = value;
        return 0;
    case IPV6_DONTFRAG:
        o->whole = value;
        return 0;
    case IPV6_MTU_DISCOVER:
        o->mtu_discover6 = (uint8_t)value;
        return within(value, IPV6_PMTUDISC_DONT, IPV6_PMTUDISC_OMIT);
    case IPV6_MULTICAST_LOOP:
        o->no_loop6 = !value;
        return within(value, 0, 1);
    default:
        return -ENOPROTOOPT;
    }
}

static int set_datagram(struct datagrams *u, int name, int value)
{
    switch (name) {
    case IPV6_MULTICAST_HOPS:
        if (within(value, -1, 255))
            return -EINVAL;
        u->multicast_hops = (uint8_t)(value < 0 ? 1 : value);
        return 0;
    case IPV6_MULTICAST_IF:
        if (value != 0 && value != INTERFACE)
            return -ENODEV;
        u->multicast_if6 = value;
        return 0;
    case IPV6_MULTICAST_ALL:
        u->joined_only6 = !value;
        u->picky |= !value;
        return 0;
    default:
        return -ENOPROTOOPT;
    }
}

/* setsockopt() of IPPROTO_IPV6; `o` is a copy of the socket's options, which takes effect if all is well. The socket is locked.
 * 0 or -errno. */
int ipv6_set_option(struct sock *s, struct options *o, int name, const void *value, socklen_t length)
{
    int number = 0;

    if (s->family != AF_INET6)
        return -ENOPROTOOPT;
    int joined = s->udp ? group_set_option(s, true, name, value, length) : OPTION_COMMON;
    if (joined != OPTION_COMMON)
        return joined;
    if (!s->udp && (name == IPV6_JOIN_GROUP || name == IPV6_LEAVE_GROUP))
        return length < sizeof(struct ipv6_mreq) ? -EINVAL : -EPROTO;
    bool whole = length >= sizeof number;
    if (whole)
        memcpy(&number, value, sizeof number);
    int error = set_common(s, o, name, number);
    if (error == -ENOPROTOOPT)
        error = set_wish(o, name, number);
    if (error == -ENOPROTOOPT && s->udp)
        error = set_datagram(s->udp, name, whole ? number : INT_MIN);
    if (error == -ENOPROTOOPT)
        error = kept_set(s, o, IPPROTO_IPV6, name, number);
    return !error && !whole && name != IPV6_DONTFRAG ? -EINVAL : error;
}

/* ---- getting ---- */

static int get_wish(const struct sock *s, int name, int *value)
{
    const struct options *o = &s->options;
    switch (name) {
    case IPV6_RECVPKTINFO:
        *value = o->want_info6;
        return 0;
    case IPV6_RECVHOPLIMIT:
        *value = o->want_hops;
        return 0;
    case IPV6_RECVTCLASS:
        *value = o->want_class;
        return 0;
    case IPV6_RECVORIGDSTADDR:
        *value = o->want_destination6;
        return 0;
    case IPV6_RECVERR:
        *value = o->want_errors6;
        return 0;
    case IPV6_DONTFRAG:
        *value = o->whole;
        return 0;
    case IPV6_MTU_DISCOVER:
        *value = o->mtu_discover6;
        return 0;
    case IPV6_MULTICAST_HOPS:
        *value = s->udp ? s->udp->multicast_hops : 1;
        return 0;
    case IPV6_MULTICAST_LOOP:
        *value = !o->no_loop6;
        return 0;
    case IPV6_MULTICAST_IF:
        *value = s->udp ? s->udp->multicast_if6 : 0;
        return 0;
    default:
        return -ENOPROTOOPT;
    }
}

static int get_mtu(struct sock *s, int *value)
{
    struct end peer;

    if (s->udp ? !datagram_peer(s, &peer) : s->phase != PHASE_OPEN)
        return -ENOTCONN;
    *value = (int)path_mtu(s->udp ? peer.address : s->remote->remote_be);
    return 0;
}

/* getsockopt(). The socket is locked. 0 or -errno. */
int ipv6_get_option(struct sock *s, int name, int *value)
{
    if (s->family != AF_INET6)
        return -EOPNOTSUPP;
    switch (name) {
    case IPV6_V6ONLY:
        *value = s->options.v6only;
        return 0;
    case IPV6_UNICAST_HOPS:
        *value = s->options.hops ? s->options.hops - 1 : neat.page->hop_limit;
        return 0;
    case IPV6_TCLASS:
        *value = s->options.traffic_class;
        return 0;
    case IPV6_MINHOPCOUNT:
        *value = s->options.least_hops;
        return 0;
    case IPV6_TRANSPARENT:
        *value = 0;
        return 0;
    case IPV6_MTU:
        return get_mtu(s, value);
    case IPV6_MULTICAST_ALL:
        if (!s->udp)
            return -ENOPROTOOPT;
        *value = !s->udp->joined_only6;
        return 0;
    default:
        return get_wish(s, name, value);
    }
}

/* ---- ancillary data ---- */

static int read_number(const struct cmsghdr *c, int least, int *number)
{
    if (c->cmsg_len != CMSG_LEN(sizeof *number))
        return -EINVAL;
    memcpy(number, CMSG_DATA(c), sizeof *number);
    return within(*number, least, 255);
}

/* One of IPPROTO_IPV6 for a datagram to an address of IPv6, or mapped. */
int ipv6_read_control(const struct cmsghdr *c, bool four, struct sending *how)
{
    struct in6_pktinfo info;
    int number = 0, error;

    switch (c->cmsg_type) {
    case IPV6_PKTINFO:
        if (c->cmsg_len < CMSG_LEN(sizeof info))
            return -EINVAL;
        memcpy(&info, CMSG_DATA(c), sizeof info);
        memcpy(&how->source, &info.ipi6_addr, sizeof how->source);
        if (neat_is_v4(how->source) != four)
            return -EINVAL;
        return info.ipi6_ifindex && info.ipi6_ifindex != INTERFACE ? -ENODEV : 0;
    case IPV6_HOPLIMIT:
        error = read_number(c, -1, &number);
        if (!error && number >= 0)
            how->ttl = (uint8_t)(number ? number : 1);
        return error;
    case IPV6_TCLASS:
        error = read_number(c, -1, &number);
        if (!error)
            how->tos = (uint8_t)(number < 0 ? 0 : number);
        return error;
    case IPV6_DONTFRAG:
        error = read_number(c, 0, &number);
        how->whole = number;
        return error || number > 1 ? -EINVAL : 0;
    default:
        return -EINVAL;
    }
}

/* What a socket of AF_INET6 is told of a datagram of either family. */
void ipv6_write_control(const struct sock *s, struct writer *w, const struct neat_datagram *d)
{
    const struct options *o = &s->options;

    if (o->want_info6) {
        struct in6_pktinfo info = {.ipi6_ifindex = INTERFACE};
        memcpy(&info.ipi6_addr, &d->local, sizeof info.ipi6_addr);
        add_control(w, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
    }
    if (neat_is_v4(d->local))
        return;
    if (o->want_hops)
        add_control(w, IPPROTO_IPV6, IPV6_HOPLIMIT, &(int){d->ttl}, sizeof(int));
    if (o->want_class)
        add_control(w, IPPROTO_IPV6, IPV6_TCLASS, &(int){d->tos}, sizeof(int));
    if (o->want_destination6) {
        struct sockaddr_in6 in6;
        socklen_t length = sizeof in6;
        put_address(s, (struct sockaddr *)&in6, &length, &(struct end){d->local, d->local_port_be});
        add_control(w, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, &in6, sizeof in6);
    }
}
