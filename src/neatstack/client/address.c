/* Addresses: as programs write them, which are the stack's own, and what can be reached.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#define LEAST_IN6 24 /* bytes: as in RFC 2133, without the scope; Linux takes that, too */
#define PREFERRED 256 /* of source_for(): more than all bits of a prefix */
#define SAME_SCOPE 512

/* ---- sockaddr ---- */

struct neat_address any_of(int family)
{
    return family == AF_INET6 ? (struct neat_address){0, 0} : neat_map(INADDR_ANY);
}

/* The loopback address of the same family. */
struct neat_address loopback_beside(struct neat_address address)
{
    return neat_is_v4(address) ? neat_map(htonl(INADDR_LOOPBACK)) : (struct neat_address){0, NEAT_LOOPBACK6};
}

static int from_in(const struct sockaddr *from, socklen_t length, struct end *end)
{
    struct sockaddr_in in;

    if (length < sizeof in)
        return -EINVAL;
    memcpy(&in, from, sizeof in);
    if (in.sin_family != AF_INET && !(in.sin_family == AF_UNSPEC && in.sin_addr.s_addr == INADDR_ANY))
        return -EAFNOSUPPORT;
    *end = (struct end){neat_map(in.sin_addr.s_addr), in.sin_port};
    return 0;
}

static int from_in6(const struct sockaddr *from, socklen_t length, struct end *end)
{
    struct sockaddr_in6 in6 = {0};

    if (length < LEAST_IN6)
        return -EINVAL;
    memcpy(&in6, from, length < sizeof in6 ? length : sizeof in6);
    if (in6.sin6_family != AF_INET6)
        return -EAFNOSUPPORT;
    memcpy(&end->address, &in6.sin6_addr, sizeof end->address);
    end->port_be = in6.sin6_port;
    return 0;
}

/* RFC 4007: whether an address of IPv6 means nothing without its zone. */
static bool needs_scope(struct neat_address address)
{
    uint64_t scope = address.hi >> 8 & 15;
    return neat_is_link_local(address) ||
           (neat_is_multicast(address) && !neat_is_v4(address) && (scope == 1 || scope == 2));
}

/* That it is told, if it must be: any, for there is one link. */
static int check_scope(const struct sockaddr *from, socklen_t length, const struct end *end)
{
    struct sockaddr_in6 in6 = {0};

    memcpy(&in6, from, length < sizeof in6 ? length : sizeof in6);
    return from->sa_family == AF_INET6 && needs_scope(end->address) && !in6.sin6_scope_id ? -EINVAL : 0;
}

/* The address that bind() is given. 0 or -errno. */
int get_own_address(const struct sock *s, const struct sockaddr *from, socklen_t length, struct end *end)
{
    if (!from)
        return -EFAULT;
    if (s->family == AF_INET)
        return from_in(from, length, end);
    int error = from_in6(from, length, end);
    if (!error && neat_is_v4(end->address) && s->options.v6only)
        error = -EINVAL;
    if (!error && neat_is_multicast(end->address) && !s->udp)
        error = -EINVAL;
    return error ? error : check_scope(from, length, end);
}

/* Whom send() means; any address is this host. 0 or -errno. */
int get_address(const struct sock *s, const struct sockaddr *from, socklen_t length, struct end *end)
{
    if (!from)
        return -EFAULT;
    if (length < sizeof from->sa_family)
        return -EINVAL;
    bool four = s->family == AF_INET || (s->udp && from->sa_family == AF_INET);
    int error = four ? from_in(from, length, end) : from_in6(from, length, end);
    if (error)
        return error;
    if (neat_is_any(end->address))
        end->address = loopback_beside(neat_is_v4(s->local.address) ? s->local.address : end->address);
    if (s->family == AF_INET6 && s->options.v6only && neat_is_v4(end->address))
        return four ? -EAFNOSUPPORT : -ENETUNREACH;
    if (!neat_is_any(s->local.address) && neat_is_v4(s->local.address) != neat_is_v4(end->address)) /* from one family to another */
        return neat_is_v4(end->address) ? -ENETUNREACH : -EAFNOSUPPORT;
    return 0;
}

/* Whom connect() means. */
int get_peer_address(const struct sock *s, const struct sockaddr *from, socklen_t length, struct end *end)
{
    int error = get_address(s, from, length, end);
    if (error || (s->udp && s->udp->multicast_if6 && neat_is_multicast(end->address)))
        return error;
    return check_scope(from, length, end);
}

/* As many bytes as `length` says there is room for, which becomes what there would have been. */
void put_address(const struct sock *s, struct sockaddr *to, socklen_t *length, const struct end *end)
{
    union {
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } name = {0};
    socklen_t size = sizeof name.in6;

    if (!to || !length)
        return;
    if (s->family == AF_INET) {
        size = sizeof name.in;
        name.in.sin_family = AF_INET;
        name.in.sin_addr.s_addr = neat_v4(end->address);
        name.in.sin_port = end->port_be;
    } else {
        name.in6.sin6_family = AF_INET6;
        memcpy(&name.in6.sin6_addr, &end->address, sizeof name.in6.sin6_addr);
        name.in6.sin6_port = end->port_be;
        name.in6.sin6_scope_id = neat_is_link_local(end->address) ? INTERFACE : 0;
    }
    memcpy(to, &name, *length < size ? *length : size);
    *length = size;
}

/* ---- the stack's own ---- */

/* The manager may change the page meanwhile: of addresses that come and go, who reads may see the old ones or the new. */
static uint32_t own_count(void)
{
    uint32_t count = load_acquire(&neat.page->own_count);
    return count < NEAT_MAX_ADDRESSES ? count : NEAT_MAX_ADDRESSES;
}

bool is_own(struct neat_address address)
{
    if (neat_is_loopback(address))
        return true;
    for (uint32_t i = 0; i < own_count(); i++)
        if (neat_same(neat.page->own[i].address, address))
            return true;
    return false;
}

static bool is_on_link(struct neat_address address, uint32_t own)
{
    return neat_matches(address, neat.page->own[own].address, neat.page->own[own].prefix);
}

/* The source address of what goes to another, as a replica chooses it (RFC 6724 section 5, rules 1, 2, 3 and 8): source_for() in
 * ip/output.py. Any: there is none. */
struct neat_address source_for(struct neat_address remote)
{
    bool near = neat_is_link_local(remote) || (neat_is_multicast(remote) && (remote.hi >> 8 & 15) <= 2);
    bool four = neat_is_v4(remote);
    struct neat_address best = any_of(four ? AF_INET : AF_INET6);
    int64_t score = -1;

    if (neat_is_loopback(remote))
        return loopback_beside(remote);
    if (is_own(remote))
        return remote;
    if (four && !((neat_v4(remote) ^ neat.page->address_be) & neat.page->netmask_be))
        return neat_map(neat.page->address_be);
    for (uint32_t i = 0; i < own_count(); i++) {
        struct neat_own own = neat.page->own[i];
        if (neat_is_v4(own.address) != four || own.flags & NEAT_OWN_TENTATIVE)
            continue;
        int64_t this = (int64_t)neat_common(remote, own.address) + (own.flags & NEAT_OWN_DEPRECATED ? 0 : PREFERRED) +
                       (neat_is_link_local(own.address) == near ? SAME_SCOPE : 0);
        if (this > score) {
            score = this;
            best = own.address;
        }
    }
    return best;
}

/* ---- ways ---- */

/* Everybody on one of our networks (RFC 919), or on the link. */
static bool is_broadcast(struct neat_address remote)
{
    uint32_t host = neat_v4(remote);

    if (!neat_is_v4(remote))
        return false;
    if (host == INADDR_BROADCAST)
        return true;
    for (uint32_t i = 0; i < own_count(); i++) {
        uint32_t prefix = neat.page->own[i].prefix - 96; /* more than 32: it is of IPv6 */
        if (neat_is_v4(neat.page->own[i].address) && prefix < 31 && is_on_link(remote, i) &&
            !~(host | htonl(UINT32_MAX << (32 - prefix))))
            return true;
    }
    return false;
}

static bool has_way(struct neat_address remote)
{
    uint32_t routes = load_acquire(&neat.page->route_count);

    if (!neat_is_v4(remote) && !neat.page->mtu6)
        return false;
    if (neat_is_link_local(remote) || neat_is_multicast(remote))
        return true;
    for (uint32_t i = 0; i < own_count(); i++)
        if (is_on_link(remote, i))
            return true;
    for (uint32_t i = 0; i < routes && i < NEAT_MAX_ROUTES; i++)
        if (neat_matches(remote, neat.page->routes[i].destination, neat.page->routes[i].prefix))
            return true;
    return neat_is_v4(remote) ? neat.page->gateway_be != 0 : !neat_is_any(neat.page->gateway6);
}

/* Why no datagram can be sent to an address, or 0. */
int datagram_reach(const struct sock *s, struct neat_address remote)
{
    if (is_broadcast(remote))
        return s->options.broadcast ? 0 : -EACCES;
    if (is_own(remote) || (neat_is_v4(remote) && neat_is_multicast(remote)))
        return 0;
    uint32_t first = ntohl(neat_v4(remote)) >> 24;
    if (neat_is_loopback(s->local.address) || (neat_is_v4(remote) && (first == 0 || first >= 240)))
        return -EINVAL;
    return has_way(remote) ? 0 : -ENETUNREACH;
}

/* ---- MTU ---- */

#define LOOPBACK_MTU 65536 /* Linux's */

/* Of the way to a host, as far as the device goes. */
uint32_t device_mtu(struct neat_address remote)
{
    if (is_own(remote))
        return LOOPBACK_MTU;
    return neat_is_v4(remote) || !neat.page->mtu6 ? neat.page->mtu : neat.page->mtu6;
}

/* Of the whole way (RFC 1191): less, if a replica has heard so. */
uint32_t path_mtu(struct neat_address remote)
{
    uint32_t least = device_mtu(remote);

    for (unsigned r = 0; r < neat.replicas; r++) {
        const struct neat_path *path = &neat.peers[r].page->paths[neat_path_place(remote)];
        uint32_t mtu = load_acquire(&path->mtu);
        if (likely(!mtu || mtu >= least))
            continue;
        bool known = neat_same(path->remote_be, remote) && now_ns() < (int64_t)path->until_ns;
        fence();
        if (known && load_relaxed(&path->mtu) == mtu)
            least = mtu;
    }
    return least;
}
