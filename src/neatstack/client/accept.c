/* Taking connections.
 *
 * A program posts free slots to the replicas; a replica puts a new connection into one and says so, and accept() only has to
 * give it a descriptor. An event loop keeps slots posted. A process that sits in a blocking accept() and may have relatives
 * on the same listener posts one for each replica and asks them back before it returns, so that no connection
 * waits in a process that is busy.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <fcntl.h>

#define ANSWER_LOOK_NS 50000
#define ANSWER_LOOKS 40 /* 2 ms: how long to wait for replicas to see what was posted first */

/* ---- posting, under neat.lock ---- */

static void unlink_post(struct sock *post)
{
    *post->link_back = post->link;
    if (post->link)
        post->link->link_back = post->link_back;
}

static bool post_one(struct sock *listener, unsigned replica)
{
    struct sock *post = sock_new();
    if (!post)
        return false;
    if (!slot_take(post, replica)) {
        sock_free(post);
        return false;
    }
    post->phase = PHASE_POSTED;
    post->listener = listener;
    post->link = listener->posts;
    post->link_back = &listener->posts;
    if (post->link)
        post->link->link_back = &post->link;
    listener->posts = post;
    listener->posted[replica]++;
    post->options = listener->options;
    apply_options(post);
    post->program->listener = listener->binding;
    slot_start_quietly(post, NEAT_ROLE_ACCEPT);
    return true;
}

/* See to it that every replica has `wanted` posts, also those that are not started yet. Whether any were added. */
static bool post_up_to(struct sock *listener, uint32_t wanted)
{
    bool any = false;

    for (unsigned r = 0; r < neat.replicas; r++) {
        bool added = false;
        while (listener->posted[r] < wanted && post_one(listener, r))
            added = true;
        if (added) {
            fence();
            ring_replica(r);
            any = true;
        }
    }
    return any;
}

/* Once fewer than half are left. */
static void refill(struct sock *listener)
{
    for (unsigned r = 0; r < neat.replicas; r++)
        if (listener->posted[r] < POSTS_PER_REPLICA / 2) {
            post_up_to(listener, POSTS_PER_REPLICA);
            return;
        }
}

/* Ask back what is posted or has arrived and was not taken. */
static void withdraw(struct sock *listener, struct sock *list)
{
    for (struct sock *post = list, *next; post; post = next) {
        next = post->link;
        if (post->phase == PHASE_POSTED)
            listener->posted[post->replica]--;
        slot_withdraw(post);
        sock_free(post);
    }
}

static void withdraw_posts(struct sock *listener)
{
    withdraw(listener, listener->posts);
    listener->posts = NULL;
}

static void withdraw_arrived(struct sock *listener)
{
    withdraw(listener, listener->arrived);
    listener->arrived = NULL;
    listener->arrived_end = &listener->arrived;
}

/* ---- listeners that share a port by SO_REUSEPORT, under neat.lock ---- */

static struct sock *joining;

static void join_twin(struct file *file)
{
    struct sock *s = (struct sock *)file;

    if (s == joining || joining->twin || s->phase != PHASE_LISTENING || s->binding != joining->binding)
        return;
    joining->twin = s->twin ? s->twin : s;
    s->twin = joining;
}

/* It listens from now on. The replicas know one listener of a port, whichever sockets of a process have posted for it. */
void listener_joins(struct sock *listener)
{
    if (!listener->options.reuse_port)
        return;
    joining = listener;
    each_sock(join_twin);
}

static void leave_twins(struct sock *listener)
{
    struct sock *before = listener->twin;

    if (!before)
        return;
    while (before->twin != listener)
        before = before->twin;
    before->twin = listener->twin == before ? NULL : listener->twin;
    listener->twin = NULL;
}

static bool takes_any(const struct sock *listener)
{
    return listener->interested || listener->accepting;
}

/* Who gets a connection that has come to a slot of this listener: as on Linux any of those that share its port; here one that
 * waits in accept(), this one before others, else each that takes any in turn. */
static struct sock *choose_twin(struct sock *listener)
{
    static uint32_t turn;
    struct sock *s = listener;
    uint32_t count = 0;

    if (likely(!listener->twin))
        return listener;
    do {
        if (s->accepting && !s->arrived)
            return s;
        count += takes_any(s);
        s = s->twin;
    } while (s != listener);
    uint32_t left = count ? turn++ % count : 0;
    while (count && !(takes_any(s) && left-- == 0))
        s = s->twin;
    return s;
}

/* ---- what becomes of a post ---- */

/* A posted slot has an event: a connection, or the replica does not want it. */
void post_answered(struct sock *post)
{
    struct sock *listener = post->listener;
    uint8_t state = answered(post) ? load_acquire(&post->remote->state) : NEAT_STATE_POSTED;

    if (state != NEAT_STATE_OPEN && state != NEAT_STATE_CLOSED)
        return;
    unlink_post(post);
    listener->posted[post->replica]--;
    if (load_relaxed(&post->remote->remote_port_be) == 0) { /* refused */
        slot_release(post);
        sock_free(post);
        return;
    }
    listener = choose_twin(listener);
    post->phase = PHASE_ARRIVED;
    post->listener = listener;
    post->link = NULL;
    *listener->arrived_end = post;
    listener->arrived_end = &post->link;
    listener->arrivals++;
    wake_socket(listener);
}

static bool all_answered(const struct sock *listener)
{
    for (const struct sock *post = listener->posts; post; post = post->link)
        if (!answered(post) && replica_runs(post->replica))
            return false;
    return true;
}

/* The first posts: wait a moment until the replicas have seen them, so that a connection that was there before is found, as
 * a program may expect of accept() without blocking. */
static void await_answers(struct sock *listener)
{
    for (int look = 0; look < ANSWER_LOOKS; look++) {
        lock(&neat.lock);
        bool all = all_answered(listener);
        drain_locked();
        unlock(&neat.lock);
        if (all)
            break;
        syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = ANSWER_LOOK_NS}, NULL);
    }
}

/* The program polls for connections: from now on keep slots posted. The listener may be locked, neat.lock not. */
void listener_interest(struct sock *listener)
{
    if (likely(listener->interested) || listener->phase != PHASE_LISTENING)
        return;
    lock(&neat.lock);
    listener->interested = true;
    bool added = post_up_to(listener, POSTS_PER_REPLICA);
    unlock(&neat.lock);
    if (added)
        await_answers(listener);
}

/* Ask back all that accept() has not taken. Under neat.lock. */
void listener_withdraw(struct sock *listener)
{
    withdraw_posts(listener);
    withdraw_arrived(listener);
    listener->interested = false;
}

/* The program wants no connections any more, or has closed the listener. */
void listener_stop(struct sock *listener)
{
    lock(&neat.lock);
    listener_withdraw(listener);
    leave_twins(listener);
    unlock(&neat.lock);
    listener->phase = PHASE_FRESH;
    if (listener->binding && listener->shared)
        manager_close_shared(listener->binding);
    else if (listener->binding)
        manager_close(listener->binding);
    listener->binding = 0;
}

/* Before a fork: what a process posted that does not poll for connections would be stuck while it does other things. */
void listener_settle(struct sock *listener)
{
    if (!listener->interested && !listener->accepting)
        withdraw_posts(listener);
}

/* In the child of a fork: posts and arrivals are the parent's, and the child does not hold them. It posts for itself when it
 * first shows interest. */
void listener_forget(struct sock *listener)
{
    struct sock *lists[] = {listener->posts, listener->arrived};
    for (int i = 0; i < 2; i++)
        for (struct sock *post = lists[i], *next; post; post = next) {
            next = post->link;
            if (answered(post) && load_acquire(&post->remote->state) == NEAT_STATE_OPEN)
                slot_release(post); /* else there is no connection that the child could hold */
            else
                slot_forget(post);
            sock_free(post);
        }
    listener->posts = listener->arrived = NULL;
    listener->arrived_end = &listener->arrived;
    memset(listener->posted, 0, sizeof listener->posted);
    listener->interested = false;
    listener->accepting = 0;
}

/* ---- accept() ---- */

static struct sock *first_arrived(struct sock *listener)
{
    struct sock *s = listener->arrived;
    if (s) {
        listener->arrived = s->link;
        if (!listener->arrived)
            listener->arrived_end = &listener->arrived;
        s->link = NULL;
        s->listener = NULL;
    }
    return s;
}

/* The listener's options have changed: so do those of the slots that wait for its connections. */
void posts_apply_options(struct sock *listener)
{
    lock(&neat.lock);
    for (struct sock *post = listener->posts; post; post = post->link) {
        post->options = listener->options;
        apply_options(post);
    }
    unlock(&neat.lock);
}

/* Give the oldest arrival a descriptor. -EAGAIN when there is none. */
static int accept_now(struct sock *listener, int flags, struct sock **accepted)
{
    if (listener->phase != PHASE_LISTENING)
        return -EINVAL;
    if (!load_relaxed(&listener->arrived))
        drain();
    lock(&neat.lock);
    int fd = -EAGAIN;
    if (listener->arrived && (fd = placeholder_dup(0, flags & SOCK_CLOEXEC)) >= 0) {
        struct sock *s = first_arrived(listener);
        s->family = listener->family;
        s->local.address = any_of(s->family);
        s->options = listener->options;
        s->options.defer = 0;
        s->options.fastopen = s->options.priority = 0;
        s->options.fastopen_key_count = 0;
        s->nonblocking = flags & SOCK_NONBLOCK;
        s->phase = PHASE_OPEN;
        s->program->flags |= NEAT_FLAG_TAKEN;
        apply_options(s);
        tell_quietly(s);
        table_put(fd, &s->file);
        *accepted = s;
        if (listener->interested)
            refill(listener);
    }
    unlock(&neat.lock);
    return fd;
}

/* Wait for a connection. With `sharing`, each replica has one post at most, asked back when no thread waits any more. */
static int accept_waiting(struct sock *listener, int flags, bool sharing, struct sock **accepted)
{
    int64_t timeout = listener->options.receive_timeout_ns;
    int64_t deadline = deadline_after(timeout ? timeout : -1);
    uint32_t serial = listener->file.serial;
    int fd;

    while ((fd = accept_now(listener, flags, accepted)) == -EAGAIN) {
        lock(&neat.lock);
        post_up_to(listener, sharing ? 1 : POSTS_PER_REPLICA);
        unlock(&neat.lock);
        int error = wait_for(listener, EPOLLIN, 0, deadline);
        if (listener->file.serial != serial)
            return -EBADF;
        if (error && !(error == -EINTR && restarts(timeout)))
            return error;
    }
    return fd;
}

static int accept_blocking(struct sock *listener, int flags, struct sock **accepted)
{
    bool sharing = listener->shared && !listener->interested;

    lock(&neat.lock);
    listener->accepting++;
    unlock(&neat.lock);
    int fd = accept_waiting(listener, flags, sharing, accepted);
    lock(&neat.lock);
    if (fd != -EBADF && --listener->accepting == 0 && sharing) {
        withdraw_posts(listener);
        withdraw_arrived(listener); /* of another replica, at the same time as what was taken */
    }
    unlock(&neat.lock);
    return fd;
}

int sock_accept(struct sock *listener, struct sockaddr *address, socklen_t *length, int flags)
{
    struct sock *accepted = NULL;
    int fd;

    if ((flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) || listener->phase != PHASE_LISTENING)
        return -EINVAL;
    if (listener->nonblocking) {
        listener_interest(listener);
        fd = accept_now(listener, flags, &accepted);
    } else {
        fd = accept_blocking(listener, flags, &accepted);
    }
    if (fd >= 0)
        put_address(listener, address, length,
                    &(struct end){accepted->remote->remote_be, accepted->remote->remote_port_be});
    return fd;
}
