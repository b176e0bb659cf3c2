/* Groups of hosts: joining and leaving (RFC 1112, RFC 3678).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "options.h"

/* A socket that is not bound yet joins when it is. */
static int join(struct sock *s, struct neat_address group, bool leave)
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

/* The address of the interface in a struct ip_mreq, ip_mreqn or in_addr: any, or ours. */
int group_interface(const void *value, socklen_t length, uint32_t *address_be)
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

static int set_by_index(struct sock *s, struct neat_address group, uint32_t interface, bool leave)
{
    if (!neat_is_multicast(group))
        return leave && neat_is_v4(group) ? -EADDRNOTAVAIL : -EINVAL;
    if ((interface && interface != INTERFACE) || (!neat_is_v4(group) && !neat.page->mtu6))
        return leave ? -EADDRNOTAVAIL : -ENODEV;
    return join(s, group, leave);
}

/* IP_ADD_MEMBERSHIP and IP_DROP_MEMBERSHIP: a struct ip_mreq or ip_mreqn. */
static int set_by_address(struct sock *s, const void *value, socklen_t length, bool leave)
{
    uint32_t group_be, interface_be;

    if (length < sizeof(struct ip_mreq))
        return -EINVAL;
    memcpy(&group_be, value, sizeof group_be);
    int none = group_interface(value, length, &interface_be);
    return set_by_index(s, neat_map(group_be), none ? INTERFACE + 1 : INTERFACE, leave);
}

/* IPV6_JOIN_GROUP and IPV6_LEAVE_GROUP. */
static int set_by_index6(struct sock *s, const void *value, socklen_t length, bool leave)
{
    struct ipv6_mreq request;
    struct neat_address group;

    if (length < sizeof request)
        return -EINVAL;
    memcpy(&request, value, sizeof request);
    memcpy(&group, &request.ipv6mr_multiaddr, sizeof group);
    return neat_is_v4(group) ? -EINVAL : set_by_index(s, group, request.ipv6mr_interface, leave);
}

/* MCAST_JOIN_GROUP and MCAST_LEAVE_GROUP, of a family as the level says. */
static int set_by_request(struct sock *s, bool six, const void *value, socklen_t length, bool leave)
{
    struct group_req request;
    struct neat_address group;

    if (length < sizeof request)
        return -EINVAL;
    memcpy(&request, value, sizeof request);
    if (request.gr_group.ss_family != (six ? AF_INET6 : AF_INET))
        return six ? -EADDRNOTAVAIL : -EINVAL;
    if (six)
        memcpy(&group, &((struct sockaddr_in6 *)&request.gr_group)->sin6_addr, sizeof group);
    else
        group = neat_map(((struct sockaddr_in *)&request.gr_group)->sin_addr.s_addr);
    return six && neat_is_v4(group) ? -EINVAL : set_by_index(s, group, request.gr_interface, leave);
}

/* Of UDP, IPPROTO_IP or with `six` IPPROTO_IPV6. 0, -errno, or OPTION_COMMON: it is another option. The socket is locked. */
int group_set_option(struct sock *s, bool six, int name, const void *value, socklen_t length)
{
    if (name == MCAST_JOIN_GROUP || name == MCAST_LEAVE_GROUP)
        return set_by_request(s, six, value, length, name == MCAST_LEAVE_GROUP);
    if (!six && (name == IP_ADD_MEMBERSHIP || name == IP_DROP_MEMBERSHIP))
        return set_by_address(s, value, length, name == IP_DROP_MEMBERSHIP);
    if (six && (name == IPV6_JOIN_GROUP || name == IPV6_LEAVE_GROUP))
        return set_by_index6(s, value, length, name == IPV6_LEAVE_GROUP);
    return OPTION_COMMON;
}
