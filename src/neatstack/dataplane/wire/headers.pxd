"""What stands on the wire, in numbers, and a TCP segment once it has been parsed."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from neatstack.dataplane.channel.address cimport Address

cdef enum:
    ETHERNET_HEADER = 14
    IP_HEADER = 20           # without options, as we send it
    TCP_HEADER = 20
    IP6_HEADER = 40
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_IPV6 = 0x86DD
    UDP_HEADER = 8
    PROTOCOL_ICMP = 1
    PROTOCOL_TCP = 6
    PROTOCOL_UDP = 17
    FRAGMENT_HEADER6 = 8     # the extension header of a fragment
    PROTOCOL_FRAGMENT = 44   # next headers of IPv6
    PROTOCOL_ICMP6 = 58
    HOP_BY_HOP = 0
    ROUTING = 43
    DESTINATION = 60
    IP_DF = 0x4000
    IP_MF = 0x2000
    IP_OFFSET = 0x1FFF
    IP_LONGEST = 65535       # bytes of an IP packet, and so of one GSO segment
    DEFAULT_MSS6 = 1220
    DEFAULT_MSS = 536        # RFC 9293 section 3.7.1: of a peer that does not say

cdef enum:                   # flags, RFC 9293 section 3.1
    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    URG = 32
    ECE = 64                 # RFC 3168 section 6.1
    CWR = 128
    CE = 8                   # of Segment.flags alone, where PSH would be: a router has marked the packet

cdef struct Options:                   # RFC 9293 section 3.2, RFC 7323
    uint16_t mss                       # 0: not there
    uint8_t wscale                     # at most 14
    uint8_t has_wscale
    uint8_t sack_permitted
    uint8_t has_timestamp
    uint32_t tsval
    uint32_t tsecr
    uint8_t sack_at                    # offset of the first block of selective acknowledgments
    uint8_t sack_blocks
    uint8_t has_fastopen               # RFC 7413
    uint8_t experimental               # in the option that it had before it was given a number (RFC 6994)
    uint8_t cookie_at                  # offset of the cookie
    uint8_t cookie_length              # 0: it asks for one

cdef inline uint8_t hops_left(const uint8_t *packet) noexcept nogil:
    """TTL, or hop limit."""
    return packet[8] if packet[0] >> 4 == 4 else packet[7]

cdef struct Segment:                   # seg.* of RFC 9293 section 3.3.1
    Address local_be                  # our side of the flow: the destination
    Address remote_be
    uint16_t local_port_be
    uint16_t remote_port_be
    uint32_t seq
    uint32_t ack
    uint32_t len                       # of text, without SYN and FIN
    uint32_t wnd                       # as it stands in the header, not scaled
    uint16_t up
    uint8_t flags
    uint8_t loopback                   # it never left this replica
    uint8_t marks                      # the ECN field of its packet (RFC 3168 section 5)
    uint8_t stamped                    # it has timestamps:
    uint32_t tsval
    uint32_t tsecr
    const uint8_t *text
    const uint8_t *packet              # its IP header; of one that may open a connection
    const uint8_t *options
    uint32_t options_length
