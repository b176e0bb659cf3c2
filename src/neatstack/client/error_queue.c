/* The error queue of a stream, and the errors that end nothing (IP_RECVERR, RFC 9293 section 3.9.1.8).
 *
 * What keeps a connection from being opened comes with its story. Of one that is open ICMP only says that something is wrong: that is an
 * error of the socket, which is told once; without IP_RECVERR SO_ERROR tells it to who asks, as long as nothing new was acknowledged.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

/* ---- errors of an open connection ---- */

static bool untold(const struct sock *s)
{
    return (uint8_t)(load_acquire(&s->remote->soft_error) >> 8) != load_relaxed(&s->program->soft_told);
}

/* Whether there is one for a socket with IP_RECVERR. Takes no lock. */
bool soft_pending(const struct sock *s)
{
    return (load_relaxed(&s->program->shut) & NEAT_SHUT_HEARS) && untold(s);
}

static int take(struct sock *s)
{
    uint32_t soft = load_acquire(&s->remote->soft_error);

    store_relaxed(&s->program->soft_told, (uint8_t)(soft >> 8));
    return (int)(soft & 0xff);
}

/* It: positive, 0 for none. The socket is locked, and has a slot. */
int take_soft_error(struct sock *s)
{
    return soft_pending(s) ? take(s) : 0;
}

/* The same for SO_ERROR, whatever the options say. */
int soft_error_told(struct sock *s)
{
    if (!s->program || !answered(s) || !untold(s))
        return 0;
    bool lasts = load_relaxed(&s->remote->soft_at) == load_acquire(&s->remote->tx_tail);
    int error = take(s);
    return lasts ? error : 0;
}

/* ---- why there is no connection ---- */

void story_forget(struct sock *s)
{
    if (s->story)
        pages_free(s->story, sizeof *s->story);
    s->story = NULL;
}

/* connect() has failed, and the slot is about to go. The socket is locked. */
void story_keep(struct sock *s)
{
    if (!wants_errors(s) || load_acquire(&s->remote->soft_story) != s->generation)
        return;
    if (!s->story)
        s->story = pages_new(sizeof *s->story);
    if (!s->story)
        return;
    memcpy(&s->story->about, s->rx, sizeof s->story->about);
    if (s->story->about.length > MOST_QUOTED)
        s->story->about.length = MOST_QUOTED;
    memcpy(s->story->quoted, s->rx + sizeof s->story->about, s->story->about.length);
}

/* ---- the queue ---- */

/* Whether there is something in it. Takes no lock. */
bool queue_waits(const struct sock *s)
{
    return times_untold(s) || zerocopy_untold(s);
}

/* For edge-triggered epoll: changes when more has come into it from the replica. */
uint32_t queue_edges(const struct sock *s)
{
    return load_relaxed(&s->remote->soft_error) + times_count(s);
}

/* recvmsg() with MSG_ERRQUEUE: bytes, or -EAGAIN when there is nothing to tell. */
ssize_t queue_receive(struct sock *s, struct msghdr *message)
{
    ssize_t n = -EAGAIN;

    sock_lock(s);
    settle_connect(s);
    if (s->story) {
        n = failure_tell(s, message, s->story);
        story_forget(s);
        s->error = 0;
    } else if (s->program) {
        n = times_tell(s, message);
        if (n == -EAGAIN)
            n = zerocopy_tell(s, message);
    }
    sock_unlock(s);
    return n;
}
