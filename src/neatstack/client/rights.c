/* Sockets in messages of Unix sockets (SCM_RIGHTS).
 *
 * What goes in place of a socket is one end of a pair, in which a description of the socket waits. The manager has the other
 * end, and has the replicas hold the socket until ours is closed everywhere: a message that nobody reads is the kernel's
 * to clear away. Whoever receives that end and has this library reads the description without taking it, asks the manager for
 * the memory, and puts a placeholder where the end was; for anybody else it is a socket that is of no use.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define MOST_PASSED 253       /* descriptors of one message: the kernel's SCM_MAX_FD */
#define CLOSING_LOOK_NS 50000 /* another thread is just closing what we have received */

/* The next SCM_RIGHTS of a message, after `c` or (NULL) the first; how many descriptors it has. NULL: there is none, or the
 * kernel refuses the message. */
static struct cmsghdr *next_rights(const struct msghdr *message, struct cmsghdr *c, size_t *count)
{
    struct msghdr copy = *message;

    for (c = c ? CMSG_NXTHDR(&copy, c) : CMSG_FIRSTHDR(&copy); c; c = CMSG_NXTHDR(&copy, c)) {
        size_t left = (size_t)((uint8_t *)message->msg_control + message->msg_controllen - (uint8_t *)c);
        if (c->cmsg_len < sizeof *c || c->cmsg_len > left)
            return NULL;
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            *count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            return c;
        }
    }
    return NULL;
}

static int number_at(struct cmsghdr *c, size_t i)
{
    int fd;
    memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
    return fd;
}

bool passes_sockets(const struct msghdr *message)
{
    size_t count;

    for (struct cmsghdr *c = next_rights(message, NULL, &count); c; c = next_rights(message, c, &count))
        for (size_t i = 0; i < count; i++)
            if (sock_of(number_at(c, i)))
                return true;
    return false;
}

/* ---- sending ---- */

struct passing { /* a message, in pages of its own; its descriptors are the library's */
    struct passing *next, **previous;
    int fill;              /* where the description goes in */
    int ends[MOST_PASSED]; /* that go in place of sockets */
    unsigned used;
    uint8_t control[];
};

static struct passing *passings; /* under neat.lock */

static struct passing *passing_new(size_t control)
{
    struct passing *passing = pages_new(sizeof *passing + control);

    if (!passing)
        return NULL;
    passing->fill = -1;
    memset(passing->ends, 0xff, sizeof passing->ends);
    lock(&neat.lock);
    passing->next = passings;
    passing->previous = &passings;
    if (passing->next)
        passing->next->previous = &passing->next;
    passings = passing;
    unlock(&neat.lock);
    return passing;
}

static void close_ends(struct passing *passing)
{
    own_close(&passing->fill);
    for (unsigned i = 0; i < MOST_PASSED && passing->ends[i] >= 0; i++)
        own_close(&passing->ends[i]);
}

static void passing_free(struct passing *passing, size_t control)
{
    lock(&neat.lock);
    *passing->previous = passing->next;
    if (passing->next)
        passing->next->previous = passing->previous;
    unlock(&neat.lock);
    close_ends(passing);
    pages_free(passing, sizeof *passing + control);
}

/* In a forked child: what other threads were sending is the parent's. */
void rights_forget(void)
{
    for (; passings; passings = passings->next)
        close_ends(passings);
}

/* From here on others may hold the socket, as after a fork; nobody is in the middle of an operation that has not heard of it. */
static void share(struct sock *s)
{
    lock(&s->lock);
    s->shared = true;
    unlock(&s->lock);
    lock(&neat.lock);
    if (s->phase == PHASE_LISTENING)
        listener_settle(s);
    unlock(&neat.lock);
}

/* Make one more end, which stands for the socket. 0 or -errno. */
static int put_parcel(struct sock *s, struct passing *passing)
{
    struct parcel parcel = {.magic = NEAT_MAGIC, .version = NEAT_LAYOUT_VERSION, .sock_size = sizeof *s};

    if (passing->used == MOST_PASSED)
        return -EINVAL;
    share(s);
    sock_lock(s);
    settle_connect(s);
    describe(s, &parcel.about);
    int error = manager_pass(s, &parcel, &passing->fill, &passing->ends[passing->used]);
    sock_unlock(s);
    if (error)
        return error;
    ssize_t size = (ssize_t)(offsetof(struct parcel, about) + description_size(s));
    bool sent = syscall(SYS_sendto, passing->fill, &parcel, size, MSG_NOSIGNAL | MSG_DONTWAIT, NULL, 0) == size;
    own_close(&passing->fill);
    return sent ? 0 : -ENOBUFS;
}

/* Put an end of a pair in place of each socket. 0 or -errno. */
static int put_parcels(const struct msghdr *message, struct passing *passing)
{
    size_t count;

    for (struct cmsghdr *c = next_rights(message, NULL, &count); c; c = next_rights(message, c, &count))
        for (size_t i = 0; i < count; i++) {
            struct sock *s = sock_of(number_at(c, i));
            if (!s)
                continue;
            int error = put_parcel(s, passing);
            if (error)
                return error;
            memcpy(CMSG_DATA(c) + i * sizeof(int), &passing->ends[passing->used++], sizeof(int));
        }
    return 0;
}

/* sendmsg() of a message with sockets of ours to a socket of the kernel's. -errno */
ssize_t rights_send(int fd, const struct msghdr *message, int flags)
{
    struct msghdr copy = *message;
    struct passing *passing = passing_new(message->msg_controllen);

    if (!passing)
        return -ENOBUFS;
    copy.msg_control = memcpy(passing->control, message->msg_control, message->msg_controllen);
    ssize_t n = put_parcels(&copy, passing);
    if (n == 0) {
        n = real()->sendmsg(fd, &copy, flags);
        n = n < 0 ? -errno : n;
    }
    passing_free(passing, message->msg_controllen);
    return n;
}

int rights_send_messages(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    unsigned done = 0;

    while (done < count) {
        ssize_t n = rights_send(fd, &messages[done].msg_hdr, flags);
        if (n < 0)
            return done ? (int)done : (int)n;
        messages[done++].msg_len = (unsigned)n;
    }
    return (int)done;
}

/* ---- receiving ---- */

/* Another program has written it: what would lead us astray is refused. */
static bool is_plausible(const struct description *about)
{
    const struct sock *s = &about->sock;

    if (s->phase > PHASE_OPEN || (s->family != AF_INET && s->family != AF_INET6) || s->options.congestion > NEAT_RENO)
        return false;
    if (!s->udp)
        return true;
    bool fine = about->udp.group_count <= MOST_GROUPS && about->udp.failure_count <= MOST_ERRORS;
    for (uint32_t i = 0; fine && i < about->udp.group_count; i++)
        fine = about->udp.groups[i].count <= MOST_SOURCES;
    return fine;
}

/* Whether a descriptor stands for a socket; then what waits in it. */
static bool is_parcel(int fd, struct parcel *parcel)
{
    const size_t least = offsetof(struct parcel, about) + offsetof(struct description, udp);
    int domain = 0, type = 0, waiting = 0;
    socklen_t length = sizeof domain;

    if (syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0 || domain != AF_UNIX ||
        syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 || type != SOCK_SEQPACKET ||
        syscall(SYS_ioctl, fd, FIONREAD, &waiting) < 0)
        return false;
    if ((size_t)waiting != sizeof *parcel && (size_t)waiting != least)
        return false;
    ssize_t n = syscall(SYS_recvfrom, fd, parcel, sizeof *parcel, MSG_PEEK | MSG_DONTWAIT, NULL, NULL);
    return n == waiting && parcel->magic == NEAT_MAGIC && parcel->version == NEAT_LAYOUT_VERSION &&
           parcel->sock_size == sizeof(struct sock) && ((size_t)n == sizeof *parcel) == !!parcel->about.sock.udp &&
           is_plausible(&parcel->about);
}

static bool is_connection(const struct description *about)
{
    return about->sock.program && !about->sock.udp;
}

static struct sock *in_slot(const struct description *about)
{
    const struct sock *sent = &about->sock;
    struct channels *set = sent->channel < NEAT_MAX_CHANNELS ? neat.known[sent->channel] : NULL;

    if (!set || sent->replica >= neat.replicas || sent->slot >= set->at[sent->replica].header.sockets)
        return NULL;
    struct sock *s = set->at[sent->replica].slots[sent->slot].sock;
    return s && s->generation == sent->generation && (s->phase == PHASE_OPEN || s->phase == PHASE_CONNECTING) ? s : NULL;
}

static uint32_t sought;
static struct sock *found;

static void compare_binding(struct file *file)
{
    struct sock *s = (struct sock *)file;
    if (s->binding == sought && !s->program && (s->phase == PHASE_FRESH || s->phase == PHASE_LISTENING))
        found = s;
}

/* A socket that this process has already: it has sent it, or a relative has. NULL: none. Under neat.lock. */
static struct sock *known_sock(const struct description *about)
{
    if (is_connection(about))
        return in_slot(about);
    sought = about->sock.binding;
    found = NULL;
    if (sought)
        each_sock(compare_binding);
    return found;
}

static bool same_memory(int one, int other)
{
    struct stat a, b;
    return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_ino == b.st_ino;
}

/* Map a channel's memory with one replica, unless it is mapped. The descriptor is the library's from now on. */
static bool map_memory(unsigned channel, unsigned replica, int fd)
{
    struct channels *set = neat.known[channel] ? neat.known[channel] : channels_new(channel);

    if (!set) {
        syscall(SYS_close, fd);
        return false;
    }
    neat.known[channel] = set;
    struct channel *ch = &set->at[replica];
    if (ch->memory_fd >= 0 && same_memory(ch->memory_fd, fd)) {
        syscall(SYS_close, fd);
        return true;
    }
    own_close(&ch->memory_fd); /* of another program that has had the number before */
    ch->memory_fd = fd;
    own_add(&ch->memory_fd);
    if (channel_map(ch) == 0 && ch->header.channel == channel && ch->header.replica == replica)
        return true;
    own_close(&ch->memory_fd);
    ch->header.sockets = 0;
    return false;
}

/* Whether the slot is still used as it was when the socket was sent. One of our own is taken back. */
static bool slot_stands(unsigned channel, unsigned replica, uint32_t slot, uint32_t generation)
{
    struct channel *ch = &neat.known[channel]->at[replica];

    if (slot >= ch->header.sockets || ch->sockets[slot].program.generation != generation)
        return false;
    if (channel == neat.own->number)
        slot_retake(ch, slot);
    return true;
}

/* The memory has come that the socket lives in: whether it is all there. Under neat.lock. */
static bool take_memories(const struct description *about, const int *memories, unsigned count)
{
    const struct sock *sent = &about->sock;
    bool connection = is_connection(about);
    unsigned first = connection ? sent->replica : 0;
    unsigned wanted = connection ? 1 : sent->udp && sent->binding ? neat.replicas : 0;
    bool fine = count == wanted && first < neat.replicas;

    for (unsigned i = 0; i < count; i++) {
        unsigned channel = connection ? sent->channel : about->legs[i].channel;
        uint32_t slot = connection ? sent->slot : about->legs[i].slot;
        uint32_t generation = connection ? sent->generation : about->legs[i].generation;
        if (fine && channel < NEAT_MAX_CHANNELS) {
            fine = map_memory(channel, first + i, memories[i]) && slot_stands(channel, first + i, slot, generation);
        } else {
            syscall(SYS_close, memories[i]);
            fine = false;
        }
    }
    return fine;
}

/* Take up what was passed. NULL: it cannot be, and the descriptor stays what it is. */
static struct sock *take_up(const struct parcel *parcel)
{
    int memories[NEAT_MAX_REPLICAS];
    unsigned count = 0;

    if (manager_receive(parcel, memories, &count))
        return NULL;
    lock(&neat.lock);
    struct sock *s = take_memories(&parcel->about, memories, count) ? sock_described(&parcel->about) : NULL;
    unlock(&neat.lock);
    return s;
}

/* `fd` stands for the socket from now on. */
static void replace(int fd, struct sock *s, bool close_on_exec)
{
    lock(&neat.lock);
    int placeholder = placeholder_dup(0, true);
    if (placeholder >= 0) {
        syscall(SYS_dup3, placeholder, fd, close_on_exec ? O_CLOEXEC : 0);
        syscall(SYS_close, placeholder);
        table_put(fd, &s->file);
    }
    unlock(&neat.lock);
}

static void take_descriptor(int fd, bool close_on_exec)
{
    struct parcel parcel;
    struct sock *s;

    if (!is_parcel(fd, &parcel) || enter_stack())
        return;
    lock(&neat.rights_lock);
    for (;;) {
        lock(&neat.lock);
        s = known_sock(&parcel.about);
        bool closing = s && !load_acquire(&s->file.references);
        if (s && !closing)
            __atomic_add_fetch(&s->file.references, 1, __ATOMIC_RELAXED);
        unlock(&neat.lock);
        if (!closing)
            break;
        syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = CLOSING_LOOK_NS}, NULL);
    }
    if (s) {
        replace(fd, s, close_on_exec);
        file_drop(&s->file);
    } else if ((s = take_up(&parcel))) {
        replace(fd, s, close_on_exec);
    }
    unlock(&neat.rights_lock);
}

/* A message has come with ancillary data: sockets of the stack among its descriptors become ours. */
void rights_received(const struct msghdr *message, int flags)
{
    int saved = errno;
    size_t count;

    if (!neat.directory)
        return;
    for (struct cmsghdr *c = next_rights(message, NULL, &count); c; c = next_rights(message, c, &count))
        for (size_t i = 0; i < count; i++)
            take_descriptor(number_at(c, i), flags & MSG_CMSG_CLOEXEC);
    errno = saved;
}
