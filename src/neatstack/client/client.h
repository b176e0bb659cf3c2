/* The socket library: what its files share.
 *
 * Functions return 0 or a count, or a negative errno value; only preload*.c turn that into -1 and errno. Nothing here
 * calls malloc or stdio on paths that libc calls async-signal-safe. Kernel calls of the library itself go through syscall(2)
 * or `libc`, never through names that preload.c interposes.
 *
 * Locks, in the order in which they may be taken: sock.lock, the lock in shared memory, neat.lock, channel.lock.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEAT_CLIENT_H
#define NEAT_CLIENT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <spawn.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "neatstack/dataplane/channel/layout.h"
#include "told.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define load_relaxed(p) __atomic_load_n(p, __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define store_relaxed(p, v) __atomic_store_n(p, v, __ATOMIC_RELAXED)

#define FOREVER INT64_MAX          /* a deadline that never comes */
#define NOW_OR_NEVER 0             /* a deadline that has passed */
#define MAX_DESCRIPTORS (1u << 20) /* numbers that the table covers: the kernel's default limit */
#define LOCK_CONTENDED 0x80000000u /* FUTEX_WAITERS, in a lock's word */
#define SCRATCH_TAKEN 0            /* in the shared lines: the connection's error has been told */
#define SCRATCH_ERRORS 0           /* of UDP: so many have */
#define MOST_GROUPS 20             /* Linux's igmp_max_memberships */
#define MOST_SOURCES 10             /* and igmp_max_msf */
#define MOST_ERRORS 4              /* that a UDP socket keeps apart */
#define MOST_QUOTED 512
#define MOST_HELD 65536         /* bytes of a datagram that waits for the rest of it */
#define SCRATCH_URGENT 1           /* whether an urgent byte was taken apart from the rest, and */
#define SCRATCH_URGENT_AT 2        /* which: its cursor */
#define SCRATCH_COPIES 3           /* so many sends were to go without copying, and */
#define SCRATCH_COPIES_TOLD 4      /* of so many the program knows that they were copied */
#define PLACE_KERNEL 1             /* place_wait(): the nested epoll has something */
#define IOCTL_KERNEL 1             /* sock_ioctl(): not for us */
#define OPTION_COMMON 1            /* of UDP: as for streams */
#define NO_SLOT UINT32_MAX
#define FLAGS_OF_CONNECTION (NEAT_FLAG_TAKEN | NEAT_FLAG_URGENT | NEAT_FLAG_BORDERS) /* no options */
#define INTERFACE 1                /* the index of the only interface that a program on a stack sees */
#define POSTS_PER_REPLICA 32       /* free slots that an event loop keeps posted for each listener */

extern char __libc_single_threaded;

/* ---- what a descriptor may stand for ---- */

enum kind { KIND_SOCKET = 1, KIND_EPOLL = 2 };

struct file { /* an open file description: shared by descriptors that dup() made */
    uint32_t references;
    uint8_t kind;
    uint32_t serial; /* changes when the memory is used for another one */
    struct file *next_free;
};

enum phase {
    PHASE_FRESH,      /* not connected; perhaps bound */
    PHASE_LISTENING,
    PHASE_CONNECTING, /* has a slot */
    PHASE_OPEN,       /* has a slot */
    PHASE_POSTED,     /* has a slot, no descriptor: waits for a connection of `listener` */
    PHASE_ARRIVED,    /* has a slot and a connection, no descriptor: waits for accept() */
    PHASE_LEG,        /* has a slot, no descriptor: what the UDP socket `listener` has with one replica */
};

struct end { /* of a flow */
    struct neat_address address;
    uint16_t port_be;
};

struct epoll;
struct item;
struct place;

struct sleeper { /* a thread that waits for a socket; on its stack */
    struct place *place;
    struct sleeper *next, **previous;
};

struct failure { /* an error of which IP_RECVERR tells */
    struct neat_datagram about;
    uint8_t quoted[MOST_QUOTED];
};

struct membership { /* of a socket in a group of hosts */
    struct neat_address group;
    bool include; /* only what its sources send is wanted; else all but that */
    bool chosen;  /* sources were named */
    uint8_t count;
    struct neat_address sources[MOST_SOURCES];
};

struct datagrams { /* what only UDP sockets have */
    struct file file;
    struct sock *leg[NEAT_MAX_REPLICAS]; /* while it is bound */
    bool chosen;  /* the port was not the program's choice */
    uint8_t shut; /* enum neat_shut */
    uint8_t turn; /* the leg to receive from next */
    /* what setsockopt() has been told */
    bool want_info, want_tos, want_ttl, want_destination, coalesce;
    bool multicast_ttl_set, no_loop, joined_only, joined_only6;
    bool picky; /* not all that comes to its port is wanted: see datagram_wants() */
    uint8_t multicast_ttl, multicast_hops, mtu_discover;
    uint16_t segment;
    uint32_t multicast_if_be;
    int multicast_if6;
    struct membership groups[MOST_GROUPS]; /* or will be when it is bound */
    uint32_t group_count;
    struct failure failures[MOST_ERRORS]; /* the oldest first */
    uint32_t failure_count;
    bool cork;                  /* UDP_CORK */
    bool held;                  /* a datagram waits for the rest of it; each process that fork() makes has its own */
    struct neat_datagram first; /* what its first piece has said of it */
    uint8_t *text;              /* MOST_HELD bytes; NULL: none was ever held */
};

struct sending { /* how a datagram is to be sent */
    struct neat_address source; /* any: choose */
    uint16_t segment;
    uint8_t tos, ttl;
    bool whole; /* not in fragments */
    uint32_t times; /* as sock.times_once */
};

struct writer { /* of ancillary data */
    struct msghdr *message;
    size_t used;
};

struct sock {
    struct file file;
    uint32_t lock;
    uint8_t phase;
    bool nonblocking;
    bool shared;          /* a forked relative may hold it too */
    int owner;            /* F_SETOWN: kept, and no more */
    uint32_t space_edges; /* how often a send found too little room */
    uint32_t error_edges; /* how often the error queue has got something */
    int error;            /* SO_ERROR while there is no slot */
    struct options options;
    struct datagrams *udp; /* NULL: a stream */
    /* its slot, while `program` is set */
    uint16_t channel;
    uint8_t replica;
    uint32_t slot, generation;
    struct neat_socket_program *program;
    const struct neat_socket_replica *remote;
    uint8_t *rx, *tx;
    uint32_t rx_mask, tx_mask;
    uint32_t told_at; /* position after our last NEAT_OP_LOOK in the command ring */
    /* its name */
    uint32_t binding; /* the manager's number; 0: not bound */
    uint32_t backlog; /* of listen() */
    bool failed;      /* the last connect() did */
    struct failure *story; /* of its failure, with IP_RECVERR; NULL: none, or it was read */
    uint32_t times_once; /* what this send is to report whatever SO_TIMESTAMPING says, by its ancillary data; 0: as that says */
    bool syn_told;    /* TCP_SAVED_SYN was, which is once */
    bool untold;      /* connect() has returned before its outcome was known */
    bool deferred;    /* TCP_FASTOPEN_CONNECT: connect() was called, and its SYN waits for the first text to go with it */
    struct end deferred_to;
    uint8_t family; /* AF_INET or AF_INET6 */
    struct end local;
    /* who waits for it, under neat.lock */
    struct item *items;
    struct sleeper *sleepers;
    /* a listener, under neat.lock */
    bool interested;    /* the program polls it: slots are kept posted */
    uint32_t accepting; /* threads in a blocking accept() */
    uint32_t arrivals;  /* connections ever */
    uint32_t posted[NEAT_MAX_REPLICAS];
    struct sock *posts;         /* PHASE_POSTED, by `link` */
    struct sock *arrived, **arrived_end;
    struct sock *twin; /* circular: the others here that listen at the same port by SO_REUSEPORT; NULL: none */
    /* posted or arrived */
    struct sock *listener, *link, **link_back;
};

struct item { /* a socket in an epoll set, under neat.lock */
    struct file file;
    struct epoll *epoll;
    struct sock *sock;
    struct item *next_of_sock;
    struct item *ready_next, *ready_previous;
    int fd;
    uint32_t events;
    uint64_t data;
    bool ready;      /* on the ready list */
    bool disabled;   /* EPOLLONESHOT has told once */
    bool edge_fresh; /* EPOLLET: nothing told yet; else what was told last: */
    uint8_t edge_seen, edge_state;
    uint32_t edge_in, edge_space, edge_error;
};

struct place { /* where a thread sleeps: an epoll descriptor with the process's doorbell */
    int epoll, wake;
    int doorbell; /* the one in it; -1 none */
    bool linked;
    struct place *next, **previous;
};

struct epoll { /* an epoll set of the program's, under neat.lock */
    struct file file;
    struct place place;
    struct item *ready; /* circular */
    uint32_t ready_count;
    uint32_t count;  /* items: our sockets in it */
    uint32_t kernel; /* the kernel's descriptors in it; never too few, though closed ones may still count */
    uint32_t sleepers;
    uint32_t rounds; /* since the kernel's were last looked at */
    int64_t kernel_seen_ns;
    bool nested;    /* the place holds the kernel's epoll */
    bool inherited; /* by fork, and not waited on yet */
};

/* ---- channels ---- */

struct slot {
    struct sock *sock;
    uint32_t left_at; /* given up: position in the command ring after which the replica knows */
    uint32_t next;
};

struct channel { /* one memory, shared with one replica */
    struct neat_channel_header header;
    uint8_t *memory;
    int memory_fd;
    struct neat_channel_program *program;
    const struct neat_channel_replica *remote;
    struct neat_entry *commands;
    const struct neat_entry *events;
    struct neat_socket *sockets;
    struct slot *slots;
    /* of our own channels only */
    uint32_t lock;
    uint32_t commands_head, commands_tail, events_tail, rescan;
    uint32_t fresh;           /* slots from here on were never used */
    uint32_t free;            /* list by slot.next; NO_SLOT ends */
    uint32_t closing, last_closing;
};

struct peer { /* a replica */
    const struct neat_replica_page *page;
    int page_fd, doorbell;
    uint64_t rung; /* incarnation and sleep_seq for which we rang last */
};

struct channels { /* one program's: ours, or of those that we were forked from */
    uint32_t number;
    struct channel at[NEAT_MAX_REPLICAS];
};

struct kin { /* the channels that the manager made for a child of ours */
    uint32_t channel;
    uint64_t token;
    int doorbell, memory[NEAT_MAX_REPLICAS];
};

struct exec_state {
    bool saved;
    char **environment;
    size_t bytes;
};

struct neat {
    uint32_t lock; /* tables, slots, epoll sets, sleepers, event rings */
    pid_t pid;
    bool open;     /* the manager has let us in */
    bool ended;    /* exit() has closed everything */
    bool reported; /* that it cannot be reached */
    const char *directory;
    uint64_t token;
    const struct neat_stack_page *page;
    int page_fd, doorbell, placeholder, manager;
    uint32_t manager_lock, own_lock, rights_lock;
    uint32_t owed; /* replies of the manager that were not waited for */
    uint32_t replicas;
    struct peer peers[NEAT_MAX_REPLICAS];
    struct channels *own;
    struct channels *known[NEAT_MAX_CHANNELS];
    struct file **table; /* MAX_DESCRIPTORS */
    int table_end;       /* no descriptor of ours from here on */
    uint32_t sleepers;
    struct place *places;
    uint64_t random;
};

extern struct neat neat;

/* ---- init.c ---- */
struct libc { /* the functions that preload*.c stand in front of */
#define REAL(result, name, ...) result (*name)(__VA_ARGS__);
#include "libc.def"
#undef REAL
    bool ready;
};
extern struct libc libc_functions;
void libc_load(void);
static inline struct libc *real(void)
{
    if (unlikely(!libc_functions.ready))
        libc_load();
    return &libc_functions;
}
int64_t now_ns(void);
uint64_t random_u64(void);
void complain(const char *what);

/* ---- lock.c ---- */
extern __thread uint32_t thread_id __attribute__((tls_model("initial-exec")));
uint32_t find_thread_id(void);
void lock_wait(uint32_t *word);
void lock_wake(uint32_t *word);

/* A lock of 32 bits, also between processes: the holder's thread id. Taking what one holds already (a signal handler) succeeds. */
static inline void lock(uint32_t *word)
{
    uint32_t free = 0;
    uint32_t me = likely(thread_id) ? thread_id : find_thread_id();
    if (unlikely(!__atomic_compare_exchange_n(word, &free, me, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)))
        lock_wait(word);
}

static inline void unlock(uint32_t *word)
{
    if (unlikely(__atomic_exchange_n(word, 0, __ATOMIC_RELEASE) & LOCK_CONTENDED))
        lock_wake(word);
}

/* ---- table.c ---- */
static inline struct file *file_of(int fd)
{
    struct file **table = load_acquire(&neat.table);
    return likely(table != NULL) && (uint32_t)fd < MAX_DESCRIPTORS ? load_acquire(&table[fd]) : NULL;
}
static inline struct sock *sock_of(int fd)
{
    struct file *file = file_of(fd);
    return file && file->kind == KIND_SOCKET ? (struct sock *)file : NULL;
}
static inline struct epoll *epoll_of(int fd)
{
    struct file *file = file_of(fd);
    return file && file->kind == KIND_EPOLL ? (struct epoll *)file : NULL;
}
bool table_ready(void);
void *pages_new(size_t bytes);
void pages_free(void *memory, size_t bytes);
struct sock *sock_new(void);
void sock_free(struct sock *s);
struct datagrams *datagrams_new(void);
void datagrams_free(struct datagrams *u);
struct item *item_new(void);
void item_free(struct item *item);
struct epoll *epoll_new(void);
void epoll_free(struct epoll *e);
void each_sock(void (*call)(struct file *file));
void each_epoll(void (*call)(struct file *file));
int table_put(int fd, struct file *file);
struct file *table_take(int fd);
int placeholder_dup(int least, bool close_on_exec);
void own_add(int *fd);
void own_hand_over(int *from, int *to);
void own_close(int *fd);
bool own_has(int fd);
unsigned own_next(unsigned from);
void own_move(int fd);

#include "rights.h"

/* ---- manager.c ---- */
struct channels *channels_new(uint32_t number);
int manager_map_pages(void);
int manager_hello(void);
int manager_fork(struct kin *child);
int manager_claim(void);
void manager_abandon(const struct kin *child);
int manager_bind(struct sock *s, struct end local);
int manager_listen(struct sock *s, uint32_t backlog);
int manager_group(uint32_t binding, struct neat_address group, bool leave);
int manager_pass(const struct sock *s, struct parcel *parcel, int *fill, int *end);
int manager_receive(const struct parcel *parcel, int *memories, unsigned *count);
void manager_close(uint32_t binding);
void manager_close_shared(uint32_t binding);
void manager_settle(void);

/* ---- channel.c ---- */
int channel_map(struct channel *ch);
void ring_replica(unsigned replica);
void tell(struct sock *s);
void tell_quietly(struct sock *s);
uint32_t tell_detach(unsigned replica, uint16_t channel, uint32_t slot);
bool replica_runs(unsigned replica);
void await_commands(int64_t most_ns);
bool slot_take(struct sock *s, unsigned replica);
struct neat_aside *slot_aside(const struct sock *s);
void slot_attach(struct sock *s, uint16_t channel, unsigned replica, uint32_t slot);
void slot_retake(struct channel *ch, uint32_t slot);
void slot_start(struct sock *s, unsigned role);
void slot_start_quietly(struct sock *s, unsigned role);
void slot_leave(struct sock *s);
void slot_release(struct sock *s);
void slot_forget(struct sock *s);
void slot_withdraw(struct sock *s);
void slots_recover(struct channel *ch, unsigned replica);
static inline bool answered(const struct sock *s)
{
    return load_acquire(&s->remote->generation) == s->generation;
}

/* ---- address.c ---- */
struct neat_address any_of(int family);
struct neat_address loopback_beside(struct neat_address address);
int get_own_address(const struct sock *s, const struct sockaddr *from, socklen_t length, struct end *end);
int get_address(const struct sock *s, const struct sockaddr *from, socklen_t length, struct end *end);
int get_peer_address(const struct sock *s, const struct sockaddr *from, socklen_t length, struct end *end);
void put_address(const struct sock *s, struct sockaddr *to, socklen_t *length, const struct end *end);
bool is_own(struct neat_address address);
struct neat_address source_for(struct neat_address remote);
uint32_t device_mtu(struct neat_address remote);
uint32_t path_mtu(struct neat_address remote);
int datagram_reach(const struct sock *s, struct neat_address remote);

/* ---- socket.c ---- */
void sock_lock(struct sock *s);
void sock_unlock(struct sock *s);
int sock_relock(struct sock *s, uint32_t serial);
int sock_create(int family, int type, int protocol);
int enter_stack(void);
int sock_bind(struct sock *s, const struct sockaddr *address, socklen_t length);
int sock_listen(struct sock *s, int backlog);
int sock_name(struct sock *s, struct sockaddr *address, socklen_t *length, bool peer);
int take_error(struct sock *s);
void apply_options(struct sock *s);
int sock_ioctl(struct sock *s, unsigned long request, void *argument);
int sock_shutdown(struct sock *s, int how);
void sock_leave_slot(struct sock *s);
void sock_drop(struct sock *s);
void file_drop(struct file *file);
int descriptor_close(int fd);
int descriptor_duplicated(int fd, struct file *file);

/* ---- connect.c, accept.c ---- */
void settle_connect(struct sock *s);
int sock_connect(struct sock *s, const struct sockaddr *address, socklen_t length);
struct text { /* what a SYN shall take along; NULL: nothing */
    const struct iovec *iov;
    int count;
};
bool takes_text_in_syn(struct neat_address remote);
int sock_connect_with(struct sock *s, const struct sockaddr *address, socklen_t length, const struct text *text, bool wait);
void post_answered(struct sock *post);
void posts_apply_options(struct sock *listener);
void listener_interest(struct sock *listener);
void listener_joins(struct sock *listener);
void listener_withdraw(struct sock *listener);
void listener_stop(struct sock *listener);
void listener_settle(struct sock *listener);
void listener_forget(struct sock *listener);
int sock_accept(struct sock *listener, struct sockaddr *address, socklen_t *length, int flags);

/* ---- io.c, splice.c, message.c ---- */
int wait_for_more(int64_t deadline);
uint32_t waiting_bytes(const struct sock *s);
uint32_t readable_bytes(const struct sock *s);
uint32_t send_limit(const struct sock *s);
uint32_t stream_limit(const struct sock *s);
int send_buffer_told(const struct sock *s);
uint32_t unsent_bytes(const struct sock *s);
uint32_t fresh_bytes(const struct sock *s);
uint32_t held_bytes(const struct sock *s);
uint32_t offered_bytes(const struct sock *s);
bool urgent_ahead(const struct sock *s, uint32_t *distance);
bool urgent_taken(const struct sock *s, uint32_t distance);
ssize_t sock_receive(struct sock *s, const struct iovec *iov, int count, int flags);
ssize_t sock_send(struct sock *s, const struct iovec *iov, int count, int flags);
ssize_t sock_send_to(struct sock *s, const struct iovec *iov, int count, int flags, const struct sockaddr *address,
                     socklen_t length);
void put_first(struct sock *s, const struct text *text);
ssize_t sock_sendfile(struct sock *s, int from, off_t *offset, size_t count);
ssize_t sock_splice(struct sock *s, int pipe, bool out, const off64_t *socket_offset, const off64_t *pipe_offset,
                    size_t length, unsigned flags);
ssize_t sent_result(ssize_t result, int flags);
ssize_t sock_receive_message(struct sock *s, struct msghdr *message, int flags);
ssize_t sock_send_message(struct sock *s, const struct msghdr *message, int flags);
int sock_receive_messages(struct sock *s, struct mmsghdr *messages, unsigned count, int flags, const struct timespec *timeout);
int sock_send_messages(struct sock *s, struct mmsghdr *messages, unsigned count, int flags);

/* ---- ipv6.c ---- */
int ipv6_read_control(const struct cmsghdr *c, bool four, struct sending *how);
void ipv6_write_control(const struct sock *s, struct writer *w, const struct neat_datagram *d);

/* ---- wait.c ---- */
uint32_t readiness(struct sock *s);
void wake_socket(struct sock *s);
bool events_waiting(void);
void drain_locked(void);
void drain(void);
void sleep_mark(void);
void sleep_begin(void);
void sleep_end(void);
int place_open(struct place *place);
int place_nest(struct place *place, int epfd);
void place_close_locked(struct place *place);
struct place *my_place(void);
void place_wake(struct place *place);
int place_wait(struct place *place, int64_t deadline, const sigset_t *mask);
int64_t deadline_after(int64_t timeout_ns);
struct timespec *remaining(int64_t deadline, struct timespec *out);
void sleeper_link(struct sleeper *sleeper, struct sock *s, struct place *place);
void sleeper_unlink(struct sleeper *sleeper);
int wait_for(struct sock *s, uint32_t events, uint32_t least, int64_t deadline);
bool restarts(int64_t timeout_ns);

/* ---- poll.c, epoll.c ---- */
int poll_descriptors(struct pollfd *fds, nfds_t count, int64_t deadline, const sigset_t *mask);
bool select_concerns(int count, const fd_set *in, const fd_set *out, const fd_set *except);
int select_descriptors(int count, fd_set *in, fd_set *out, fd_set *except, int64_t deadline, const sigset_t *mask);
void epoll_notify(struct sock *s);
int epoll_control(int epfd, int op, int fd, struct epoll_event *event);
void epoll_remove_all(struct sock *s);
void epoll_drop(struct epoll *e);
bool epoll_concerns(const struct epoll *e);
int epoll_wait_for(struct epoll *e, int epfd, struct epoll_event *events, int most, int64_t deadline, const sigset_t *mask);

/* ---- options.c ---- */
void option_unsent(struct options *o, uint32_t most);
int option_set(struct sock *s, int level, int name, const void *value, socklen_t length);
int option_get(struct sock *s, int level, int name, void *value, socklen_t *length);

/* ---- process.c, exec.c ---- */
bool is_us(void);
void fork_prepare(void);
void fork_parent(void);
void fork_child(void);
void fork_failed(void);
void process_end(void);
void exec_remember(void);
void exec_restore(void);
char **exec_lead(char *const *environment, size_t *bytes);
char **exec_prepare(char *const *environment, struct exec_state *state);
void exec_failed(struct exec_state *state);

#include "datagram.h"
#include "error_queue.h"

#endif
