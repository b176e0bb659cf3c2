/* A socket's life: making, binding, listening, names, shutdown, end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#define LINGER_LOOK_NS 1000000
#define NAME_LOOK_NS 50000
#define NAME_LOOKS 100 /* 5 ms: how long a replica has to choose a port */

/* ---- locks ---- */

/* Threads take turns by the lock in the description, forked relatives by the one in the socket's shared lines. */
static struct neat_socket_program *shared_lines(const struct sock *s)
{
    return s->udp && s->udp->leg[0] ? s->udp->leg[0]->program : s->program;
}

void sock_lock(struct sock *s)
{
    lock(&s->lock);
    if (unlikely(s->shared) && shared_lines(s))
        lock(&shared_lines(s)->lock);
}

void sock_unlock(struct sock *s)
{
    if (unlikely(s->shared) && shared_lines(s))
        unlock(&shared_lines(s)->lock);
    unlock(&s->lock);
}

/* Lock the socket again after waiting. -EBADF when it is another one by now. */
int sock_relock(struct sock *s, uint32_t serial)
{
    sock_lock(s);
    if (likely(s->file.serial == serial))
        return 0;
    sock_unlock(s);
    return -EBADF;
}

/* ---- making ---- */

int enter_stack(void)
{
    int error = 0;
    if (likely(load_acquire(&neat.open)))
        return 0;
    lock(&neat.lock);
    if (!neat.open)
        error = neat.directory && !neat.ended ? manager_hello() : -ENETDOWN;
    unlock(&neat.lock);
    if (!error)
        my_place(); /* who has no descriptors left still can wait */
    return error;
}

/* socket(): SOCK_STREAM or SOCK_DGRAM of AF_INET or AF_INET6. A descriptor or -errno. */
int sock_create(int family, int type, int protocol)
{
    bool stream = (type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) == SOCK_STREAM;
    if (protocol != 0 && protocol != (stream ? IPPROTO_TCP : IPPROTO_UDP))
        return -EPROTONOSUPPORT;
    int error = enter_stack();
    if (error)
        return error;
    lock(&neat.lock);
    struct sock *s = sock_new();
    if (s && !stream && !(s->udp = datagrams_new())) {
        sock_free(s);
        s = NULL;
    }
    int fd = s ? placeholder_dup(0, type & SOCK_CLOEXEC) : -ENOBUFS;
    if (fd >= 0) {
        s->nonblocking = type & SOCK_NONBLOCK;
        s->family = (uint8_t)family;
        s->local.address = any_of(family);
        s->options.mtu_discover6 = IP_PMTUDISC_WANT;
        if (stream)
            option_unsent(&s->options, 0);
        error = table_put(fd, &s->file);
        if (error) {
            syscall(SYS_close, fd);
            fd = error;
        }
    }
    if (fd < 0 && s) {
        if (s->udp)
            datagrams_free(s->udp);
        sock_free(s);
    }
    unlock(&neat.lock);
    return fd;
}

/* ---- binding ---- */

int sock_bind(struct sock *s, const struct sockaddr *address, socklen_t length)
{
    struct end local;
    int error = get_own_address(s, address, length, &local);

    if (error)
        return error;
    sock_lock(s);
    if (s->phase != PHASE_FRESH || s->binding)
        error = -EINVAL;
    else if (s->udp)
        error = datagram_bind(s, local);
    else
        error = manager_bind(s, local);
    sock_unlock(s);
    return error;
}

int sock_listen(struct sock *s, int backlog)
{
    uint32_t most = neat.page ? neat.page->tcp_backlog_max : SOMAXCONN;
    int error = 0;

    if (s->udp)
        return -EOPNOTSUPP;
    sock_lock(s);
    if (s->phase != PHASE_FRESH && s->phase != PHASE_LISTENING)
        error = -EINVAL;
    if (!error && !s->binding)
        error = manager_bind(s, (struct end){any_of(s->family), 0});
    if (!error) {
        s->backlog = (uint32_t)backlog > most ? most : (uint32_t)backlog;
        error = manager_listen(s, s->backlog);
    }
    if (!error && s->phase == PHASE_FRESH) {
        s->phase = PHASE_LISTENING;
        lock(&neat.lock);
        listener_joins(s);
        unlock(&neat.lock);
        if (s->items) /* it was put into an epoll set before listen(): as good as after */
            listener_interest(s);
        lock(&neat.lock);
        wake_socket(s);
        unlock(&neat.lock);
    }
    sock_unlock(s);
    return error;
}

/* Whether there is no connection any more; in TIME-WAIT, as Linux has it, the socket has left it. */
static bool is_over(const struct sock *s)
{
    return load_acquire(&s->remote->state) == NEAT_STATE_CLOSED || load_relaxed(&s->remote->tcp_state) == TCP_TIME_WAIT;
}

/* connect() has returned at once: the replica is about to say from which port. */
static void await_port(const struct sock *s)
{
    for (int look = 0; look < NAME_LOOKS && s->phase == PHASE_CONNECTING && s->program && !answered(s); look++)
        syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = NAME_LOOK_NS}, NULL);
}

/* getsockname(), and getpeername() with `peer`. */
int sock_name(struct sock *s, struct sockaddr *address, socklen_t *length, bool peer)
{
    int error = 0;

    sock_lock(s);
    struct end name = s->local;
    if (!peer)
        await_port(s);
    settle_connect(s);
    bool connected = s->program && answered(s) && (s->phase == PHASE_OPEN || (s->phase == PHASE_CONNECTING && !peer));
    if (connected && load_relaxed(&s->remote->local_port_be)) {
        name.address = peer ? s->remote->remote_be : s->remote->local_be;
        name.port_be = peer ? s->remote->remote_port_be : s->remote->local_port_be;
    }
    if (s->udp)
        error = datagram_name(s, peer, &name);
    else if (peer && (!connected || is_over(s)))
        error = -ENOTCONN;
    sock_unlock(s);
    if (!error)
        put_address(s, address, length, &name);
    return error;
}

/* ---- errors and options ---- */

/* The pending error, which is told once: positive, 0 for none. */
int take_error(struct sock *s)
{
    int error = s->error;
    s->error = 0;
    if (error || !s->program || !answered(s))
        return error;
    uint8_t state = load_acquire(&s->remote->state);
    if (state != NEAT_STATE_CLOSED && !(load_acquire(&s->remote->seen) & NEAT_SEEN_RESET))
        return take_soft_error(s);
    if (s->program->scratch[SCRATCH_TAKEN])
        return 0;
    s->program->scratch[SCRATCH_TAKEN] = 1;
    return (int)load_relaxed(&s->remote->error);
}

/* Whether the connection is one of IPv6: who has opened it has said where it goes, who accepts is told whence it comes. */
static bool is_ipv6(const struct sock *s)
{
    struct neat_address remote = s->program->remote_be;

    return s->family == AF_INET6 && !neat_is_v4(neat_is_any(remote) ? s->remote->remote_be : remote);
}

/* Write the options into the socket's lines. */
void apply_options(struct sock *s)
{
    struct neat_socket_program *p = s->program;
    const struct options *o = &s->options;

    p->flags = (uint16_t)((p->flags & FLAGS_OF_CONNECTION) | o->flags | (o->reports & REPORT_TIMES ? NEAT_FLAG_TIMES : 0));
    if (wants_errors(s) != !!(p->shut & NEAT_SHUT_HEARS)) {
        __atomic_fetch_xor(&p->shut, NEAT_SHUT_HEARS, __ATOMIC_RELEASE);
        p->soft_told = (uint8_t)(load_relaxed(&s->remote->soft_error) >> 8); /* what was before is too old */
    }
    p->keep_idle_s = (uint16_t)o->keep_idle_s;
    p->keep_interval_s = (uint16_t)o->keep_interval_s;
    p->keep_count = (uint8_t)o->keep_count;
    p->user_timeout_ms = o->user_timeout_ms;
    p->receive_buffer = o->receive_buffer;
    p->pacing_rate = o->pacing_rate > UINT32_MAX ? 0 : o->pacing_rate ? (uint32_t)o->pacing_rate - 1 : 0; /* so fast is no limit */
    if (o->window_clamp && (!o->receive_buffer || o->window_clamp < o->receive_buffer))
        p->receive_buffer = o->window_clamp;
    p->send_buffer = o->send_buffer;
    p->mss = o->mss;
    p->syn_retries = o->syn_retries;
    p->fin_wait_s = o->fin_wait_s;
    p->congestion = o->congestion;
    p->unsent_most = o->unsent_most;
    bool six = is_ipv6(s);
    p->tos = six ? o->traffic_class : o->tos;
    p->ttl = six ? hop_limit(o) : o->ttl;
    p->least_ttl = six ? o->least_hops : o->least_ttl;
}

/* ---- ioctl ---- */

/* ioctl() on a socket of ours. 0, -errno, or IOCTL_KERNEL: the placeholder can answer. */
int sock_ioctl(struct sock *s, unsigned long request, void *argument)
{
    uint32_t distance;

    switch (request) {
    case FIONREAD:
        if (s->phase == PHASE_LISTENING)
            return -EINVAL;
        *(int *)argument = (int)(s->udp ? datagram_waiting(s) : readable_bytes(s));
        return 0;
    case SIOCOUTQ:
        *(int *)argument = (int)(s->udp ? datagram_unsent(s) : unsent_bytes(s));
        return 0;
    case SIOCATMARK:
        *(int *)argument = s->program && urgent_ahead(s, &distance) && distance == 0;
        return 0;
    case SIOCOUTQNSD:
        *(int *)argument = (int)fresh_bytes(s);
        return 0;
    case FIONBIO:
        s->nonblocking = *(int *)argument;
        return 0;
    default:
        return IOCTL_KERNEL;
    }
}

/* ---- end ---- */

int sock_shutdown(struct sock *s, int how)
{
    int error = 0;
    if (how != SHUT_RD && how != SHUT_WR && how != SHUT_RDWR)
        return -EINVAL;
    sock_lock(s);
    settle_connect(s);
    if (s->phase == PHASE_LISTENING) {
        if (how != SHUT_WR)
            listener_stop(s);
    } else if (s->phase == PHASE_OPEN) {
        uint8_t bits = (uint8_t)((how != SHUT_WR ? NEAT_SHUT_READ : 0) | (how != SHUT_RD ? NEAT_SHUT_WRITE : 0));
        if (is_over(s))
            error = -ENOTCONN;
        __atomic_fetch_or(&s->program->shut, bits, __ATOMIC_RELEASE);
        tell(s);
    } else if (s->udp) {
        error = datagram_shutdown(
            s, (uint8_t)((how != SHUT_WR ? NEAT_SHUT_READ : 0) | (how != SHUT_RD ? NEAT_SHUT_WRITE : 0)));
    } else {
        error = -ENOTCONN;
    }
    lock(&neat.lock);
    wake_socket(s);
    unlock(&neat.lock);
    sock_unlock(s);
    return error;
}

/* Give up the slot; the description stays. The lock in the shared lines goes with it. */
void sock_leave_slot(struct sock *s)
{
    if (s->shared)
        unlock(&s->program->lock);
    lock(&neat.lock);
    slot_release(s);
    unlock(&neat.lock);
    s->shared = false;
}

/* SO_LINGER: wait until the peer has all, time is up, or a signal comes; as on Linux also of a nonblocking socket. */
static void linger(struct sock *s)
{
    int64_t deadline = deadline_after(s->options.linger_s * INT64_C(1000000000));

    __atomic_fetch_or(&s->program->shut, NEAT_SHUT_WRITE, __ATOMIC_RELEASE);
    tell(s);
    while (load_acquire(&s->remote->state) == NEAT_STATE_OPEN &&
           !(load_acquire(&s->remote->seen) & NEAT_SEEN_FIN_ACKED) && now_ns() < deadline)
        if (syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = LINGER_LOOK_NS}, NULL) < 0)
            break;
}

static void close_connection(struct sock *s)
{
    settle_connect(s);
    if (!s->program)
        return;
    if (s->options.linger && !s->shared) {
        if (s->options.linger_s == 0)
            __atomic_fetch_or(&s->program->shut, NEAT_SHUT_ABORT, __ATOMIC_RELEASE);
        else if (s->phase == PHASE_OPEN && !waiting_bytes(s)) /* what was not read makes it a reset, for which nobody waits */
            linger(s);
    }
    sock_leave_slot(s);
}

/* The last descriptor is closed. */
void sock_drop(struct sock *s)
{
    sock_lock(s);
    if (s->phase == PHASE_LISTENING)
        listener_stop(s);
    close_connection(s);
    if (s->udp)
        datagram_close(s);
    story_forget(s);
    uint32_t binding = s->binding;
    lock(&neat.lock);
    epoll_remove_all(s);
    s->file.serial++;
    wake_socket(s);
    for (struct sleeper *sleeper = s->sleepers, *next; sleeper; sleeper = next) {
        next = sleeper->next;
        sleeper->next = NULL;
        sleeper->previous = &sleeper->next; /* taking itself out is harmless now */
    }
    s->sleepers = NULL;
    unlock(&s->lock);
    sock_free(s);
    unlock(&neat.lock);
    if (binding)
        manager_close(binding);
}

/* One descriptor of a description is gone. */
void file_drop(struct file *file)
{
    if (__atomic_sub_fetch(&file->references, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    if (file->kind == KIND_SOCKET)
        sock_drop((struct sock *)file);
    else
        epoll_drop((struct epoll *)file);
}

/* close() of a descriptor that stands for `file`. */
int descriptor_close(int fd)
{
    lock(&neat.lock);
    struct file *file = table_take(fd);
    unlock(&neat.lock);
    int result = syscall(SYS_close, fd) < 0 ? -errno : 0;
    if (file)
        file_drop(file);
    return result;
}

/* `fd`, new from the kernel, is a duplicate of a descriptor of `file`. */
int descriptor_duplicated(int fd, struct file *file)
{
    lock(&neat.lock);
    int error = table_put(fd, file);
    unlock(&neat.lock);
    if (error) {
        syscall(SYS_close, fd);
        return error;
    }
    return fd;
}
