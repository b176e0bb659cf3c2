"""An IPv6 packet has come in: its chain of headers is walked (RFC 8200 section 4), and on to TCP or UDP.

The chain is bounded: a few headers, a few options in each (RFC 8504 section 5.3), so that nobody can make us walk long.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t
from cython.cimports.libc.string import memcmp
from cython.cimports.neatstack.dataplane.channel.address import (
    Address,
    get_address,
    is_any,
    is_loopback,
    is_multicast,
    is_v4,
)
from cython.cimports.neatstack.dataplane.driver.device import Frame
from cython.cimports.neatstack.dataplane.ip.icmp6 import (
    BAD_HEADER6,
    FIRST_FRAGMENT6,
    NEXT_HEADER6,
    OPTION6,
    PARAMETER6,
    error6_arrives,
    send_error6,
)
from cython.cimports.neatstack.dataplane.ip.output import is_own
from cython.cimports.neatstack.dataplane.ip.reassembly import WHOLE, Fragment, gather_packet6
from cython.cimports.neatstack.dataplane.stack import FRAGMENT_HEADER, Drop, Stack
from cython.cimports.neatstack.dataplane.tcp.segment import segment_arrives
from cython.cimports.neatstack.dataplane.udp.input import datagram_arrives
from cython.cimports.neatstack.dataplane.wire.bytes import get16
from cython.cimports.neatstack.dataplane.wire.headers import (
    DESTINATION,
    ETHERNET_HEADER,
    HOP_BY_HOP,
    IP6_HEADER,
    PROTOCOL_FRAGMENT,
    PROTOCOL_ICMP6,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    ROUTING,
    TCP_HEADER,
)

NO_NEXT = cython.declare(uint8_t, 59)  # next header
PAD1 = cython.declare(uint8_t, 0)  # options
PADN = cython.declare(uint8_t, 1)
MOST_HEADERS = cython.declare(uint32_t, 8)
MOST_OPTIONS = cython.declare(uint32_t, 8)  # in one header, RFC 8504 section 5.3
LONGEST_PAYLOAD = cython.declare(uint32_t, 65535)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def drop(s: cython.pointer[Stack], reason: Drop) -> cython.void:
    s.counters.drops[cython.cast(cython.int, reason)] += 1


# rfc: 8200:3-hop-limit 5-link
def frame6_arrives(s: cython.pointer[Stack], frame: cython.pointer[Frame]) -> cython.void:
    """Take a frame with an IPv6 packet."""
    packet: cython.pointer[uint8_t] = frame.data + ETHERNET_HEADER
    length: uint32_t
    source: Address
    destination: Address
    group: cython.bint = memcmp(frame.data, s.page.mac, 6) != 0
    if frame.length < ETHERNET_HEADER + IP6_HEADER:
        drop(s, Drop.DROP_SHORT)
        return
    length = IP6_HEADER + get16(packet + 4)
    if packet[0] >> 4 != 6 or length > frame.length - ETHERNET_HEADER or length == IP6_HEADER:
        drop(s, Drop.DROP_IP_HEADER)
        return
    source = get_address(packet + 8)
    destination = get_address(packet + 24)
    if (group and not frame.data[0] & 1) or not (is_multicast(destination) if group else is_own(s, destination)):
        drop(s, Drop.DROP_NOT_OURS)
        return
    # RFC 4291 section 2.7 and 2.5.3; mapped addresses are ours alone: on the wire they would pass for IPv4
    if (
        is_v4(source)
        or is_v4(destination)
        or is_any(source)
        or is_multicast(source)
        or is_loopback(source)
        or is_own(s, source)
    ):
        drop(s, Drop.DROP_MARTIAN)
        return
    chain_arrives(s, packet, length, frame.checked, False)


# rfc: 8200:4-unknown 4-strictly 4.1-order 4.7-nothing 4.4-routing 4.4-ignored 4.5-atomic
# rfc: 5095:type-0, 6946:atomic others, 4443:3.4-discard 3.4-sent
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def chain_arrives(
    s: cython.pointer[Stack],
    packet: cython.pointer[cython.const[uint8_t]],
    length: uint32_t,
    checked: cython.bint,
    whole: cython.bint,
) -> cython.void:
    """Walk the headers in the order in which they come (RFC 8200 section 4.1). `whole`: it was put together."""
    at: uint32_t = IP6_HEADER
    named: uint32_t = 6  # where the number of the header at `at` stands
    count: uint32_t
    size: uint32_t
    kind: uint8_t
    for count in range(MOST_HEADERS + 1):
        kind = packet[named]
        if cython.likely(kind == PROTOCOL_TCP or kind == PROTOCOL_UDP or kind == PROTOCOL_ICMP6):
            upper_arrives(s, packet, kind, at, length, checked)
            return
        if kind not in (HOP_BY_HOP, ROUTING, DESTINATION, PROTOCOL_FRAGMENT) or (kind == HOP_BY_HOP and count):
            drop(s, Drop.DROP_PROTOCOL)
            if kind != NO_NEXT:  # RFC 8200 section 4
                send_error6(s, packet, at, length, PARAMETER6, NEXT_HEADER6, named)
            return
        if length - at < 8:
            drop(s, Drop.DROP_IP_HEADER)
            return
        size = 8
        if kind == PROTOCOL_FRAGMENT:
            if whole:
                drop(s, Drop.DROP_FRAGMENT)
                return
            if get16(packet + at + 2) & 0xFFF9:  # else it is the only one: RFC 6946
                fragment6_arrives(s, packet, named, at, length)
                return
        else:
            size = (cython.cast(uint32_t, packet[at + 1]) + 1) << 3
            if size > length - at or count == MOST_HEADERS:
                drop(s, Drop.DROP_IP_HEADER)
                return
            if kind == ROUTING:
                if packet[at + 3]:  # RFC 8200 section 4.4, RFC 5095: none is known to us, type 0 included
                    drop(s, Drop.DROP_IP_HEADER)
                    send_error6(s, packet, at, length, PARAMETER6, BAD_HEADER6, at + 2)
                    return
            elif not options_good(s, packet, at, size, length):
                drop(s, Drop.DROP_IP_HEADER)
                return
        named = at
        at += size
    drop(s, Drop.DROP_IP_HEADER)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def upper_arrives(
    s: cython.pointer[Stack],
    packet: cython.pointer[cython.const[uint8_t]],
    kind: uint8_t,
    at: uint32_t,
    length: uint32_t,
    checked: cython.bint,
) -> cython.void:
    if kind == PROTOCOL_TCP:
        if is_multicast(get_address(packet + 24)):  # RFC 9293 section 3.9.2.3, MUST-57
            drop(s, Drop.DROP_NOT_OURS)
        else:
            segment_arrives(s, packet, at, length, checked, False)
    elif kind == PROTOCOL_UDP:
        datagram_arrives(s, packet, at, length, checked, False)
    else:
        error6_arrives(s, packet, at, length)


# rfc: 8200:4.2-skip 4.2-option 4.2-padding, 8504:5.3-options
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def options_good(
    s: cython.pointer[Stack],
    packet: cython.pointer[cython.const[uint8_t]],
    at: uint32_t,
    size: uint32_t,
    length: uint32_t,
) -> cython.bint:
    """Whether a packet may go on with these options (RFC 8200 section 4.2): we know none but padding."""
    end: uint32_t = at + size
    k: uint32_t = at + 2
    count: uint32_t = 0
    option: uint8_t
    while k < end:
        option = packet[k]
        if option == PAD1:
            k += 1
            continue
        if k + 2 > end or k + 2 + packet[k + 1] > end:
            return False
        if option != PADN:
            count += 1
            if option >> 6:
                if option >> 7 and not (option >> 6 == 3 and is_multicast(get_address(packet + 24))):
                    send_error6(s, packet, at + size, length, PARAMETER6, OPTION6, k)
                return False
            if count > MOST_OPTIONS:
                return False
        k += 2 + packet[k + 1]
    return True


# rfc: 8200:4.5-reassembly 4.5-length 4.5-too-long 4.5-first 4.5-overlap, 5722:overlap
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def fragment6_arrives(
    s: cython.pointer[Stack],
    packet: cython.pointer[cython.const[uint8_t]],
    named: uint32_t,
    at: uint32_t,
    length: uint32_t,
) -> cython.void:
    """A fragment (RFC 8200 section 4.5), whose header is at `at`, and its number at `named`."""
    f: Fragment
    result: cython.int
    place: uint16_t = get16(packet + at + 2)
    f.offset = place & 0xFFF8
    f.more = place & 1
    f.data = packet + at + 8
    f.length = length - at - 8
    if f.more and f.length & 7:
        drop(s, Drop.DROP_FRAGMENT)
        send_error6(s, packet, at, length, PARAMETER6, BAD_HEADER6, 4)
        return
    if at - IP6_HEADER + f.offset + f.length > LONGEST_PAYLOAD:
        drop(s, Drop.DROP_FRAGMENT)
        send_error6(s, packet, at, length, PARAMETER6, BAD_HEADER6, at + 2)
        return
    # RFC 7112: the first one has all headers; what is behind headers that we would have to look for is refused with it
    if at > FRAGMENT_HEADER or (not f.offset and f.length < least_upper(packet[at])):
        drop(s, Drop.DROP_FRAGMENT)
        if not f.offset:
            send_error6(s, packet, at, length, PARAMETER6, FIRST_FRAGMENT6, 0)
        return
    result = gather_packet6(s.reassembly, s.now, cython.address(f), packet, named, at)
    if result == WHOLE:
        chain_arrives(s, s.reassembly.whole, s.reassembly.whole_length, False, True)
    elif result >= 0:
        s.counters.drops[result] += 1


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def least_upper(kind: uint8_t) -> uint32_t:
    """Bytes that the upper layer's header has at least."""
    return TCP_HEADER if kind == PROTOCOL_TCP else 8
