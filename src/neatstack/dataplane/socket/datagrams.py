"""UDP sockets of programs: their slots, what they send, what they are told.

The manager says which sockets there are, in every replica; where each has got to stands in its slot's own lines. So a
new incarnation has all that it needs when it has been told, and nothing is kept in the state region.
"""

import cython
from cython.cimports.libc.errno import EAGAIN, EINVAL, ENOBUFS
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.neatstack.dataplane.channel.address import Address, is_any, load_address
from cython.cimports.neatstack.dataplane.channel.atomic import (
    barrier,
    fence,
    load8,
    load16,
    load32,
    load_acquire,
    store8_release,
    store_release,
    trailing_zeros,
)
from cython.cimports.neatstack.dataplane.channel.channel import (
    any_bit,
    clear_bit,
    holds_bit,
    only_bit,
    rx_ring,
    set_bit,
    tx_ring,
)
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_DATAGRAM_ALIGN,
    NEAT_DATAGRAM_LARGEST6,
    NEAT_DATAGRAM_TIME,
    NEAT_FLAG_SEND_BUFFER,
    NEAT_OP_LOOK,
    NEAT_ROLE_DATAGRAM,
    NEAT_SHUT_ABORT,
    NEAT_STATE_FREE,
    NEAT_STATE_OPEN,
    Datagram,
    SocketProgram,
    SocketReplica,
)
from cython.cimports.neatstack.dataplane.channel.rings import entry_bits
from cython.cimports.neatstack.dataplane.channel.slot import free_slot, give_back
from cython.cimports.neatstack.dataplane.ip.output import source_for
from cython.cimports.neatstack.dataplane.socket.publish import publish_heads
from cython.cimports.neatstack.dataplane.socket.slots import put
from cython.cimports.neatstack.dataplane.stack import (
    DROP_COMMAND,
    DROP_UDP_SEND,
    MAX_CHANNELS,
    Channel,
    Datagrams,
    Endpoint,
    Post,
    Stack,
)
from cython.cimports.neatstack.dataplane.tcp.seq import least
from cython.cimports.neatstack.dataplane.udp.endpoint import (
    ENDPOINT_RECEIVED,
    ENDPOINT_SENT,
    add_endpoint,
    connect_endpoint,
    endpoint_numbered,
    endpoint_of_cookie,
    hide_endpoint,
    publish_endpoint,
    remove_endpoint,
    told,
)
from cython.cimports.neatstack.dataplane.udp.error import datagram_timed
from cython.cimports.neatstack.dataplane.udp.output import Payload, send_datagram
from cython.cimports.neatstack.dataplane.udp.park import free_parked, park, retry_parked

BUDGET = cython.declare(uint32_t, 64)  # datagrams of one socket in one batch


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def impossible(s: cython.pointer[Stack]) -> cython.void:
    s.counters.drops[cython.cast(cython.int, DROP_COMMAND)] += 1


# ---- slots that wait for their binding ----


def await_binding(s: cython.pointer[Stack], channel: uint32_t, socket: uint32_t) -> cython.void:
    """A program has taken a slot for a UDP socket: it is used as soon as the manager has told the socket."""
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    p: cython.pointer[Post] = cython.address(ch.posts[socket])
    i: uint32_t = endpoint_of_cookie(s, channel, load32(cython.address(ch.sockets[socket].program.listener)))
    if i and not s.udp.ends[i].attached:
        attach(s, i, socket)
    elif not p.unbound:
        p.unbound = 1
        p.prev = 0
        p.next = ch.unbound
        if ch.unbound:
            ch.posts[ch.unbound - 1].prev = socket + 1
        ch.unbound = socket + 1


def leave_unbound(s: cython.pointer[Stack], channel: uint32_t, socket: uint32_t) -> cython.void:
    """The slot waits for no binding, if it did."""
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    p: cython.pointer[Post] = cython.address(ch.posts[socket])
    if not p.unbound:
        return
    p.unbound = 0
    if p.prev:
        ch.posts[p.prev - 1].next = p.next
    else:
        ch.unbound = p.next
    if p.next:
        ch.posts[p.next - 1].prev = p.prev


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def slot_of_cookie(ch: cython.pointer[Channel], cookie: uint32_t) -> uint32_t:
    """Slot + 1 of the program's socket with that cookie; 0: it has none.

    Mostly it waits; but its command may not have been taken yet.
    """
    k: uint32_t = ch.unbound
    used: uint32_t
    while k:
        if load32(cython.address(ch.sockets[k - 1].program.listener)) == cookie:
            return k
        k = ch.posts[k - 1].next
    used = load32(cython.address(ch.program.slots_used))
    if used > ch.header.sockets:
        used = ch.header.sockets
    for k in range(used):
        if ch.tcb_of[k] or ch.endpoint_of[k] or load8(cython.address(ch.sockets[k].program.role)) != NEAT_ROLE_DATAGRAM:
            continue
        if load32(cython.address(ch.sockets[k].program.listener)) == cookie and not is_over(ch, k):
            return k + 1
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def is_over(ch: cython.pointer[Channel], k: uint32_t) -> cython.bint:
    """We have said that this use of the slot has ended."""
    r: cython.pointer[SocketReplica] = cython.address(ch.sockets[k].replica)
    generation: uint32_t = load32(cython.address(ch.sockets[k].program.generation))
    return load8(cython.address(r.state)) == NEAT_STATE_FREE and load32(cython.address(r.generation)) == generation


# ---- sockets come and go ----


def bind_datagrams(
    s: cython.pointer[Stack],
    number: uint32_t,
    channel: uint32_t,
    cookie: uint32_t,
    address_be: Address,
    port_be: uint16_t,
    flags: uint32_t,
) -> cython.int:
    """There is a UDP socket, which the program of `channel` has made. 0; -EINVAL: no such channel; -ENOBUFS."""
    i: uint32_t
    slot: uint32_t
    if channel >= MAX_CHANNELS:
        return -EINVAL
    if endpoint_numbered(s, number):
        return 0
    i = add_endpoint(s, number, channel, cookie)
    if not i:
        return -ENOBUFS
    s.udp.ends[i].flags = cython.cast(uint8_t, flags)
    set_bit(s.udp.ends[i].holders, channel)
    publish_endpoint(s, i, address_be, port_be)
    if s.channels[channel].memory != cython.NULL:
        slot = slot_of_cookie(cython.address(s.channels[channel]), cookie)
        if slot:
            attach(s, i, slot - 1)
    return 0


def hold_datagrams(s: cython.pointer[Stack], number: uint32_t, channel: uint32_t) -> cython.int:
    """A program holds the socket too. 0, or -EINVAL."""
    i: uint32_t = endpoint_numbered(s, number)
    if not i or channel >= MAX_CHANNELS:
        return -EINVAL
    set_bit(s.udp.ends[i].holders, channel)
    s.udp.ends[i].event_at = 0
    return 0


def release_datagrams(s: cython.pointer[Stack], number: uint32_t, channel: uint32_t) -> cython.int:
    """A program holds the socket no longer, others do. 0, or -EINVAL."""
    i: uint32_t = endpoint_numbered(s, number)
    if not i or channel >= MAX_CHANNELS:
        return -EINVAL
    clear_bit(s.udp.ends[i].holders, channel)
    s.udp.ends[i].event_at = 0
    return 0


def unbind_datagrams(s: cython.pointer[Stack], number: uint32_t) -> cython.int:
    """Nobody holds the socket any more. 0, or -EINVAL."""
    i: uint32_t = endpoint_numbered(s, number)
    if not i:
        return -EINVAL
    close(s, i)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def attach(s: cython.pointer[Stack], i: uint32_t, socket: uint32_t) -> cython.void:
    """Socket i lives in this slot from now on; if it has before, it goes on where it was."""
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    ch: cython.pointer[Channel] = cython.address(s.channels[e.channel])
    r: cython.pointer[SocketReplica] = cython.address(ch.sockets[socket].replica)
    leave_unbound(s, e.channel, socket)
    e.socket = socket
    e.attached = 1
    ch.endpoint_of[socket] = i
    ch.bound += 1
    if load8(cython.address(r.state)) == NEAT_STATE_OPEN:
        e.rx_head = load32(cython.address(r.rx_head)) & ~cython.cast(uint32_t, NEAT_DATAGRAM_ALIGN - 1)
        e.rx_base = load32(cython.address(r.rx_base)) & ~cython.cast(uint32_t, NEAT_DATAGRAM_ALIGN - 1)
        e.tx_tail = load32(cython.address(r.tx_tail))
    else:
        r.listener = 0  # no error yet
    e.tx_next = e.tx_tail
    e.tx_base = load32(cython.address(ch.sockets[socket].program.tx_base))
    e.generation = load32(cython.address(ch.sockets[socket].program.generation)) - 1
    r.error = 0
    r.seen = 0
    r.rx_base = e.rx_base
    store_release(cython.address(r.rx_head), e.rx_head)
    store_release(cython.address(r.tx_tail), e.tx_tail)
    store8_release(cython.address(r.state), NEAT_STATE_OPEN)
    look_at_endpoint(s, i)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def detach(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Socket i leaves its slot, which is the program's again."""
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    ch: cython.pointer[Channel] = cython.address(s.channels[e.channel])
    if not e.attached:
        return
    e.attached = 0
    ch.endpoint_of[e.socket] = 0
    ch.bound -= 1
    give_back(rx_ring(ch, e.socket), ch.header.rx_size, e.bytes_in)
    give_back(tx_ring(ch, e.socket), ch.header.tx_size, e.bytes_out)
    ch.posts[e.socket].generation = load32(cython.address(ch.sockets[e.socket].program.generation))
    free_slot(ch, e.socket)
    if ch.gone and not ch.bound:
        s.unused += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def close(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Nothing is received any more; what was sent before still goes."""
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    if e.closing:
        return
    hide_endpoint(s, i)
    e.closing = 1
    memset(e.holders, 0, cython.sizeof(e.holders))
    if e.attached:
        enlist(s, i)
    else:
        remove_endpoint(s, i)


def recover_datagrams(s: cython.pointer[Stack], channel: uint32_t, socket: uint32_t) -> cython.void:
    """A slot for a UDP socket as the last incarnation has left it, when all sockets have been told."""
    ch: cython.pointer[Channel] = cython.address(s.channels[channel])
    lines: cython.pointer[SocketProgram] = cython.address(ch.sockets[socket].program)
    if ch.endpoint_of[socket] or is_over(ch, socket):
        return
    ch.posts[socket].generation = load_acquire(cython.address(lines.generation))
    if load8(cython.address(ch.sockets[socket].replica.state)) != NEAT_STATE_OPEN:
        await_binding(s, channel, socket)
    elif not endpoint_of_cookie(s, channel, load32(cython.address(lines.listener))):
        free_slot(ch, socket)  # it was closed meanwhile


# ---- programs come and go ----


def inherit_endpoints(s: cython.pointer[Stack], channel: uint32_t, parent: uint32_t) -> cython.void:
    """A forked child holds what its parent holds."""
    i: uint32_t
    for i in range(1, s.udp.used):
        if s.udp.ends[i].number and holds_bit(s.udp.ends[i].holders, parent):
            set_bit(s.udp.ends[i].holders, channel)
            s.udp.ends[i].event_at = 0


def drop_endpoints(s: cython.pointer[Stack], channel: uint32_t) -> cython.void:
    """A program is dead."""
    i: uint32_t
    for i in range(1, s.udp.used):
        e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
        if e.number and holds_bit(e.holders, channel):
            clear_bit(e.holders, channel)
            e.event_at = 0
            if not any_bit(e.holders):
                close(s, i)


def evict_endpoints(s: cython.pointer[Stack], channel: uint32_t) -> cython.void:
    """The number of a dead program is needed again: nothing may use its memory."""
    i: uint32_t
    for i in range(1, s.udp.used):
        e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
        if e.number and e.channel == channel:
            hide_endpoint(s, i)
            unlist(s, i)
            detach(s, i)
            remove_endpoint(s, i)


# ---- what programs ask for ----


def look_at_endpoint(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """The program has changed its lines: it has connected the socket, or there is something to send."""
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    ch: cython.pointer[Channel] = cython.address(s.channels[e.channel])
    p: cython.pointer[SocketProgram] = cython.address(ch.sockets[e.socket].program)
    generation: uint32_t = load_acquire(cython.address(p.generation))
    if generation != e.generation:
        e.generation = generation
        connect(s, i, load_address(cython.address(p.remote_be)), load16(cython.address(p.remote_port_be)))
        store_release(cython.address(ch.sockets[e.socket].replica.generation), generation)
    if load8(cython.address(p.shut)) & NEAT_SHUT_ABORT:
        hide_endpoint(s, i)  # the program has closed it, and the manager will say so too
    enlist(s, i)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def connect(s: cython.pointer[Stack], i: uint32_t, remote_be: Address, remote_port_be: uint16_t) -> cython.void:
    """connect(), or with remote_be 0 its undoing."""
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    r: cython.pointer[SocketReplica] = cython.address(s.channels[e.channel].sockets[e.socket].replica)
    local_be: Address = e.address_be
    if not is_any(remote_be) and is_any(local_be):
        local_be = source_for(s, remote_be)
    connect_endpoint(s, i, local_be, remote_be, remote_port_be)
    r.local_be = local_be
    r.local_port_be = e.port_be
    r.remote_be = remote_be
    r.remote_port_be = remote_port_be


# ---- sending ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def enlist(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Look at its send ring with this batch, or the next."""
    u: cython.pointer[Datagrams] = s.udp
    if u.ends[i].sending:
        return
    u.ends[i].sending = 1
    u.ends[i].next_sending = 0
    if u.last_sending:
        u.ends[u.last_sending].next_sending = i
    else:
        u.sending = i
    u.last_sending = i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def unlist(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """Take it off that list."""
    u: cython.pointer[Datagrams] = s.udp
    k: uint32_t = u.sending
    last: uint32_t = 0
    if not u.ends[i].sending:
        return
    while k != i:
        last = k
        k = u.ends[k].next_sending
    if last:
        u.ends[last].next_sending = u.ends[i].next_sending
    else:
        u.sending = u.ends[i].next_sending
    if u.last_sending == i:
        u.last_sending = last
    u.ends[i].sending = 0


def send_datagrams(s: cython.pointer[Stack]) -> cython.void:
    u: cython.pointer[Datagrams] = s.udp
    i: uint32_t = u.sending
    following: uint32_t
    if u.parked_count and (i or s.now >= u.parked_at):
        retry_parked(s)
    u.sending = u.last_sending = 0
    while i:
        following = u.ends[i].next_sending
        u.ends[i].sending = 0
        if send_some(s, i):
            enlist(s, i)
        i = following


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def send_some(s: cython.pointer[Stack], i: uint32_t) -> cython.bint:
    """Plan datagrams of one socket. True: there are more."""
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    ch: cython.pointer[Channel] = cython.address(s.channels[e.channel])
    ring: cython.pointer[uint8_t] = tx_ring(ch, e.socket)
    size: uint32_t = ch.header.tx_size
    head: uint32_t = load_acquire(cython.address(ch.sockets[e.socket].program.tx_head))
    if e.tx_next == e.tx_tail:  # the program may have moved the base of its empty ring
        e.tx_base = load32(cython.address(ch.sockets[e.socket].program.tx_base))
    for _ in range(BUDGET):
        d: Datagram
        p: Payload
        waiting: uint32_t = head - e.tx_next
        at: uint32_t = (e.tx_next - e.tx_base) & (size - NEAT_DATAGRAM_ALIGN)
        if not waiting:
            if e.closing:
                told(s, i, ENDPOINT_SENT)
            return False
        memcpy(cython.address(d), ring + at, cython.sizeof(Datagram))
        barrier()
        need: uint32_t = (cython.sizeof(Datagram) + d.length + NEAT_DATAGRAM_ALIGN - 1) & ~cython.cast(
            uint32_t, NEAT_DATAGRAM_ALIGN - 1
        )
        if waiting > size - (e.tx_next - e.tx_tail) or d.length > NEAT_DATAGRAM_LARGEST6 or need > waiting:
            impossible(s)
            need = waiting
        else:
            at = (at + cython.sizeof(Datagram)) & (size - 1)
            p.first = ring + at
            p.first_length = d.length if d.length < size - at else size - at
            p.second = ring
            p.second_length = d.length - p.first_length
            failed: cython.int = send_datagram(s, e, cython.address(d), cython.address(p))
            if cython.likely(not failed):
                if cython.unlikely(d.flags & NEAT_DATAGRAM_TIME):
                    datagram_timed(s, e, cython.address(d), cython.address(p))
            elif failed == -ENOBUFS:
                return True
            elif failed == -EAGAIN:
                park(s, e, cython.address(d), cython.address(p))
            else:
                s.counters.drops[cython.cast(cython.int, DROP_UDP_SEND)] += 1
        e.tx_next += need
        e.bytes_out += need
        told(s, i, ENDPOINT_SENT)
    return True


def datagrams_left(s: cython.pointer[Stack]) -> cython.void:
    """What was planned has been sent: its room in the rings is free. Programs that wait for it are told."""
    u: cython.pointer[Datagrams] = s.udp
    i: uint32_t = u.told
    any: cython.bint = False
    if not i:
        return
    while i:
        e: cython.pointer[Endpoint] = cython.address(u.ends[i])
        if e.news & ENDPOINT_SENT:
            store_release(cython.address(s.channels[e.channel].sockets[e.socket].replica.tx_tail), e.tx_next)
        i = e.next_told
    fence()  # who has seen the old tail, and waits, has written its head before
    i = u.told
    u.told = 0
    while i:
        e2: cython.pointer[Endpoint] = cython.address(u.ends[i])
        following: uint32_t = e2.next_told
        if e2.news & ENDPOINT_SENT:
            if made_room(s, e2):
                put_events(s, e2)
                any = True
            e2.tx_tail = e2.tx_next
        e2.news = 0
        if e2.closing and not e2.sending:
            detach(s, i)
            remove_endpoint(s, i)
        i = following
    if any:
        publish_heads(s)
    if u.parked_count:
        free_parked(s)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def made_room(s: cython.pointer[Stack], e: cython.pointer[Endpoint]) -> cython.bint:
    """Whether the program may wait for room in its send ring, and now has it: a third of it."""
    ch: cython.pointer[Channel] = cython.address(s.channels[e.channel])
    lines: cython.pointer[SocketProgram] = cython.address(ch.sockets[e.socket].program)
    head: uint32_t = load32(cython.address(lines.tx_head))
    limit: uint32_t = ch.header.tx_size
    if load16(cython.address(lines.flags)) & NEAT_FLAG_SEND_BUFFER:
        limit = least(limit, load32(cython.address(lines.send_buffer)))
    enough: uint32_t = limit - limit // 3
    return head - e.tx_tail > enough and head - e.tx_next <= enough


# ---- telling ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_events(s: cython.pointer[Stack], e: cython.pointer[Endpoint]) -> cython.void:
    """Tell every program that holds the socket to look at it."""
    bits: uint64_t = entry_bits(e.channel, NEAT_OP_LOOK, e.socket)
    n: cython.int
    word: cython.int
    if only_bit(e.holders, e.channel):
        e.event_at = put(s, e.channel, bits, e.event_at)
        return
    for word in range(4):
        left: uint64_t = e.holders[word]
        while left:
            n = 64 * word + trailing_zeros(left)
            left &= left - 1
            put(s, n, bits, 0)


def tell_datagrams(s: cython.pointer[Stack]) -> cython.void:
    i: uint32_t = s.udp.told
    while i:
        e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
        if e.news & ENDPOINT_RECEIVED:
            put_events(s, e)
        i = e.next_told
