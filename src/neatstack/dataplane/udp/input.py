"""A datagram has come in (RFC 768; RFC 1122 section 4.1): into the receive ring of the socket that it is for.

The ring's head moves at once: that is the commit. If we die before, the frame is taken again by the next incarnation;
if we die after, its programs look at all their sockets.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint32_t
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.channel.address import Address, get_address, mapped
from cython.cimports.neatstack.dataplane.channel.atomic import load32, store32, store_release
from cython.cimports.neatstack.dataplane.channel.buffers import ring_write
from cython.cimports.neatstack.dataplane.channel.channel import rx_ring
from cython.cimports.neatstack.dataplane.channel.layout import NEAT_DATAGRAM_ALIGN, Datagram, SocketReplica
from cython.cimports.neatstack.dataplane.ip.icmp import PORT, UNREACHABLE, send_error
from cython.cimports.neatstack.dataplane.ip.icmp6 import PORT6, UNREACHABLE6, send_error6
from cython.cimports.neatstack.dataplane.ip.output import is_group
from cython.cimports.neatstack.dataplane.stack import Channel, Drop, Endpoint, Stack
from cython.cimports.neatstack.dataplane.udp.endpoint import ENDPOINT_RECEIVED, find_endpoint, joined, next_member, told
from cython.cimports.neatstack.dataplane.udp.error import datagram_failed
from cython.cimports.neatstack.dataplane.wire.bytes import get16, raw16, raw32
from cython.cimports.neatstack.dataplane.wire.checksum import add, fold, pseudo_header
from cython.cimports.neatstack.dataplane.wire.headers import PROTOCOL_UDP, UDP_HEADER


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def drop(s: cython.pointer[Stack], reason: Drop) -> cython.void:
    s.counters.drops[cython.cast(cython.int, reason)] += 1


# rfc: 1122:port-unreachable udp-checksum, 8200:8.1-checksum, 768:port length checksum zero-taken
def datagram_arrives(
    s: cython.pointer[Stack],
    packet: cython.pointer[cython.const[uint8_t]],
    header: uint32_t,
    length: uint32_t,
    checked: cython.bint,
    loopback: cython.bint,
) -> cython.void:
    """Take an IP packet of `length` bytes that has been found good; `checked`: so is its UDP checksum.

    `header` bytes of headers stand before UDP's.
    """
    udp: cython.pointer[cython.const[uint8_t]] = packet + header
    four: cython.bint = packet[0] >> 4 == 4
    local_be: Address = mapped(raw32(packet + 16)) if four else get_address(packet + 24)
    remote_be: Address = mapped(raw32(packet + 12)) if four else get_address(packet + 8)
    long: uint32_t
    i: uint32_t
    if length - header < UDP_HEADER:
        drop(s, Drop.DROP_UDP_HEADER)
        return
    long = get16(udp + 4)
    if long < UDP_HEADER or long > length - header:
        drop(s, Drop.DROP_UDP_HEADER)
        return
    # RFC 768: 0 is no checksum, but not over IPv6 (RFC 8200 section 8.1); RFC 1122 section 4.1.3.4: silently
    if not checked and (raw16(udp + 6) or not four):
        if not raw16(udp + 6) or fold(add(pseudo_header(remote_be, local_be, PROTOCOL_UDP, long), udp, long)) != 0xFFFF:
            drop(s, Drop.DROP_UDP_CHECKSUM)
            return
    d: Datagram
    memset(cython.address(d), 0, cython.sizeof(d))
    d.length = long - UDP_HEADER
    d.remote_port_be = raw16(udp)
    d.local_port_be = raw16(udp + 2)
    d.tos = packet[1] if four else cython.cast(uint8_t, get16(packet) >> 4)
    d.ttl = packet[8] if four else packet[7]
    d.time_ns = s.now
    d.remote = remote_be
    d.local = local_be
    if cython.unlikely(is_group(s, local_be)):
        if not joined(s, local_be):
            drop(s, Drop.DROP_NOT_OURS)
            return
        i = next_member(s, 0, local_be, d.local_port_be, remote_be, d.remote_port_be)
        while i:
            deliver(s, i, cython.address(d), udp + UDP_HEADER)
            i = next_member(s, i, local_be, d.local_port_be, remote_be, d.remote_port_be)
        return
    i = find_endpoint(s, local_be, d.local_port_be, remote_be, d.remote_port_be)
    if i:
        deliver(s, i, cython.address(d), udp + UDP_HEADER)
    else:
        drop(s, Drop.DROP_UDP_PORT)
        if loopback:
            if four:
                datagram_failed(s, packet, header, length, UNREACHABLE, PORT, local_be, 0)
            else:
                datagram_failed(s, packet, header, length, UNREACHABLE6, PORT6, local_be, 0)
        elif not four:  # RFC 4443 section 3.1
            send_error6(s, packet, header, length, UNREACHABLE6, PORT6, 0)
        else:  # RFC 1122 section 4.1.3.1
            send_error(s, packet, length, UNREACHABLE, PORT)


# rfc: 1122:tos-up udp-destination, 768:receive ports
def deliver(
    s: cython.pointer[Stack],
    i: uint32_t,
    d: cython.pointer[Datagram],
    payload: cython.pointer[cython.const[uint8_t]],
) -> cython.void:
    """Put a datagram into a socket's receive ring, and make it seen; without room it is dropped."""
    e: cython.pointer[Endpoint] = cython.address(s.udp.ends[i])
    ch: cython.pointer[Channel] = cython.address(s.channels[e.channel])
    ring: cython.pointer[uint8_t]
    r: cython.pointer[SocketReplica]
    size: uint32_t
    need: uint32_t = cython.sizeof(Datagram) + (
        (d.length + NEAT_DATAGRAM_ALIGN - 1) & ~cython.cast(uint32_t, NEAT_DATAGRAM_ALIGN - 1)
    )
    waiting: uint32_t
    limit: uint32_t
    if not e.attached:
        drop(s, Drop.DROP_UDP_FULL)
        return
    ring = rx_ring(ch, e.socket)
    r = cython.address(ch.sockets[e.socket].replica)
    size = ch.header.rx_size
    waiting = e.rx_head - load32(cython.address(ch.sockets[e.socket].program.rx_tail))
    limit = load32(cython.address(ch.sockets[e.socket].program.receive_buffer))
    if limit == 0 or limit > size:
        limit = size
    # Linux takes one datagram more than SO_RCVBUF allows; a tail that cannot be makes `waiting` huge
    if need > size or waiting > size - need or waiting >= limit:
        drop(s, Drop.DROP_UDP_FULL)
        return
    if (
        not waiting and e.rx_base != e.rx_head
    ):  # an empty ring begins at its start again: a little traffic touches one page
        e.rx_base = e.rx_head
        store32(cython.address(r.rx_base), e.rx_base)
    at: uint32_t = (e.rx_head - e.rx_base) & (size - 1)
    ring_write(ring, size, at, cython.cast(cython.pointer[uint8_t], d), cython.sizeof(Datagram))
    ring_write(ring, size, (at + cython.sizeof(Datagram)) & (size - 1), payload, d.length)
    e.rx_head += need
    e.bytes_in += need
    s.counters.datagrams_in += 1
    store_release(cython.address(r.rx_head), e.rx_head)
    told(s, i, ENDPOINT_RECEIVED)
