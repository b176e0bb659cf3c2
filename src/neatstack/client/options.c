/* Socket options.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "options.h"

#include <linux/net_tstamp.h>
#include <netinet/tcp.h>

#define KNOWN_TIMES ((1u << 19) - 1)
#define TIMES_ID_TCP (1u << 16) /* SOF_TIMESTAMPING_OPT_ID_TCP */
#define DEFAULT_RECEIVE_BUFFER 131072 /* Linux's tcp_rmem */
#define MOST_LOW_WATER (1 << 24) /* half of the largest that Linux's tcp_rmem allows */

/* ---- setting ---- */

static int set_timeout(int64_t *timeout_ns, const void *value, socklen_t length)
{
    struct timeval time;
    if (length < sizeof time)
        return -EINVAL;
    memcpy(&time, value, sizeof time);
    if (time.tv_usec < 0 || time.tv_usec >= 1000000)
        return -EDOM;
    *timeout_ns = time.tv_sec < 0 ? 1 : time.tv_sec * INT64_C(1000000000) + time.tv_usec * INT64_C(1000);
    return 0;
}

static int set_linger(struct options *o, const void *value, socklen_t length)
{
    struct linger linger;
    if (length < sizeof linger)
        return -EINVAL;
    memcpy(&linger, value, sizeof linger);
    o->linger = linger.l_onoff;
    if (linger.l_onoff)
        o->linger_s = linger.l_linger;
    return 0;
}

/* SO_SNDBUF and the like: what the kernel makes of them, which doubles the value, within its limits (wmem_max, rmem_max), and knows
 * who may go beyond these. So a socket of its own is told, and asked. 0 or -errno. */
static int set_buffer(int name, int value, uint32_t *size)
{
    bool sending = name == SO_SNDBUF || name == SO_SNDBUFFORCE;
    int told = 0, error = 0, fd = (int)syscall(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t length = sizeof told;

    if (fd < 0)
        return -errno;
    if (syscall(SYS_setsockopt, fd, SOL_SOCKET, name, &value, sizeof value) < 0 ||
        syscall(SYS_getsockopt, fd, SOL_SOCKET, sending ? SO_SNDBUF : SO_RCVBUF, &told, &length) < 0)
        error = -errno;
    syscall(SYS_close, fd);
    if (!error)
        *size = (uint32_t)told;
    return error;
}

/* SO_MAX_PACING_RATE: 32 or 64 bits, all of them set: any. */
static int set_pacing(struct options *o, const void *value, socklen_t length)
{
    uint32_t rate = 0;
    uint64_t wide = 0;

    if (length < sizeof rate)
        return -EINVAL;
    memcpy(&rate, value, sizeof rate);
    if (length >= sizeof wide)
        memcpy(&wide, value, sizeof wide);
    o->pacing_rate = 1 + (length >= sizeof wide ? wide : rate == UINT32_MAX ? UINT64_MAX : rate);
    return 0;
}

/* SO_TIMESTAMPING: an int, or what has one first. Of a stream the numbers begin with what is not acknowledged yet, or not sent. */
static int set_times(const struct sock *s, struct options *o, const void *value, socklen_t length)
{
    uint32_t times;

    if (length < sizeof times)
        return -EINVAL;
    memcpy(&times, value, sizeof times);
    if ((times & ~KNOWN_TIMES) || ((times & TIMES_ID_TCP) && !(times & SOF_TIMESTAMPING_OPT_ID)) ||
        ((times & SOF_TIMESTAMPING_OPT_STATS) && !(times & SOF_TIMESTAMPING_OPT_TSONLY)))
        return -EINVAL;
    if (times & SOF_TIMESTAMPING_BIND_PHC) /* there is no clock in a device */
        return -EOPNOTSUPP;
    if (times & ~o->times & SOF_TIMESTAMPING_OPT_ID) {
        if (!s->udp && (!s->program || s->phase == PHASE_LISTENING))
            return -EINVAL;
        o->times_first = s->udp || !answered(s)    ? 0
                         : times & TIMES_ID_TCP ? load_relaxed(&s->program->tx_head)
                                                : load_acquire(&s->remote->tx_tail);
    }
    o->times = times;
    return 0;
}

static int set_socket_int(struct options *o, int name, int value)
{
    switch (name) {
    case SO_REUSEADDR:
        o->reuse_address = value;
        return 0;
    case SO_REUSEPORT:
        o->reuse_port = value;
        return 0;
    case SO_KEEPALIVE:
        option_flag(o, NEAT_FLAG_KEEPALIVE, value);
        return 0;
    case SO_RCVBUF:
    case SO_RCVBUFFORCE:
        return set_buffer(name, value, &o->receive_buffer);
    case SO_SNDBUF:
    case SO_SNDBUFFORCE:
        option_flag(o, NEAT_FLAG_SEND_BUFFER, true);
        return set_buffer(name, value, &o->send_buffer);
    case SO_RCVLOWAT:
        o->low_water = value < 0 ? INT_MAX : (uint32_t)value;
        return 0;
    case SO_BROADCAST:
        o->broadcast = value;
        return 0;
    case SO_OOBINLINE:
        o->oob_inline = value;
        return 0;
    case SO_DONTROUTE:
        o->dont_route = value;
        return 0;
    case SO_TIMESTAMP:
    case SO_TIMESTAMPNS: /* one of them at a time, as on Linux */
        o->timestamp = value && name == SO_TIMESTAMP;
        o->timestamp_ns = value && name == SO_TIMESTAMPNS;
        return 0;
    case SO_PRIORITY:
        o->priority = value;
        return 0;
    case SO_MARK:
        o->mark = value;
        return 0;
    case SO_SELECT_ERR_QUEUE:
        o->error_priority = value;
        return 0;
    case SO_BSDCOMPAT: /* what it was for is so, as on Linux */
        return 0;
    case SO_PEEK_OFF:
        o->peek_off = ~value;
        return 0;
    case SO_ZEROCOPY:
        o->zerocopy = value;
        return within(value, 0, 1);
    default:
        return -ENOPROTOOPT;
    }
}

static int set_ip_int(struct options *o, int name, int value)
{
    switch (name) {
    case IP_TOS:
        o->tos = (uint8_t)value;
        return 0;
    case IP_TTL:
        o->ttl = (uint8_t)(value == -1 ? 0 : value);
        return value == -1 ? 0 : within(value, 1, 255);
    case IP_RECVERR:
        o->want_errors = value;
        return 0;
    case IP_MINTTL:
        o->least_ttl = (uint8_t)value;
        option_flag(o, NEAT_FLAG_LEAST_TTL, true);
        return within(value, 0, 255);
    case IP_TRANSPARENT: /* what is for others does not come to a stack */
        return value ? -EPERM : 0;
    default:
        return -ENOPROTOOPT;
    }
}

/* More than half of what is taken in might never be there. */
static uint32_t most_low_water(const struct options *o)
{
    return o->receive_buffer ? o->receive_buffer / 2 : MOST_LOW_WATER;
}

static int set_int(struct sock *s, struct options *o, int level, int name, int value)
{
    int error = -ENOPROTOOPT;

    if (level == SOL_SOCKET)
        error = set_socket_int(o, name, value);
    else if (level == IPPROTO_TCP)
        error = tcp_set_option(o, name, value);
    else if (level == IPPROTO_IP)
        error = set_ip_int(o, name, value);
    return error == -ENOPROTOOPT ? kept_set(s, o, level, name, value) : error;
}

static int set_option(struct sock *s, struct options *o, int level, int name, const void *value, socklen_t length)
{
    int number = 0;

    if (level != SOL_SOCKET && level != IPPROTO_IP && level != (s->udp ? IPPROTO_UDP : IPPROTO_TCP))
        return -ENOPROTOOPT;
    if (level == SOL_SOCKET && name == SO_BINDTODEVICE) /* there is none with a name */
        return length && *(const char *)value ? -ENODEV : 0;
    if (level == IPPROTO_IP && name == IP_OPTIONS)
        return length ? -ENOPROTOOPT : 0;

    if (level == SOL_SOCKET && (name == SO_RCVTIMEO || name == SO_SNDTIMEO))
        return set_timeout(name == SO_RCVTIMEO ? &o->receive_timeout_ns : &o->send_timeout_ns, value, length);
    if (level == SOL_SOCKET && name == SO_LINGER)
        return set_linger(o, value, length);
    if (level == SOL_SOCKET && name == SO_MAX_PACING_RATE)
        return set_pacing(o, value, length);
    if (level == SOL_SOCKET && name == SO_TIMESTAMPING)
        return set_times(s, o, value, length);
    if (level == IPPROTO_TCP && name == TCP_CONGESTION)
        return tcp_set_congestion(o, value, length);
    if (level == IPPROTO_TCP && name == TCP_ULP) /* as Linux without its module */
        return length ? -ENOENT : -EINVAL;
    if (level == IPPROTO_TCP && name == TCP_FASTOPEN_KEY)
        return tcp_set_fastopen_keys(o, value, length);
    if (level == IPPROTO_IP && name != IP_UNICAST_IF && length >= 1 && length < sizeof number)
        number = *(const uint8_t *)value;
    else if (length < sizeof number)
        return -EINVAL;
    else
        memcpy(&number, value, sizeof number);
    return set_int(s, o, level, name, number);
}

int option_set(struct sock *s, int level, int name, const void *value, socklen_t length)
{
    if (!value && length)
        return -EFAULT;
    if (!value)
        value = "";
    sock_lock(s);
    struct options changed = s->options;
    int error = s->udp ? datagram_set_option(s, level, name, value, length) : OPTION_COMMON;
    if (error == OPTION_COMMON && level == IPPROTO_IPV6)
        error = ipv6_set_option(s, &changed, name, value, length);
    else if (error == OPTION_COMMON)
        error = set_option(s, &changed, level, name, value, length);
    if (!error && s->phase != PHASE_FRESH && level == IPPROTO_TCP &&
        ((name == TCP_WINDOW_CLAMP && !changed.window_clamp) || name == TCP_FASTOPEN_CONNECT ||
         (name == TCP_FASTOPEN && s->phase != PHASE_LISTENING)))
        error = -EINVAL;
    if (!s->udp)
        changed.tos &= (uint8_t)~3; /* the last two bits are TCP's own (RFC 3168) */
    if (!s->udp && level == SOL_SOCKET && name == SO_RCVLOWAT && changed.low_water > most_low_water(&changed))
        changed.low_water = most_low_water(&changed);
    changed.reports |= (uint8_t)((changed.zerocopy ? REPORT_COPIES : 0) | (wants_times(&changed) ? REPORT_TIMES : 0) |
                                 (changed.want_inq ? REPORT_WAITING : 0) |
                                 (changed.want_errors || changed.want_errors6 ? REPORT_ERRORS : 0));
    bool differs = !error && memcmp(&changed, &s->options, sizeof changed);
    bool flushes = !error && level == IPPROTO_TCP && name == TCP_NODELAY && (changed.flags & NEAT_FLAG_NODELAY);
    bool listens = s->phase == PHASE_LISTENING &&
                   (changed.mss != s->options.mss || changed.defer != s->options.defer ||
                    changed.syn_retries != s->options.syn_retries || changed.fastopen != s->options.fastopen ||
                    changed.congestion != s->options.congestion || changed.save_syn != s->options.save_syn ||
                    changed.least_ttl != s->options.least_ttl || changed.least_hops != s->options.least_hops ||
                    changed.fastopen_key_count != s->options.fastopen_key_count ||
                    memcmp(changed.fastopen_keys, s->options.fastopen_keys, sizeof changed.fastopen_keys));
    if (differs)
        s->options = changed;
    if (s->udp)
        datagram_apply_options(s);
    if (differs && s->phase == PHASE_LISTENING)
        posts_apply_options(s);
    if (differs && listens)
        error = manager_listen(s, s->backlog);
    if (s->program && (differs || flushes)) {
        apply_options(s);
        if (flushes) /* tcp(7): what waits goes, even if it is corked; the next send holds back again */
            store_relaxed(&s->program->flags, (uint16_t)(s->program->flags & ~NEAT_FLAG_CORK));
        tell(s);
    }
    if (differs) { /* it may be ready now */
        lock(&neat.lock);
        wake_socket(s);
        unlock(&neat.lock);
    }
    sock_unlock(s);
    return error;
}

/* ---- getting ---- */

/* As much of an answer as the caller has room for. */
int give(void *value, socklen_t *length, const void *from, size_t size)
{
    if (*length > size)
        *length = (socklen_t)size;
    memcpy(value, from, *length);
    return 0;
}

static int give_pacing(const struct options *o, void *value, socklen_t *length)
{
    uint64_t wide = o->pacing_rate - 1;
    uint32_t rate = wide < UINT32_MAX ? (uint32_t)wide : UINT32_MAX;

    return *length >= sizeof wide ? give(value, length, &wide, sizeof wide) : give(value, length, &rate, sizeof rate);
}

static int give_timeout(void *value, socklen_t *length, int64_t timeout_ns)
{
    struct timeval time = {timeout_ns / 1000000000, timeout_ns % 1000000000 / 1000};
    return give(value, length, &time, sizeof time);
}

static int get_socket_int(struct sock *s, int name, int *value)
{
    const struct options *o = &s->options;
    switch (name) {
    case SO_ERROR:
        settle_connect(s);
        *value = take_error(s);
        if (!*value)
            *value = soft_error_told(s);
        return 0;
    case SO_TYPE:
        *value = SOCK_STREAM;
        return 0;
    case SO_DOMAIN:
        *value = s->family;
        return 0;
    case SO_PROTOCOL:
        *value = IPPROTO_TCP;
        return 0;
    case SO_ACCEPTCONN:
        *value = s->phase == PHASE_LISTENING;
        return 0;
    case SO_REUSEADDR:
        *value = o->reuse_address;
        return 0;
    case SO_REUSEPORT:
        *value = o->reuse_port;
        return 0;
    case SO_KEEPALIVE:
        *value = !!(o->flags & NEAT_FLAG_KEEPALIVE);
        return 0;
    case SO_RCVBUF:
        *value = (int)(o->receive_buffer ? o->receive_buffer : DEFAULT_RECEIVE_BUFFER);
        return 0;
    case SO_SNDBUF:
        *value = send_buffer_told(s);
        return 0;
    case SO_RCVLOWAT:
        *value = o->low_water ? (int)o->low_water : 1;
        return 0;
    case SO_SNDLOWAT:
        *value = 1;
        return 0;
    case SO_BROADCAST:
        *value = o->broadcast;
        return 0;
    case SO_OOBINLINE:
        *value = o->oob_inline;
        return 0;
    case SO_DONTROUTE:
        *value = o->dont_route;
        return 0;
    case SO_TIMESTAMP:
        *value = o->timestamp;
        return 0;
    case SO_TIMESTAMPNS:
        *value = o->timestamp_ns;
        return 0;
    case SO_PRIORITY:
        *value = o->priority;
        return 0;
    case SO_MARK:
        *value = o->mark;
        return 0;
    case SO_SELECT_ERR_QUEUE:
        *value = o->error_priority;
        return 0;
    case SO_BSDCOMPAT:
    case SO_INCOMING_NAPI_ID:
        *value = 0;
        return 0;
    case SO_PEEK_OFF:
        *value = ~o->peek_off;
        return 0;
    case SO_ZEROCOPY:
        *value = o->zerocopy;
        return 0;
    default:
        return -ENOPROTOOPT;
    }
}

static int get_ip_int(struct sock *s, int name, int *value)
{
    switch (name) {
    case IP_TOS:
        *value = s->options.tos;
        return 0;
    case IP_TTL:
        *value = s->options.ttl ? s->options.ttl : neat.page->ttl;
        return 0;
    case IP_RECVERR:
        *value = s->options.want_errors;
        return 0;
    case IP_MINTTL:
        *value = s->options.least_ttl;
        return 0;
    case IP_TRANSPARENT:
        *value = 0;
        return 0;
    case IP_MTU:
        if (s->phase != PHASE_OPEN)
            return -ENOTCONN;
        *value = (int)path_mtu(s->remote->remote_be);
        return 0;
    default:
        return -ENOPROTOOPT;
    }
}

/* What is no number. 0, -errno, or OPTION_COMMON: it is one. */
static int give_other(struct sock *s, int level, int name, void *value, socklen_t *length)
{
    bool socket = level == SOL_SOCKET, tcp = level == IPPROTO_TCP && !s->udp;

    if (socket && name == SO_LINGER) {
        struct linger linger = {s->options.linger, s->options.linger_s};
        return give(value, length, &linger, sizeof linger);
    }
    if (socket && (name == SO_RCVTIMEO || name == SO_SNDTIMEO))
        return give_timeout(value, length, name == SO_RCVTIMEO ? s->options.receive_timeout_ns : s->options.send_timeout_ns);
    if (socket && name == SO_MAX_PACING_RATE)
        return give_pacing(&s->options, value, length);
    if (socket && name == SO_TIMESTAMPING) {
        uint32_t times[2] = {s->options.times, 0};
        return give(value, length, times, sizeof times);
    }
    if (socket && name == SO_MEMINFO)
        return give_memory(s, value, length);
    if (socket && name == SO_PEERCRED) { /* only of AF_UNIX it is known */
        struct ucred nobody = {0, (uid_t)-1, (gid_t)-1};
        return give(value, length, &nobody, sizeof nobody);
    }
    if (tcp && name == TCP_CONGESTION)
        return tcp_give_congestion(&s->options, value, length);
    if (tcp && name == TCP_INFO)
        return give_tcp_info(s, value, length);
    if (tcp && name == TCP_SAVED_SYN)
        return give_saved_syn(s, value, length);
    if (tcp && name == TCP_FASTOPEN_KEY)
        return give(value, length, s->options.fastopen_keys, (size_t)s->options.fastopen_key_count * FASTOPEN_KEY);
    /* no device; no options; no protocol above; and neither CUBIC nor Reno has something to tell on Linux */
    if ((socket && name == SO_BINDTODEVICE) || (level == IPPROTO_IP && name == IP_OPTIONS) || (tcp && (name == TCP_CC_INFO || name == TCP_ULP))) {
        *length = 0;
        return 0;
    }
    return OPTION_COMMON;
}

int get_option(struct sock *s, int level, int name, void *value, socklen_t *length)
{
    int number = 0, error = give_other(s, level, name, value, length);

    if (error != OPTION_COMMON)
        return error;
    error = s->udp ? datagram_get_option(s, level, name, &number) : OPTION_COMMON;
    if (error != OPTION_COMMON)
        ;
    else if (level == SOL_SOCKET)
        error = get_socket_int(s, name, &number);
    else if (level == IPPROTO_TCP)
        error = tcp_get_option(s, name, &number);
    else if (level == IPPROTO_IP)
        error = get_ip_int(s, name, &number);
    else if (level == IPPROTO_IPV6)
        error = ipv6_get_option(s, name, &number);
    else
        error = no_such_level(s);
    if (error == -ENOPROTOOPT)
        error = kept_get(s, level, name, &number);
    if (error)
        return error;
    if (level == IPPROTO_IP && *length > 0 && *length < sizeof number && number >= 0 && number <= 255)
        return give(value, length, &number, 1); /* as Linux: a small number in a byte */
    return give(value, length, &number, sizeof number);
}

int option_get(struct sock *s, int level, int name, void *value, socklen_t *length)
{
    if (!value || !length)
        return -EFAULT;
    sock_lock(s);
    int error = get_option(s, level, name, value, length);
    sock_unlock(s);
    return error;
}
