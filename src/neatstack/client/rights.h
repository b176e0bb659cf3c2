/* Sockets that another image, or another program, takes up. Included by client.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEAT_RIGHTS_H
#define NEAT_RIGHTS_H

struct description { /* of a socket; only as much as description_size() says */
    struct sock sock; /* its pointers only say that there was something */
    struct datagrams udp;
    struct { /* what the socket has with one replica */
        uint16_t channel;
        uint32_t slot, generation;
    } legs[NEAT_MAX_REPLICAS];
};

struct parcel { /* waits in the descriptor that is passed in place of a socket */
    uint32_t magic, version, sock_size;
    uint32_t number; /* the manager's */
    uint64_t token;
    struct description about;
};

/* ---- description.c ---- */
size_t description_size(const struct sock *s);
void describe(const struct sock *s, struct description *about);
struct sock *sock_described(const struct description *about);

/* ---- rights.c ---- */
bool passes_sockets(const struct msghdr *message);
ssize_t rights_send(int fd, const struct msghdr *message, int flags);
int rights_send_messages(int fd, struct mmsghdr *messages, unsigned count, int flags);
void rights_forget(void);
void rights_received(const struct msghdr *message, int flags);

#endif
