"""The UDP sockets of the stack, as a replica knows them, and which of them a datagram is for.

Every replica has all of them. Found by the manager's number, by the cookie of the program's slot, by port, and, once
connected, by peer: lists whose newest member comes first.
"""

import cython
from cython.cimports.libc.errno import ENOBUFS, ENOMEM
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.channel.address import (
    Address,
    is_all_nodes,
    is_any,
    is_multicast,
    is_v4,
    mapped,
    no_address,
    same,
)
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_BIND_REUSEPORT, NEAT_BIND_V6ONLY
from cython.cimports.neatstack.dataplane.driver.flowhash import flow_hash
from cython.cimports.neatstack.dataplane.stack import ENDPOINT_HEADS, GROUPS, MAX_ENDPOINTS, Datagrams, Endpoint, Stack
from cython.cimports.neatstack.dataplane.wire.spread import spread

PORTS = cython.declare(uint32_t, 65536)
ALL_HOSTS_BE = cython.declare(uint32_t, 0x010000E0)  # 224.0.0.1


def init_datagrams(s: cython.pointer[Stack]) -> cython.int:
    u: cython.pointer[Datagrams] = cython.cast(cython.pointer[Datagrams], calloc(1, cython.sizeof(Datagrams)))
    if u == cython.NULL:
        return -ENOMEM
    s.udp = u
    u.used = 1
    u.ends = cython.cast(cython.pointer[Endpoint], calloc(MAX_ENDPOINTS, cython.sizeof(Endpoint)))
    u.by_port = cython.cast(cython.pointer[uint32_t], calloc(PORTS, cython.sizeof(uint32_t)))
    return 0 if u.ends != cython.NULL and u.by_port != cython.NULL else -ENOMEM


def destroy_datagrams(s: cython.pointer[Stack]) -> cython.void:
    if s.udp == cython.NULL:
        return
    free(s.udp.ends)
    free(s.udp.by_port)
    free(s.udp)
    s.udp = cython.NULL


# ---- lists ----


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def head_of(value: uint32_t) -> uint32_t:
    return spread(value, 13) & (ENDPOINT_HEADS - 1)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def head_of_cookie(channel: uint32_t, cookie: uint32_t) -> uint32_t:
    return head_of(cookie * 256 + channel)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def folded(address_be: Address) -> uint32_t:
    word: uint64_t = address_be.hi ^ address_be.lo
    return cython.cast(uint32_t, word ^ word >> 32)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def head_of_peer(local_port_be: uint16_t, remote_be: Address, remote_port_be: uint16_t) -> uint32_t:
    ports: uint32_t = cython.cast(uint32_t, local_port_be) << 16 | remote_port_be
    return head_of(head_of(folded(remote_be)) ^ ports)


def add_endpoint(s: cython.pointer[Stack], number: uint32_t, channel: uint32_t, cookie: uint32_t) -> uint32_t:
    """A new one, found by its number and its cookie. 0: there is no room."""
    u: cython.pointer[Datagrams] = s.udp
    i: uint32_t = u.free
    if i:
        u.free = u.ends[i].next_of_number
    elif u.used < MAX_ENDPOINTS:
        i = u.used
        u.used += 1
    else:
        return 0
    e: cython.pointer[Endpoint] = cython.address(u.ends[i])
    memset(e, 0, cython.sizeof(Endpoint))
    e.number = number
    e.channel = cython.cast(uint16_t, channel)
    e.cookie = cookie
    e.next_of_number = u.by_number[head_of(number)]
    u.by_number[head_of(number)] = i
    e.next_of_cookie = u.by_cookie[head_of_cookie(channel, cookie)]
    u.by_cookie[head_of_cookie(channel, cookie)] = i
    return i


def publish_endpoint(s: cython.pointer[Stack], i: uint32_t, address_be: Address, port_be: uint16_t) -> cython.void:
    """From now on it is found by its port."""
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    e.address_be = address_be
    e.port_be = port_be
    e.next_of_port = s.udp.by_port[port_be]
    s.udp.by_port[port_be] = i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def leave_peer(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    at: cython.pointer[uint32_t]
    if not e.connected:
        return
    e.connected = 0
    at = cython.address(s.udp.by_peer[head_of_peer(e.port_be, e.remote_be, e.remote_port_be)])
    while at[0] and at[0] != i:
        at = cython.address(s.udp.ends[at[0]].next_of_peer)
    if at[0]:
        at[0] = e.next_of_peer


def hide_endpoint(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """It is not found by its port nor by its peer any more."""
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    at: cython.pointer[uint32_t] = cython.address(s.udp.by_port[e.port_be])
    if e.deaf:
        return
    e.deaf = 1
    leave_peer(s, i)
    while at[0] and at[0] != i:
        at = cython.address(s.udp.ends[at[0]].next_of_port)
    if at[0]:
        at[0] = e.next_of_port


def remove_endpoint(s: cython.pointer[Stack], i: uint32_t) -> cython.void:
    """It is no more. It was hidden, and is on no list of work."""
    u: cython.pointer[Datagrams] = s.udp
    e: cython.pointer[Endpoint] = cython.address(u.ends[i])
    at: cython.pointer[uint32_t] = cython.address(u.by_number[head_of(e.number)])
    while at[0] and at[0] != i:
        at = cython.address(u.ends[at[0]].next_of_number)
    if at[0]:
        at[0] = e.next_of_number
    at = cython.address(u.by_cookie[head_of_cookie(e.channel, e.cookie)])
    while at[0] and at[0] != i:
        at = cython.address(u.ends[at[0]].next_of_cookie)
    if at[0]:
        at[0] = e.next_of_cookie
    memset(e, 0, cython.sizeof(Endpoint))
    e.next_of_number = u.free
    u.free = i


def connect_endpoint(
    s: cython.pointer[Stack], i: uint32_t, local_be: Address, remote_be: Address, remote_port_be: uint16_t
) -> cython.void:
    """It receives only from this peer from now on; remote_be unset: from any."""
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    head: uint32_t
    leave_peer(s, i)
    e.local_be = local_be
    e.remote_be = remote_be
    e.remote_port_be = remote_port_be
    if is_any(remote_be) or e.deaf:
        return
    e.connected = 1
    head = head_of_peer(e.port_be, remote_be, remote_port_be)
    e.next_of_peer = s.udp.by_peer[head]
    s.udp.by_peer[head] = i


def told(s: cython.pointer[Stack], i: uint32_t, news: uint8_t) -> cython.void:
    """There is something to tell its programs with this batch."""
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    if not e.news:
        e.next_told = s.udp.told
        s.udp.told = i
    e.news |= news


# ---- looking up ----


def endpoint_numbered(s: cython.pointer[Stack], number: uint32_t) -> uint32_t:
    i: uint32_t = s.udp.by_number[head_of(number)]
    while i and s.udp.ends[i].number != number:
        i = s.udp.ends[i].next_of_number
    return i


def endpoint_of_cookie(s: cython.pointer[Stack], channel: uint32_t, cookie: uint32_t) -> uint32_t:
    """The one that was told and is not closing."""
    i: uint32_t = s.udp.by_cookie[head_of_cookie(channel, cookie)]
    while i:
        e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
        if e.channel == channel and e.cookie == cookie and not e.closing:
            break
        i = e.next_of_cookie
    return i


def find_endpoint(
    s: cython.pointer[Stack], local_be: Address, local_port_be: uint16_t, remote_be: Address, remote_port_be: uint16_t
) -> uint32_t:
    """Whom a datagram to one of our own addresses is for; 0: nobody.

    The one connected to that peer; else one that is bound to the address; else one bound to any. Of several that share
    a port by SO_REUSEPORT the flow decides; by SO_REUSEADDR, the newest has it.
    """
    i: uint32_t = s.udp.by_peer[head_of_peer(local_port_be, remote_be, remote_port_be)]
    e: cython.pointer[Endpoint]
    while i:
        e = cython.address(s.udp.ends[i])
        if (
            same(e.remote_be, remote_be)
            and e.remote_port_be == remote_port_be
            and e.port_be == local_port_be
            and same(e.local_be, local_be)
        ):
            return i
        i = e.next_of_peer
    i = first_bound(s, s.udp.by_port[local_port_be], local_be)
    if not i and is_v4(local_be):
        local_be = mapped(0)
        i = first_bound(s, s.udp.by_port[local_port_be], local_be)
        if not i:
            return first_of_both(s, s.udp.by_port[local_port_be], remote_be, remote_port_be)
    elif not i:
        local_be = no_address()
        i = first_bound(s, s.udp.by_port[local_port_be], local_be)
    if i and s.udp.ends[i].flags & NEAT_BIND_REUSEPORT:
        return one_of_group(s, i, local_be, remote_be, remote_port_be)
    return i


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def first_bound(s: cython.pointer[Stack], i: uint32_t, address_be: Address) -> uint32_t:
    """The first from `i` on that is bound to the address and not connected."""
    while i and (s.udp.ends[i].connected or not same(s.udp.ends[i].address_be, address_be)):
        i = s.udp.ends[i].next_of_port
    return i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def first_of_both(s: cython.pointer[Stack], i: uint32_t, remote_be: Address, remote_port_be: uint16_t) -> uint32_t:
    """Of those bound to ::, the first that takes IPv4, too (RFC 3493 section 3.7)."""
    i = first_bound(s, i, no_address())
    while i and s.udp.ends[i].flags & NEAT_BIND_V6ONLY:
        i = first_bound(s, s.udp.ends[i].next_of_port, no_address())
    if i and s.udp.ends[i].flags & NEAT_BIND_REUSEPORT:
        return one_of_group(s, i, no_address(), remote_be, remote_port_be)
    return i


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def one_of_group(
    s: cython.pointer[Stack], first: uint32_t, address_be: Address, remote_be: Address, remote_port_be: uint16_t
) -> uint32_t:
    """SO_REUSEPORT: the same one for all datagrams of a flow, as long as the group stays as it is."""
    members: uint32_t = 0
    i: uint32_t = first
    chosen: uint32_t
    while i:
        members += 1
        i = first_bound(s, s.udp.ends[i].next_of_port, address_be)
    # the replica was chosen by the top bits of this hash, so they are mixed with the flow once more
    chosen = flow_hash(s.page.hash_key, remote_be, address_be, remote_port_be, s.udp.ends[first].port_be)
    chosen = spread(chosen ^ folded(remote_be), 32)
    chosen = cython.cast(uint32_t, (chosen ^ chosen >> 15 ^ remote_port_be) * cython.cast(uint32_t, 2246822519))
    chosen ^= chosen >> 13
    chosen = cython.cast(uint32_t, chosen * cython.cast(uint32_t, 3266489917))
    chosen = cython.cast(uint32_t, cython.cast(uint64_t, chosen) * members >> 32)
    i = first
    while chosen:
        i = first_bound(s, s.udp.ends[i].next_of_port, address_be)
        chosen -= 1
    return i


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def takes(e: cython.pointer[cython.const[Endpoint]], group_be: Address) -> cython.bint:
    """Whether a socket's own address lets it receive what is sent to a group."""
    if not is_any(e.address_be):
        return same(e.address_be, group_be)
    if is_v4(group_be):
        return is_v4(e.address_be) or not e.flags & NEAT_BIND_V6ONLY
    return not is_v4(e.address_be)


def next_member(
    s: cython.pointer[Stack],
    i: uint32_t,
    group_be: Address,
    local_port_be: uint16_t,
    remote_be: Address,
    remote_port_be: uint16_t,
) -> uint32_t:
    """The next one after `i` (0: the first) that a datagram to a group of hosts is for; 0: there is none."""
    e: cython.pointer[Endpoint]
    i = s.udp.ends[i].next_of_port if i else s.udp.by_port[local_port_be]
    while i:
        e = cython.address(s.udp.ends[i])
        if takes(e, group_be) and (
            not e.connected or (same(e.remote_be, remote_be) and e.remote_port_be == remote_port_be)
        ):
            break
        i = e.next_of_port
    return i


# ---- groups of hosts ----


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def group_at(u: cython.pointer[Datagrams], group_be: Address) -> uint32_t:
    """Its place, or the first after all."""
    k: uint32_t = 0
    while k < u.group_count and not same(u.groups[k], group_be):
        k += 1
    return k


def joined(s: cython.pointer[Stack], group_be: Address) -> cython.bint:
    """Whether what goes to a group is for us at all: broadcast, all hosts (RFC 1112 section 4) or nodes, or joined."""
    if not is_multicast(group_be) or same(group_be, mapped(ALL_HOSTS_BE)) or is_all_nodes(group_be):
        return True
    return group_at(s.udp, group_be) < s.udp.group_count


# rfc: 1122:multicast
def join_group(s: cython.pointer[Stack], group_be: Address) -> cython.int:
    """One more socket is a member. 0, or -ENOBUFS: too many groups."""
    u: cython.pointer[Datagrams] = s.udp
    k: uint32_t = group_at(u, group_be)
    if k == u.group_count:
        if k == GROUPS:
            return -ENOBUFS
        u.groups[k] = group_be
        u.members[k] = 0
        u.group_count += 1
    u.members[k] += 1
    return 0


def leave_group(s: cython.pointer[Stack], group_be: Address) -> cython.void:
    """One socket less."""
    u: cython.pointer[Datagrams] = s.udp
    k: uint32_t = group_at(u, group_be)
    if k == u.group_count:
        return
    u.members[k] -= 1
    if not u.members[k]:
        u.group_count -= 1
        u.groups[k] = u.groups[u.group_count]
        u.members[k] = u.members[u.group_count]
