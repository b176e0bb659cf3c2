/* Groups of hosts: joining and leaving (RFC 1112, RFC 3678).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "options.h"

/* NULL: the socket is not in it. */
static struct membership *find(struct datagrams *u, struct neat_address group)
{
    for (uint32_t i = 0; i < u->group_count; i++)
        if (neat_same(u->groups[i].group, group))
            return &u->groups[i];
    return NULL;
}

/* A socket that is not bound yet joins when it is. */
static int join(struct sock *s, struct neat_address group, bool leave)
{
    struct datagrams *u = s->udp;
    struct membership *m = find(u, group);
    int error = 0;

    if (leave && !m)
        error = -EADDRNOTAVAIL;
    if (!leave && m)
        error = -EADDRINUSE;
    if (!error && !leave && u->group_count == MOST_GROUPS)
        error = -ENOBUFS;
    if (!error && s->binding)
        error = manager_group(s->binding, group, leave);
    if (error)
        return error;
    if (leave)
        *m = u->groups[--u->group_count];
    else
        u->groups[u->group_count++] = (struct membership){.group = group};
    return 0;
}

static uint32_t place(const struct membership *m, struct neat_address source)
{
    uint32_t i = 0;
    while (i < m->count && !neat_same(m->sources[i], source))
        i++;
    return i;
}

/* One source more or less that is wanted of a group (`include`), or that is not. As on Linux, one who wants no source any more leaves. */
static int change_source(struct sock *s, struct neat_address group, struct neat_address source, bool include, bool add)
{
    int error = include && add ? join(s, group, false) : -EADDRINUSE;
    struct membership *m = find(s->udp, group);

    if (error && error != -EADDRINUSE)
        return error;
    if (!m || (m->include != include && m->chosen))
        return -EINVAL;
    m->include = include;
    uint32_t i = place(m, source);
    if (!add && i == m->count)
        return -EADDRNOTAVAIL;
    if (!add && include && m->count == 1)
        return join(s, group, true);
    if (!add) {
        m->sources[i] = m->sources[--m->count];
        return 0;
    }
    if (m->count == MOST_SOURCES)
        return -ENOBUFS;
    if (i < m->count)
        return -EADDRNOTAVAIL;
    m->sources[m->count++] = source;
    m->chosen = s->udp->picky = true;
    return 0;
}

/* Of a socket that is picky: sources of groups, and IP_MULTICAST_ALL, by which it does not care for groups that others have joined. */
bool datagram_wants(const struct datagrams *u, const struct neat_datagram *d)
{
    if (!neat_is_multicast(d->local))
        return true;
    for (const struct membership *m = u->groups; m < u->groups + u->group_count; m++)
        if (neat_same(m->group, d->local))
            return (place(m, d->remote) < m->count) == m->include;
    return !(neat_is_v4(d->local) ? u->joined_only : u->joined_only6);
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

static bool has_interface(bool six, uint32_t interface)
{
    return (!interface || interface == INTERFACE) && (!six || neat.page->mtu6);
}

static int set_by_index(struct sock *s, struct neat_address group, uint32_t interface, bool leave)
{
    if (!neat_is_multicast(group))
        return leave && neat_is_v4(group) ? -EADDRNOTAVAIL : -EINVAL;
    if (!has_interface(!neat_is_v4(group), interface))
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

/* False: it is of another family. */
static bool address_in(const struct sockaddr_storage *name, bool six, struct neat_address *address)
{
    if (name->ss_family != (six ? AF_INET6 : AF_INET))
        return false;
    if (six)
        memcpy(address, &((const struct sockaddr_in6 *)name)->sin6_addr, sizeof *address);
    else
        *address = neat_map(((const struct sockaddr_in *)name)->sin_addr.s_addr);
    return true;
}

/* MCAST_JOIN_GROUP and MCAST_LEAVE_GROUP, of a family as the level says. */
static int set_by_request(struct sock *s, bool six, const void *value, socklen_t length, bool leave)
{
    struct group_req request;
    struct neat_address group;

    if (length < sizeof request)
        return -EINVAL;
    memcpy(&request, value, sizeof request);
    if (!address_in(&request.gr_group, six, &group))
        return six ? -EADDRNOTAVAIL : -EINVAL;
    return six && neat_is_v4(group) ? -EINVAL : set_by_index(s, group, request.gr_interface, leave);
}

/* IP_ADD_SOURCE_MEMBERSHIP and its kin: a struct ip_mreq_source. */
static int set_source(struct sock *s, int name, const void *value, socklen_t length)
{
    struct ip_mreq_source request;
    uint32_t interface_be;

    if (length != sizeof request)
        return -EINVAL;
    memcpy(&request, value, sizeof request);
    struct neat_address group = neat_map(request.imr_multiaddr.s_addr);
    if (!neat_is_multicast(group))
        return -EINVAL;
    if (group_interface(&request.imr_interface, sizeof request.imr_interface, &interface_be))
        return -ENODEV;
    return change_source(s, group, neat_map(request.imr_sourceaddr.s_addr),
                         name == IP_ADD_SOURCE_MEMBERSHIP || name == IP_DROP_SOURCE_MEMBERSHIP,
                         name == IP_ADD_SOURCE_MEMBERSHIP || name == IP_BLOCK_SOURCE);
}

/* MCAST_JOIN_SOURCE_GROUP and its kin. */
static int set_source_by_request(struct sock *s, bool six, int name, const void *value, socklen_t length)
{
    struct group_source_req request;
    struct neat_address group, source;

    if (length < sizeof request)
        return -EINVAL;
    memcpy(&request, value, sizeof request);
    if (!address_in(&request.gsr_group, six, &group) || !address_in(&request.gsr_source, six, &source))
        return -EADDRNOTAVAIL;
    if (!neat_is_multicast(group) || (six && neat_is_v4(group)))
        return -EINVAL;
    if (!has_interface(six, request.gsr_interface))
        return -ENODEV;
    return change_source(s, group, source, name == MCAST_JOIN_SOURCE_GROUP || name == MCAST_LEAVE_SOURCE_GROUP,
                         name == MCAST_JOIN_SOURCE_GROUP || name == MCAST_BLOCK_SOURCE);
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
    if (name == MCAST_JOIN_SOURCE_GROUP || name == MCAST_LEAVE_SOURCE_GROUP || name == MCAST_BLOCK_SOURCE ||
        name == MCAST_UNBLOCK_SOURCE)
        return set_source_by_request(s, six, name, value, length);
    if (!six && (name == IP_ADD_SOURCE_MEMBERSHIP || name == IP_DROP_SOURCE_MEMBERSHIP || name == IP_BLOCK_SOURCE ||
                 name == IP_UNBLOCK_SOURCE))
        return set_source(s, name, value, length);
    return OPTION_COMMON;
}
