/* Socket options: what the files that set and get them share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEAT_OPTIONS_H
#define NEAT_OPTIONS_H

#include "client.h"

/* ---- options.c, tcp_options.c ---- */
static inline int within(int value, int least, int most)
{
    return value >= least && value <= most ? 0 : -EINVAL;
}
static inline void option_flag(struct options *o, unsigned bit, int on)
{
    o->flags = (uint16_t)(on ? o->flags | bit : o->flags & ~bit);
}
static inline int no_such_level(const struct sock *s)
{
    return s->family == AF_INET6 ? -ENOPROTOOPT : -EOPNOTSUPP;
}
int give(void *value, socklen_t *length, const void *from, size_t size);
int get_option(struct sock *s, int level, int name, void *value, socklen_t *length);
int tcp_set_option(struct options *o, int name, int value);
int tcp_get_option(struct sock *s, int name, int *value);
int tcp_set_congestion(struct options *o, const void *value, socklen_t length);
int tcp_set_fastopen_keys(struct options *o, const void *value, socklen_t length);
int tcp_give_congestion(const struct options *o, void *value, socklen_t *length);

/* ---- kept_options.c ---- */
int kept_set(const struct sock *s, struct options *o, int level, int name, int value);
int kept_get(const struct sock *s, int level, int name, int *value);

/* ---- report.c ---- */
int give_tcp_info(struct sock *s, void *value, socklen_t *length);
int give_saved_syn(struct sock *s, void *value, socklen_t *length);
int give_memory(struct sock *s, void *value, socklen_t *length);

/* ---- datagram_options.c ---- */
int datagram_set_option(struct sock *s, int level, int name, const void *value, socklen_t length);
int datagram_get_option(struct sock *s, int level, int name, int *value);

/* ---- groups.c ---- */
int group_interface(const void *value, socklen_t length, uint32_t *address_be);
int group_set_option(struct sock *s, bool six, int name, const void *value, socklen_t length);

/* ---- ipv6.c ---- */
int ipv6_set_option(struct sock *s, struct options *o, int name, const void *value, socklen_t length);
int ipv6_get_option(struct sock *s, int name, int *value);

#endif
