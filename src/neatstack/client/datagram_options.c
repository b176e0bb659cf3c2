/* UDP: socket options.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "options.h"

#include <netinet/udp.h>

#define DEFAULT_BUFFER 212992 /* Linux: rmem_default, wmem_default */

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
    case IP_MTU_DISCOVER:
        if (within(value, IP_PMTUDISC_DONT, IP_PMTUDISC_OMIT))
            return -EINVAL;
        u->mtu_discover = (uint8_t)value;
        return 0;
    case IP_MULTICAST_TTL:
        if (within(value, -1, 255))
            return -EINVAL;
        u->multicast_ttl = (uint8_t)(value == -1 ? 1 : value);
        u->multicast_ttl_set = true;
        return 0;
    case IP_MULTICAST_LOOP:
        u->no_loop = !value;
        return 0;
    case IP_MULTICAST_ALL:
        if (within(value, 0, 1))
            return -EINVAL;
        u->joined_only = !value;
        u->picky |= !value;
        return 0;
    default:
        return -ENOPROTOOPT;
    }
}

static int set_udp(struct datagrams *u, int name, int value)
{
    switch (name) {
    case UDP_SEGMENT:
        if (within(value, 0, UINT16_MAX))
            return -EINVAL;
        u->segment = (uint16_t)value;
        return 0;
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

    if (level == IPPROTO_TCP || (level == SOL_SOCKET && name == SO_ZEROCOPY)) /* nobody would tell of the copies */
        return -ENOPROTOOPT;
    if (level == IPPROTO_IP && name == IP_MULTICAST_IF) {
        int error = group_interface(value, length, &address_be);
        u->multicast_if_be = error ? u->multicast_if_be : address_be;
        return error;
    }
    int joined = level == IPPROTO_IP ? group_set_option(s, false, name, value, length) : OPTION_COMMON;
    if (joined != OPTION_COMMON)
        return joined;
    if (level == IPPROTO_IP && length >= 1 && length < sizeof number)
        number = *(const uint8_t *)value;
    else if (length >= sizeof number)
        memcpy(&number, value, sizeof number);
    else
        return OPTION_COMMON;
    if (level == IPPROTO_UDP) {
        int error = set_udp(u, name, number);
        if (name == UDP_CORK && !u->cork)
            datagram_uncork(s);
        return error == -ENOPROTOOPT ? OPTION_COMMON : error;
    }
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
        *value = !u->joined_only;
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
        return no_such_level(s);
    if (level == IPPROTO_IP && name == IP_MTU) {
        if (!datagram_peer(s, &peer))
            return -ENOTCONN;
        *value = (int)path_mtu(peer.address);
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
