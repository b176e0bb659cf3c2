/* What io.c has for those who move bytes between the rings and something else than the caller's buffers.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEAT_CLIENT_STREAM_H
#define NEAT_CLIENT_STREAM_H

#include "client.h"

#define SEND_GOES_ON MSG_BATCH /* put_out(): the same send has more, and waits for room */

ssize_t receive_unconnected(struct sock *s);
ssize_t nothing_to_receive(struct sock *s, uint8_t state, uint8_t seen);
void took(struct sock *s, uint32_t tail, uint32_t was_waiting);
ssize_t may_send(struct sock *s);
uint32_t send_room(struct sock *s);
void put_out(struct sock *s, size_t length, int flags);
int await_room(struct sock *s, uint32_t serial, int flags, int64_t *deadline);

#endif
