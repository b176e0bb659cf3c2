/* sendfile() and splice(): between the rings and descriptors of the kernel's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stream.h"

#include <fcntl.h>
#include <sys/stat.h>

/* Room in the send ring that is in one piece; how much of it, at most `most` bytes. */
static size_t room_in_one(struct sock *s, size_t most, uint8_t **at)
{
    uint32_t room = send_room(s);
    uint32_t start = (s->program->tx_head - s->program->tx_base) & s->tx_mask;
    size_t length = s->tx_mask + 1 - start;

    *at = s->tx + start;
    if (length > room)
        length = room;
    return length > most ? most : length;
}

/* Read from a file straight into the ring. Bytes, 0 at the end of the file, -EAGAIN or an error. */
static ssize_t sendfile_now(struct sock *s, int from, off_t *offset, size_t most)
{
    ssize_t error = may_send(s);
    if (error)
        return error;
    uint8_t *at;
    size_t length = room_in_one(s, most, &at);
    if (length == 0)
        return -EAGAIN;
    ssize_t n = offset ? syscall(SYS_pread64, from, at, length, *offset) : syscall(SYS_read, from, at, length);
    if (n < 0)
        return -errno;
    if (n > 0) {
        if (offset)
            *offset += n;
        put_out(s, (size_t)n, (size_t)n < most ? MSG_MORE : 0);
    }
    return n;
}

/* sendfile() from a descriptor of the kernel's. Bytes or -errno. */
ssize_t sock_sendfile(struct sock *s, int from, off_t *offset, size_t count)
{
    size_t done = 0;
    int64_t deadline = 0;
    ssize_t n = s->deferred ? sock_send_to(s, NULL, 0, 0, NULL, 0) : 0;

    if (s->udp)
        return -EINVAL; /* programs fall back to read and write */
    if (n < 0)
        return n;
    sock_lock(s);
    uint32_t serial = s->file.serial;
    while (done < count) {
        n = sendfile_now(s, from, offset, count - done);
        if (n > 0)
            done += (size_t)n;
        if (n == 0 || (n < 0 && n != -EAGAIN))
            break;
        if (n > 0)
            continue;
        n = await_room(s, serial, 0, &deadline);
        if (n == -EBADF)
            return done ? (ssize_t)done : n;
        if (n)
            break;
    }
    if (done < count && done && s->program && !(s->options.flags & NEAT_FLAG_CORK)) { /* nothing more comes: let the last bytes go */
        s->program->flags &= (uint16_t)~NEAT_FLAG_CORK;
        tell(s);
    }
    sock_unlock(s);
    return done ? (ssize_t)done : n;
}

/* ---- splice(): what moves is copied once, for the rings are used again at once ---- */

#define PIPE_WAITS (-4096) /* no errno: the pipe is empty, or full */

static ssize_t pipe_result(ssize_t n)
{
    if (n >= 0)
        return n;
    return errno == EAGAIN ? PIPE_WAITS : errno == EOPNOTSUPP ? -EINVAL : -errno; /* before Linux 6.5 programs do without */
}

/* Bytes, 0 when nobody writes any more, -EAGAIN when the ring is full, PIPE_WAITS or an error. */
static ssize_t take_from_pipe(struct sock *s, int pipe, size_t most, int flags)
{
    struct iovec room;
    uint8_t *at;
    ssize_t n = may_send(s);

    if (n)
        return n;
    room.iov_len = room_in_one(s, most, &at);
    room.iov_base = at;
    if (room.iov_len == 0)
        return -EAGAIN;
    n = pipe_result(syscall(SYS_preadv2, pipe, &room, 1, -1L, -1L, RWF_NOWAIT));
    if (n > 0)
        put_out(s, (size_t)n, flags & SPLICE_F_MORE ? MSG_MORE : 0);
    return n;
}

/* Bytes, 0 at the end or before the urgent byte, -EAGAIN when nothing waits, PIPE_WAITS or an error. */
static ssize_t give_to_pipe(struct sock *s, int pipe, size_t most)
{
    uint32_t distance;

    settle_connect(s);
    if (s->phase != PHASE_OPEN)
        return receive_unconnected(s);
    uint8_t state = load_acquire(&s->remote->state);
    uint8_t seen = load_acquire(&s->remote->seen);
    uint32_t waiting = waiting_bytes(s), tail = s->program->rx_tail;
    if (!waiting)
        return nothing_to_receive(s, state, seen);
    if (most > waiting)
        most = waiting;
    if (urgent_ahead(s, &distance) && most > distance)
        most = distance;
    if (!most) /* only recv() gets past the urgent byte */
        return s->nonblocking ? -EAGAIN : 0;
    uint32_t start = (tail - load_relaxed(&s->remote->rx_base)) & s->rx_mask;
    size_t first = s->rx_mask + 1 - start;
    if (first > most)
        first = most;
    struct iovec parts[] = {{s->rx + start, first}, {s->rx, most - first}};
    ssize_t n = pipe_result(syscall(SYS_pwritev2, pipe, parts, 2, -1L, -1L, RWF_NOWAIT));
    if (n > 0)
        took(s, tail + (uint32_t)n, waiting);
    return n;
}

/* Until the pipe is ready. The socket is locked, and is so again at the end unless the result is -EBADF. 0 or -errno. */
static int await_pipe(struct sock *s, uint32_t serial, int pipe, short events)
{
    struct pollfd one = {pipe, events, 0};

    sock_unlock(s);
    int error = syscall(SYS_ppoll, &one, 1, NULL, NULL, 0) < 0 ? -errno : 0;
    if (sock_relock(s, serial))
        return -EBADF;
    return error == -EINTR && restarts(0) ? 0 : error;
}

/* The same of the socket's receive ring. */
static int await_text(struct sock *s, uint32_t serial)
{
    int64_t timeout = s->options.receive_timeout_ns;

    if (s->nonblocking)
        return -EAGAIN;
    sock_unlock(s);
    int error = wait_for(s, EPOLLIN, 1, deadline_after(timeout ? timeout : -1));
    if (sock_relock(s, serial))
        return -EBADF;
    return error == -EINTR && restarts(timeout) ? 0 : error;
}

/* What fits into the pipe of what is there: once something has moved it does not wait. Bytes or -errno. */
static ssize_t splice_out(struct sock *s, int pipe, size_t length, bool waits)
{
    ssize_t n;

    sock_lock(s);
    uint32_t serial = s->file.serial;
    while ((n = give_to_pipe(s, pipe, length)) == -EAGAIN || n == PIPE_WAITS) {
        n = n == -EAGAIN ? await_text(s, serial) : waits ? await_pipe(s, serial, pipe, POLLOUT) : -EAGAIN;
        if (n == -EBADF)
            return n;
        if (n)
            break;
    }
    sock_unlock(s);
    return n;
}

/* All that is in the pipe, up to `length`: it waits for room, but for the pipe only until something has moved. Bytes or -errno. */
static ssize_t splice_in(struct sock *s, int pipe, size_t length, int flags, bool waits)
{
    int64_t deadline = 0;
    size_t done = 0;
    ssize_t n = 0;

    sock_lock(s);
    uint32_t serial = s->file.serial;
    while (done < length) {
        n = take_from_pipe(s, pipe, length - done, flags);
        if (n > 0) {
            done += (size_t)n;
            continue;
        }
        if (n != -EAGAIN && (n != PIPE_WAITS || done))
            break;
        n = n == -EAGAIN ? await_room(s, serial, 0, &deadline) : waits ? await_pipe(s, serial, pipe, POLLIN) : -EAGAIN;
        if (n == -EBADF)
            return done ? (ssize_t)done : n;
        if (n)
            break;
    }
    sock_unlock(s);
    return done ? (ssize_t)done : n;
}

/* splice() between a stream and a pipe. Bytes or -errno: as on Linux offsets are refused; but so are datagrams. */
ssize_t sock_splice(struct sock *s, int pipe, bool out, const off64_t *socket_offset, const off64_t *pipe_offset,
                    size_t length, unsigned flags)
{
    struct stat what;
    int mode = (int)syscall(SYS_fcntl, pipe, F_GETFL);

    if (length == 0)
        return 0;
    if (mode < 0 || (mode & O_ACCMODE) == (out ? O_RDONLY : O_WRONLY))
        return -EBADF;
    if (s->udp || fstat(pipe, &what) < 0 || !S_ISFIFO(what.st_mode) || socket_offset ||
        flags & ~(unsigned)(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT))
        return -EINVAL;
    if (pipe_offset)
        return -ESPIPE;
    ssize_t n = s->deferred && !out ? sock_send_to(s, NULL, 0, 0, NULL, 0) : 0;
    if (n < 0)
        return n;
    bool waits = !(mode & O_NONBLOCK) && !(flags & SPLICE_F_NONBLOCK);
    return out ? splice_out(s, pipe, length, waits) : splice_in(s, pipe, length, (int)flags, waits);
}
