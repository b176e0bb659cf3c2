/* UDP sockets: what the files share. Included by client.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEAT_DATAGRAM_H
#define NEAT_DATAGRAM_H

/* ---- datagram.c, datagram_io.c, datagram_control.c, datagram_errors.c, datagram_options.c ---- */
int datagram_bind(struct sock *s, struct end local);
int datagram_bound(struct sock *s);
bool datagram_peer(const struct sock *s, struct end *peer);
struct neat_address datagram_source(const struct sock *s, struct neat_address remote);
int datagram_connect(struct sock *s, const struct sockaddr *address, socklen_t length);
int datagram_name(const struct sock *s, bool peer, struct end *name);
bool datagram_waits(const struct sock *s, bool error);
uint32_t datagram_readiness(const struct sock *s, bool queue);
uint32_t datagram_arrivals(const struct sock *s);
void datagram_apply_options(struct sock *s);
int datagram_shutdown(struct sock *s, uint8_t bits);
void datagram_close(struct sock *s);
void datagram_strand(struct sock *s);
ssize_t datagram_send(struct sock *s, const struct msghdr *message, int flags);
int datagram_uncork(struct sock *s);
ssize_t datagram_receive(struct sock *s, struct msghdr *message, int flags);
uint32_t datagram_waiting(struct sock *s);
uint32_t datagram_unsent(struct sock *s);
int datagram_read_control(const struct sock *s, const struct msghdr *message, bool four, struct sending *how);
void datagram_write_control(const struct sock *s, struct msghdr *message, const struct neat_datagram *d, uint32_t segment);
int datagram_error(struct sock *s);
bool datagram_failing(const struct sock *s);
void datagram_refused(struct sock *s, const struct neat_datagram *d, uint32_t mtu);
void datagram_keep_error(struct sock *s, const struct sock *leg, const struct neat_datagram *d, uint32_t at);
struct sock *datagram_find_error(struct sock *s, struct neat_datagram *d, uint32_t *at);
bool datagram_wants(const struct datagrams *u, const struct neat_datagram *d);
void take_bytes(uint8_t *to, const struct sock *leg, uint32_t offset, size_t length);
size_t scatter(const uint8_t *from, size_t length, const struct iovec *iov, size_t count);
void add_control(struct writer *w, int level, int type, const void *data, size_t length);
ssize_t failure_tell(const struct sock *s, struct msghdr *message, const struct failure *f);
ssize_t datagram_receive_error(struct sock *s, struct msghdr *message);

#endif
