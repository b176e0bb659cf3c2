/* What somebody else has to know of a socket to go on with it: a new image after exec(), a program that it is passed to.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

size_t description_size(const struct sock *s)
{
    return s->udp ? sizeof(struct description) : offsetof(struct description, udp);
}

void describe(const struct sock *s, struct description *about)
{
    about->sock = *s;
    if (!s->udp)
        return;
    about->udp = *s->udp;
    memset(about->legs, 0, sizeof about->legs);
    for (unsigned r = 0; r < neat.replicas; r++) {
        const struct sock *leg = s->udp->leg[r];
        if (!leg)
            continue;
        about->legs[r].channel = leg->channel;
        about->legs[r].slot = leg->slot;
        about->legs[r].generation = leg->generation;
    }
}

static bool take_legs(struct sock *s, const struct description *about)
{
    for (unsigned r = 0; s->binding && r < neat.replicas; r++) {
        struct sock *leg = sock_new();
        if (!leg)
            return false;
        leg->phase = PHASE_LEG;
        leg->listener = s;
        slot_attach(leg, about->legs[r].channel, r, about->legs[r].slot);
        leg->generation = about->legs[r].generation;
        s->udp->leg[r] = leg;
    }
    return true;
}

static bool take_datagrams(struct sock *s, const struct description *about)
{
    struct datagrams *u = s->udp = datagrams_new();

    if (!u)
        return false;
    struct file file = u->file;
    *u = about->udp;
    u->file = file;
    u->held = false;
    u->text = NULL;
    memset(u->leg, 0, sizeof u->leg);
    return take_legs(s, about);
}

/* The socket, in the slots that it has. NULL: no memory. */
struct sock *sock_described(const struct description *about)
{
    const struct sock *saved = &about->sock;
    struct sock *s = sock_new();

    if (!s)
        return NULL;
    s->phase = saved->phase;
    s->nonblocking = saved->nonblocking;
    s->shared = saved->shared;
    s->error = saved->error;
    s->options = saved->options;
    s->backlog = saved->backlog;
    s->binding = saved->binding;
    s->family = saved->family;
    s->local = saved->local;
    if (saved->program) {
        slot_attach(s, saved->channel, saved->replica, saved->slot);
        s->generation = saved->generation;
    }
    return saved->udp && !take_datagrams(s, about) ? NULL : s;
}
