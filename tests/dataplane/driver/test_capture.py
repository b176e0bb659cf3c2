"""Captures: what a replica gives away is what crossed its device, and a slow reader only misses some."""

import mmap
import struct
from dataclasses import replace

import pytest

from neatstack.dataplane.driver.capture_memory import HEADER_SIZE, LEAST_RING, CaptureReader, CaptureWriter
from neatstack.dataplane.engine import Engine
from tests.support.lab import PEER_MAC, STACK_MAC, START, Lab
from tests.support.packet import Segment, build, checksum, is_sound, parse
from tests.support.wire import Host, Wire

SEGMENT = Segment(source="10.0.0.1", destination="10.0.0.2", source_port=1, destination_port=2, seq=0, flags="A")


def memory(size: int = LEAST_RING) -> mmap.mmap:
    return mmap.mmap(-1, HEADER_SIZE + size)


def frame(number: int, length: int = 0) -> bytes:
    segment = replace(SEGMENT, seq=number, payload=bytes(length))
    return build(segment, source_mac=PEER_MAC, destination_mac=STACK_MAC)


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def reader(lab: Lab) -> CaptureReader:
    made = memory()
    lab.engine.add_capture(1, made)
    return CaptureReader(made)


def test_both_directions_in_order_with_times(lab, reader):
    c = lab.accepted()
    lab.wait(0.5)
    c.sends(data=b"hello")
    packets = reader.read()
    assert [out for _, out, _ in packets] == [False, True, False, False]
    assert [parse(data).flags for _, _, data in packets] == ["S", "SA", "A", "A"]
    assert parse(packets[-1][2]).payload == b"hello"
    assert packets[0][0] == START
    assert packets[-1][0] == START + 500_000_000
    assert reader.read() == []
    assert (reader.taken, reader.lost) == (4, 0)


def test_large_segments_are_cut_as_the_device_does_and_checksums_complete(lab, reader):
    """parse() refuses a wrong checksum, and a packet beyond the MTU."""
    lab.captured = []
    c = lab.accepted()
    c.socket.send(bytes(range(256)) * 100)
    lab.run()
    segments = [parse(data) for _, out, data in reader.read() if out]
    assert [replace(s, at=0) for s in lab.captured] == [replace(s, at=0) for s in segments]
    assert max(len(s.payload) for s in segments) == 1460
    assert len(segments) > 5


def test_arriving_large_segments_are_cut():
    """The kernel hands over what one send() left: gso_size and an unfinished checksum."""
    engine = Engine()
    made = memory()
    engine.add_capture(1, made)
    payload = bytes(range(250)) * 10
    whole = build(replace(SEGMENT, flags="PAC", payload=payload), source_mac=PEER_MAC, destination_mac=STACK_MAC)
    engine.input(whole[:50] + b"\x12\x34" + whole[52:], True, 1000)
    engine.run()
    parts = [parse(data) for _, out, data in CaptureReader(made).read() if not out]
    assert [(p.seq, len(p.payload), p.flags) for p in parts] == [(0, 1000, "AC"), (1000, 1000, "A"), (2000, 500, "PA")]
    assert b"".join(p.payload for p in parts) == payload


@pytest.mark.parametrize("options", [b"", bytes([6, 0, 1, 4, 0, 0, 0, 0])], ids=["plain", "behind options"])
def test_large_segments_over_ipv6_are_cut(options):
    engine = Engine()
    made = memory()
    engine.add_capture(1, made)
    payload = bytes(range(250)) * 10
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 7, 9, 5 << 4, 0x98, 99, 0x1234, 0) + payload
    ends = bytes(15) + b"\1" + bytes(15) + b"\2"
    head = struct.pack("!IHBB", 6 << 28 | 5, len(options) + len(tcp), 60 if options else 6, 64) + ends
    engine.input(STACK_MAC + PEER_MAC + b"\x86\xdd" + head + options + tcp, True, 1000)
    engine.run()
    at, parts = 54 + len(options), [data for _, out, data in CaptureReader(made).read() if not out]
    assert [struct.unpack_from("!I", data, at + 4)[0] for data in parts] == [7, 1007, 2007]
    assert [data[at + 13] for data in parts] == [0x90, 0x10, 0x18]  # CWR on the first, PSH on the last
    assert b"".join(data[at + 20 :] for data in parts) == payload
    for data in parts:
        assert data[:18] == STACK_MAC + PEER_MAC + b"\x86\xdd" + head[:4] and data[20:54] == head[6:]
        assert struct.unpack_from("!H", data, 18)[0] == len(data) - 54
        assert is_sound(ends + struct.pack("!II", len(data) - at, 6) + data[at:])


def test_a_wrong_checksum_is_shown_as_it_came(lab, reader):
    good = frame(1)
    lab.inject_frame(good[:50] + bytes([good[50] ^ 1]) + good[51:])
    ((_, _, data),) = reader.read()
    assert data[50] == good[50] ^ 1


def test_to_ourselves(lab, reader):
    """Once, like the kernel's lo."""
    listener = lab.listening(80)
    lab.program.connect("127.0.0.1", 80)
    lab.run()
    assert lab.program.accept(listener) is not None
    packets = [parse(data) for _, _, data in reader.read()]
    assert [p.flags for p in packets] == ["S", "SA", "A"]
    assert {p.source for p in packets} == {"127.0.0.1"}


def test_several_at_a_time_and_the_end(lab, reader):
    others = [memory() for _ in range(3)]
    for number, each in enumerate(others, 2):
        lab.engine.add_capture(number, each)
    with pytest.raises(OSError, match="4 captures"):
        lab.engine.add_capture(9, memory())
    lab.inject_frame(frame(1))
    lab.engine.drop_capture(3)
    lab.engine.drop_capture(77)
    lab.inject_frame(frame(2))
    counts = [len(CaptureReader(each).read()) for each in others]
    assert counts == [4, 2, 4]  # each is answered by a reset
    assert len(reader.read()) == 4
    lab.engine.add_capture(9, memory())


@pytest.mark.parametrize("size", [0, 1000, HEADER_SIZE, HEADER_SIZE + 4096, HEADER_SIZE + 3 * LEAST_RING])
def test_what_is_no_capture_memory(lab, size):
    with pytest.raises(ValueError):
        lab.engine.add_capture(1, bytearray(size))
    with pytest.raises(ValueError):
        CaptureReader(bytes(size))
    lab.inject_frame(frame(1))


def test_a_slow_reader_misses_the_oldest():
    made = memory()
    writer, reader = CaptureWriter(made), CaptureReader(made)
    total = 0
    for number in range(5000):
        writer.put(frame(number, number % 1400), number % 2 == 0, number)
        if number == 700:
            first = reader.read()
            total = len(first)
            assert [at for at, _, _ in first] == list(range(701 - total, 701))
    last = reader.read()
    assert [at for at, _, _ in last] == list(range(5000 - len(last), 5000))
    assert all(parse(data).seq == at and out == (at % 2 == 0) for at, out, data in last)
    assert reader.taken == total + len(last)
    assert reader.lost == 5000 - reader.taken
    assert LEAST_RING // 1460 < len(last) < 2 * LEAST_RING // 700


def test_the_next_incarnation_goes_on():
    made = memory()
    reader = CaptureReader(made)
    for incarnation in range(3):
        engine = Engine(incarnation=incarnation + 1)
        engine.add_capture(1, made)
        for number in range(100):
            engine.input(frame(number, 1000), True)
        engine.run()
        assert len(reader.read()) == 100
    assert (reader.taken, reader.lost) == (300, 0)


@pytest.mark.parametrize("place", [8, 16, 24, 32, 40, HEADER_SIZE, HEADER_SIZE + 4, HEADER_SIZE + 8])
@pytest.mark.parametrize("value", [1, 7, 8, 1 << 20, 1 << 63, (1 << 64) - 1])
def test_memory_that_lies(place, value):
    """Neither who reads nor the next who writes believes what stands there: nothing is read beyond the memory."""
    made, data = memory(), frame(1, 1000)
    writer, reader = CaptureWriter(made), CaptureReader(made)
    for number in range(300):
        writer.put(data, True, number)
    made[place : place + 8] = struct.pack("=Q", value)
    reader.read()
    writer = CaptureWriter(made)
    for number in range(600):
        writer.put(data, True, number)
        if number % 50 == 0:
            reader.read()
            CaptureReader(made).read()
    for _ in range(3):
        packets = reader.read()
    writer.put(data, True, 600)
    if place != 8:  # the ring's size, which only the next writer mends
        assert packets or reader.read()


def test_ipv6_and_udp_are_completed(lab):
    made = memory()
    lab.engine.add_capture(1, made)
    reader = CaptureReader(made)
    udp = struct.pack("!HHHH", 5, 6, 13, 0x1111) + b"hello"
    ipv6 = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + bytes(15) + b"\1" + bytes(15) + b"\2"
    options = bytes([17, 0, 1, 4, 0, 0, 0, 0])
    behind = struct.pack("!IHBB", 6 << 28, len(udp) + 8, 60, 64) + ipv6[8:]
    for packet in (ipv6 + udp, behind + options + udp):
        lab.engine.input(STACK_MAC + PEER_MAC + b"\x86\xdd" + packet, True)
    lab.run()
    for (_, _, data), at in zip(reader.read(), (54, 62), strict=True):
        assert is_sound(ipv6[8:] + struct.pack("!II", 13, 17) + data[at:])
        assert checksum(data[at:]) != 0


def test_whatever_comes_is_captured_as_it_is(lab, reader):
    """Short, broken and strange frames, with every cut of a good one."""
    good = frame(1, 40)
    came = [good[:length] for length in range(1, len(good))]
    for each in came:
        lab.engine.input(each, True, 10)
    lab.run()
    assert [data for _, out, data in reader.read() if not out] == came


class Captured(Host):
    """A host whose packets are compared with what its capture says."""

    def __init__(self, number: int, **options):
        super().__init__(number, **options)
        made = memory(1 << 23)
        self.engine.add_capture(1, made)
        self.reader = CaptureReader(made)


def test_a_transfer_as_both_ends_saw_it(monkeypatch):
    monkeypatch.setattr(Wire, "host_class", Captured)
    wire = Wire()
    a, b = wire.connect()
    a.send(bytes(50_000))
    got = bytearray()

    def done() -> bool:
        got.extend(b.recv())
        return len(got) == 50_000

    wire.until(done)
    wire.wait(1)
    left, came = ([p for p in host.reader.read()] for host in (wire.a, wire.b))
    sent = [parse(data) for _, out, data in left if out]
    assert sent == [parse(data) for _, out, data in came if not out]
    assert sum(len(segment.payload) for segment in sent) == 50_000
