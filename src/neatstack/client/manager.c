/* Requests to the manager: seldom, one at a time, each waits for its reply.
 *
 * The connection is made once and kept, since the program may change its user or root directory later. When the manager
 * restarts, the program says again who it is and repeats the request.
 *
 * One request need not be waited for: that a listener is closed that relatives may go on using. Its reply is owed, and taken
 * before the next request, or before this process could notice that it has not been carried out.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/un.h>

#define MOST_PASSED (2 + 3 * NEAT_MAX_REPLICAS)
#define REPLY_SECONDS 10
#define RETRIES 40 /* while the manager restarts */
#define RETRY_NS 50000000
#define MOST_OWED 32

struct answer {
    struct neat_reply reply;
    int fds[MOST_PASSED];
    unsigned count;
};

static int dial(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = REPLY_SECONDS};

    if (!neat.directory)
        return -ENETDOWN;
    if (snprintf(address.sun_path, sizeof address.sun_path, "%s/manager.sock", neat.directory) >=
        (int)sizeof address.sun_path)
        return -ENAMETOOLONG;
    int fd = (int)syscall(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0 ||
        syscall(SYS_connect, fd, &address, sizeof address) < 0) {
        int error = errno;
        syscall(SYS_close, fd);
        return -error;
    }
    neat.manager = fd;
    own_add(&neat.manager);
    return 0;
}

static void collect_descriptors(struct msghdr *message, struct answer *answer)
{
    answer->count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        unsigned count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(answer->fds, CMSG_DATA(c), count * sizeof(int));
        answer->count = count;
    }
}

static int put_request(const struct neat_request *request)
{
    ssize_t n;

    do
        n = syscall(SYS_sendto, neat.manager, request, sizeof *request, MSG_NOSIGNAL, NULL, 0);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

static int take_answer(struct answer *answer)
{
    char control[CMSG_SPACE(sizeof(int) * MOST_PASSED)];
    struct iovec iov = {&answer->reply, sizeof answer->reply};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n;

    do
        n = syscall(SYS_recvmsg, neat.manager, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n != sizeof answer->reply)
        return n < 0 ? -errno : -ECONNRESET;
    collect_descriptors(&message, answer);
    return 0;
}

static void close_passed(struct answer *answer)
{
    for (unsigned i = 0; i < answer->count; i++)
        syscall(SYS_close, answer->fds[i]);
    answer->count = 0;
}

/* One exchange on the open connection. 0, or -errno of the connection itself. */
static int exchange(const struct neat_request *request, struct answer *answer)
{
    int error = put_request(request);
    return error ? error : take_answer(answer);
}

static void name_us(struct neat_request *request)
{
    request->magic = NEAT_MAGIC;
    request->channel = neat.own->number;
    request->token = neat.token;
}

/* ---- replies that are owed, under neat.manager_lock ---- */

static uint32_t owed[MOST_OWED]; /* bindings whose closing we have sent, the first one first */

static void owed_done(void)
{
    memmove(owed, owed + 1, --neat.owed * sizeof *owed);
}

/* Take what is owed on the open connection. 0, or -errno of the connection itself; the rest is still owed then. */
static int take_owed(void)
{
    struct answer answer;

    while (neat.owed) {
        int error = take_answer(&answer);
        if (error)
            return error;
        close_passed(&answer);
        owed_done();
    }
    return 0;
}

/* The connection is new: the manager that was asked on the old one may not have done it. */
static int repeat_owed(void)
{
    struct answer answer;

    while (neat.owed) {
        struct neat_request request = {.op = NEAT_REQUEST_CLOSE, .binding = owed[0]};
        name_us(&request);
        int error = exchange(&request, &answer);
        if (error)
            return error;
        close_passed(&answer);
        owed_done();
    }
    return 0;
}

static int say_who(void)
{
    struct neat_request request = {.op = NEAT_REQUEST_CLAIM};
    struct answer answer;
    name_us(&request);
    int error = exchange(&request, &answer);
    if (error)
        return error;
    close_passed(&answer);
    return answer.reply.error ? -(int)answer.reply.error : repeat_owed();
}

/* 0 and the answer, or -errno: the manager's, or -ENETDOWN when it cannot be reached. */
static int ask(struct neat_request *request, struct answer *answer, bool names_other)
{
    int error = -ENETDOWN;

    request->magic = NEAT_MAGIC;
    if (neat.own && !names_other)
        name_us(request);
    lock(&neat.manager_lock);
    for (int attempt = 0; attempt < RETRIES; attempt++) {
        bool introduced = neat.manager >= 0;
        error = introduced ? 0 : dial();
        if (!error && introduced)
            error = take_owed();
        else if (!error && neat.own && request->op != NEAT_REQUEST_CLAIM)
            error = say_who();
        if (!error)
            error = exchange(request, answer);
        if (!error || !neat.own)
            break;
        own_close(&neat.manager);
        syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = RETRY_NS}, NULL);
    }
    if (error)
        own_close(&neat.manager);
    unlock(&neat.manager_lock);
    if (error)
        return -ENETDOWN;
    if (answer->reply.magic != NEAT_MAGIC || answer->reply.error) {
        close_passed(answer);
        return answer->reply.error ? -(int)answer->reply.error : -ENETDOWN;
    }
    return 0;
}

static const void *map_page(int fd, size_t size)
{
    void *page = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    return page == MAP_FAILED ? NULL : page;
}

int manager_map_pages(void)
{
    neat.page = map_page(neat.page_fd, sizeof *neat.page);
    if (!neat.page || neat.page->magic != NEAT_MAGIC || neat.page->version != NEAT_LAYOUT_VERSION)
        return -ENETDOWN;
    for (unsigned r = 0; r < neat.replicas; r++) {
        neat.peers[r].page = map_page(neat.peers[r].page_fd, sizeof *neat.peers[r].page);
        if (!neat.peers[r].page)
            return -ENOMEM;
    }
    return 0;
}

struct channels *channels_new(uint32_t number)
{
    struct channels *set = pages_new(sizeof *set);
    if (set) {
        set->number = number;
        for (unsigned r = 0; r < NEAT_MAX_REPLICAS; r++)
            set->at[r].memory_fd = -1;
    }
    return set;
}

/* Enter the stack. Under neat.lock. 0 or -errno; said on standard error too. */
int manager_hello(void)
{
    struct neat_request request = {.op = NEAT_REQUEST_HELLO};
    struct answer answer;
    int error = ask(&request, &answer, false);

    if (error) {
        complain("the stack cannot be reached: no sockets");
        return -ENETDOWN;
    }
    uint32_t replicas = answer.reply.replicas;
    struct channels *set = channels_new(answer.reply.channel);
    if (replicas == 0 || replicas > NEAT_MAX_REPLICAS || answer.count != 2 + 3 * replicas ||
        answer.reply.channel >= NEAT_MAX_CHANNELS || !set) {
        close_passed(&answer);
        complain("the stack speaks another version: no sockets");
        return -ENETDOWN;
    }
    neat.replicas = replicas;
    neat.page_fd = answer.fds[0];
    neat.doorbell = answer.fds[1];
    own_add(&neat.page_fd);
    own_add(&neat.doorbell);
    for (unsigned r = 0; r < replicas; r++) {
        set->at[r].memory_fd = answer.fds[2 + 3 * r];
        neat.peers[r].page_fd = answer.fds[3 + 3 * r];
        neat.peers[r].doorbell = answer.fds[4 + 3 * r];
        own_add(&set->at[r].memory_fd);
        own_add(&neat.peers[r].page_fd);
        own_add(&neat.peers[r].doorbell);
    }
    error = manager_map_pages();
    for (unsigned r = 0; r < replicas && !error; r++)
        error = channel_map(&set->at[r]);
    if (error) {
        complain("the stack's memory cannot be mapped: no sockets");
        return -ENETDOWN;
    }
    neat.token = answer.reply.token;
    neat.known[set->number] = neat.own = set;
    if (neat.sleepers)
        sleep_mark();
    store_release(&neat.open, true);
    return 0;
}

/* Ask for the channels of a child. They are not mapped yet. 0 or -errno. */
int manager_fork(struct kin *child)
{
    struct neat_request request = {.op = NEAT_REQUEST_FORK};
    struct answer answer;
    int error = ask(&request, &answer, false);

    if (error)
        return error;
    if (answer.count != 1 + neat.replicas || answer.reply.channel >= NEAT_MAX_CHANNELS) {
        close_passed(&answer);
        return -ENETDOWN;
    }
    child->token = answer.reply.token;
    child->channel = answer.reply.channel;
    child->doorbell = answer.fds[0];
    own_add(&child->doorbell);
    for (unsigned r = 0; r < neat.replicas; r++) {
        child->memory[r] = answer.fds[1 + r];
        own_add(&child->memory[r]);
    }
    return 0;
}

/* "I am neat.own now", on a connection of our own. 0 or -errno. */
int manager_claim(void)
{
    struct neat_request request = {.op = NEAT_REQUEST_CLAIM};
    struct answer answer;

    own_close(&neat.manager);
    int error = ask(&request, &answer, false);
    if (!error)
        close_passed(&answer);
    return error;
}

/* The child that the channels of manager_fork() were for has not come to be. */
void manager_abandon(const struct kin *child)
{
    struct neat_request request = {.op = NEAT_REQUEST_ABANDON, .channel = child->channel, .token = child->token};
    struct answer answer;
    if (!ask(&request, &answer, true))
        close_passed(&answer);
}

/* Bind the socket's description. 0 or -errno. */
int manager_bind(struct sock *s, struct end local)
{
    struct neat_request request = {.op = NEAT_REQUEST_BIND, .address_be = local.address, .port_be = local.port_be};
    struct answer answer;

    request.flags = (uint16_t)((s->options.reuse_address ? NEAT_BIND_REUSEADDR : 0) |
                               (s->options.reuse_port ? NEAT_BIND_REUSEPORT : 0) | (s->udp ? NEAT_BIND_DATAGRAM : 0) |
                               (s->options.v6only ? NEAT_BIND_V6ONLY : 0));
    if (s->udp)
        request.binding = s->udp->leg[0]->slot; /* its cookie */
    int error = ask(&request, &answer, false);
    if (error)
        return error;
    close_passed(&answer);
    s->binding = answer.reply.binding;
    s->local = (struct end){local.address, answer.reply.port_be};
    return 0;
}

int manager_listen(struct sock *s, uint32_t backlog)
{
    const struct options *o = &s->options;
    struct neat_request request = {.op = NEAT_REQUEST_LISTEN,
                                   .binding = s->binding,
                                   .backlog = backlog,
                                   .mss = o->mss,
                                   .defer = o->defer,
                                   .syn_retries = o->syn_retries,
                                   .fastopen = (uint32_t)o->fastopen,
                                   .congestion = o->congestion,
                                   .save_syn = o->save_syn,
                                   .least_ttl = o->least_ttl,
                                   .least_hops = o->least_hops,
                                   .fastopen_key_count = o->fastopen_key_count};
    struct answer answer;

    memcpy(request.fastopen_keys, o->fastopen_keys, sizeof request.fastopen_keys);
    int error = ask(&request, &answer, false);
    if (!error)
        close_passed(&answer);
    return error;
}

/* A UDP socket joins or leaves a group of hosts. 0 or -errno. */
int manager_group(uint32_t binding, struct neat_address group, bool leave)
{
    struct neat_request request = {
        .op = leave ? NEAT_REQUEST_LEAVE : NEAT_REQUEST_JOIN, .binding = binding, .address_be = group};
    struct answer answer;
    int error = ask(&request, &answer, false);
    if (!error)
        close_passed(&answer);
    return error;
}

/* A socket is about to be passed: its number, and both ends of a pair, which are the library's own. 0 or -errno. */
int manager_pass(const struct sock *s, struct parcel *parcel, int *fill, int *end)
{
    bool connected = !s->udp && s->program;
    struct neat_request request = {.op = NEAT_REQUEST_PASS,
                                   .binding = s->binding,
                                   .replica = connected ? s->replica : NEAT_MAX_REPLICAS,
                                   .memory = s->channel,
                                   .socket = s->slot};
    struct answer answer;
    int error = ask(&request, &answer, false);

    if (error)
        return error;
    if (answer.count != 2) {
        close_passed(&answer);
        return -ENETDOWN;
    }
    parcel->number = answer.reply.binding;
    parcel->token = answer.reply.token;
    *fill = answer.fds[0];
    *end = answer.fds[1];
    own_add(fill);
    own_add(end);
    return 0;
}

/* We have received it: the memory that it lives in, of up to NEAT_MAX_REPLICAS replicas. 0 or -errno. */
int manager_receive(const struct parcel *parcel, int *memories, unsigned *count)
{
    struct neat_request request = {
        .op = NEAT_REQUEST_RECEIVE, .channel = neat.own->number, .binding = parcel->number, .token = parcel->token};
    struct answer answer;
    int error = ask(&request, &answer, true);

    if (error)
        return error;
    if (answer.count > NEAT_MAX_REPLICAS) {
        close_passed(&answer);
        return -ENETDOWN;
    }
    *count = answer.count;
    memcpy(memories, answer.fds, answer.count * sizeof *memories);
    return 0;
}

void manager_close(uint32_t binding)
{
    struct neat_request request = {.op = NEAT_REQUEST_CLOSE, .binding = binding};
    struct answer answer;
    if (!ask(&request, &answer, false))
        close_passed(&answer);
}

/* The same, without waiting: a worker that ends goes on with its connections, and does not keep the peers waiting. */
void manager_close_shared(uint32_t binding)
{
    struct neat_request request = {.op = NEAT_REQUEST_CLOSE, .binding = binding};

    lock(&neat.manager_lock);
    bool sent = false;
    if (neat.manager >= 0 && neat.owed < MOST_OWED) {
        name_us(&request);
        sent = put_request(&request) == 0;
        if (sent)
            owed[neat.owed++] = binding;
    }
    unlock(&neat.manager_lock);
    if (!sent)
        manager_close(binding);
}

/* Wait until the manager has done all that it was asked. */
void manager_settle(void)
{
    if (likely(!load_relaxed(&neat.owed)))
        return;
    lock(&neat.manager_lock);
    if (take_owed() < 0)
        own_close(&neat.manager); /* the next request repeats them */
    unlock(&neat.manager_lock);
}
