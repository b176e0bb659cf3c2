"""Link: what it answers, what it learns, what it does not believe."""

import mmap
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from neatstack.control import frames, neighbourhood, routes
from neatstack.control import link as link_module
from neatstack.control.frames import Arp
from neatstack.control.link import Link
from neatstack.control.neighbours import Neighbour, NeighbourTable, State, start
from neatstack.control.pages import NEIGHBOUR_SIZE, NEIGHBOURS

OURS, PEER, OTHER = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02", b"\x02\0\0\0\0\x03"
ADDRESS, HOST, THIRD = (IPv4Address(f"10.77.0.{n}").packed for n in (2, 1, 3))


class Wire:
    """A link whose queue is a socket, and a clock that the test sets."""

    def __init__(self, clock: list[float], **options: Any) -> None:
        self.clock = clock
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.theirs = theirs
        self.ours.setblocking(False)
        theirs.setblocking(False)
        self.memory = mmap.mmap(-1, NEIGHBOURS * NEIGHBOUR_SIZE)
        self.link = Link(theirs.fileno(), NeighbourTable(self.memory), [IPv4Interface("10.77.0.2/24")], OURS, **options)

    def deliver(self, frame: bytes) -> list[bytes]:
        """Frames with their virtio-net header in, frames without it out."""
        self.ours.send(frame)
        self.link.receive()
        return self.sent()

    def sent(self) -> list[bytes]:
        answers = []
        while True:
            try:
                answers.append(self.ours.recv(70000)[len(frames.VNET) :])
            except BlockingIOError:
                return answers

    def pass_time(self, seconds: float) -> list[bytes]:
        self.clock[0] += seconds
        self.link.run_timers()
        return self.sent()

    def arp(self, operation: int, mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> list[bytes]:
        return self.deliver(frames.build_arp(OURS, Arp(operation, mac, sender, target_mac, target)))

    def state(self, address: bytes) -> tuple[State, bytes] | None:
        entry = self.link.table.get(address)
        return entry and (entry.state, entry.mac)


Make = Callable[..., Wire]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    clock, wires = [1000.0], []
    monkeypatch.setattr(link_module.time, "monotonic", lambda: clock[0])

    def build(**options: Any) -> Wire:
        wires.append(Wire(clock, **options))
        return wires[-1]

    yield build
    for wire in wires:
        wire.ours.close()
        wire.theirs.close()


@pytest.fixture
def wire(make: Make) -> Wire:
    return make()


def echo(source: bytes = HOST, destination: bytes = ADDRESS, size: int = 56, kind: int = frames.ECHO) -> bytes:
    message = struct.pack("!BBHHH", kind, 0, 0, 77, 1) + bytes(range(256))[:size]
    message = message[:2] + frames.checksum(message).to_bytes(2, "big") + message[4:]
    header = frames.IP.pack(0x45, 0, 20 + len(message), 1, 0, 64, 1, 0, source, destination)
    header = header[:10] + frames.checksum(header).to_bytes(2, "big") + header[12:]
    return frames.VNET + frames.ETHERNET.pack(OURS, PEER, frames.ETHERTYPE_IP) + header + message


def test_answers_requests_for_us_and_learns_who_asked(wire: Wire) -> None:
    (frame,) = wire.arp(frames.REQUEST, PEER, HOST, bytes(6), ADDRESS)
    assert frames.parse_arp(frame) == Arp(frames.REPLY, OURS, ADDRESS, PEER, HOST)
    assert frame[:6] == PEER
    assert wire.state(HOST) == (State.REACHABLE, PEER)


def test_says_nothing_to_other_requests(wire: Wire) -> None:
    assert wire.arp(frames.REQUEST, PEER, HOST, bytes(6), THIRD) == []
    assert wire.state(HOST) is None


def test_resolves_what_replicas_want(wire: Wire) -> None:
    wire.link.want(HOST)
    (frame,) = wire.sent()
    assert frames.parse_arp(frame) == Arp(frames.REQUEST, OURS, ADDRESS, bytes(6), HOST)
    assert frame[:6] == frames.BROADCAST
    assert wire.state(HOST) == (State.ASKED, bytes(6))
    wire.link.want(HOST)
    assert wire.sent() == []
    wire.arp(frames.REPLY, PEER, HOST, OURS, ADDRESS)
    assert wire.state(HOST) == (State.REACHABLE, PEER)
    wire.link.want(HOST)
    assert wire.sent() == []


@pytest.mark.rfc("1122:arp-flood")
def test_gives_up_after_three_and_tries_again_when_asked(wire: Wire) -> None:
    wire.link.want(HOST)
    assert [len(wire.sent()), *(len(wire.pass_time(1.0)) for _ in range(3))] == [1, 1, 1, 0]
    assert wire.state(HOST) == (State.FAILED, bytes(6))
    wire.link.want(HOST)
    assert len(wire.sent()) == 1


@pytest.mark.rfc("1122:arp-flush", "1122:dead-gateway", "1122:no-pings")
def test_refreshes_and_notices_that_a_neighbour_has_gone(wire: Wire) -> None:
    wire.arp(frames.REQUEST, PEER, HOST, bytes(6), ADDRESS)
    assert wire.pass_time(59.0) == []
    (frame,) = wire.pass_time(1.0)
    assert frame[:6] == PEER  # only the neighbour itself is bothered
    wire.arp(frames.REPLY, PEER, HOST, OURS, ADDRESS)
    asked = [wire.pass_time(60.0), wire.pass_time(1.0), wire.pass_time(1.0), wire.pass_time(1.0)]
    assert [frame[:6] for answers in asked for frame in answers] == [PEER, PEER, frames.BROADCAST]
    assert wire.state(HOST) == (State.FAILED, bytes(6))


@pytest.mark.rfc("1122:gateways", "1122:dead-gateway")
def test_of_several_gateways_the_first_that_answers_is_used(make: Make) -> None:
    wire = make(gateways=[HOST, THIRD])
    told: list[Any] = []
    wire.link.told = told.append
    wire.link.start()
    answering = {HOST: PEER, THIRD: OTHER}

    def passes(seconds: int) -> None:
        for _ in range(seconds):
            for frame in wire.pass_time(1.0):
                asked = frames.parse_arp(frame)
                if asked is not None and asked.target in answering:
                    wire.arp(frames.REPLY, answering[asked.target], asked.target, OURS, ADDRESS)

    passes(15)
    assert [each["gateway"] for each in told] == ["10.77.0.1"]
    del answering[HOST]
    passes(20)
    assert [each["gateway"] for each in told[1:]] == ["10.77.0.3"]
    assert wire.link._next_hop(IPv4Address("192.0.2.7").packed) == THIRD
    del answering[THIRD]
    passes(100)  # none answers: the last one stays
    answering[HOST] = PEER
    passes(15)
    assert [each["gateway"] for each in told[2:]] == ["10.77.0.1"]
    answering[THIRD] = OTHER
    passes(100)
    assert told[3:] == []


def test_one_gateway_is_not_asked_all_the_time(make: Make) -> None:
    wire = make(gateways=[HOST])
    wire.link.start()
    assert len(wire.sent()) == 1
    wire.arp(frames.REPLY, PEER, HOST, OURS, ADDRESS)
    assert sum(len(wire.pass_time(1.0)) for _ in range(59)) == 0


def test_does_not_believe_what_it_has_not_asked(wire: Wire) -> None:
    wire.arp(frames.REPLY, OTHER, HOST, OURS, ADDRESS)
    wire.arp(frames.REQUEST, OTHER, HOST, bytes(6), HOST)
    assert wire.state(HOST) is None
    wire.arp(frames.REQUEST, OTHER, IPv4Address("10.99.0.1").packed, bytes(6), ADDRESS)
    assert len(wire.link.table) == 0


def test_strangers_cannot_fill_the_table(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbourhood, "LEARN_MOST", 10)
    for n in range(10, 40):
        wire.arp(frames.REQUEST, PEER, IPv4Address(f"10.77.0.{n}").packed, bytes(6), ADDRESS)
    assert len(wire.link.table) == 10


def test_defends_its_address(wire: Wire, capsys: pytest.CaptureFixture[str]) -> None:
    (frame,) = wire.arp(frames.REQUEST, OTHER, ADDRESS, bytes(6), ADDRESS)
    assert frames.parse_arp(frame) == Arp(frames.REQUEST, OURS, ADDRESS, bytes(6), ADDRESS)
    assert "also used by 02:00:00:00:00:03" in capsys.readouterr().err
    assert wire.arp(frames.REQUEST, OTHER, ADDRESS, bytes(6), ADDRESS) == []


@pytest.mark.rfc("1122:echo", "792:echo", "792:checksum", "792:service")
@pytest.mark.parametrize("size", [56, 55, 0])
def test_answers_ping(wire: Wire, size: int) -> None:
    asked = echo(size=size)
    (frame,) = wire.deliver(asked)
    assert frame[:12] == PEER + OURS
    assert frame[26:34] == ADDRESS + HOST
    assert frame[34:36] == bytes((frames.ECHO_REPLY, 0)) and frame[15] == 0
    assert frames.checksum(frame[14:34]) == frames.checksum(frame[34:]) == 0
    assert frame[38:] == asked[len(frames.VNET) + 38 :]  # identifier, sequence number, data


@pytest.mark.rfc("1122:echo-group", "792:checksum")
@pytest.mark.parametrize("frame", [
    echo(destination=THIRD), echo(source=bytes(4)), echo(source=b"\xff" * 4), echo(source=ADDRESS),
    echo(kind=frames.ECHO_REPLY), echo()[:-1], echo()[:40], echo()[:-2] + b"zz", frames.VNET, b"",
])  # fmt: skip
def test_does_not_answer_bad_pings(wire: Wire, frame: bytes) -> None:
    assert wire.deliver(frame) == []


@pytest.mark.rfc("6864:4.3-unique")
def test_packets_that_may_be_cut_have_an_identification_each(wire: Wire) -> None:
    wire.arp(frames.REQUEST, PEER, HOST, bytes(6), ADDRESS)
    left = [frame for asked in (echo(), echo(), datagram(132)) for frame in wire.deliver(asked)]
    assert all(frames.checksum(frame[14:34]) == 0 and not frame[20] & 0x40 for frame in left)
    assert len({frame[18:20] for frame in left}) == len(left) == 3


def test_pings_are_bounded(wire: Wire) -> None:
    wire.link.echoes.rate = wire.link.echoes.left = 5
    assert sum(len(wire.deliver(echo())) for _ in range(20)) == 5
    wire.clock[0] += 1
    assert len(wire.deliver(echo())) == 1


def in_fragments(frame: bytes, mtu: int = 1500, number: int = 9) -> list[bytes]:
    return [frame[:24] + part for part in frames.cut(frame[24:], mtu, number)]


def whole(parts: list[bytes]) -> bytes:
    """The data of these frames, in the order of their places; each has a good header."""
    places: dict[int, bytes] = {}
    for part in parts:
        assert frames.checksum(part[14:34]) == 0 and len(part) <= 1514
        (place,) = struct.unpack_from("!H", part, 20)
        places[(place & 0x1FFF) * 8] = part[34:]
        assert bool(place & 0x2000) == (part is not parts[-1])
    data = b""
    for place, piece in sorted(places.items()):
        assert place == len(data)
        data += piece
    return data


@pytest.mark.rfc("1122:echo-whole")
@pytest.mark.parametrize("size", [1473, 8000, 60000, 65507])
def test_answers_large_pings_in_fragments(wire: Wire, size: int) -> None:
    request = frames.VNET + frames.ETHERNET.pack(OURS, PEER, frames.ETHERTYPE_IP)
    payload = bytes(k * 7 & 255 for k in range(size))
    request += frames.icmp_packet(HOST, ADDRESS, frames.echo(frames.ECHO, 77, 1, payload), 64)
    parts = in_fragments(request)
    assert [answer for part in parts[:-1] for answer in wire.deliver(part)] == []
    reply = whole(wire.deliver(parts[-1]))
    assert (reply[0], reply[8:], frames.checksum(reply)) == (frames.ECHO_REPLY, payload, 0)


@pytest.mark.rfc("1122:time-exceeded-reassembly")
def test_a_ping_whose_fragments_do_not_all_come(wire: Wire) -> None:
    wire.arp(frames.REQUEST, PEER, HOST, bytes(6), ADDRESS)
    first, *rest = in_fragments(echo(size=200), 100)
    wire.deliver(first)
    wire.deliver(in_fragments(echo(size=200), 100, number=10)[1])
    assert [frame for frame in wire.pass_time(59) if frame[23] == frames.ICMP] == []
    (error,) = [frame for frame in wire.pass_time(2) if frame[23] == frames.ICMP]
    assert error[34:36] == b"\x0b\1" and frames.checksum(error[34:]) == 0
    assert error[42:].startswith(first[24:52])
    assert [answer for part in rest for answer in wire.deliver(part)] == []


def datagram(protocol: int, payload: bytes = b"x" * 40, *, place: int = 0, destination: bytes = ADDRESS) -> bytes:
    header = frames.IP.pack(0x45, 0, 20 + len(payload), 1, place, 64, protocol, 0, HOST, destination)
    header = header[:10] + frames.checksum(header).to_bytes(2, "big") + header[12:]
    return frames.VNET + frames.ETHERNET.pack(OURS, PEER, frames.ETHERTYPE_IP) + header + payload


@pytest.mark.rfc("1122:protocol-unreachable", "1122:error-quotes")
def test_other_protocols_are_unreachable(wire: Wire) -> None:
    wire.arp(frames.REQUEST, PEER, HOST, bytes(6), ADDRESS)
    (error,) = wire.deliver(datagram(132))
    assert error[:12] == PEER + OURS and error[30:34] == HOST
    assert error[34:42] == b"\3\2" + error[36:38] + bytes(4) and frames.checksum(error[34:]) == 0
    assert error[42:] == datagram(132)[24:]
    assert len(wire.deliver(datagram(132, place=0x2000))) == 1


@pytest.mark.rfc("1122:no-error-about-error", "792:error-about-icmp", "792:error-first")
@pytest.mark.parametrize("frame", [
    datagram(132, place=5), datagram(2), datagram(6, b"x"), datagram(132, destination=b"\xe0\0\0\1"),
    datagram(132, destination=THIRD), datagram(1, b"\3\3" + bytes(40)), datagram(1, b"\xff\3" + bytes(40)),
])  # fmt: skip
def test_what_no_error_is_sent_about(wire: Wire, frame: bytes) -> None:
    wire.arp(frames.REQUEST, PEER, HOST, bytes(6), ADDRESS)
    assert wire.deliver(frame) == []


@pytest.mark.rfc("1122:icmp-unknown", "1122:mask", "1122:information", "1122:redirect-ignored")
@pytest.mark.parametrize("kind", [4, 5, 9, 10, 13, 15, 17, 30, 200])
def test_nothing_else_of_icmp_is_answered(wire: Wire, kind: int) -> None:
    """RFC 1122 sections 3.2.2 and 3.2.2.7 to 3.2.2.9; nor is a redirect of router discovery's kin believed."""
    wire.arp(frames.REQUEST, PEER, HOST, bytes(6), ADDRESS)
    message = bytes((kind, 0, 0, 0)) + OTHER[:4] + bytes(40)
    message = message[:2] + frames.checksum(message).to_bytes(2, "big") + message[4:]
    table = bytes(wire.memory)
    assert wire.deliver(datagram(frames.ICMP, message)) == []
    assert bytes(wire.memory) == table


@pytest.mark.parametrize(("options", "sent"), [({}, 200), ({"errors": 30}, 30), ({"errors": 0}, 0)])
def test_errors_are_bounded(make: Make, options: dict[str, int], sent: int) -> None:
    wire = make(**options)
    wire.arp(frames.REQUEST, PEER, HOST, bytes(6), ADDRESS)
    assert sum(len(wire.deliver(datagram(132))) for _ in range(500)) == sent


@pytest.mark.rfc("1122:ttl-configured")
def test_the_time_to_live_is_the_operators(make: Make) -> None:
    wire = make(ttl=9)
    wire.arp(frames.REQUEST, PEER, HOST, bytes(6), ADDRESS)
    assert [frame[22] for frame in wire.deliver(echo()) + wire.deliver(datagram(132))] == [9, 9]


def test_a_full_table_gives_up_failed_neighbours_first() -> None:
    table = NeighbourTable(mmap.mmap(-1, NEIGHBOURS * NEIGHBOUR_SIZE))
    addresses = [(0x0A000000 + n).to_bytes(4, "big") for n in range(NEIGHBOURS + 1)]
    *first, last = addresses
    assert all(table.put(Neighbour(address, PEER, State.REACHABLE)) for address in first)
    assert not table.put(Neighbour(last, PEER, State.REACHABLE))
    table.put(Neighbour(first[7], bytes(6), State.FAILED))
    assert table.put(Neighbour(last, OTHER, State.REACHABLE))
    assert table.get(first[7]) is None
    assert table.get(last) == Neighbour(last, OTHER, State.REACHABLE)


def test_a_new_link_finds_the_table(wire: Wire) -> None:
    wire.arp(frames.REQUEST, PEER, HOST, bytes(6), ADDRESS)
    again = Link(wire.link.queue, NeighbourTable(wire.memory), [IPv4Interface("10.77.0.2/24")], OURS)
    assert again.table.get(HOST) == Neighbour(HOST, PEER, State.REACHABLE)
    wire.clock[0] += 1
    again.run_timers()
    assert [frame[:6] for frame in wire.sent()] == [PEER]


def test_hash_is_the_data_planes() -> None:
    word = int.from_bytes(HOST, "little") ^ 0xFFFF0000
    assert start(HOST) == (word * 2654435761 % 2**32) >> 22


def test_goes_the_way_that_the_longest_prefix_says() -> None:
    """As the replicas do: by our networks and the routes, else the gateway."""
    ways = [routes.parse(text) for text in ("10.9.0.0/16,via 10.77.0.9", "10.9.3.0/24,via 10.77.0.8", "10.9.3.7")]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        table = NeighbourTable(mmap.mmap(-1, NEIGHBOURS * NEIGHBOUR_SIZE))
        interfaces = [IPv4Interface("10.77.0.2/24")]
        link = Link(theirs.fileno(), table, interfaces, OURS, [HOST], 1500, ways)
        for host, hop in (
            ("10.77.0.5", "10.77.0.5"), ("10.9.1.1", "10.77.0.9"), ("10.9.3.1", "10.77.0.8"), ("10.9.3.7", "10.9.3.7"),
            ("192.0.2.1", "10.77.0.1"),
        ):  # fmt: skip
            assert link._next_hop(IPv4Address(host).packed) == IPv4Address(hop).packed, host
        assert link._next_hop(IPv4Address("10.77.0.255").packed) is None
        for host, wanted in (("10.9.3.7", True), ("10.9.3.1", False), ("10.77.0.9", True)):
            link.want(IPv4Address(host).packed)
            ours.setblocking(False)
            try:
                asked = bool(ours.recv(2000))
            except BlockingIOError:
                asked = False
            assert asked == wanted, host
