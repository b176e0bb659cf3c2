/* MSG_ZEROCOPY, as of a device that cannot gather: all was copied, and the error queue of a stream says so.
 *
 * Sends are numbered from 0; those that nobody has asked about are told of together. The numbers are in the shared lines.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <linux/errqueue.h>

/* One more send has taken something. The socket is locked. */
void zerocopy_count(struct sock *s)
{
    if (!s->options.zerocopy || !s->program)
        return;
    store_relaxed(&s->program->scratch[SCRATCH_COPIES], s->program->scratch[SCRATCH_COPIES] + 1);
    s->error_edges++;
    lock(&neat.lock);
    wake_socket(s);
    unlock(&neat.lock);
}

/* Whether there is something to tell. Takes no lock. */
bool zerocopy_untold(const struct sock *s)
{
    const uint32_t *scratch = s->program->scratch;
    return load_relaxed(&scratch[SCRATCH_COPIES]) != load_relaxed(&scratch[SCRATCH_COPIES_TOLD]);
}

/* MSG_ERRQUEUE: 0, or -EAGAIN when there is nothing to tell. The socket is locked, and has a slot. */
int zerocopy_tell(struct sock *s, struct msghdr *message)
{
    bool six = s->family == AF_INET6;
    struct {
        struct sock_extended_err error;
        struct sockaddr_in6 nobody;
    } told = {.error = {.ee_origin = SO_EE_ORIGIN_ZEROCOPY, .ee_code = SO_EE_CODE_ZEROCOPY_COPIED}};
    size_t length = sizeof told.error + (six ? sizeof told.nobody : sizeof(struct sockaddr_in));
    struct writer w = {message, 0};
    uint32_t *scratch = s->program->scratch;

    if (!zerocopy_untold(s))
        return -EAGAIN;
    told.error.ee_info = scratch[SCRATCH_COPIES_TOLD];
    told.error.ee_data = scratch[SCRATCH_COPIES] - 1;
    store_relaxed(&scratch[SCRATCH_COPIES_TOLD], scratch[SCRATCH_COPIES]);
    message->msg_flags = MSG_ERRQUEUE;
    message->msg_namelen = 0;
    add_control(&w, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_RECVERR : IP_RECVERR, &told, length);
    message->msg_controllen = w.used;
    return 0;
}
