/* Socket options of IPPROTO_TCP, but for TCP_INFO.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "options.h"

#include <netinet/tcp.h>

#define LEAST_WINDOW 1152              /* half of Linux's SOCK_MIN_RCVBUF */
#define DEFAULT_KEEP_IDLE_S 7200
#define DEFAULT_KEEP_INTERVAL_S 75
#define DEFAULT_KEEP_COUNT 9
#define DEFAULT_SYN_RETRIES 6
#define DEFAULT_FIN_WAIT_S 60
#define MOST_FIN_WAIT_S 120
#define FIRST_RTO_S 1 /* of a SYN-ACK */
#define MOST_RTO_S 120
#define CONGESTION_NAME 16 /* TCP_CA_NAME_MAX */
#define MOST_FASTOPEN 4096 /* Linux: somaxconn */

/* TCP_DEFER_ACCEPT: how many times a SYN-ACK is sent until so many seconds have passed, and back. */
static uint8_t seconds_to_tries(int seconds)
{
    int period = FIRST_RTO_S, timeout = FIRST_RTO_S;
    uint8_t tries = 1;

    if (seconds <= 0)
        return 0;
    while (seconds > period && tries < 255) {
        tries++;
        timeout = 2 * timeout > MOST_RTO_S ? MOST_RTO_S : 2 * timeout;
        period += timeout;
    }
    return tries;
}

static int tries_to_seconds(uint8_t tries)
{
    int period = tries ? FIRST_RTO_S : 0, timeout = FIRST_RTO_S;

    while (tries > 1) {
        tries--;
        timeout = 2 * timeout > MOST_RTO_S ? MOST_RTO_S : 2 * timeout;
        period += timeout;
    }
    return period;
}

/* TCP_NOTSENT_LOWAT; 0: as the stack has it. */
void option_unsent(struct options *o, uint32_t most)
{
    o->unsent_told = most;
    o->unsent_most = most ? most : neat.page->unsent_most;
    option_flag(o, NEAT_FLAG_UNSENT_MOST, o->unsent_most != 0);
}

/* Most of those that are an int; `o` is a copy of the socket's options, which takes effect if all is well. 0 or -errno. */
int tcp_set_option(struct options *o, int name, int value)
{
    switch (name) {
    case TCP_NODELAY:
        option_flag(o, NEAT_FLAG_NODELAY, value);
        return 0;
    case TCP_CORK:
        option_flag(o, NEAT_FLAG_CORK, value);
        return 0;
    case TCP_QUICKACK:
        option_flag(o, NEAT_FLAG_QUICKACK, value);
        o->slow_ack = !value;
        return 0;
    case TCP_KEEPIDLE:
        o->keep_idle_s = (uint32_t)value;
        return within(value, 1, 32767);
    case TCP_KEEPINTVL:
        o->keep_interval_s = (uint32_t)value;
        return within(value, 1, 32767);
    case TCP_KEEPCNT:
        o->keep_count = (uint32_t)value;
        return within(value, 1, 127);
    case TCP_MAXSEG:
        o->mss = (uint16_t)value;
        return value == 0 ? 0 : within(value, 88, 32767);
    case TCP_USER_TIMEOUT:
        o->user_timeout_ms = (uint32_t)value;
        return within(value, 0, INT_MAX);
    case TCP_DEFER_ACCEPT:
        o->defer = seconds_to_tries(value);
        return 0;
    case TCP_FASTOPEN:
        o->fastopen = value < MOST_FASTOPEN ? value : MOST_FASTOPEN;
        return within(value, 0, INT_MAX);
    case TCP_SYNCNT:
        o->syn_retries = (uint8_t)value;
        return within(value, 1, 127);
    case TCP_LINGER2:
        o->fin_wait_s = (uint8_t)(value < 0 ? NEAT_NO_FIN_WAIT : value > MOST_FIN_WAIT_S ? MOST_FIN_WAIT_S : value);
        return 0;
    case TCP_WINDOW_CLAMP: /* 0 only of a socket in CLOSED: see option_set() */
        o->window_clamp = value == 0 ? 0 : value < LEAST_WINDOW ? LEAST_WINDOW : (uint32_t)value;
        return 0;
    case TCP_NOTSENT_LOWAT:
        option_unsent(o, (uint32_t)value);
        return 0;
    case TCP_INQ:
        o->want_inq = value;
        return within(value, 0, 1);
    case TCP_SAVE_SYN:
        o->save_syn = (uint8_t)value;
        return within(value, 0, 2);
    case TCP_FASTOPEN_CONNECT: /* only before connect(): see option_set() */
        o->fastopen_connect = value;
        return within(value, 0, 1) ? -EINVAL : neat.page->fastopen & NEAT_FASTOPEN_CLIENT ? 0 : -EOPNOTSUPP;
    default:
        return -ENOPROTOOPT;
    }
}

static const char *const algorithms[] = {[NEAT_CUBIC] = "cubic", [NEAT_RENO] = "reno"};

/* TCP_CONGESTION: a name. 0 or -errno. */
int tcp_set_congestion(struct options *o, const void *value, socklen_t length)
{
    char name[CONGESTION_NAME] = "";

    if (length < 1)
        return -EINVAL;
    memcpy(name, value, length < sizeof name ? length : sizeof name - 1);
    for (uint8_t n = 0; n < sizeof algorithms / sizeof *algorithms; n++)
        if (!strcmp(name, algorithms[n])) {
            o->congestion = n;
            return 0;
        }
    return -ENOENT;
}

/* TCP_FASTOPEN_KEY: one key, or two of which the second only proves. 0 or -errno. */
int tcp_set_fastopen_keys(struct options *o, const void *value, socklen_t length)
{
    if (length != FASTOPEN_KEY && length != sizeof o->fastopen_keys)
        return -EINVAL;
    memset(o->fastopen_keys, 0, sizeof o->fastopen_keys);
    memcpy(o->fastopen_keys, value, length);
    o->fastopen_key_count = (uint8_t)(length / FASTOPEN_KEY);
    return 0;
}

int tcp_give_congestion(const struct options *o, void *value, socklen_t *length)
{
    char name[CONGESTION_NAME] = "";

    strcpy(name, algorithms[o->congestion]);
    return give(value, length, name, sizeof name);
}

static int get_mss(struct sock *s)
{
    if (s->program && answered(s) && s->remote->mss)
        return (int)s->remote->mss;
    return s->options.mss ? s->options.mss : 536; /* RFC 9293 section 3.7.1: before a connection says otherwise */
}

int tcp_get_option(struct sock *s, int name, int *value)
{
    const struct options *o = &s->options;
    switch (name) {
    case TCP_NODELAY:
        *value = !!(o->flags & NEAT_FLAG_NODELAY);
        return 0;
    case TCP_CORK:
        *value = !!(o->flags & NEAT_FLAG_CORK);
        return 0;
    case TCP_QUICKACK:
        *value = !o->slow_ack;
        return 0;
    case TCP_KEEPIDLE:
        *value = o->keep_idle_s ? (int)o->keep_idle_s : DEFAULT_KEEP_IDLE_S;
        return 0;
    case TCP_KEEPINTVL:
        *value = o->keep_interval_s ? (int)o->keep_interval_s : DEFAULT_KEEP_INTERVAL_S;
        return 0;
    case TCP_KEEPCNT:
        *value = o->keep_count ? (int)o->keep_count : DEFAULT_KEEP_COUNT;
        return 0;
    case TCP_MAXSEG:
        *value = get_mss(s);
        return 0;
    case TCP_USER_TIMEOUT:
        *value = (int)o->user_timeout_ms;
        return 0;
    case TCP_DEFER_ACCEPT:
        *value = tries_to_seconds(o->defer);
        return 0;
    case TCP_SYNCNT:
        *value = o->syn_retries ? o->syn_retries : DEFAULT_SYN_RETRIES;
        return 0;
    case TCP_LINGER2:
        *value = o->fin_wait_s == NEAT_NO_FIN_WAIT ? -1 : o->fin_wait_s ? o->fin_wait_s : DEFAULT_FIN_WAIT_S;
        return 0;
    case TCP_WINDOW_CLAMP:
        *value = (int)o->window_clamp;
        return 0;
    case TCP_NOTSENT_LOWAT:
        *value = (int)o->unsent_told;
        return 0;
    case TCP_INQ:
        *value = o->want_inq;
        return 0;
    case TCP_SAVE_SYN:
        *value = o->save_syn;
        return 0;
    case TCP_FASTOPEN_CONNECT:
        *value = o->fastopen_connect;
        return 0;
    case TCP_FASTOPEN:
        *value = o->fastopen;
        return 0;
    default:
        return -ENOPROTOOPT;
    }
}
