/* What a socket tells of itself: TCP_INFO, TCP_SAVED_SYN, SO_MEMINFO.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "options.h"

#include <netinet/tcp.h>

#define TOLD 280                 /* bytes of Linux's struct tcp_info, up to tcpi_ecn_mode */
#define ANSWER_NS 1000000000     /* a replica that lives answers within a fraction of that, and so does its successor */
#define ANSWER_LOOK_NS 20000
#define INITIAL_CWND 10          /* segments (RFC 6928) */
#define INITIAL_RTO_US 1000000   /* RFC 6298 section 2.1 */
#define INITIAL_RTTVAR_US 250000 /* as Linux says it */
#define INITIAL_MSS 536          /* RFC 9293 section 3.7.1 */
#define REORDERING 3

/* Ask the replica about the connection. False: nobody answers. */
static bool ask(struct sock *s)
{
    int64_t deadline = deadline_after(ANSWER_NS);
    uint32_t asked = load_relaxed(&s->remote->info_answered) + 1;

    if (load_acquire(&s->remote->state) == NEAT_STATE_CLOSED && !s->remote->remote_port_be)
        return false; /* connect() has failed at once: there is none */
    store_release(&s->program->info_asked, asked);
    tell(s);
    while (load_acquire(&s->remote->info_answered) != asked) {
        if (now_ns() >= deadline)
            return false;
        syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = ANSWER_LOOK_NS}, NULL);
    }
    return true;
}

/* Of a socket that has no connection. */
static struct neat_tcp_info without_connection(const struct sock *s)
{
    struct neat_tcp_info info = {
        .tcp_state = TCP_CLOSE,
        .app_limited = 1,
        .rto = INITIAL_RTO_US,
        .rttvar = INITIAL_RTTVAR_US,
        .snd_mss = INITIAL_MSS,
        .snd_cwnd = INITIAL_CWND,
        .snd_ssthresh = INT32_MAX,
        .reordering = REORDERING,
        .min_rtt = UINT32_MAX,
        .pacing_rate = s->options.pacing_rate - 1,
        .max_pacing_rate = s->options.pacing_rate - 1,
    };
    return info;
}

/* A listener tells how many wait to be accepted, as far as this process knows, and how many may. */
static struct neat_tcp_info of_listener(const struct sock *s)
{
    struct neat_tcp_info info = {
        .tcp_state = TCP_LISTEN,
        .sacked = s->backlog,
        .snd_cwnd = INITIAL_CWND,
        .reordering = REORDERING,
        .pacing_rate = s->options.pacing_rate - 1,
        .max_pacing_rate = s->options.pacing_rate - 1,
    };

    lock(&neat.lock);
    for (const struct sock *arrived = s->arrived; arrived; arrived = arrived->link)
        info.unacked++;
    unlock(&neat.lock);
    return info;
}

/* The socket is locked. 0 or -errno. */
int give_tcp_info(struct sock *s, void *value, socklen_t *length)
{
    struct neat_tcp_info info = s->phase == PHASE_LISTENING ? of_listener(s) : without_connection(s);

    if (s->program && answered(s)) {
        if (ask(s))
            info = slot_aside(s)->info;
        else
            info.tcp_state = s->remote->tcp_state;
    }
    return give(value, length, &info, TOLD);
}

/* TCP_SAVED_SYN: once. Nothing of a connection whose SYN was not saved, or that the replica has forgotten. The socket is locked.
 * 0 or -errno. */
int give_saved_syn(struct sock *s, void *value, socklen_t *length)
{
    struct neat_syn syn = {0};

    if (s->program && answered(s) && !s->syn_told && ask(s))
        syn = slot_aside(s)->info.syn;
    if (syn.length > sizeof syn.headers)
        syn.length = 0;
    if (*length < syn.length) {
        *length = syn.length;
        return -EINVAL;
    }
    s->syn_told |= syn.length != 0;
    return give(value, length, syn.headers, syn.length);
}

/* What lies in a UDP socket's rings, those to send or those received. */
static uint32_t records_bytes(const struct sock *s, bool sending)
{
    uint32_t sum = 0;

    for (unsigned r = 0; s->binding && r < neat.replicas; r++) {
        const struct sock *leg = s->udp->leg[r];
        sum += sending ? load_relaxed(&leg->program->tx_head) - load_acquire(&leg->remote->tx_tail)
                       : load_acquire(&leg->remote->rx_head) - load_relaxed(&leg->program->rx_tail);
    }
    return sum;
}

/* SO_MEMINFO: an array by linux/sock_diag.h. Of streams bytes of text, for what is around it lies elsewhere. */
int give_memory(struct sock *s, void *value, socklen_t *length)
{
    enum { RECEIVE_USED, RECEIVE_BUFFER, SEND_USED, SEND_BUFFER, FORWARD, SEND_QUEUED, OPTIONS, BACKLOG, DROPS, VALUES };
    uint32_t told[VALUES] = {0};
    int size = 0;
    socklen_t room = sizeof size;

    told[RECEIVE_USED] = s->udp ? records_bytes(s, false) : readable_bytes(s);
    told[SEND_QUEUED] = s->udp ? records_bytes(s, true) : unsent_bytes(s);
    if (!get_option(s, SOL_SOCKET, SO_RCVBUF, &size, &room))
        told[RECEIVE_BUFFER] = (uint32_t)size;
    if (!get_option(s, SOL_SOCKET, SO_SNDBUF, &size, &room))
        told[SEND_BUFFER] = (uint32_t)size;
    return give(value, length, told, sizeof told);
}
