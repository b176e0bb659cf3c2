"""The way out of a datagram (RFC 768): source address, headers, segments (UDP_SEGMENT), fragments, the outbox.

What does not fit into the MTU of the device, or of the path, is cut into fragments (RFC 791), for which nobody can
complete the checksum any more: it is added up here.
"""

import cython
from cython.cimports.libc.errno import EAGAIN, EHOSTUNREACH, EINVAL, EMSGSIZE, ENOBUFS
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.channel.address import (
    Address,
    is_any,
    is_loopback,
    is_multicast,
    is_v4,
    loopback_beside,
)
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_DATAGRAM_DEVICE,
    NEAT_DATAGRAM_DONT_FRAGMENT,
    NEAT_DATAGRAM_LARGEST,
    NEAT_DATAGRAM_LARGEST6,
    NEAT_DATAGRAM_LOOP,
    NEAT_DATAGRAM_NO_DF,
    NEAT_DATAGRAM_SEGMENTS,
    Datagram,
)
from cython.cimports.neatstack.dataplane.driver.device import OUTBOX, Outgoing
from cython.cimports.neatstack.dataplane.ip.output import (
    depart,
    headers,
    ip_header,
    is_broadcast,
    is_group,
    is_local,
    link_mtu,
    neighbour,
    next_hop,
    routable,
    set_class,
    set_protocol,
    source_for,
)
from cython.cimports.neatstack.dataplane.ip.path import own_identification, path_mtu
from cython.cimports.neatstack.dataplane.stack import Endpoint, Stack
from cython.cimports.neatstack.dataplane.tcp.isn import random32
from cython.cimports.neatstack.dataplane.udp.output import Payload
from cython.cimports.neatstack.dataplane.wire.bytes import put16, set16, set32
from cython.cimports.neatstack.dataplane.wire.checksum import add, add_piece, fold, pseudo_header
from cython.cimports.neatstack.dataplane.wire.headers import (
    ETHERNET_HEADER,
    FRAGMENT_HEADER6,
    IP_LONGEST,
    IP_MF,
    PROTOCOL_FRAGMENT,
    PROTOCOL_UDP,
    UDP_HEADER,
)

UDP_CHECKSUM = cython.declare(uint16_t, 6)  # offset in the UDP header

Route = cython.struct(
    local_be=Address,
    remote_be=Address,
    mac=uint8_t[6],
    loopback=cython.bint,
    tos=uint8_t,
    ttl=uint8_t,
    mtu=uint32_t,                        # larger ones are cut into fragments
    whole=cython.bint,                   # or refused
    may_cut=cython.bint,                 # routers may
    local_port_be=uint16_t,
    remote_port_be=uint16_t,
)  # fmt: skip


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def map_group(
    group: cython.pointer[cython.const[uint8_t]], four: cython.bint, mac: cython.pointer[uint8_t]
) -> cython.void:
    """The hardware address of a group of hosts (RFC 1112 section 6.4, RFC 2464 section 7)."""
    mac[0] = 1 if four else 0x33
    mac[1] = 0 if four else 0x33
    mac[2] = 0x5E if four else group[12]
    mac[3] = group[13] & 0x7F if four else group[13]
    mac[4] = group[14]
    mac[5] = group[15]


# rfc: 1122:choose-source
def source_of(
    s: cython.pointer[Stack],
    e: cython.pointer[cython.const[Endpoint]],
    d: cython.pointer[cython.const[Datagram]],
    remote_be: Address,
) -> Address:
    """The source address of what goes to `remote_be`; no address: there is none."""
    local_be: Address = d.local
    if is_any(local_be):
        local_be = e.local_be if e.connected else e.address_be
    if is_any(local_be) or is_group(s, local_be):
        local_be = source_for(s, remote_be)
    return local_be


# rfc: 1122:udp-bad-source udp-source-told
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def find_route(
    s: cython.pointer[Stack],
    e: cython.pointer[cython.const[Endpoint]],
    d: cython.pointer[cython.const[Datagram]],
    route: cython.pointer[Route],
) -> cython.int:
    """Where a datagram goes and as what.

    0; -EINVAL: addresses that cannot be; -EHOSTUNREACH: no way there; -EAGAIN: the next hop's hardware address is not
    known yet.
    """
    remote_be: Address = d.remote if not is_any(d.remote) else loopback_beside(d.remote)  # Linux: this host
    local_be: Address = source_of(s, e, d, remote_be)
    mac: cython.pointer[cython.const[uint8_t]]
    k: cython.int
    if is_any(local_be):
        return -EHOSTUNREACH
    if not is_local(s, local_be) or is_v4(local_be) != is_v4(remote_be):
        return -EINVAL
    if is_loopback(local_be) and not is_local(s, remote_be):
        return -EINVAL
    if not is_v4(remote_be) and not s.page.mtu6 and not is_local(s, remote_be):
        return -EHOSTUNREACH
    route.local_be = local_be
    route.remote_be = remote_be
    route.local_port_be = e.port_be
    route.remote_port_be = d.remote_port_be
    route.tos = d.tos
    route.ttl = d.ttl
    route.whole = d.flags & NEAT_DATAGRAM_DONT_FRAGMENT != 0
    route.may_cut = d.flags & NEAT_DATAGRAM_NO_DF != 0
    route.loopback = is_local(s, remote_be)
    route.mtu = 0 if d.flags & NEAT_DATAGRAM_DEVICE else path_mtu(s, remote_be)
    if not route.mtu:
        route.mtu = link_mtu(s, remote_be)
    if not route.mtu:  # to ourselves, without IPv6 on the link
        route.mtu = IP_LONGEST
    mac = s.page.mac
    if is_broadcast(s, remote_be):
        for k in range(6):
            route.mac[k] = 0xFF
        return 0
    if is_multicast(remote_be):
        map_group(cython.cast(cython.pointer[uint8_t], cython.address(remote_be)), is_v4(remote_be), route.mac)
        return 0
    if not route.loopback:
        if not routable(s, remote_be):
            return -EHOSTUNREACH
        mac = neighbour(s, next_hop(s, remote_be))
        if mac == cython.NULL:
            return -EAGAIN
    for k in range(6):
        route.mac[k] = mac[k]
    return 0


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def part_of(route: cython.pointer[cython.const[Route]], most: uint32_t) -> uint32_t:
    """Bytes of the datagram that go into each fragment but the last."""
    return (most if is_v4(route.remote_be) else most - FRAGMENT_HEADER6) & ~cython.cast(uint32_t, 7)


# rfc: 791:dont-fragment, 768:send, 6864:4.3-cut, 1191:6.1
def send_datagram(
    s: cython.pointer[Stack],
    e: cython.pointer[cython.const[Endpoint]],
    d: cython.pointer[cython.const[Datagram]],
    p: cython.pointer[cython.const[Payload]],
) -> cython.int:
    """Plan what a program wants to be sent. `d` is a copy, and the payload is `d.length` bytes.

    0; -ENOBUFS: the outbox has no room for it now, nothing is planned; -EAGAIN: the next hop is being asked for;
    else why it cannot be sent: -EINVAL, -EHOSTUNREACH, -EMSGSIZE.
    """
    route: Route
    size: uint32_t = d.segment if 0 < d.segment < d.length else d.length
    copies: uint32_t = 1
    packets: uint32_t = 1
    most: uint32_t
    each: uint32_t
    offset: uint32_t = 0
    left: uint32_t = d.length
    failed: cython.int = find_route(s, e, d, cython.address(route))
    if failed:
        return failed
    if d.length > (NEAT_DATAGRAM_LARGEST if is_v4(route.remote_be) else NEAT_DATAGRAM_LARGEST6):
        return -EMSGSIZE
    most = route.mtu - ip_header(route.remote_be)
    each = part_of(cython.address(route), most)
    if d.length > size:
        packets = (d.length + size - 1) // size
        if packets > NEAT_DATAGRAM_SEGMENTS or size + UDP_HEADER > most:
            return -EINVAL  # the library has refused it: segments must not be cut into fragments
    if size + UDP_HEADER > most and not route.loopback:
        if route.whole:
            return -EMSGSIZE
        packets = (size + UDP_HEADER + each - 1) // each
    looped: cython.bint = is_group(s, route.remote_be) and (
        not is_multicast(route.remote_be) or d.flags & NEAT_DATAGRAM_LOOP
    )
    copies = 2 if looped else 1
    if s.outbox_count + packets * copies > OUTBOX:
        return -EMSGSIZE if s.outbox_count == 0 else -ENOBUFS
    while True:
        if size > left:
            size = left
        plan(s, cython.address(route), p, offset, size)
        if looped:
            route.loopback = True
            plan(s, cython.address(route), p, offset, size)
            route.loopback = False
        left -= size
        offset += size
        if not left:
            return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def refer(
    out: cython.pointer[Outgoing], p: cython.pointer[cython.const[Payload]], offset: uint32_t, length: uint32_t
) -> cython.void:
    """Let `out` carry `length` bytes of the payload from `offset` on."""
    out.second_length = 0
    if offset < p.first_length:
        out.first = p.first + offset
        out.first_length = p.first_length - offset if p.first_length - offset < length else length
        out.second = p.second
        out.second_length = length - out.first_length
    else:
        out.first = p.second + (offset - p.first_length)
        out.first_length = length


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def finish(
    s: cython.pointer[Stack],
    out: cython.pointer[Outgoing],
    route: cython.pointer[Route],
    protocol: uint8_t,
    transport: uint32_t,
) -> cython.void:
    """What the route says, for the header of a packet with `transport` bytes after it; and let it go."""
    set_class(out, route.tos, route.ttl)
    set_protocol(out, protocol)
    out.loopback = route.loopback
    out.gso_size = 0
    depart(s, out, transport)


# rfc: 1122:udp-checksum, 768:checksum zero-sent
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def plan(
    s: cython.pointer[Stack],
    route: cython.pointer[Route],
    p: cython.pointer[cython.const[Payload]],
    offset: uint32_t,
    length: uint32_t,
) -> cython.void:
    """Plan one datagram with `length` bytes of the payload from `offset` on; there is room in the outbox."""
    out: cython.pointer[Outgoing] = cython.address(s.outbox[s.outbox_count])
    udp: cython.pointer[uint8_t]
    total: uint32_t = UDP_HEADER + length
    most: uint32_t = route.mtu - ip_header(route.remote_be)
    pseudo: uint64_t = pseudo_header(route.local_be, route.remote_be, PROTOCOL_UDP, total)
    s.counters.datagrams_out += 1
    headers(s, out, route.mac, route.local_be, route.remote_be)
    udp = out.header + out.transport
    set16(udp, route.local_port_be)
    set16(udp + 2, route.remote_port_be)
    put16(udp + 4, cython.cast(uint16_t, total))
    refer(out, p, offset, length)
    out.header_length = cython.cast(uint16_t, out.transport + UDP_HEADER)
    if total <= most or route.loopback:
        set16(udp + 6, fold(pseudo))
        out.checksum_start = out.transport
        out.checksum_offset = UDP_CHECKSUM
        if route.may_cut and is_v4(route.remote_be):
            put16(out.header + ETHERNET_HEADER + 4, own_identification(s, 1))
            put16(out.header + ETHERNET_HEADER + 6, 0)
        finish(s, out, route, PROTOCOL_UDP, total)
        return
    set16(udp + 6, 0)
    pseudo = add(pseudo, udp, UDP_HEADER)
    pseudo = add_piece(pseudo, 0, out.first, out.first_length)
    pseudo = add_piece(pseudo, out.first_length, out.second, out.second_length)
    fragments(s, route, p, offset, length, fold(pseudo))


# rfc: 791:fragment-id, 8200:4.5-identification 4.5-fit 4.5-chain, 5722:sent, 8504:5.1-atomic 5.1-predictable
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fragments(
    s: cython.pointer[Stack],
    route: cython.pointer[Route],
    p: cython.pointer[cython.const[Payload]],
    offset: uint32_t,
    length: uint32_t,
    sum: uint16_t,
) -> cython.void:
    """Plan a datagram in fragments (RFC 791 section 3.2, RFC 8200 section 4.5).

    The first place in the outbox has its headers already; `sum` is its checksum, not yet inverted.
    """
    out: cython.pointer[Outgoing] = cython.address(s.outbox[s.outbox_count])
    udp: uint8_t[8]
    four: cython.bint = is_v4(route.remote_be)
    header: uint32_t = 0 if four else FRAGMENT_HEADER6
    most: uint32_t = part_of(route, route.mtu - ip_header(route.remote_be))
    number: uint32_t = own_identification(s, 1) if four else random32(s)  # RFC 7739: nobody can foretell it
    at: uint32_t = 0  # bytes that are in earlier fragments
    all: uint32_t = UDP_HEADER + length
    front: uint32_t = UDP_HEADER  # bytes of the UDP header in this one
    part: uint32_t
    set16(out.header + out.transport + UDP_CHECKSUM, 0xFFFF if sum == 0xFFFF else cython.cast(uint16_t, ~sum))
    memcpy(udp, out.header + out.transport, UDP_HEADER)
    while at < all:
        part = all - at if all - at < most else most
        out = cython.address(s.outbox[s.outbox_count])
        headers(s, out, route.mac, route.local_be, route.remote_be)
        if four:
            put16(out.header + ETHERNET_HEADER + 4, cython.cast(uint16_t, number))
            put16(out.header + ETHERNET_HEADER + 6, cython.cast(uint16_t, at >> 3 | (IP_MF if at + part < all else 0)))
        else:
            fragment_header6(out.header + out.transport, number, at, at + part < all)
        memcpy(out.header + out.transport + header, udp, front)
        refer(out, p, offset + at + front - UDP_HEADER, part - front)
        out.header_length = cython.cast(uint16_t, out.transport + header + front)
        out.checksum_start = 0
        finish(s, out, route, PROTOCOL_UDP if four else PROTOCOL_FRAGMENT, header + part)
        at += part
        front = 0


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def fragment_header6(header: cython.pointer[uint8_t], number: uint32_t, at: uint32_t, more: cython.bint) -> cython.void:
    """RFC 8200 section 4.5; `at` counts bytes and is a multiple of 8."""
    header[0] = PROTOCOL_UDP
    header[1] = 0
    put16(header + 2, cython.cast(uint16_t, at | more))
    set32(header + 4, number)
