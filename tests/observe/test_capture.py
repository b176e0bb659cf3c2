"""pcapng as tshark reads it, filters as libpcap understands them, and packets in a line."""

from __future__ import annotations

import io
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from neatstack.cli import capture as command
from neatstack.control import frames
from neatstack.control.errors import NeatError
from neatstack.control.frames import Arp
from neatstack.observe.capture import pcapng
from neatstack.observe.capture.filter import Filter
from neatstack.observe.capture.text import Describer, clock, tcp_options
from tests.support.packet import NOP, SACK_PERMITTED, Segment, build, build_ethernet, build_ip, mss, option, wscale

ONE, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
AT = 1_700_000_000_123_456_789


def segment(flags: str = "A", **fields) -> bytes:
    given = {"source": "10.0.0.1", "destination": "10.0.0.2", "source_port": 4000, "destination_port": 80, "seq": 1000}
    return build(Segment(**given | {"flags": flags} | fields), source_mac=ONE, destination_mac=OTHER)


def answer(flags: str = "A", **fields) -> bytes:
    ends = {"source": "10.0.0.2", "destination": "10.0.0.1", "source_port": 80, "destination_port": 4000}
    return segment(flags, **ends | fields)


def datagram(payload: bytes = b"hello", protocol: int = 17, **fields) -> bytes:
    udp = struct.pack("!HHHH", 53, 5353, 8 + len(payload), 0) + payload
    return ip(udp, protocol=protocol, **fields)


def ip(payload: bytes, **fields) -> bytes:
    packet = build_ip(payload, **{"source": "10.0.0.1", "destination": "10.0.0.2"} | fields)
    return build_ethernet(packet, source=ONE, destination=OTHER)


# ---- pcapng ----


def test_what_tshark_and_capinfos_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcapng"
    with path.open("wb") as file:
        writer = pcapng.Writer(file, 60, "tcp")
        zero, link = writer.interface("replica 0", "NEaT replica 0"), writer.interface("link", "NEaT link")
        writer.packet(zero, AT, segment("S"), False)
        writer.packet(link, AT + 1, answer("SA", payload=bytes(101)), True)
        late = writer.interface("replica 1", "a replica that has come later")
        writer.packet(late, AT + 2_000_000_000, segment(), False)
        for number in (zero, link, late):
            writer.statistics(number, AT, AT + 3_000_000_000, 10 + number, number, 1, 1)
    fields = ["frame.time_epoch", "frame.interface_name", "frame.len", "frame.cap_len", "frame.packet_flags_direction"]
    argv = ["tshark", "-r", path, "-T", "fields", *(word for field in fields for word in ("-e", field))]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("\t") for line in told] == [
        ["1700000000.123456789", "replica 0", "54", "54", "0x00000001"],
        ["1700000000.123456790", "link", "155", "60", "0x00000002"],
        ["1700000002.123456789", "replica 1", "54", "54", "0x00000001"],
    ]
    told = subprocess.run(["capinfos", path], capture_output=True, text=True, check=True).stdout
    assert "Number of interfaces in file: 3" in told
    assert "Time precision = nanoseconds (9)" in told
    assert "Number of stat entries = 1" in told
    assert "Capture filter = " in told or "Filter string" in told


def test_blocks_are_whole() -> None:
    """Each tells its length at both ends; statistics say how many packets were dropped."""
    file = io.BytesIO()
    writer = pcapng.Writer(file, 262144)
    number = writer.interface("replica 0", "x")
    for length in range(60, 64):
        writer.packet(number, AT, bytes(length), True)
    writer.statistics(number, AT, AT + 5, 100, 7, 93, 90)
    data, kinds = file.getvalue(), []
    while data:
        kind, length = struct.unpack_from("=II", data)
        assert length % 4 == 0 and struct.unpack_from("=I", data, length - 4) == (length,)
        kinds.append(kind)
        last, data = data[:length], data[length:]
    assert kinds == [pcapng.SECTION, pcapng.INTERFACE, *[pcapng.PACKET] * 4, pcapng.STATISTICS]
    assert struct.pack("=HHQ", pcapng.DROPPED, 8, 7) in last
    assert struct.pack("=HHQ", pcapng.RECEIVED, 8, 100) in last


# ---- filters ----


@pytest.mark.parametrize(("text", "found"), [
    ("tcp", "SAU"),
    ("tcp port 80 and src host 10.0.0.1", "S"),
    ("tcp[tcpflags] & tcp-syn != 0", "S"),
    ("udp port 53", "D"),
    ("arp or icmp", "R"),
    ("not ip", "R"),
    ("greater 100", "U"),
    ("net 10.1.0.0/16", ""),
])  # fmt: skip
def test_filters(text: str, found: str) -> None:
    packets = {
        "S": segment("S"), "A": answer(), "U": answer("PA", payload=bytes(100)), "D": datagram(),
        "R": frames.build_arp(OTHER, Arp(1, ONE, bytes(4), bytes(6), bytes(4)))[len(frames.VNET) :],
    }  # fmt: skip
    chosen = Filter(text)
    assert "".join(name for name, packet in packets.items() if chosen.matches(packet)) == found


@pytest.mark.parametrize("text", ["tcp port", "tcp port 99999", "(", "no-such-word", "tcp\0", "host no.such.invalid"])
def test_filters_that_are_none(text: str) -> None:
    with pytest.raises(NeatError) as refused:
        Filter(text)
    assert "\n" not in str(refused.value) and "filter" in str(refused.value)


def test_without_libpcap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neatstack.observe.capture.filter.LIBRARIES", ("libno-such.so",))
    with pytest.raises(NeatError, match="libpcap.*apt-get install"):
        Filter("tcp")


# ---- in a line ----

FLOW, BACK = "IP 10.0.0.1.4000 > 10.0.0.2.80: ", "IP 10.0.0.2.80 > 10.0.0.1.4000: "
SYN_OPTIONS = mss(1460) + SACK_PERMITTED + NOP + wscale(7) + option(8, struct.pack("!II", 5, 6))


def test_a_connection_with_small_numbers() -> None:
    say = Describer().describe
    options = "options [mss 1460,sackOK,nop,wscale 7,TS val 5 ecr 6]"
    assert say(segment("S", options=SYN_OPTIONS)) == FLOW + f"Flags [S], seq 1000, win 65535, {options}, length 0"
    assert say(answer("SA", ack=1001)) == BACK + "Flags [S.], seq 1000, ack 1001, win 65535, length 0"
    assert say(segment("PA", seq=1001, ack=1001, payload=b"hello")) == (
        FLOW + "Flags [P.], seq 1:6, ack 1, win 65535, length 5"
    )
    sack = NOP + NOP + option(5, struct.pack("!4I", 1, 2, 3, 4))
    assert say(answer(ack=1006, options=sack)) == (
        BACK + "Flags [.], ack 6, win 65535, options [nop,nop,sack {1:2}{3:4}], length 0"
    )
    assert say(answer("FAU", seq=1001, ack=1006, urgent=3)) == (
        BACK + "Flags [F.U], seq 1, ack 6, win 65535, urg 3, length 0"
    )
    assert say(segment("R", seq=999)) == FLOW + "Flags [R], seq 4294967295, win 65535, length 0"


def ipv6(following: int, payload: bytes) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(payload), following, 64) + bytes(15) + b"\1" + bytes(15) + b"\2"
    return build_ethernet(header + payload, source=ONE, destination=OTHER, ethertype=0x86DD)


@pytest.mark.parametrize(("frame", "line"), [
    (datagram(), "IP 10.0.0.1.53 > 10.0.0.2.5353: UDP, length 5"),
    (ip(struct.pack("!BBHHH", 8, 0, 0, 7, 9) + bytes(56), protocol=1),
     "IP 10.0.0.1 > 10.0.0.2: ICMP echo request, id 7, seq 9, length 64"),
    (ip(bytes([3, 1, 0, 0, 0, 0, 0, 0]), protocol=1), "IP 10.0.0.1 > 10.0.0.2: ICMP unreachable, length 8"),
    (ip(bytes(16), protocol=17, fragment=0x2001), "IP 10.0.0.1 > 10.0.0.2: fragment 8+, protocol 17, length 16"),
    (ip(bytes(10), protocol=50), "IP 10.0.0.1 > 10.0.0.2: protocol 50, length 10"),
    (build_ethernet(bytes(50), source=ONE, destination=OTHER, ethertype=0x88CC),
     "02:00:00:00:00:01 > 02:00:00:00:00:02, ethertype 0x88cc, length 50"),
    (frames.build_arp(OTHER, Arp(1, ONE, b"\n\0\0\1", bytes(6), b"\n\0\0\2"))[10:],
     "ARP, Request who-has 10.0.0.2 tell 10.0.0.1"),
    (frames.build_arp(OTHER, Arp(2, ONE, b"\n\0\0\1", OTHER, b"\n\0\0\2"))[10:],
     "ARP, Reply 10.0.0.1 is-at 02:00:00:00:00:01"),
    (build_ethernet(struct.pack("!IHBB", 6 << 28, 16, 0, 64) + bytes(15) + b"\1" + bytes(15) + b"\2"
                    + bytes([58, 0, 1, 4, 0, 0, 0, 0]) + bytes([128, 0, 0, 0, 0, 1, 0, 2]),
                    source=ONE, destination=OTHER, ethertype=0x86DD),
     "IP6 ::1 > ::2: ICMP6 echo request, id 1, seq 2, length 8"),
    (ipv6(44, bytes([17, 0, 0x05, 0xA9, 0, 0, 0, 7]) + bytes(16)),
     "IP6 ::1 > ::2: fragment 1448+, protocol 17, length 16"),
    (ipv6(44, bytes([17, 0, 0, 0, 0, 0, 0, 7]) + struct.pack("!HHHH", 53, 5353, 13, 0) + b"hello"),
     "IP6 ::1.53 > ::2.5353: UDP, length 5"),
    (ipv6(58, bytes([143, 0, 0, 0, 0, 0, 0, 0])), "IP6 ::1 > ::2: ICMP6 multicast listener report, length 8"),
])  # fmt: skip
def test_other_packets(frame: bytes, line: str) -> None:
    assert Describer().describe(frame) == line


def test_whatever_comes_is_a_line() -> None:
    say = Describer().describe
    packets = (segment("S", options=SYN_OPTIONS), datagram(), ip(bytes(4), protocol=1), ip(bytes(20)))
    for packet in packets:
        for length in range(len(packet)):
            cut = packet[:length]
            assert "\n" not in say(cut) and say(cut).isprintable()
    assert tcp_options(b"\x05\x0b" + bytes(9)) == ["option-5 " + "00" * 9]
    assert tcp_options(b"\x01\x02\x00") == ["nop", "bad"]


def test_flows_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neatstack.observe.capture.text.FLOWS", 10)
    describer = Describer()
    for port in range(1, 100):
        describer.describe(segment("S", source_port=port))
    assert len(describer.first) == 10


def test_clock() -> None:
    assert clock(AT).endswith(".123456789")


@pytest.mark.parametrize(("given", "word"), [
    (([-1], None, None, 1, 1), "--replica"),
    ((None, 0, None, 1, 1), "--count"),
    ((None, None, 0.0, 1, 1), "--seconds"),
    ((None, None, float("nan"), 1, 1), "--seconds"),
    ((None, None, None, 0, 1), "--snaplen"),
    ((None, None, None, 1 << 20, 1), "--snaplen"),
    ((None, None, None, 1, 0), "--buffer"),
    ((None, None, None, 1, 4096), "--buffer"),
])  # fmt: skip
def test_options_that_make_no_sense(given: tuple[Any, ...], word: str) -> None:
    with pytest.raises(NeatError, match=word) as refused:
        command._check(*given)
    assert refused.value.status == 2
