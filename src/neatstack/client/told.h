/* What setsockopt() has told of a socket.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEAT_TOLD_H
#define NEAT_TOLD_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEPT_OPTIONS 20
#define FASTOPEN_KEY 16 /* bytes */

struct options {
    uint16_t flags; /* enum neat_flag */
    uint8_t tos, ttl;
    uint32_t keep_idle_s, keep_interval_s, keep_count, user_timeout_ms;
    uint32_t receive_buffer, send_buffer, low_water; /* 0: default */
    int peek_off; /* SO_PEEK_OFF, bit by bit inverted; 0: not set */
    uint32_t window_clamp;
    uint32_t unsent_most; /* as the stack has it, unless TCP_NOTSENT_LOWAT has said: */
    uint32_t unsent_told;
    uint64_t pacing_rate; /* bytes a second, and 1; 0: any */
    uint16_t mss;
    uint8_t syn_retries, fin_wait_s, defer, congestion; /* as in layout.h */
    uint8_t traffic_class, save_syn;
    uint8_t fastopen_key_count, fastopen_keys[2 * FASTOPEN_KEY];
    int16_t hops; /* and 1; 0: default */
    uint8_t least_ttl, least_hops; /* IP_MINTTL, IPV6_MINHOPCOUNT */
    bool v6only, want_info6, want_class, want_hops, want_destination6, want_errors6, whole, no_loop6;
    uint8_t mtu_discover6;
    bool reuse_address, reuse_port, linger, broadcast, oob_inline, dont_route, timestamp, slow_ack, fastopen_connect;
    bool want_inq, error_priority, zerocopy;
    bool want_errors, timestamp_ns;
    uint8_t reports; /* enum report: what the error queue may have, or has had */
    uint32_t times;  /* SO_TIMESTAMPING */
    uint32_t times_first; /* with SOF_TIMESTAMPING_OPT_ID: of a stream the cursor of the byte that is number 0; of UDP the next number */
    int kept[KEPT_OPTIONS]; /* see kept_options.c */
    int linger_s, priority, mark, fastopen;
    int64_t receive_timeout_ns, send_timeout_ns; /* 0: none */
};

/* Of IPv6; 0: default. None is told to be one. */
static inline uint8_t hop_limit(const struct options *o)
{
    return (uint8_t)(o->hops > 1 ? o->hops - 1 : o->hops);
}

/* SO_PEEK_OFF: the offset follows what was peeked at, and what was read. */
static inline void peek_moves(struct options *o, bool peeked, size_t length)
{
    int64_t offset = ~o->peek_off;

    if (offset < 0)
        return;
    offset += peeked ? (int64_t)length : -(int64_t)length;
    o->peek_off = ~(int)(offset < 0 ? 0 : offset > INT_MAX ? INT_MAX : offset);
}

#endif
