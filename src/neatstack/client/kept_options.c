/* Socket options that a program may set and read back, and that change nothing on a stack.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "options.h"

#include <linux/in6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>

#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#endif
#ifndef UDP_NO_CHECK6_TX
#define UDP_NO_CHECK6_TX 101
#endif
#ifndef IPV6_MULTICAST_ALL
#define IPV6_MULTICAST_ALL 29
#endif
#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif
#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif
#ifndef IPV6_UNICAST_IF
#define IPV6_UNICAST_IF 76
#endif
#define FLAG 0, 0 /* set by any number but 0 */

static const struct kept {
    int level, name, least, most, first;
} kept[] = {
    {SOL_SOCKET, SO_DEBUG, FLAG, 0},
    {SOL_SOCKET, SO_NO_CHECK, FLAG, 0},
    {SOL_SOCKET, SO_BUSY_POLL, 0, INT_MAX, 0},
    {SOL_SOCKET, SO_PREFER_BUSY_POLL, FLAG, 0},
    {SOL_SOCKET, SO_INCOMING_CPU, INT_MIN, INT_MAX, -1},
    {SOL_SOCKET, SO_BINDTOIFINDEX, 0, INT_MAX, 0},
    {IPPROTO_IP, IP_UNICAST_IF, 0, 0, 0}, /* of numbers in network byte order: see below */
    {IPPROTO_IPV6, IPV6_UNICAST_IF, 0, 0, 0},
    {IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 0, 1, 0},
    {IPPROTO_UDP, UDP_NO_CHECK6_TX, FLAG, 0},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, FLAG, 0},
    {IPPROTO_IP, IP_FREEBIND, FLAG, 0},
    {IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_OMIT, IP_PMTUDISC_WANT}, /* of streams, as what follows */
    {IPPROTO_IP, IP_PKTINFO, FLAG, 0},
    {IPPROTO_IP, IP_RECVTTL, FLAG, 0},
    {IPPROTO_IP, IP_RECVTOS, FLAG, 0},
    {IPPROTO_IP, IP_RECVORIGDSTADDR, FLAG, 0},
    {IPPROTO_IPV6, IPV6_MULTICAST_ALL, FLAG, 1},
    {IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, FLAG, 1}, /* of both again */
    {IPPROTO_IPV6, IPV6_FLOWINFO_SEND, FLAG, 0},
};

_Static_assert(sizeof kept / sizeof *kept == KEPT_OPTIONS, "as many as there is room for");

/* Where an option of this socket is kept; -1: it is none of these. */
static int place(const struct sock *s, int level, int name)
{
    if ((level == IPPROTO_TCP && s->udp) || (level == IPPROTO_UDP && !s->udp) || (level == IPPROTO_IPV6 && s->family != AF_INET6))
        return -1;
    if (level == IPPROTO_IPV6 && name == IPV6_FREEBIND) /* Linux has one for both */
        return place(s, IPPROTO_IP, IP_FREEBIND);
    for (int i = 0; i < KEPT_OPTIONS; i++)
        if (kept[i].level == level && kept[i].name == name)
            return i;
    return -1;
}

/* `o` is a copy of the socket's options. 0, -EINVAL, or -ENOPROTOOPT: it is none of these. */
int kept_set(const struct sock *s, struct options *o, int level, int name, int value)
{
    int i = place(s, level, name);
    if (i < 0)
        return -ENOPROTOOPT;
    if ((level == IPPROTO_IP && name == IP_UNICAST_IF) || (level == IPPROTO_IPV6 && name == IPV6_UNICAST_IF)) {
        if (value && ntohl((uint32_t)value) != INTERFACE)
            return -EADDRNOTAVAIL;
    } else if (kept[i].least == kept[i].most)
        value = !!value;
    else if (within(value, kept[i].least, kept[i].most))
        return -EINVAL;
    o->kept[i] = value - kept[i].first;
    return 0;
}

/* The same of getsockopt(). */
int kept_get(const struct sock *s, int level, int name, int *value)
{
    int i = place(s, level, name);
    if (i < 0)
        return -ENOPROTOOPT;
    *value = s->options.kept[i] + kept[i].first;
    return 0;
}
