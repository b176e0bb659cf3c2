/* fork and exit.
 *
 * Before a fork the manager makes channels for the child, which from then on hold all that the parent holds; the child claims
 * them before any code of the program runs in it (it may give up its rights afterwards). A socket stays in the
 * memory it was opened in; each process sends commands and takes events through its own channels.
 *
 * A process that shares this one's memory (vfork and the like inside libc) must not touch any of this: is_us() tells.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#define EXIT_NS 20000000 /* how long the replicas have to see that we close */

static struct kin child;    /* between fork_prepare() and what follows it */
static bool child_expected; /* the manager has made its channels */

/* Whether this is the process whose state lies here. */
bool is_us(void)
{
    return neat.pid == (pid_t)syscall(SYS_getpid);
}

/* ---- before ---- */

static void mark_shared(struct file *file)
{
    struct sock *s = (struct sock *)file;
    if (s->phase == PHASE_POSTED || s->phase == PHASE_ARRIVED || s->phase == PHASE_LEG)
        return;
    lock(&s->lock); /* nobody is in the middle of an operation that has not heard of it */
    s->shared = true;
    unlock(&s->lock);
}

static void settle_listener(struct file *file)
{
    struct sock *s = (struct sock *)file;
    if (s->phase == PHASE_LISTENING)
        listener_settle(s);
}

void fork_prepare(void)
{
    child_expected = false;
    if (neat.open && is_us()) {
        each_sock(mark_shared);
        lock(&neat.lock);
        each_sock(settle_listener);
        child_expected = manager_fork(&child) == 0;
    } else {
        lock(&neat.lock);
    }
    lock(&neat.manager_lock);
}

/* ---- after, in the parent ---- */

static void child_forget(void)
{
    own_close(&child.doorbell);
    for (unsigned r = 0; r < neat.replicas; r++)
        own_close(&child.memory[r]);
}

void fork_parent(void)
{
    unlock(&neat.manager_lock);
    if (child_expected)
        child_forget();
    unlock(&neat.lock);
}

/* fork() has failed: nobody will claim the child's channels. */
void fork_failed(void)
{
    int saved = errno;
    if (child_expected)
        manager_abandon(&child);
    errno = saved;
}

/* ---- after, in the child ---- */

static void forget_waits(struct file *file)
{
    struct sock *s = (struct sock *)file;
    s->lock = 0;
    s->sleepers = NULL;
    s->told_at = 0;
}

static void forget_posts(struct file *file)
{
    struct sock *s = (struct sock *)file;
    if (s->phase == PHASE_LISTENING)
        listener_forget(s);
}

static void forget_sleepers(struct file *file)
{
    struct epoll *e = (struct epoll *)file;
    e->sleepers = 0;
    e->nested = false;
    e->inherited = true;
}

/* The child could not get channels: what it has inherited is dead. */
static void strand(struct file *file)
{
    struct sock *s = (struct sock *)file;
    if (s->udp)
        datagram_strand(s);
    s->phase = PHASE_FRESH;
    s->program = NULL;
    s->binding = 0;
    s->error = ENETDOWN;
    s->posts = s->arrived = NULL;
    s->arrived_end = &s->arrived;
}

static void look_again(struct file *file)
{
    epoll_notify((struct sock *)file);
}

/* Take up the channels that the manager made for us. 0 or -errno. */
static int become_child(void)
{
    struct channels *set = channels_new(child.channel);
    if (!set)
        return -ENOMEM;
    own_hand_over(&child.doorbell, &neat.doorbell);
    for (unsigned r = 0; r < neat.replicas; r++)
        own_hand_over(&child.memory[r], &set->at[r].memory_fd);
    for (unsigned r = 0; r < neat.replicas; r++) {
        int error = channel_map(&set->at[r]);
        if (error)
            return error;
    }
    neat.own = neat.known[set->number] = set;
    neat.token = child.token;
    return manager_claim();
}

void fork_child(void)
{
    thread_id = 0;
    neat.pid = (pid_t)syscall(SYS_getpid);
    neat.lock = neat.manager_lock = neat.own_lock = neat.rights_lock = 0;
    neat.owed = 0;
    neat.sleepers = 0;
    neat.random = 0;
    while (neat.places)
        place_close_locked(neat.places);
    rights_forget();
    each_sock(forget_waits);
    each_epoll(forget_sleepers);
    if (!neat.open)
        return;
    own_close(&neat.doorbell);
    own_close(&neat.manager);
    if (child_expected && become_child() == 0) {
        each_sock(forget_posts);
    } else {
        neat.own = NULL;
        neat.open = false;
        complain("the stack cannot be reached: a forked process has no sockets");
        each_sock(strand);
    }
    each_sock(look_again);
    child_expected = false;
}

/* ---- exit ---- */

static void withdraw_all(struct file *file)
{
    struct sock *s = (struct sock *)file;
    if (s->phase == PHASE_LISTENING)
        listener_withdraw(s);
}

/* Other threads may still be in the middle of something: the socket stays usable, whatever that leads to. */
static void leave(struct file *file)
{
    struct sock *s = (struct sock *)file;
    if (s->phase == PHASE_POSTED || s->phase == PHASE_ARRIVED || s->phase == PHASE_LEG || !s->program)
        return;
    if (s->options.linger && s->options.linger_s == 0 && !s->shared)
        __atomic_fetch_or(&s->program->shut, NEAT_SHUT_ABORT, __ATOMIC_RELEASE);
    tell_detach(s->replica, s->channel, s->slot);
}

/* The process ends by itself: its connections are closed, not reset. Waits until the replicas know. */
void process_end(void)
{
    if (!load_acquire(&neat.open) || !is_us())
        return;
    lock(&neat.lock);
    each_sock(withdraw_all);
    each_sock(leave);
    store_release(&neat.ended, true);
    store_release(&neat.open, false);
    unlock(&neat.lock);
    await_commands(EXIT_NS);
}
