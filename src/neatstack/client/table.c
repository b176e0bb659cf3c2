/* Descriptor table, memory of descriptions, and the descriptors that the library keeps for itself.
 *
 * Each of our sockets has a descriptor of the kernel's as placeholder, a duplicate of one unconnected socket: numbers, limits,
 * dup() and close-on-exec are the kernel's business. Memory of descriptions comes from pools that are never unmapped, so
 * that a thread which still looks at a closed one sees a changed serial number, never a fault. All under neat.lock.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define POOL_BYTES (256u << 10)
#define MOST_OWN 32768 /* descriptors of the library's own */

void *pages_new(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void pages_free(void *memory, size_t bytes)
{
    munmap(memory, bytes);
}

/* ---- pools ---- */

struct chunk { /* one mapping of POOL_BYTES */
    struct chunk *next;
    uint32_t used;
    uint8_t pad[52];
    uint8_t objects[];
};

struct pool {
    size_t size;
    struct file *free;
    struct chunk *chunks;
};

static struct pool sockets = {.size = (sizeof(struct sock) + 63) & ~(size_t)63};
static struct pool datagrams = {.size = (sizeof(struct datagrams) + 63) & ~(size_t)63};
static struct pool epolls = {.size = (sizeof(struct epoll) + 63) & ~(size_t)63};
static struct pool items = {.size = (sizeof(struct item) + 63) & ~(size_t)63};

/* A zeroed object, or NULL. It keeps the serial number of what lay there before. */
static void *pool_take(struct pool *pool)
{
    struct file *file = pool->free;
    if (file) {
        uint32_t serial = file->serial;
        pool->free = file->next_free;
        memset((void *)file, 0, pool->size);
        file->serial = serial;
        return file;
    }
    struct chunk *chunk = pool->chunks;
    if (!chunk || sizeof *chunk + (chunk->used + 1) * pool->size > POOL_BYTES) {
        chunk = pages_new(POOL_BYTES);
        if (!chunk)
            return NULL;
        chunk->next = pool->chunks;
        pool->chunks = chunk;
    }
    return chunk->objects + pool->size * chunk->used++;
}

static void pool_give(struct pool *pool, struct file *file)
{
    file->kind = 0;
    file->references = 0;
    file->serial++;
    file->next_free = pool->free;
    pool->free = file;
}

struct sock *sock_new(void)
{
    struct sock *s = pool_take(&sockets);
    if (s) {
        s->file.kind = KIND_SOCKET;
        s->arrived_end = &s->arrived;
    }
    return s;
}

void sock_free(struct sock *s)
{
    pool_give(&sockets, &s->file);
}

struct datagrams *datagrams_new(void)
{
    struct datagrams *u = pool_take(&datagrams);
    if (u) {
        u->mtu_discover = IP_PMTUDISC_WANT;
        u->multicast_hops = 1;
    }
    return u;
}

void datagrams_free(struct datagrams *u)
{
    pool_give(&datagrams, &u->file);
}

struct epoll *epoll_new(void)
{
    struct epoll *e = pool_take(&epolls);
    if (e) {
        e->file.kind = KIND_EPOLL;
        e->place.epoll = e->place.wake = -1;
    }
    return e;
}

void epoll_free(struct epoll *e)
{
    pool_give(&epolls, &e->file);
}

struct item *item_new(void)
{
    return pool_take(&items);
}

void item_free(struct item *item)
{
    pool_give(&items, &item->file);
}

/* Every description in use, of one kind. */
static void pool_each(struct pool *pool, void (*call)(struct file *file))
{
    for (struct chunk *chunk = pool->chunks; chunk; chunk = chunk->next)
        for (uint32_t i = 0; i < chunk->used; i++) {
            struct file *file = (struct file *)(chunk->objects + pool->size * i);
            if (file->kind)
                call(file);
        }
}

void each_sock(void (*call)(struct file *file))
{
    pool_each(&sockets, call);
}

void each_epoll(void (*call)(struct file *file))
{
    pool_each(&epolls, call);
}

/* ---- table ---- */

bool table_ready(void)
{
    if (!neat.table) {
        struct file **table = pages_new(MAX_DESCRIPTORS * sizeof *table);
        if (table)
            store_release(&neat.table, table);
    }
    return neat.table != NULL;
}

/* Let descriptor `fd` stand for `file`. 0 or -EMFILE. */
int table_put(int fd, struct file *file)
{
    if (!table_ready() || (uint32_t)fd >= MAX_DESCRIPTORS)
        return -EMFILE;
    __atomic_add_fetch(&file->references, 1, __ATOMIC_RELAXED);
    if (fd >= neat.table_end)
        neat.table_end = fd + 1;
    store_release(&neat.table[fd], file);
    return 0;
}

/* Forget what `fd` stands for; the caller gives up that reference. */
struct file *table_take(int fd)
{
    struct file *file = file_of(fd);
    if (file)
        store_release(&neat.table[fd], NULL);
    return file;
}

/* The lowest free descriptor from `least` on, as placeholder. -errno. */
int placeholder_dup(int least, bool close_on_exec)
{
    if (unlikely(neat.placeholder < 0)) {
        neat.placeholder = (int)syscall(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (neat.placeholder < 0)
            return -errno;
        own_add(&neat.placeholder);
    }
    int fd = (int)syscall(SYS_fcntl, neat.placeholder, close_on_exec ? F_DUPFD_CLOEXEC : F_DUPFD, least);
    if (fd < 0)
        return -errno;
    if ((uint32_t)fd >= MAX_DESCRIPTORS) {
        syscall(SYS_close, fd);
        return -EMFILE;
    }
    return fd;
}

/* ---- the library's own descriptors ---- */

static int **own;
static uint32_t own_count;
static int own_lowest = INT_MAX;

/* Out of the way of programs that count on low numbers, but not so high that the kernel's table becomes large. */
static int own_base(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > 4096)
        return 4096 - 256;
    return (int)(limit.rlim_cur - limit.rlim_cur / 8);
}

static void own_note(int *fd)
{
    if (!own)
        own = pages_new(MOST_OWN * sizeof *own);
    if (own && own_count < MOST_OWN)
        own[own_count++] = fd;
    if (*fd < own_lowest)
        store_relaxed(&own_lowest, *fd);
}

static void own_remove(int *fd)
{
    for (uint32_t i = 0; i < own_count; i++)
        if (own[i] == fd) {
            own[i] = own[--own_count];
            return;
        }
}

/* From now on *fd is the library's: moved to a high number, close-on-exec, not for the program to close. */
void own_add(int *fd)
{
    int high = (int)syscall(SYS_fcntl, *fd, F_DUPFD_CLOEXEC, own_base());

    lock(&neat.own_lock);
    if (high >= 0) {
        syscall(SYS_close, *fd);
        *fd = high;
    }
    own_note(fd);
    unlock(&neat.own_lock);
}

/* The library's descriptor *from is kept in *to from now on. */
void own_hand_over(int *from, int *to)
{
    lock(&neat.own_lock);
    own_remove(from);
    *to = *from;
    *from = -1;
    own_note(to);
    unlock(&neat.own_lock);
}

void own_close(int *fd)
{
    lock(&neat.own_lock);
    own_remove(fd);
    if (*fd >= 0)
        syscall(SYS_close, *fd);
    *fd = -1;
    unlock(&neat.own_lock);
}

bool own_has(int fd)
{
    if (likely(fd < load_relaxed(&own_lowest)))
        return false;
    bool found = false;
    lock(&neat.own_lock);
    for (uint32_t i = 0; i < own_count && !found; i++)
        found = *own[i] == fd;
    unlock(&neat.own_lock);
    return found;
}

/* The lowest of the library's own descriptors from `from` on; UINT_MAX when there is none. */
unsigned own_next(unsigned from)
{
    unsigned next = UINT_MAX;
    lock(&neat.own_lock);
    for (uint32_t i = 0; i < own_count; i++)
        if ((unsigned)*own[i] >= from && (unsigned)*own[i] < next)
            next = (unsigned)*own[i];
    unlock(&neat.own_lock);
    return next;
}

/* The program wants number `fd` for itself (dup2): go elsewhere. */
void own_move(int fd)
{
    lock(&neat.own_lock);
    for (uint32_t i = 0; i < own_count; i++)
        if (*own[i] == fd) {
            int other = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, own_base());
            if (other >= 0)
                *own[i] = other;
        }
    unlock(&neat.own_lock);
}
