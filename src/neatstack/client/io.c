/* Sending and receiving: copies between the program's memory and the rings.
 *
 * Under load there is no system call here. Cursors count bytes modulo 2^32; byte c lies at (c - base) & mask. A
 * socket's lines are read in the order in which an answer depends on them: whether the end was reached first, the
 * cursor after it, so that the end is never reported before the last byte.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stream.h"
#include "vector.h"

#define DEFAULT_SEND_BUFFER 16384 /* Linux's tcp_wmem */

#define PEEK_LOOK_NS 1000000

struct cursor { /* a place in the caller's buffers */
    const struct iovec *iov;
    int left;
    size_t offset;
};

/* The next piece of the caller's buffers, at most `most` bytes. */
static size_t next_piece(struct cursor *at, size_t most, uint8_t **piece)
{
    while (at->left && at->offset == at->iov->iov_len) {
        at->iov++;
        at->left--;
        at->offset = 0;
    }
    if (!at->left)
        return 0;
    size_t length = at->iov->iov_len - at->offset;
    if (length > most)
        length = most;
    *piece = (uint8_t *)at->iov->iov_base + at->offset;
    at->offset += length;
    return length;
}

static void copy_out(uint8_t *to, const uint8_t *ring, uint32_t mask, uint32_t offset, size_t length)
{
    size_t first = mask + 1 - offset;
    if (first > length)
        first = length;
    memcpy(to, ring + offset, first);
    memcpy(to + first, ring, length - first);
}

static void copy_in(uint8_t *ring, uint32_t mask, uint32_t offset, const uint8_t *from, size_t length)
{
    size_t first = mask + 1 - offset;
    if (first > length)
        first = length;
    memcpy(ring + offset, from, first);
    memcpy(ring, from + first, length - first);
}

/* ---- receiving ---- */

uint32_t waiting_bytes(const struct sock *s)
{
    return s->program && answered(s) ? load_acquire(&s->remote->rx_head) - load_relaxed(&s->program->rx_tail) : 0;
}

/* Why there is nothing to receive: 0 at the end, -EAGAIN, or an error, which is told once. */
ssize_t nothing_to_receive(struct sock *s, uint8_t state, uint8_t seen)
{
    if (seen & NEAT_SEEN_EOF)
        return 0;
    if (state == NEAT_STATE_CLOSED || (seen & NEAT_SEEN_RESET))
        return -take_error(s);
    uint8_t shut = load_relaxed(&s->program->shut);
    if (likely(!(shut & (NEAT_SHUT_READ | NEAT_SHUT_HEARS))))
        return -EAGAIN;
    int error = take_soft_error(s);
    return error ? -error : shut & NEAT_SHUT_READ ? 0 : -EAGAIN;
}

/* What recv() says when the socket is not connected. */
ssize_t receive_unconnected(struct sock *s)
{
    if (s->phase == PHASE_CONNECTING || s->deferred)
        return -EAGAIN;
    int error = take_error(s);
    return error ? -error : s->failed ? 0 : -ENOTCONN;
}

/* ---- urgent data (RFC 9293 section 3.8.5, RFC 6093; as Linux, one byte of it at most) ---- */

/* Whether the peer has told of an urgent byte that was not read past yet, and how many bytes lie before it. */
bool urgent_ahead(const struct sock *s, uint32_t *distance)
{
    if (likely(!(load_acquire(&s->remote->seen) & NEAT_SEEN_URGENT)))
        return false;
    *distance = load_relaxed(&s->remote->rx_urgent) - load_relaxed(&s->program->rx_tail);
    return (int32_t)*distance >= 0;
}

/* Whether recv(MSG_OOB) has taken it. */
bool urgent_taken(const struct sock *s, uint32_t distance)
{
    const struct neat_socket_program *p = s->program;
    return p->scratch[SCRATCH_URGENT] && p->scratch[SCRATCH_URGENT_AT] == load_relaxed(&p->rx_tail) + distance;
}

/* recv(MSG_OOB): 1, 0 at the end, -EAGAIN when the byte is announced but has not come, -EINVAL when there is none. */
static ssize_t receive_urgent(struct sock *s, struct cursor *at, int flags)
{
    uint32_t distance;
    uint8_t *piece;

    settle_connect(s);
    if (s->phase != PHASE_OPEN)
        return s->phase == PHASE_LISTENING ? -EINVAL : receive_unconnected(s);
    if (s->options.oob_inline || !urgent_ahead(s, &distance) || urgent_taken(s, distance))
        return -EINVAL;
    uint32_t place = s->program->rx_tail + distance;
    if ((int32_t)(load_acquire(&s->remote->rx_head) - place) <= 0)
        return load_acquire(&s->remote->seen) & NEAT_SEEN_EOF ? 0 : -EAGAIN;
    if (!next_piece(at, 1, &piece))
        return 0;
    if (nowhere(piece))
        return -EFAULT;
    *piece = s->rx[(place - load_relaxed(&s->remote->rx_base)) & s->rx_mask];
    if (!(flags & MSG_PEEK)) {
        s->program->scratch[SCRATCH_URGENT] = 1;
        s->program->scratch[SCRATCH_URGENT_AT] = place;
    }
    return 1;
}

/* What FIONREAD says: up to the urgent byte, which has to be asked for apart. */
uint32_t readable_bytes(const struct sock *s)
{
    uint32_t waiting = waiting_bytes(s), distance;
    if (waiting && !s->options.oob_inline && urgent_ahead(s, &distance) && distance < waiting)
        return distance;
    return waiting;
}

/* How many bytes the peer may send before any are read. */
uint32_t offered_bytes(const struct sock *s)
{
    uint32_t size = s->rx_mask + 1;
    uint32_t limit = s->program->receive_buffer, offered = load_relaxed(&s->remote->rx_limit);

    if (offered && offered < size)
        size = offered;
    return limit && limit < size ? limit : size;
}

/* The replica offers window as room appears by itself when it next acknowledges something; it must be told only if so much
 * was waiting that the peer may have stopped. */
void took(struct sock *s, uint32_t tail, uint32_t was_waiting)
{
    store_release(&s->program->rx_tail, tail);
    if (was_waiting > offered_bytes(s) / 4)
        tell(s);
}

/* A read ends before the urgent byte, and the next begins behind it, or with it if SO_OOBINLINE says so. How many bytes
 * fewer are waiting: 1 when the byte was passed over. */
static uint32_t stop_at_urgent(struct sock *s, int flags, uint32_t peeked, bool started, uint32_t *tail, size_t *most)
{
    uint32_t distance;
    if (!urgent_ahead(s, &distance) || distance < peeked)
        return 0;
    distance -= peeked;
    if (distance) {
        if (*most > distance)
            *most = distance;
        return 0;
    }
    if (started) {
        *most = 0;
        return 0;
    }
    if (s->options.oob_inline)
        return 0;
    *tail += 1;
    if (!(flags & MSG_PEEK))
        store_release(&s->program->rx_tail, *tail);
    return 1;
}

/* Receive what is there. Bytes, 0 at the end, -EAGAIN or an error. `started`: something was received by this call. */
static ssize_t receive_now(struct sock *s, struct cursor *at, size_t most, int flags, uint32_t peeked, bool started)
{
    if (unlikely(s->phase != PHASE_OPEN)) {
        settle_connect(s);
        if (s->phase != PHASE_OPEN)
            return receive_unconnected(s);
    }
    uint8_t state = load_acquire(&s->remote->state);
    uint8_t seen = load_acquire(&s->remote->seen);
    uint32_t head = load_acquire(&s->remote->rx_head);
    uint32_t tail = s->program->rx_tail + peeked;
    uint32_t waiting = head - tail;
    uint8_t *piece;
    size_t length, copied = 0;

    if (unlikely(seen & NEAT_SEEN_URGENT) && (int32_t)waiting > 0)
        waiting -= stop_at_urgent(s, flags, peeked, started, &tail, &most);
    if ((int32_t)waiting <= 0) /* SO_PEEK_OFF may lie beyond what is there */
        return nothing_to_receive(s, state, seen);
    if (most > waiting)
        most = waiting;
    if (most == 0 && started) /* at the mark */
        return -EAGAIN;
    uint32_t base = load_relaxed(&s->remote->rx_base);
    if (flags & MSG_TRUNC) { /* throw away: RFC-less, as tcp(7) says */
        copied = most;
    } else {
        while (copied < most && (length = next_piece(at, most - copied, &piece)) != 0) {
            if (nowhere(piece))
                return -EFAULT;
            copy_out(piece, s->rx, s->rx_mask, (tail + (uint32_t)copied - base) & s->rx_mask, length);
            copied += length;
        }
    }
    if (!(flags & MSG_PEEK))
        took(s, tail + (uint32_t)copied, waiting);
    return (ssize_t)copied;
}

/* MSG_PEEK with MSG_WAITALL or SO_PEEK_OFF: readiness cannot tell that there is more than was seen already, so look from time to
 * time. */
int wait_for_more(int64_t deadline)
{
    if (deadline != FOREVER && now_ns() >= deadline)
        return -EAGAIN;
    return syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = PEEK_LOOK_NS}, NULL) < 0 ? -errno : 0;
}

/* A read that has begun does not go on beyond the urgent byte, whatever MSG_WAITALL says. */
static bool at_mark(const struct sock *s)
{
    uint32_t distance;
    return s->program && urgent_ahead(s, &distance) && distance == 0;
}

/* What is not part of the stream: news of what was sent, the urgent byte. */
static ssize_t receive_apart(struct sock *s, struct cursor *at, int flags)
{
    if (flags & MSG_ERRQUEUE)
        return queue_receive(s, &(struct msghdr){.msg_iov = (struct iovec *)at->iov, .msg_iovlen = (size_t)at->left});
    sock_lock(s);
    ssize_t n = receive_urgent(s, at, flags);
    sock_unlock(s);
    return n;
}

/* All of the recv() family. Bytes or -errno. */
ssize_t sock_receive(struct sock *s, const struct iovec *iov, int count, int flags)
{
    if (s->udp)
        return datagram_receive(s, &(struct msghdr){.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count}, flags);
    struct cursor at = {iov, count, 0};
    size_t wanted = iovec_length(iov, (size_t)count), done = 0, target = wanted;
    int64_t deadline = 0;
    ssize_t n;

    if (unlikely(flags & (MSG_ERRQUEUE | MSG_OOB)))
        return receive_apart(s, &at, flags);
    sock_lock(s);
    uint32_t serial = s->file.serial, low_water = s->options.low_water;
    uint32_t passed = unlikely(s->options.peek_off < 0) && (flags & MSG_PEEK) ? (uint32_t)~s->options.peek_off : 0;
    if (!(flags & MSG_WAITALL) && low_water < wanted)
        target = low_water;
    for (;;) {
        n = receive_now(s, &at, wanted - done, flags, flags & MSG_PEEK ? passed + (uint32_t)done : 0, done != 0);
        if (n > 0)
            done += (size_t)n;
        if (n == 0 || (n < 0 && n != -EAGAIN) || (n > 0 && done == wanted))
            break;
        if (done && (done >= target || at_mark(s)))
            break;
        if (n > 0)
            continue;
        if (s->nonblocking || (flags & MSG_DONTWAIT))
            break;
        int64_t timeout = s->options.receive_timeout_ns;
        if (!deadline)
            deadline = deadline_after(timeout ? timeout : -1);
        uint32_t least = target - done < low_water ? (uint32_t)(target - done) : low_water;
        sock_unlock(s);
        int error = (passed || done) && (flags & MSG_PEEK) ? wait_for_more(deadline) : wait_for(s, EPOLLIN, least, deadline);
        if (sock_relock(s, serial))
            return done ? (ssize_t)done : -EBADF;
        if (error && !(error == -EINTR && restarts(timeout))) {
            n = error;
            break;
        }
    }
    if (unlikely(s->options.peek_off))
        peek_moves(&s->options, flags & MSG_PEEK, done);
    sock_unlock(s);
    return done ? (ssize_t)done : n;
}

/* ---- sending ---- */

/* Bytes that the program may have in the send ring: all of it, or as SO_SNDBUF says. */
uint32_t send_limit(const struct sock *s)
{
    uint32_t size = s->tx_mask + 1, limit = s->options.send_buffer;
    return unlikely(limit && limit < size) ? limit : size;
}

/* The same of a connection: without SO_SNDBUF it is what its congestion window is worth, as the replica says. */
uint32_t stream_limit(const struct sock *s)
{
    uint32_t limit = send_limit(s), most = s->options.send_buffer ? 0 : load_relaxed(&s->remote->send_most);
    return most && most < limit ? most : limit;
}

/* SO_SNDBUF: as it was set, or what it has grown to. */
int send_buffer_told(const struct sock *s)
{
    if (s->options.send_buffer)
        return (int)s->options.send_buffer;
    if (s->phase == PHASE_OPEN && s->program && answered(s) && load_relaxed(&s->remote->send_most))
        return (int)stream_limit(s);
    return DEFAULT_SEND_BUFFER;
}

uint32_t unsent_bytes(const struct sock *s)
{
    return s->program && answered(s) ? load_relaxed(&s->program->tx_head) - load_acquire(&s->remote->tx_tail) : 0;
}

/* Those of them that were never sent. */
uint32_t fresh_bytes(const struct sock *s)
{
    return s->program && answered(s) ? load_relaxed(&s->program->tx_head) - load_acquire(&s->remote->tx_sent) : 0;
}

/* How many of these the windows have room for. */
static uint32_t sendable_bytes(const struct sock *s)
{
    uint32_t window = load_relaxed(&s->remote->peer_window), cwnd = load_relaxed(&s->remote->cwnd);
    uint32_t tail = load_acquire(&s->remote->tx_tail), in_flight = load_acquire(&s->remote->tx_sent) - tail;

    if (cwnd < window)
        window = cwnd;
    return window > in_flight ? window - in_flight : 0;
}

/* Those that a window holds back: what TCP_NOTSENT_LOWAT limits. */
uint32_t held_bytes(const struct sock *s)
{
    uint32_t fresh = fresh_bytes(s), sendable = sendable_bytes(s);
    return fresh > sendable ? fresh - sendable : 0;
}

/* Why nothing can be sent, or 0 when something can. */
ssize_t may_send(struct sock *s)
{
    if (unlikely(s->phase != PHASE_OPEN)) {
        settle_connect(s);
        if (s->phase == PHASE_CONNECTING)
            return -EAGAIN;
        if (s->phase != PHASE_OPEN) {
            int error = take_error(s);
            return error ? -error : -EPIPE;
        }
    }
    if (unlikely(load_acquire(&s->remote->state) == NEAT_STATE_CLOSED || (load_acquire(&s->remote->seen) & NEAT_SEEN_RESET))) {
        int error = take_error(s);
        return error ? -error : -EPIPE;
    }
    uint8_t shut = load_relaxed(&s->program->shut);
    if (likely(!(shut & (NEAT_SHUT_WRITE | NEAT_SHUT_HEARS))))
        return 0;
    int error = take_soft_error(s);
    return error ? -error : shut & NEAT_SHUT_WRITE ? -EPIPE : 0;
}

/* Room in the send ring; an empty ring starts again at its beginning, so that small answers stay in one page. */
uint32_t send_room(struct sock *s)
{
    uint32_t head = s->program->tx_head;
    uint32_t used = head - load_acquire(&s->remote->tx_tail);
    if (used == 0)
        store_relaxed(&s->program->tx_base, head);
    uint32_t limit = stream_limit(s);
    if (used >= limit)
        s->space_edges++;
    uint32_t room = used < limit ? limit - used : 0;
    if (unlikely(s->options.unsent_most)) {
        uint64_t most = (uint64_t)s->options.unsent_most + sendable_bytes(s), fresh = fresh_bytes(s);
        uint64_t left = fresh < most ? most - fresh : 0;
        if (room > left)
            room = (uint32_t)left;
        if (!room)
            s->space_edges++;
    }
    return room;
}

/* MSG_OOB, MSG_EOR: what is to be put into the ring will end there, with an urgent byte or as a message. Flags of the socket. */
static uint16_t mark_end(struct sock *s, uint32_t head, int flags)
{
    struct neat_borders *b = &slot_aside(s)->borders;
    bool first = !(s->program->flags & NEAT_FLAG_BORDERS); /* then the list is of a connection before this one */

    if (flags & MSG_OOB)
        store_relaxed(&s->program->tx_urgent, head);
    uint16_t marked = flags & MSG_OOB ? NEAT_FLAG_URGENT : 0;
    if (!(flags & MSG_EOR))
        return marked;
    if (first)
        store_relaxed(&b->head, 0);
    uint32_t *oldest = &b->at[b->head % NEAT_BORDERS];
    if (b->head < NEAT_BORDERS || (int32_t)(load_acquire(&s->remote->tx_tail) - *oldest) >= 0) {
        store_relaxed(oldest, head);
        store_release(&b->head, b->head + 1);
    }
    return marked | NEAT_FLAG_BORDERS;
}

/* `length` bytes more are in the ring. MSG_MORE holds back a last small segment as TCP_CORK does. */
void put_out(struct sock *s, size_t length, int flags)
{
    uint16_t wanted = (uint16_t)(s->options.flags | (flags & MSG_MORE ? NEAT_FLAG_CORK : 0));
    wanted |= s->program->flags & FLAGS_OF_CONNECTION;
    if (unlikely(flags & (MSG_OOB | MSG_EOR)))
        wanted |= mark_end(s, s->program->tx_head + (uint32_t)length, flags);
    if (unlikely(wanted != s->program->flags)) { /* always with NEAT_FLAG_TIMES */
        wanted |= s->program->flags & NEAT_FLAG_TIMES;
        store_relaxed(&s->program->flags, wanted);
        if (wanted & NEAT_FLAG_TIMES)
            times_put(s, s->program->tx_head + (uint32_t)length, flags);
    }
    store_release(&s->program->tx_head, s->program->tx_head + (uint32_t)length);
    tell(s);
}

/* Send what there is room for. Bytes, -EAGAIN or an error. */
static ssize_t send_now(struct sock *s, struct cursor *at, size_t most, int flags)
{
    ssize_t error = may_send(s);
    if (error)
        return error;
    if (most == 0)
        return 0;
    uint32_t room = send_room(s);
    if (room == 0)
        return -EAGAIN;
    if (most > room) {
        most = room;
        flags &= ~MSG_EOR;
        s->space_edges++;
        flags |= s->nonblocking || (flags & MSG_DONTWAIT) ? 0 : SEND_GOES_ON;
    }
    uint32_t start = s->program->tx_head - s->program->tx_base;
    uint8_t *piece;
    size_t length, copied = 0;
    while (copied < most && (length = next_piece(at, most - copied, &piece)) != 0) {
        if (nowhere(piece))
            return -EFAULT;
        copy_in(s->tx, s->tx_mask, (start + (uint32_t)copied) & s->tx_mask, piece, length);
        copied += length;
    }
    put_out(s, copied, flags);
    return (ssize_t)copied;
}

/* Wait for room. The socket is locked, and is so again at the end unless the result is -EBADF. 0 or -errno. */
int await_room(struct sock *s, uint32_t serial, int flags, int64_t *deadline)
{
    int64_t timeout = s->options.send_timeout_ns;

    if (s->nonblocking || (flags & MSG_DONTWAIT))
        return -EAGAIN;
    if (!*deadline)
        *deadline = deadline_after(timeout ? timeout : -1);
    sock_unlock(s);
    int error = wait_for(s, EPOLLOUT, 0, *deadline);
    if (sock_relock(s, serial))
        return -EBADF;
    return error == -EINTR && restarts(timeout) ? 0 : error;
}

/* All of the send() family. Bytes or -errno; SIGPIPE is the caller's. */
ssize_t sock_send(struct sock *s, const struct iovec *iov, int count, int flags)
{
    if (s->udp)
        return datagram_send(s, &(struct msghdr){.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count}, flags);
    struct cursor at = {iov, count, 0};
    size_t wanted = iovec_length(iov, (size_t)count), done = 0;
    int64_t deadline = 0;
    ssize_t n;

    sock_lock(s);
    uint32_t serial = s->file.serial;
    for (;;) {
        n = send_now(s, &at, wanted - done, flags);
        if (n > 0)
            done += (size_t)n;
        if (done == wanted || (n < 0 && n != -EAGAIN))
            break;
        if (n > 0)
            continue;
        n = await_room(s, serial, flags, &deadline);
        if (n == -EBADF)
            return done ? (ssize_t)done : n;
        if (n)
            break;
    }
    if (unlikely(flags & MSG_ZEROCOPY) && done)
        zerocopy_count(s);
    sock_unlock(s);
    return done ? (ssize_t)done : n;
}

/* What may go with the SYN: into the ring of a slot that was just taken. What does not fit is sent later. */
void put_first(struct sock *s, const struct text *text)
{
    struct cursor at = {text->iov, text->count, 0};
    uint32_t limit = send_limit(s);
    uint8_t *piece;
    size_t length;
    uint32_t copied = 0;

    while (copied < limit && (length = next_piece(&at, limit - copied, &piece)) != 0) {
        memcpy(s->tx + copied, piece, length);
        copied += (uint32_t)length;
    }
    s->program->flags |= NEAT_FLAG_FASTOPEN;
    store_relaxed(&s->program->tx_head, copied);
}

/* sendto() of a stream: the address counts only with MSG_FASTOPEN (RFC 7413), which connects with the text; without it where no
 * cookie is known yet, and sends then what it may. Bytes or -errno. */
ssize_t sock_send_to(struct sock *s, const struct iovec *iov, int count, int flags, const struct sockaddr *address,
                     socklen_t length)
{
    struct sockaddr_in6 deferred;
    struct text text = {iov, count}, none = {NULL, 0};
    struct end remote;
    size_t wanted = iovec_length(iov, (size_t)count), first;

    if (likely((!(flags & MSG_FASTOPEN) && !s->deferred) || s->udp))
        return sock_send(s, iov, count, flags);
    if (vector_nowhere(iov, (size_t)count, wanted))
        return -EFAULT;
    if (__atomic_exchange_n(&s->deferred, false, __ATOMIC_ACQ_REL)) {
        address = (const struct sockaddr *)&deferred;
        length = sizeof deferred;
        put_address(s, (struct sockaddr *)&deferred, &length, &s->deferred_to);
    } else if (!address) {
        return s->phase == PHASE_FRESH ? -EINVAL : -EISCONN;
    } else if (address->sa_family == AF_UNSPEC || !(neat.page->fastopen & NEAT_FASTOPEN_CLIENT)) {
        return -EOPNOTSUPP;
    }
    int error = get_peer_address(s, address, length, &remote);
    if (error)
        return error;
    if (!takes_text_in_syn(remote.address)) {
        error = sock_connect_with(s, address, length, &none, !(flags & MSG_DONTWAIT));
        return error ? error : sock_send(s, iov, count, flags);
    }
    error = sock_connect_with(s, address, length, &text, !(flags & MSG_DONTWAIT));
    if (error && (error != -EINPROGRESS || !wanted))
        return error;
    if (flags & MSG_ZEROCOPY && wanted) {
        sock_lock(s);
        zerocopy_count(s);
        sock_unlock(s);
    }
    first = send_limit(s); /* a send that is cut short is completed by the caller, as ever */
    return (ssize_t)(wanted < first ? wanted : first);
}
