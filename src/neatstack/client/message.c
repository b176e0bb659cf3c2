/* The families around sock_receive() and sock_send(): messages, SIGPIPE.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"
#include "vector.h"

#include <netinet/tcp.h>

/* send() on a connection that is over: the signal first, as the kernel does. */
ssize_t sent_result(ssize_t result, int flags)
{
    if (unlikely(result == -EPIPE) && !(flags & MSG_NOSIGNAL))
        raise(SIGPIPE);
    return result;
}

/* Of a stream: when it came, how much waits (TCP_INQ), the end as a byte. */
static void write_wanted(struct sock *s, struct writer *w)
{
    sock_lock(s);
    bool connected = s->program && answered(s);
    if (wants_times(&s->options) && connected && slot_times(s)->generation_seen == s->generation && s->remote->rx_time_ns)
        times_write_control(w, s, load_relaxed(&s->remote->rx_time_ns));
    int waiting = (int)waiting_bytes(s) + (connected && (load_acquire(&s->remote->seen) & NEAT_SEEN_EOF));
    if (s->options.want_inq)
        add_control(w, IPPROTO_TCP, TCP_CM_INQ, &waiting, sizeof waiting);
    sock_unlock(s);
}

static void write_control(struct sock *s, struct msghdr *message)
{
    struct writer w = {message, 0};

    if (unlikely(s->options.reports))
        write_wanted(s, &w);
    message->msg_controllen = w.used;
}

static int message_refused(const struct msghdr *message)
{
    return nowhere(message) ? -EFAULT : vector_refused(message->msg_iov, message->msg_iovlen, -EMSGSIZE);
}

ssize_t sock_receive_message(struct sock *s, struct msghdr *message, int flags)
{
    int error = message_refused(message);
    if (error)
        return error;
    if (s->udp)
        return datagram_receive(s, message, flags);
    if (flags & MSG_ERRQUEUE)
        return queue_receive(s, message);
    ssize_t n = sock_receive(s, message->msg_iov, (int)message->msg_iovlen, flags);
    if (n >= 0) {
        message->msg_namelen = 0;
        message->msg_flags = flags & MSG_OOB;
        write_control(s, message);
    }
    return n;
}

static ssize_t send_stream(struct sock *s, const struct msghdr *message, int flags)
{
    return sock_send_to(s, message->msg_iov, (int)message->msg_iovlen, flags, message->msg_name, message->msg_namelen);
}

/* Ancillary data may say what shall be told of this send (SO_TIMESTAMPING). */
static ssize_t send_reported(struct sock *s, const struct msghdr *message, int flags)
{
    uint32_t times = 0;
    int error = times_read_control(message, &times);

    if (error)
        return error;
    sock_lock(s);
    s->times_once = times;
    s->options.reports |= times ? REPORT_TIMES : 0;
    if (times && s->program)
        apply_options(s);
    sock_unlock(s);
    ssize_t n = send_stream(s, message, flags);
    s->times_once = 0;
    return n;
}

ssize_t sock_send_message(struct sock *s, const struct msghdr *message, int flags)
{
    int error = message_refused(message);
    if (error)
        return error;
    if (s->udp)
        return sent_result(datagram_send(s, message, flags), flags);
    if (likely(!message->msg_controllen))
        return sent_result(send_stream(s, message, flags), flags);
    return sent_result(send_reported(s, message, flags), flags);
}

/* recvmmsg(): the timeout is only looked at between messages, as on Linux. */
int sock_receive_messages(struct sock *s, struct mmsghdr *messages, unsigned count, int flags, const struct timespec *timeout)
{
    int64_t deadline = timeout ? deadline_after(timeout->tv_sec * INT64_C(1000000000) + timeout->tv_nsec) : FOREVER;
    bool for_one = flags & MSG_WAITFORONE;
    unsigned done = 0;

    flags &= ~MSG_WAITFORONE;
    while (done < count) {
        ssize_t n = sock_receive_message(s, &messages[done].msg_hdr, flags);
        if (n < 0)
            return done ? (int)done : (int)n;
        messages[done++].msg_len = (unsigned)n;
        if (for_one)
            flags |= MSG_DONTWAIT;
        if ((n == 0 && !s->udp) || (deadline != FOREVER && now_ns() >= deadline))
            break;
    }
    return (int)done;
}

int sock_send_messages(struct sock *s, struct mmsghdr *messages, unsigned count, int flags)
{
    unsigned done = 0;
    while (done < count) {
        ssize_t n = sock_send_message(s, &messages[done].msg_hdr, flags);
        if (n < 0)
            return done ? (int)done : (int)n;
        messages[done++].msg_len = (unsigned)n;
    }
    return (int)done;
}
