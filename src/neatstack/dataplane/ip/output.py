"""The way out: route (our own address, the network, the gateway), neighbour, headers, a place in the outbox."""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.libc.string import memcpy
from cython.cimports.neatstack.dataplane.driver.device import OUTBOX, Outgoing
from cython.cimports.neatstack.dataplane.ip.output import TCP_AT, is_local
from cython.cimports.neatstack.dataplane.ip.path import is_narrow, own_identification
from cython.cimports.neatstack.dataplane.stack import NEIGHBOURS, WANTED, Drop, Neighbour, Stack
from cython.cimports.neatstack.dataplane.wire.bytes import put16, raw32, set16, set32
from cython.cimports.neatstack.dataplane.wire.checksum import add, fold, pseudo_header
from cython.cimports.neatstack.dataplane.wire.headers import (
    DEFAULT_TTL,
    ETHERNET_HEADER,
    ETHERTYPE_IPV4,
    IP_DF,
    IP_HEADER,
    IP_LONGEST,
    PROTOCOL_TCP,
)

ASKED = cython.declare(uint8_t, 1)  # Neighbour.state
REACHABLE = cython.declare(uint8_t, 2)
TCP_CHECKSUM = cython.declare(uint16_t, 16)  # offset in the TCP header


def next_hop(s: cython.pointer[Stack], remote_be: uint32_t) -> uint32_t:
    """The neighbour that takes packets for `remote_be`; 0: there is none (RFC 1122 section 3.3.1.1)."""
    if not (remote_be ^ s.page.address_be) & s.page.netmask_be:
        return remote_be
    return s.page.gateway_be


def routable(s: cython.pointer[Stack], remote_be: uint32_t) -> cython.bint:
    """Whether a connection to `remote_be` can be tried: a unicast address that we have a way to."""
    first: uint8_t = remote_be & 0xFF
    if is_local(s, remote_be):
        return True
    if first == 0 or first >= 224:
        return False
    if not (remote_be ^ s.page.address_be) & s.page.netmask_be and not ~(remote_be | s.page.netmask_be):
        return False  # the broadcast address of our network
    return next_hop(s, remote_be) != 0


def neighbour(s: cython.pointer[Stack], address_be: uint32_t) -> cython.pointer[cython.const[uint8_t]]:
    """The hardware address of a neighbour, 6 bytes; NULL when link has to be asked for it."""
    at: uint32_t = cython.cast(uint32_t, address_be * cython.cast(uint32_t, 2654435761)) >> 22
    entry: cython.pointer[cython.const[Neighbour]]
    tries: uint32_t
    for tries in range(NEIGHBOURS):
        entry = cython.address(s.neighbours[(at + tries) & (NEIGHBOURS - 1)])
        if entry.state == 0:
            break
        if entry.address_be == address_be:
            if entry.state == REACHABLE:
                return entry.mac
            if entry.state == ASKED:
                return cython.NULL
            break
    want(s, address_be)
    return cython.NULL


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def want(s: cython.pointer[Stack], address_be: uint32_t) -> cython.void:
    """Put a neighbour on the list that the replica's loop hands to link. When it is full, a later segment asks."""
    k: uint32_t
    for k in range(s.wanted_count):
        if s.wanted[k] == address_be:
            return
    if s.wanted_count < WANTED:
        s.wanted[s.wanted_count] = address_be
        s.wanted_count += 1


# rfc: 9293:MUST-48 SHLD-22 MUST-49
def begin(
    s: cython.pointer[Stack], local_be: uint32_t, remote_be: uint32_t, tos: uint8_t, ttl: uint8_t
) -> cython.pointer[Outgoing]:
    """The next place in the outbox with its Ethernet and IPv4 headers, all but lengths and checksums.

    The caller writes the TCP header at TCP_AT and the payload references, then calls commit(); before that nothing is
    planned. ttl 0 means the default. NULL: the outbox is full, or the next hop's address is not known (counted).
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
    out.header[ETHERNET_HEADER + 1] = tos
    if ttl:
        out.header[ETHERNET_HEADER + 8] = ttl
    return out


# rfc: 1191:3a
def headers(
    s: cython.pointer[Stack],
    out: cython.pointer[Outgoing],
    mac: cython.pointer[cython.const[uint8_t]],
    local_be: uint32_t,
    remote_be: uint32_t,
) -> cython.void:
    """Ethernet and IPv4 headers of a TCP segment with defaults, all but lengths and checksums; and no payload."""
    header: cython.pointer[uint8_t] = out.header
    memcpy(header, mac, 6)
    memcpy(header + 6, s.page.mac, 6)
    put16(header + 12, ETHERTYPE_IPV4)
    ip: cython.pointer[uint8_t] = header + ETHERNET_HEADER
    ip[0] = 0x45
    ip[1] = 0
    put16(ip + 4, s.ip_id)  # free to choose with DF (RFC 6864 section 4.1)
    s.ip_id += 1
    put16(ip + 6, IP_DF)
    if cython.unlikely(s.narrow_paths and is_narrow(s, remote_be)):
        put16(ip + 4, own_identification(s, IP_LONGEST // 512))  # the device may cut it, and counts on from it
        put16(ip + 6, 0)
    ip[8] = DEFAULT_TTL
    ip[9] = PROTOCOL_TCP
    set32(ip + 12, local_be)
    set32(ip + 16, remote_be)
    out.first = cython.NULL
    out.first_length = 0
    out.second = cython.NULL
    out.second_length = 0


# rfc: 9293:MUST-2
def commit(
    s: cython.pointer[Stack], out: cython.pointer[Outgoing], tcp_header: uint32_t, text: uint32_t, gso_size: uint32_t
) -> cython.void:
    """Plan the segment from begin(): `tcp_header` bytes of TCP header and `text` bytes of payload.

    The IPv4 checksum is complete; the TCP checksum field holds the pseudo header's sum, from which the device goes on.
    """
    ip: cython.pointer[uint8_t] = out.header + ETHERNET_HEADER
    length: uint32_t = tcp_header + text
    set16(out.header + TCP_AT + TCP_CHECKSUM, fold(pseudo_header(raw32(ip + 12), raw32(ip + 16), PROTOCOL_TCP, length)))
    out.header_length = cython.cast(uint16_t, TCP_AT + tcp_header)
    out.checksum_start = TCP_AT
    out.checksum_offset = TCP_CHECKSUM
    out.gso_size = cython.cast(uint16_t, gso_size)
    depart(s, out, length)


def depart(s: cython.pointer[Stack], out: cython.pointer[Outgoing], length: uint32_t) -> cython.void:
    """Complete the IPv4 header, which `length` bytes follow, and let the packet go with the batch."""
    ip: cython.pointer[uint8_t] = out.header + ETHERNET_HEADER
    put16(ip + 2, cython.cast(uint16_t, IP_HEADER + length))
    set16(ip + 10, 0)
    set16(ip + 10, cython.cast(uint16_t, ~fold(add(0, ip, IP_HEADER))))
    s.outbox_count += 1
    s.counters.packets_out += 1
    s.counters.bytes_out += ETHERNET_HEADER + IP_HEADER + length
