/* Names. On a stack that speaks IPv4 alone, a program that takes any family is given addresses that it can use.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "preload.h"

#include <arpa/inet.h>

/* As the C library has it. There is one interface on a stack; a scope whose name the kernel does not know is that. */
static int look_up(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    int error = real()->getaddrinfo(node, service, hints, found);
    const char *scope = node ? strchr(node, '%') : NULL;
    char name[INET6_ADDRSTRLEN + 4];
    struct in6_addr address;

    if (error != EAI_NONAME || !scope || !scope[1] || scope - node >= INET6_ADDRSTRLEN)
        return error;
    snprintf(name, sizeof name, "%.*s", (int)(scope - node), node);
    if (inet_pton(AF_INET6, name, &address) != 1 || !IN6_IS_ADDR_LINKLOCAL(&address))
        return error;
    snprintf(name + (scope - node), 3, "%%%d", INTERFACE);
    return real()->getaddrinfo(name, service, hints, found);
}

/* Without this, a program that connects to the first address that it is offered would be offered one of IPv6 wherever the host has
 * that, and so has the name. */
EXPORT int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    struct addrinfo ipv4 = {.ai_family = AF_INET, .ai_flags = AI_V4MAPPED | AI_ADDRCONFIG}; /* what no hints mean */

    if (!neat.directory || !node || (hints && hints->ai_family != AF_UNSPEC) || (!enter_stack() && neat.page->mtu6))
        return neat.directory ? look_up(node, service, hints, found) : real()->getaddrinfo(node, service, hints, found);
    if (hints) {
        ipv4.ai_flags = hints->ai_flags;
        ipv4.ai_socktype = hints->ai_socktype;
        ipv4.ai_protocol = hints->ai_protocol;
    }
    int error = real()->getaddrinfo(node, service, &ipv4, found);
    if (error == EAI_NONAME || error == EAI_NODATA || error == EAI_ADDRFAMILY)
        return look_up(node, service, hints, found); /* it has IPv6 addresses alone */
    return error;
}
