/* The error queue, and times of what is sent and received: what the files share. Included by client.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEAT_ERROR_QUEUE_H
#define NEAT_ERROR_QUEUE_H

enum report {
    REPORT_COPIES = 1,  /* MSG_ZEROCOPY */
    REPORT_ERRORS = 2,  /* IP_RECVERR */
    REPORT_TIMES = 4,   /* SO_TIMESTAMPING and the like */
    REPORT_WAITING = 8, /* TCP_INQ: not there, but with what is received, as are some of the times */
};

/* What is to be told of a datagram, in its icmp_type: that it was planned, that it left. */
#define TIMES_PLANNED 2
#define TIMES_LEFT 1

static inline bool wants_errors(const struct sock *s)
{
    return s->options.want_errors || s->options.want_errors6;
}
static inline bool wants_times(const struct options *o)
{
    return o->timestamp || o->timestamp_ns || o->times;
}

/* ---- error_queue.c ---- */
bool queue_waits(const struct sock *s);
uint32_t queue_edges(const struct sock *s);
ssize_t queue_receive(struct sock *s, struct msghdr *message);
bool soft_pending(const struct sock *s);
int take_soft_error(struct sock *s);
int soft_error_told(struct sock *s);
void story_keep(struct sock *s);
void story_forget(struct sock *s);

/* ---- zerocopy.c ---- */
void zerocopy_count(struct sock *s);
bool zerocopy_untold(const struct sock *s);
int zerocopy_tell(struct sock *s, struct msghdr *message);

/* ---- times.c ---- */
static inline struct neat_times *slot_times(const struct sock *s)
{
    return &slot_aside(s)->times;
}
void times_put(struct sock *s, uint32_t head, int flags);
bool times_untold(const struct sock *s);
uint32_t times_count(const struct sock *s);
int times_tell(struct sock *s, struct msghdr *message);
int times_read_one(const struct cmsghdr *c, uint32_t *times);
void times_mark(struct sock *s, struct neat_datagram *d);
void times_unmark(struct sock *s, const struct neat_datagram *d);
ssize_t times_tell_datagram(const struct sock *s, struct msghdr *message, const struct failure *f, bool planned);
int times_read_control(const struct msghdr *message, uint32_t *times);
void times_write_control(struct writer *w, const struct sock *s, uint64_t monotonic_ns);
void times_report(struct msghdr *message, const struct sock *s, uint64_t monotonic_ns, uint32_t kind, uint32_t number);

#endif
