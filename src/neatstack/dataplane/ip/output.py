"""The way out: route (our own address, the network, the gateway), neighbour, headers, a place in the outbox."""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.channel.address import (
    Address,
    common,
    get_address,
    is_any,
    is_link_local,
    is_loopback,
    is_multicast,
    is_v4,
    loopback_beside,
    mapped,
    matches,
    no_address,
    same,
    set_address,
    v4,
)
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_OWN_DEPRECATED, NEAT_OWN_TENTATIVE
from cython.cimports.neatstack.dataplane.driver.device import OUTBOX, Outgoing
from cython.cimports.neatstack.dataplane.driver.flowhash import flow_hash
from cython.cimports.neatstack.dataplane.ip.output import is_group, is_local
from cython.cimports.neatstack.dataplane.ip.path import is_narrow, own_identification
from cython.cimports.neatstack.dataplane.stack import NEIGHBOURS, WANTED, Drop, Neighbour, Stack
from cython.cimports.neatstack.dataplane.wire.bytes import get32, put16, put32, raw16, raw32, set16, set32
from cython.cimports.neatstack.dataplane.wire.checksum import add, fold, pseudo_header
from cython.cimports.neatstack.dataplane.wire.headers import (
    ETHERNET_HEADER,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    IP6_HEADER,
    IP_DF,
    IP_HEADER,
    IP_LONGEST,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
)
from cython.cimports.neatstack.dataplane.wire.spread import spread

ASKED = cython.declare(uint8_t, 1)  # Neighbour.state
REACHABLE = cython.declare(uint8_t, 2)
TCP_CHECKSUM = cython.declare(uint16_t, 16)  # offset in the TCP header


def next_hop(s: cython.pointer[Stack], remote_be: Address) -> Address:
    """The neighbour that takes packets for `remote_be`; no address: there is none (RFC 1122 section 3.3.1.1)."""
    if is_v4(remote_be) and not (v4(remote_be) ^ s.page.address_be) & s.page.netmask_be:
        return remote_be
    return find_way(s, remote_be)


# rfc: 1122:subnet
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def find_way(s: cython.pointer[Stack], remote_be: Address) -> Address:
    """By the networks of our addresses and the routes, of which the longest prefix counts; else by the gateway."""
    hop: Address = no_address()
    longest: cython.int = -1
    prefix: cython.int
    k: uint32_t
    if is_link_local(remote_be):
        return remote_be
    for k in range(s.page.own_count):
        prefix = cython.cast(cython.int, s.page.own[k].prefix)
        if prefix > longest and matches(remote_be, s.page.own[k].address, s.page.own[k].prefix):
            longest = prefix
            hop = remote_be
    for k in range(s.page.route_count):
        prefix = cython.cast(cython.int, s.page.routes[k].prefix)
        if prefix > longest and matches(remote_be, s.page.routes[k].destination, s.page.routes[k].prefix):
            longest = prefix
            hop = remote_be if is_any(s.page.routes[k].gateway) else s.page.routes[k].gateway
    if longest >= 0:
        return hop
    if is_v4(remote_be):
        return mapped(s.page.gateway_be) if s.page.gateway_be else hop
    return s.page.gateway6


# rfc: 1122:own-source choose-source broadcast-source, 8504:6.6-selection, 791:source
def source_for(s: cython.pointer[Stack], remote_be: Address) -> Address:
    """The source address of what goes there (RFC 6724 section 5, rules 1, 2, 3 and 8); no address: there is none."""
    best: Address = no_address()
    score: cython.int = -1
    this: cython.int
    k: uint32_t
    near: cython.bint = is_link_local(remote_be) or (is_multicast(remote_be) and (remote_be.hi >> 8) & 15 <= 2)
    if is_loopback(remote_be):
        return loopback_beside(remote_be)
    if is_local(s, remote_be):
        return remote_be
    if is_v4(remote_be) and (s.page.own_count < 2 or not (v4(remote_be) ^ s.page.address_be) & s.page.netmask_be):
        return mapped(s.page.address_be)
    for k in range(s.page.own_count):
        if is_v4(s.page.own[k].address) != is_v4(remote_be) or s.page.own[k].flags & NEAT_OWN_TENTATIVE:
            continue
        this = cython.cast(cython.int, common(remote_be, s.page.own[k].address))
        if not s.page.own[k].flags & NEAT_OWN_DEPRECATED:
            this += 256
        if is_link_local(s.page.own[k].address) == near:
            this += 512
        if this > score:
            score = this
            best = s.page.own[k].address
    return best


# rfc: 1122:broadcast-formats
def is_broadcast_elsewhere(s: cython.pointer[Stack], address_be: Address) -> cython.bint:
    """All hosts of a network of ours that is not the first one."""
    host: uint32_t
    last: uint32_t = v4(address_be)
    k: uint32_t
    for k in range(s.page.own_count):
        if is_v4(s.page.own[k].address) and matches(address_be, s.page.own[k].address, s.page.own[k].prefix):
            host = cython.cast(uint32_t, 0xFFFFFFFF) >> (s.page.own[k].prefix - 96)
            if host > 1 and get32(cython.address(last)) & host == host:
                return True
    return False


def routable(s: cython.pointer[Stack], remote_be: Address) -> cython.bint:
    """Whether a connection to `remote_be` can be tried: a unicast address that we have a way to."""
    if is_local(s, remote_be):
        return True
    if is_group(s, remote_be) or (is_v4(remote_be) and (v4(remote_be) & 0xFF == 0 or v4(remote_be) & 0xFF >= 224)):
        return False
    if not is_v4(remote_be) and not s.page.mtu6:
        return False
    return not is_any(next_hop(s, remote_be))


def neighbour_place(address_be: Address) -> uint32_t:
    """Where the search for a neighbour begins."""
    word: uint64_t = address_be.hi ^ address_be.lo
    return spread(cython.cast(uint32_t, word ^ word >> 32), 10) & (NEIGHBOURS - 1)


def neighbour(s: cython.pointer[Stack], address_be: Address) -> cython.pointer[cython.const[uint8_t]]:
    """The hardware address of a neighbour, 6 bytes; NULL when link has to be asked for it."""
    at: uint32_t = neighbour_place(address_be)
    entry: cython.pointer[cython.const[Neighbour]]
    tries: uint32_t
    for tries in range(NEIGHBOURS):
        entry = cython.address(s.neighbours[(at + tries) & (NEIGHBOURS - 1)])
        if entry.state == 0:
            break
        if same(entry.address_be, address_be):
            if entry.state == REACHABLE:
                return entry.mac
            if entry.state == ASKED:
                return cython.NULL
            break
    if not is_any(address_be):
        want(s, address_be)
    return cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def want(s: cython.pointer[Stack], address_be: Address) -> cython.void:
    """Put a neighbour on the list that the replica's loop hands to link. When it is full, a later segment asks."""
    k: uint32_t
    for k in range(s.wanted_count):
        if same(s.wanted[k], address_be):
            return
    if s.wanted_count < WANTED:
        s.wanted[s.wanted_count] = address_be
        s.wanted_count += 1


# rfc: 9293:MUST-48 SHLD-22 MUST-49
def begin(
    s: cython.pointer[Stack], local_be: Address, remote_be: Address, tos: uint8_t, ttl: uint8_t
) -> cython.pointer[Outgoing]:
    """The next place in the outbox with its Ethernet and IP headers, all but lengths and checksums.

    The caller writes the TCP header at `transport` and the payload references, then calls commit(); before that nothing
    is planned. ttl 0 means the default. NULL: the outbox is full, or the next hop's address is not known (counted).
    """
    mac: cython.pointer[cython.const[uint8_t]] = s.page.mac
    if s.outbox_count >= OUTBOX:
        return cython.NULL
    out: cython.pointer[Outgoing] = cython.address(s.outbox[s.outbox_count])
    out.loopback = is_local(s, remote_be)
    if not out.loopback:
        mac = neighbour(s, next_hop(s, remote_be))
    if mac == cython.NULL:
        s.counters.drops[cython.cast(cython.int, Drop.DROP_NEIGHBOUR)] += 1
        return cython.NULL
    headers(s, out, mac, local_be, remote_be)
    set_class(out, tos, ttl)
    return out


# rfc: 1191:3a, 791:reserved, 1122:ttl-configured, 6864:4.1-any
def headers(
    s: cython.pointer[Stack],
    out: cython.pointer[Outgoing],
    mac: cython.pointer[cython.const[uint8_t]],
    local_be: Address,
    remote_be: Address,
) -> cython.void:
    """Ethernet and IP headers of a TCP segment with defaults, all but lengths and checksums; and no payload."""
    header: cython.pointer[uint8_t] = out.header
    memcpy(header, mac, 6)
    memcpy(header + 6, s.page.mac, 8)  # 6, but 8 are one load and one store; the type follows
    ip: cython.pointer[uint8_t] = header + ETHERNET_HEADER
    if cython.likely(is_v4(remote_be)):
        put16(header + 12, ETHERTYPE_IPV4)
        ip[0] = 0x45
        ip[1] = 0
        put16(ip + 4, s.ip_id)  # free to choose with DF (RFC 6864 section 4.1)
        s.ip_id += 1
        put16(ip + 6, IP_DF)
        if cython.unlikely(s.narrow_paths and is_narrow(s, remote_be)):
            put16(ip + 4, own_identification(s, IP_LONGEST // 512))  # the device may cut it, and counts on from it
            put16(ip + 6, 0)
        ip[8] = s.page.ttl
        ip[9] = PROTOCOL_TCP
        set32(ip + 12, v4(local_be))
        set32(ip + 16, v4(remote_be))
        out.transport = ETHERNET_HEADER + IP_HEADER
    else:
        put16(header + 12, ETHERTYPE_IPV6)
        put32(ip, cython.cast(uint32_t, 6) << 28)
        ip[6] = PROTOCOL_TCP
        ip[7] = s.page.hop_limit
        set_address(ip + 8, local_be)
        set_address(ip + 24, remote_be)
        out.transport = ETHERNET_HEADER + IP6_HEADER
    out.first = cython.NULL
    out.first_length = 0
    out.second = cython.NULL
    out.second_length = 0


# rfc: 1122:tos ttl ttl-zero udp-service, 8200:7-traffic
def set_class(out: cython.pointer[Outgoing], tos: uint8_t, ttl: uint8_t) -> cython.void:
    """Type of service and time to live, or traffic class and hop limit (0: the default)."""
    ip: cython.pointer[uint8_t] = out.header + ETHERNET_HEADER
    if cython.likely(ip[0] == 0x45):
        ip[1] = tos
        if ttl:
            ip[8] = ttl
    else:
        put16(ip, cython.cast(uint16_t, 6 << 12 | cython.cast(uint32_t, tos) << 4))
        if ttl:
            ip[7] = ttl


def set_protocol(out: cython.pointer[Outgoing], protocol: uint8_t) -> cython.void:
    """What follows the IP header."""
    out.header[ETHERNET_HEADER + (9 if out.header[ETHERNET_HEADER] == 0x45 else 6)] = protocol


# rfc: 9293:MUST-2
def commit(
    s: cython.pointer[Stack], out: cython.pointer[Outgoing], tcp_header: uint32_t, text: uint32_t, gso_size: uint32_t
) -> cython.void:
    """Plan the segment from begin(): `tcp_header` bytes of TCP header and `text` bytes of payload.

    The IPv4 checksum is complete; the TCP checksum field holds the pseudo header's sum, from which the device goes on.
    """
    ip: cython.pointer[uint8_t] = out.header + ETHERNET_HEADER
    length: uint32_t = tcp_header + text
    pseudo: uint64_t
    if cython.likely(ip[0] == 0x45):
        pseudo = pseudo_header(mapped(raw32(ip + 12)), mapped(raw32(ip + 16)), PROTOCOL_TCP, length)
    else:
        pseudo = pseudo_header(get_address(ip + 8), get_address(ip + 24), PROTOCOL_TCP, length)
    set16(out.header + out.transport + TCP_CHECKSUM, fold(pseudo))
    out.header_length = cython.cast(uint16_t, out.transport + tcp_header)
    out.checksum_start = out.transport
    out.checksum_offset = TCP_CHECKSUM
    out.gso_size = cython.cast(uint16_t, gso_size)
    depart(s, out, length)


# rfc: 8200:8.1-zero 8.1-pseudo 8.4-routing
def depart(s: cython.pointer[Stack], out: cython.pointer[Outgoing], length: uint32_t) -> cython.void:
    """Complete the IP header, which `length` bytes follow, and let the packet go with the batch."""
    ip: cython.pointer[uint8_t] = out.header + ETHERNET_HEADER
    if cython.likely(ip[0] == 0x45):
        put16(ip + 2, cython.cast(uint16_t, IP_HEADER + length))
        set16(ip + 10, 0)
        set16(ip + 10, cython.cast(uint16_t, ~fold(add(0, ip, IP_HEADER))))
        s.counters.bytes_out += ETHERNET_HEADER + IP_HEADER + length
    else:
        put16(ip + 4, cython.cast(uint16_t, length))
        label_flow(s, ip)
        s.counters.bytes_out += ETHERNET_HEADER + IP6_HEADER + length
    s.outbox_count += 1
    s.counters.packets_out += 1


# rfc: 8200:6-label
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def label_flow(s: cython.pointer[Stack], ip: cython.pointer[uint8_t]) -> cython.void:
    """The flow label of a TCP segment or datagram: the same for all of its flow (RFC 6437 section 3)."""
    label: uint32_t
    if ip[6] == PROTOCOL_TCP or ip[6] == PROTOCOL_UDP:
        label = flow_hash(s.page.hash_key, get_address(ip + 24), get_address(ip + 8), raw16(ip + 42), raw16(ip + 40))
        label = spread(label, 20)
        put32(ip, (get32(ip) & cython.cast(uint32_t, 0xFFF00000)) | (label if label else 1))
