"""What the data plane takes from the device: Ethernet, RFC 791, RFC 1122 section 3.2.1, RFC 9293 section 3.1 (headers).

Every frame here is wrong in one way; it must be dropped, counted under its reason, and change nothing.
"""

import struct

import pytest

from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, Connection, Lab
from tests.support.packet import (
    BROADCAST,
    address,
    build,
    build_ethernet,
    build_ip,
    build_tcp,
    with_tcp_checksum,
)


def ethernet(packet: bytes, **what) -> bytes:
    return build_ethernet(packet, **({"source": PEER_MAC, "destination": STACK_MAC} | what))


def ip(c: Connection, **what) -> bytes:
    """A packet with five good bytes for this connection."""
    return build_ip(build_tcp(c.segment(data=b"bytes")), **({"source": PEER, "destination": STACK} | what))


def refused(lab: Lab, c: Connection, frame: bytes, reason: str, *, answered: bool = False) -> None:
    before, received = lab.drops(reason), c.tcb["rcv"]["nxt"]
    lab.inject_frame(frame)
    assert lab.drops(reason) == before + 1, {k: v for k, v in lab.engine.counters().items() if v}
    assert c.tcb["rcv"]["nxt"] == received
    if not answered:
        assert lab.left == []


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def c(lab: Lab) -> Connection:
    return lab.accepted()


@pytest.mark.rfc("1122:ethernet")
def test_the_good_packet_is_good(lab, c):
    lab.inject_frame(ethernet(ip(c)))
    assert c.socket.recv() == b"bytes"


# ---- Ethernet ----


@pytest.mark.parametrize("length", [0, 1, 13, 14, 20, 33])
def test_short_frames(lab, c, length):
    refused(lab, c, ethernet(ip(c))[:length], "short")


@pytest.mark.parametrize("ethertype", [0x0806, 0x86DD, 0x8100, 0, 0x0801])
def test_other_ethertypes(lab, c, ethertype):
    refused(lab, c, ethernet(ip(c), ethertype=ethertype), "ethertype")


@pytest.mark.rfc("1122:link-group")
@pytest.mark.parametrize("destination", [bytes.fromhex("020000000099"), bytes.fromhex("01005e000001"), BROADCAST])
def test_frames_to_others(lab, c, destination):
    """RFC 1122 section 4.2.3.10: a TCP segment to a broadcast or multicast address is silently dropped."""
    refused(lab, c, ethernet(ip(c), destination=destination), "not_ours")


@pytest.mark.rfc("791:total-length")
def test_padding_after_the_packet_is_ignored(lab, c):
    """Ethernet's least frame is 60 bytes: what follows the total length is no data."""
    lab.inject_frame(ethernet(ip(c)) + b"\xaa" * 20)
    assert c.socket.recv() == b"bytes"


# ---- IPv4 ----


@pytest.mark.rfc("1122:destination")
@pytest.mark.parametrize("destination", ["10.0.0.3", "10.0.0.255", "255.255.255.255", "224.0.0.1", "0.0.0.0"])
def test_packets_to_others(lab, c, destination):
    refused(lab, c, ethernet(ip(c, destination=destination)), "not_ours")


@pytest.mark.rfc("1122:version", "791:header")
@pytest.mark.parametrize("version", [0, 5, 6, 15])
def test_other_versions(lab, c, version):
    refused(lab, c, ethernet(ip(c, version=version)), "ip_header")


@pytest.mark.rfc("791:header", "792:parameter-discard")
@pytest.mark.parametrize("words", [0, 1, 4, 15])
def test_header_lengths_that_cannot_be(lab, c, words):
    packet = bytearray(ip(c))
    packet[0] = 0x40 | words
    packet[10:12] = b"\0\0"
    lab.inject_frame(ethernet(bytes(packet[:60])))
    assert c.socket.readable == 0
    assert lab.drops("ip_header") + lab.drops("ip_checksum") == 1


@pytest.mark.rfc("791:total-length")
@pytest.mark.parametrize("total", [0, 19, 46, 1500, 65535])
def test_total_lengths_that_cannot_be(lab, c, total):
    """Above what came: cut off on the way. Below the headers: no TCP header in it."""
    frame = ethernet(ip(c, total_length=total))
    before = sum(v for k, v in lab.engine.counters().items() if k.startswith("drop_"))
    lab.inject_frame(frame)
    after = sum(v for k, v in lab.engine.counters().items() if k.startswith("drop_"))
    assert c.socket.readable == 0
    if total != 46:
        assert after == before + 1


@pytest.mark.rfc("1122:checksum", "791:header")
def test_header_checksum(lab, c):
    packet = bytearray(ip(c))
    packet[8] ^= 1  # TTL
    refused(lab, c, ethernet(bytes(packet)), "ip_checksum")


@pytest.mark.rfc("791:fragment-blocks", "791:longest")
@pytest.mark.parametrize("fragment", [0x2000, 0x1FFF, 0x2001])
def test_fragments_that_cannot_be(lab, c, fragment):
    """Not the last, and no multiple of 8 bytes; or beyond the longest packet. See test_fragments.py."""
    refused(lab, c, ethernet(ip(c, fragment=fragment)), "fragment")


@pytest.mark.parametrize("protocol", [0, 2, 41, 255])
def test_other_protocols(lab, c, protocol):
    refused(lab, c, ethernet(ip(c, protocol=protocol)), "protocol")


@pytest.mark.parametrize(
    "source", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.0.255", STACK, "240.0.0.1"]
)
@pytest.mark.rfc("9293:MUST-63", "1122:bad-source")
def test_source_addresses_that_cannot_be(lab, c, source):
    """RFC 1122 section 3.2.1.3; and our own address from outside (RFC 2827: nobody else has it)."""
    segment = c.segment("S")
    packet = build_ip(
        with_tcp_checksum(address(source), address(STACK), build_tcp(segment)), source=source, destination=STACK
    )
    refused(lab, c, ethernet(packet), "martian")


def test_loopback_destination_from_outside(lab, c):
    """RFC 1122 section 3.2.1.3 (g): never on the wire."""
    segment = build_tcp(c.segment("S"))
    packet = build_ip(
        with_tcp_checksum(address(PEER), address("127.0.0.1"), segment), source=PEER, destination="127.0.0.1"
    )
    before = lab.drops("martian") + lab.drops("not_ours")
    lab.inject_frame(ethernet(packet))
    assert lab.drops("martian") + lab.drops("not_ours") == before + 1
    assert lab.left == []


@pytest.mark.rfc("9293:MUST-50", "1122:options-unknown")
@pytest.mark.parametrize(
    "options",
    [
        b"\x01" * 4,
        b"\x44\x04\x05\x00",
        b"\x07\x07\x04\0\0\0\0\0",
        b"\x83\x07\x08\x0a\x00\x00\x09\0",
        b"\xde\x28" + b"?" * 38,
    ],
    ids=["no operation", "timestamp", "record route", "source route", "unknown"],
)
def test_options_are_skipped(lab, c, options):
    """RFC 1122 section 3.2.1.8: unknown options are ignored; the segment behind them is good."""
    lab.inject_frame(ethernet(ip(c, options=options)))
    assert c.socket.recv() == b"bytes"


@pytest.mark.rfc("1122:ttl-short")
def test_ttl_of_zero_and_one_are_ours(lab, c):
    """RFC 1122 section 3.2.1.7: a host must not drop a datagram just because its TTL is below 2."""
    lab.inject_frame(ethernet(ip(c, ttl=1)))
    assert c.socket.recv() == b"bytes"


@pytest.mark.rfc("9293:MUST-57")
@pytest.mark.parametrize("destination", ["10.0.0.255", "255.255.255.255", "224.0.0.1"])
@pytest.mark.parametrize("group", [False, True])
def test_a_syn_to_many_is_dropped_silently(lab, c, destination, group):
    """Whether the link's address says so or not."""
    syn = with_tcp_checksum(address(PEER), address(destination), build_tcp(c.segment("S")))
    to = (BROADCAST if destination.endswith("255") else bytes.fromhex("01005e000001")) if group else STACK_MAC
    packet = build_ip(syn, source=PEER, destination=destination)
    refused(lab, c, ethernet(packet, destination=to), "not_ours")


# ---- the TCP header ----


@pytest.mark.rfc("9293:MUST-3")
def test_tcp_checksum(lab, c):
    frame = bytearray(build(c.segment(data=b"bytes"), source_mac=PEER_MAC, destination_mac=STACK_MAC))
    frame[-1] ^= 0x01
    refused(lab, c, bytes(frame), "tcp_checksum")


def test_a_checksum_of_zero_is_no_exemption(lab, c):
    frame = bytearray(build(c.segment(data=b"bytes"), source_mac=PEER_MAC, destination_mac=STACK_MAC))
    frame[50:52] = b"\0\0"
    refused(lab, c, bytes(frame), "tcp_checksum")


@pytest.mark.parametrize("words", [0, 1, 4, 7, 15])
def test_data_offsets_that_cannot_be(lab, c, words):
    tcp = bytearray(build_tcp(c.segment(data=b"bytes")))
    tcp[12] = words << 4
    packet = build_ip(with_tcp_checksum(address(PEER), address(STACK), bytes(tcp)), source=PEER, destination=STACK)
    refused(lab, c, ethernet(packet), "tcp_header")


@pytest.mark.parametrize("length", [0, 1, 19])
def test_a_packet_too_short_for_tcp(lab, c, length):
    packet = build_ip(build_tcp(c.segment())[:length], source=PEER, destination=STACK)
    before = lab.drops("tcp_header") + lab.drops("short")
    lab.inject_frame(ethernet(packet))
    assert lab.drops("tcp_header") + lab.drops("short") == before + 1


@pytest.mark.parametrize("ports", [(0, 80), (40000, 0), (0, 0)])
def test_port_zero(lab, c, ports):
    """Nothing can be listening there, and nothing may be answered to a source port of zero."""
    tcp = bytearray(build_tcp(c.segment("S")))
    tcp[0:4] = struct.pack("!HH", *ports)
    packet = build_ip(with_tcp_checksum(address(PEER), address(STACK), bytes(tcp)), source=PEER, destination=STACK)
    lab.inject_frame(ethernet(packet))
    assert lab.engine.counters()["connections"] == 1


@pytest.mark.parametrize(
    "options, mss",
    [
        (b"\x02", 536),  # no length
        (b"\x02\x00\x05\xb4", 536),  # length 0
        (b"\x02\x01\x05\xb4", 536),  # length 1
        (b"\x02\x04\x05", 1280),  # cut off, but there is padding
        (b"\x02\x03\x05\x01", 536),  # an MSS of one byte
        (b"\x02\x0a\x05\xb4", 536),  # longer than the header
        (b"\x02\x04\x03\xe8\x03\xff\x07\x01", 1000),  # what comes before counts
        (b"\x03\x02\x02\x04\x03\xe8", 1000),  # window scale without a value, then MSS
        (b"\xfd\x28" + b"\x01" * 6, 536),  # unknown, longer than the header
        (b"\xfd\x28\x02\x04\x03\xe8", 536),  # the same: what follows belongs to it
        (b"\xfe\x04ab\x02\x04\x03\xe8", 1000),  # unknown, then MSS
        (b"\x00\x02\x04\x03\xe8", 536),  # end, then what is no option any more
        (b"\x01" * 36 + b"\x02\x04\x03\xe8", 1000),
        (b"\x02\x04\x03\xe8" * 10, 1000),
    ],
)
@pytest.mark.rfc("9293:MUST-6", "9293:MUST-7")
def test_malformed_options_do_no_harm(lab, options, mss):
    """RFC 9293 section 3.1: options must be read without fear; the segment counts with what could be read."""
    listener = lab.listening(81)
    c = lab.connection(81)
    c.sends("S", options=options)
    assert c.expects("SA", seq=0, ack=1).wscale is None
    assert c.tcb["snd"]["mss"] == mss
    c.sends("A", options=options)
    socket = lab.program.accept(listener)
    c.sends(data=b"bytes", options=options)
    assert socket.recv() == b"bytes"
    assert c.tcb["snd"]["mss"] == mss


def test_reserved_bits_are_ignored(lab, c):
    """RFC 9293 section 3.1: "must be zero in generated segments and must be ignored in received segments"."""
    tcp = bytearray(build_tcp(c.segment(data=b"bytes")))
    tcp[12] |= 0x0F
    packet = build_ip(with_tcp_checksum(address(PEER), address(STACK), bytes(tcp)), source=PEER, destination=STACK)
    lab.inject_frame(ethernet(packet))
    assert c.socket.recv() == b"bytes"


@pytest.mark.parametrize("flags", ["AC", "AE", "ACE"])
def test_congestion_flags_are_ignored(lab, c, flags):
    c.sends(flags, data=b"bytes")
    assert c.socket.recv() == b"bytes"


@pytest.mark.parametrize("bits", range(64))
def test_every_combination_of_flags(lab, c, bits):
    """Nothing crashes, and nothing is made of nonsense."""
    flags = "".join(letter for bit, letter in enumerate("FSRPAU") if bits >> bit & 1)
    c.sends(flags, seq=5, data=b"?")
    other = lab.connection(80)
    other.sends(flags, seq=5, data=b"?")
    closed = lab.connection(99)
    closed.sends(flags, seq=5, data=b"?")
    if "R" in flags:
        other.expects_nothing()
        closed.expects_nothing()
    lab.wait(1)


# ---- counting ----


@pytest.mark.rfc("1122:counted")
def test_every_frame_is_counted(lab, c):
    before = lab.engine.counters()
    frames = [ethernet(ip(c)), ethernet(ip(c))[:10], ethernet(ip(c), ethertype=1)]
    for frame in frames:
        lab.inject_frame(frame)
    after = lab.engine.counters()
    assert after["packets_in"] - before["packets_in"] == 3
    assert after["bytes_in"] - before["bytes_in"] == sum(map(len, frames))
