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

/* Of a stream: how much waits (TCP_INQ), the end as a byte. */
static void write_control(struct sock *s, struct msghdr *message)
{
    struct writer w = {message, 0};

    if (unlikely(s->options.want_inq)) {
        sock_lock(s);
        bool ended = s->program && answered(s) && (load_acquire(&s->remote->seen) & NEAT_SEEN_EOF);
        int waiting = (int)waiting_bytes(s) + ended;
        sock_unlock(s);
        add_control(&w, IPPROTO_TCP, TCP_CM_INQ, &waiting, sizeof waiting);
    }
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
        return zerocopy_tell(s, message);
    ssize_t n = sock_receive(s, message->msg_iov, (int)message->msg_iovlen, flags);
    if (n >= 0) {
        message->msg_namelen = 0;
        message->msg_flags = flags & MSG_OOB;
        write_control(s, message);
    }
    return n;
}

ssize_t sock_send_message(struct sock *s, const struct msghdr *message, int flags)
{
    int error = message_refused(message);
    if (error)
        return error;
    if (s->udp)
        return sent_result(datagram_send(s, message, flags), flags);
    return sent_result(sock_send_to(s, message->msg_iov, (int)message->msg_iovlen, flags, message->msg_name,
                                    message->msg_namelen), flags);
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
