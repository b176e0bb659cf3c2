/* Channels: mapping, the command ring, doorbells, slots.
 *
 * A command entry only says "look at this socket". It is not repeated while the replica has not taken the last one: the
 * replica publishes its tail, fences, then reads the socket's lines; we write the lines, fence, then read the tail.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "client.h"

#include <sys/mman.h>
#include <sys/stat.h>

#define FULL_RING_NS 100000  /* between looks at a full ring */
#define FULL_RING_LOOKS 50000 /* 5 s: the replica is not coming back */
#define TAKEN_LOOK_NS 50000
#define RECLAIM_LOOKS 4

/* Map the memory of `ch->memory_fd`. 0 or -errno. */
int channel_map(struct channel *ch)
{
    struct neat_channel_header *h = &ch->header;
    struct stat status;

    if (fstat(ch->memory_fd, &status) < 0)
        return -errno;
    if (syscall(SYS_pread64, ch->memory_fd, h, sizeof *h, 0) != sizeof *h || h->magic != NEAT_MAGIC ||
        h->version != NEAT_LAYOUT_VERSION || h->size > (uint64_t)status.st_size)
        return -ENETDOWN;
    ch->memory = mmap(NULL, h->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, ch->memory_fd, 0);
    if (ch->memory == MAP_FAILED)
        return -errno;
    madvise(ch->memory, h->size, MADV_DONTDUMP);
    ch->program = (struct neat_channel_program *)(ch->memory + 128);
    ch->remote = (const struct neat_channel_replica *)(ch->memory + 256);
    ch->commands = (struct neat_entry *)(ch->memory + h->commands_at);
    ch->events = (const struct neat_entry *)(ch->memory + h->events_at);
    ch->sockets = (struct neat_socket *)(ch->memory + h->sockets_at);
    ch->slots = pages_new(h->sockets * sizeof *ch->slots);
    if (!ch->slots)
        return -ENOMEM;
    ch->commands_head = ch->program->commands_head;
    ch->commands_tail = load_acquire(&ch->remote->commands_tail);
    ch->events_tail = ch->program->events_tail;
    ch->rescan = load_relaxed(&ch->remote->rescan);
    ch->free = ch->closing = ch->last_closing = NO_SLOT;
    return 0;
}

/* ---- doorbells ---- */

/* After entries were put and a fence: wake the replica if it sleeps and we have not done so for this sleep. */
void ring_replica(unsigned replica)
{
    static const uint64_t one = 1;
    struct peer *peer = &neat.peers[replica];
    uint32_t sleep = load_relaxed(&peer->page->sleep_seq);

    if (likely(!(sleep & 1)))
        return;
    uint64_t key = (uint64_t)load_relaxed(&peer->page->incarnation) << 32 | sleep;
    if (load_relaxed(&peer->rung) == key)
        return;
    store_relaxed(&peer->rung, key);
    int saved = errno;
    syscall(SYS_write, peer->doorbell, &one, sizeof one);
    errno = saved;
}

/* ---- command ring ---- */

static bool taken(struct channel *own, uint32_t position)
{
    return (int32_t)(load_relaxed(&own->commands_tail) - position) >= 0;
}

/* Wait for room; the ring has room for every socket twice, so it is full only when the replica stands still. */
static bool make_room(struct channel *own, unsigned replica)
{
    for (int i = 0; i < FULL_RING_LOOKS; i++) {
        own->commands_tail = load_acquire(&own->remote->commands_tail);
        if (own->commands_head - own->commands_tail < own->header.entries)
            return true;
        unlock(&own->lock);
        fence();
        ring_replica(replica);
        syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = FULL_RING_NS}, NULL);
        lock(&own->lock);
    }
    return false;
}

/* Put one entry; own->lock is held. The position after it. */
static uint32_t put(struct channel *own, unsigned replica, uint16_t op, uint16_t channel, uint32_t slot)
{
    if (unlikely(own->commands_head - own->commands_tail >= own->header.entries) && !make_room(own, replica))
        return own->commands_head;
    own->commands[own->commands_head & (own->header.entries - 1)] =
        (struct neat_entry){.channel = channel, .op = op, .socket = slot};
    own->commands_head++;
    store_release(&own->program->commands_head, own->commands_head);
    return own->commands_head;
}

/* Whether our last NEAT_OP_LOOK for the socket still waits to be taken (then the replica will see what we wrote before). */
static bool still_waiting(struct channel *own, const struct sock *s)
{
    if (taken(own, s->told_at))
        return false;
    fence();
    own->commands_tail = load_acquire(&own->remote->commands_tail);
    if (taken(own, s->told_at))
        return false;
    struct neat_entry last = own->commands[(s->told_at - 1) & (own->header.entries - 1)];
    return last.channel == s->channel && last.socket == s->slot && last.op == NEAT_OP_LOOK;
}

/* The socket's lines have changed; the replica need not know at once. */
void tell_quietly(struct sock *s)
{
    struct channel *own = &neat.own->at[s->replica];

    lock(&own->lock);
    if (!still_waiting(own, s))
        s->told_at = put(own, s->replica, NEAT_OP_LOOK, s->channel, s->slot);
    unlock(&own->lock);
}

/* The socket's lines have changed: the replica shall look. */
void tell(struct sock *s)
{
    tell_quietly(s);
    fence();
    ring_replica(s->replica);
}

/* This process holds the socket no longer. The position after the entry. */
uint32_t tell_detach(unsigned replica, uint16_t channel, uint32_t slot)
{
    struct channel *own = &neat.own->at[replica];

    lock(&own->lock);
    uint32_t position = put(own, replica, NEAT_OP_DETACH, channel, slot);
    unlock(&own->lock);
    fence();
    ring_replica(replica);
    return position;
}

/* Slots of the stack whose replica was never started have no incarnation, and answer nothing. */
bool replica_runs(unsigned replica)
{
    return load_relaxed(&neat.peers[replica].page->incarnation) != 0;
}

static bool commands_taken(unsigned replica)
{
    struct channel *own = &neat.own->at[replica];
    return !replica_runs(replica) || load_acquire(&own->remote->commands_tail) == own->commands_head;
}

/* Wait until the replicas have taken all that we have told them, up to `most_ns`. */
void await_commands(int64_t most_ns)
{
    int64_t deadline = deadline_after(most_ns);
    for (unsigned r = 0; r < neat.replicas; r++)
        while (!commands_taken(r) && now_ns() < deadline)
            syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = TAKEN_LOOK_NS}, NULL);
}

/* ---- slots: of our own channels, under neat.lock ---- */

static bool slot_is_free(struct channel *ch, uint32_t slot)
{
    if (!replica_runs(ch->header.replica) && !neat.owed) /* nobody has it, nor will anybody that starts now be told of it */
        return load_acquire(&ch->sockets[slot].replica.state) == NEAT_STATE_FREE;
    if (!taken(ch, ch->slots[slot].left_at)) {
        store_relaxed(&ch->commands_tail, load_acquire(&ch->remote->commands_tail));
        if (!taken(ch, ch->slots[slot].left_at))
            return false;
    }
    const struct neat_socket *socket = &ch->sockets[slot];
    return load_acquire(&socket->replica.state) == NEAT_STATE_FREE &&
           load_acquire(&socket->replica.generation) == socket->program.generation;
}

/* The slot is given up: it is free once the replica has taken all up to `left_at` and says so. */
static void slot_closing(struct channel *ch, uint32_t slot, uint32_t left_at)
{
    ch->slots[slot].sock = NULL;
    ch->slots[slot].left_at = left_at;
    ch->slots[slot].next = NO_SLOT;
    if (ch->last_closing == NO_SLOT)
        ch->closing = slot;
    else
        ch->slots[ch->last_closing].next = slot;
    ch->last_closing = slot;
}

/* Look at up to `looks` slots that were given up, the oldest first; those that are not free yet go to the end. */
static void reclaim(struct channel *ch, uint32_t looks)
{
    for (; looks && ch->closing != NO_SLOT; looks--) {
        uint32_t slot = ch->closing;
        ch->closing = ch->slots[slot].next;
        if (ch->closing == NO_SLOT)
            ch->last_closing = NO_SLOT;
        if (slot_is_free(ch, slot)) {
            ch->sockets[slot].program.role = NEAT_ROLE_FREE;
            ch->slots[slot].next = ch->free;
            ch->free = slot;
        } else {
            slot_closing(ch, slot, ch->slots[slot].left_at);
        }
    }
}

/* Free slots used last come first, since their memory is there already. */
static uint32_t slot_find(struct channel *ch)
{
    reclaim(ch, RECLAIM_LOOKS);
    if (ch->free == NO_SLOT && ch->fresh == ch->header.sockets)
        reclaim(ch, ch->header.sockets);
    uint32_t slot = ch->free;
    if (slot != NO_SLOT)
        ch->free = ch->slots[slot].next;
    else if (ch->fresh < ch->header.sockets) {
        slot = ch->fresh++;
        store_release(&ch->program->slots_used, ch->fresh);
    }
    return slot;
}

/* A slot of our own that we have given up while somebody else held its socket, which we get back. Under neat.lock. */
void slot_retake(struct channel *ch, uint32_t slot)
{
    uint32_t before = NO_SLOT;

    for (uint32_t at = ch->closing; at != slot; at = ch->slots[at].next) {
        if (at == NO_SLOT)
            return;
        before = at;
    }
    if (before == NO_SLOT)
        ch->closing = ch->slots[slot].next;
    else
        ch->slots[before].next = ch->slots[slot].next;
    if (ch->last_closing == slot)
        ch->last_closing = before;
}

/* The socket lives in this slot. */
void slot_attach(struct sock *s, uint16_t channel, unsigned replica, uint32_t slot)
{
    struct channel *ch = &neat.known[channel]->at[replica];
    uint64_t both = (uint64_t)ch->header.rx_size + ch->header.tx_size;

    s->channel = channel;
    s->replica = (uint8_t)replica;
    s->slot = slot;
    s->program = &ch->sockets[slot].program;
    s->remote = &ch->sockets[slot].replica;
    s->generation = s->program->generation;
    s->rx = ch->memory + ch->header.buffers_at + slot * both;
    s->tx = s->rx + ch->header.rx_size;
    s->rx_mask = ch->header.rx_size - 1;
    s->tx_mask = ch->header.tx_size - 1;
    s->told_at = load_relaxed(&neat.own->at[replica].commands_tail);
    ch->slots[slot].sock = s;
}

/* Where the replica tells of its connection, and the program of its borders. */
struct neat_aside *slot_aside(const struct sock *s)
{
    const struct channel *ch = &neat.known[s->channel]->at[s->replica];
    return (struct neat_aside *)(ch->memory + ch->header.asides_at) + s->slot;
}

/* Give the socket a free slot of our channel with `replica`. False: there is none. */
bool slot_take(struct sock *s, unsigned replica)
{
    uint32_t slot = slot_find(&neat.own->at[replica]);
    if (slot == NO_SLOT)
        return false;
    s->shared = false;
    slot_attach(s, (uint16_t)neat.own->number, replica, slot);
    memset(s->program->scratch, 0, sizeof s->program->scratch);
    s->program->lock = 0;
    s->program->soft_told = 0;
    s->program->shut = 0;
    s->program->flags = 0;
    s->program->tx_head = s->program->tx_base = s->program->rx_tail = 0;
    s->program->listener = 0;
    s->program->local_be = s->program->remote_be = (struct neat_address){0, 0};
    s->program->local_port_be = s->program->remote_port_be = 0;
    return true;
}

static void start(struct sock *s, unsigned role)
{
    store_relaxed(&s->program->role, role);
    s->generation = s->program->generation + 1;
    store_release(&s->program->generation, s->generation);
}

/* All lines are written: hand the slot to the replica. */
void slot_start(struct sock *s, unsigned role)
{
    start(s, role);
    tell_quietly(s);
}

/* The same; a replica that does not run looks at all slots when it starts, and its command ring is not to be filled. */
void slot_start_quietly(struct sock *s, unsigned role)
{
    start(s, role);
    fence();
    if (replica_runs(s->replica))
        tell_quietly(s);
}

/* This process has nothing to do with the slot any more; the replica closes the connection when nobody has. */
void slot_release(struct sock *s)
{
    struct channel *ch = &neat.known[s->channel]->at[s->replica];
    uint32_t position = tell_detach(s->replica, s->channel, s->slot);

    if (s->channel == neat.own->number)
        slot_closing(ch, s->slot, position);
    else
        ch->slots[s->slot].sock = NULL;
    s->program = NULL;
}

/* This process has nothing to do with the slot any more, and the replica will hear it from the manager. */
void slot_leave(struct sock *s)
{
    if (s->channel == neat.own->number)
        slot_closing(&neat.own->at[s->replica], s->slot, neat.own->at[s->replica].commands_head);
    else
        neat.known[s->channel]->at[s->replica].slots[s->slot].sock = NULL;
    s->program = NULL;
}

/* In a forked child: the slot is the parent's alone. */
void slot_forget(struct sock *s)
{
    neat.known[s->channel]->at[s->replica].slots[s->slot].sock = NULL;
    s->program = NULL;
}

/* Ask a posted slot back. One of a replica that does not run is back at once. */
void slot_withdraw(struct sock *s)
{
    store_release(&s->program->role, NEAT_ROLE_WITHDRAW);
    fence();
    if (replica_runs(s->replica))
        tell(s);
    slot_closing(&neat.own->at[s->replica], s->slot, s->told_at);
    s->program = NULL;
}

/* After exec: slots in use that no socket of this image lives in were posted, or are on their way to being free. */
void slots_recover(struct channel *ch, unsigned replica)
{
    lock(&neat.lock);
    for (uint32_t slot = 0; slot < ch->fresh; slot++) {
        struct neat_socket_program *p = &ch->sockets[slot].program;
        if (ch->slots[slot].sock)
            continue;
        if (p->role == NEAT_ROLE_ACCEPT && !(p->flags & NEAT_FLAG_TAKEN)) {
            store_release(&p->role, NEAT_ROLE_WITHDRAW);
            lock(&ch->lock);
            put(ch, replica, NEAT_OP_LOOK, (uint16_t)neat.own->number, slot);
            unlock(&ch->lock);
        }
        slot_closing(ch, slot, ch->commands_head);
    }
    unlock(&neat.lock);
    fence();
    ring_replica(replica);
}
