"""UDP in one replica: what arrives, whom it is for, what leaves (RFC 768, RFC 1122 section 4.1)."""

import errno
import random
import struct

import pytest

from tests.dataplane.tcp.test_numbers import stack_page
from tests.support.datagrams import ALIGN, Record
from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, Lab
from tests.support.layout import neat
from tests.support.packet import Datagram, address, build_datagram, build_ethernet, build_ip, build_udp, join
from tests.support.program import Program


@pytest.mark.rfc("1122:tos-up", "1122:udp-destination", "768:receive", "768:ports")
def test_a_datagram_arrives_with_all_that_is_known_of_it():
    lab = Lab()
    s = lab.datagram_socket(53)
    lab.until(1.5)
    lab.inject_datagram(b"query", 53, peer_port=4444, tos=0x2E, ttl=17)
    assert lab.program.events() == [(neat.OP_LOOK, s.slot.number, 1)]
    got = s.recv()
    assert (got.payload, got.source, got.destination) == (b"query", (PEER, 4444), (STACK, 53))
    assert (got.tos, got.ttl, got.flags, got.error) == (0x2E, 17, 0, 0)
    assert got.time_ns == lab.engine.now
    assert s.recv() is None


@pytest.mark.rfc("1122:udp-service", "1122:tos", "1122:ttl-zero", "768:send")
def test_a_datagram_leaves_as_it_was_asked_for():
    lab = Lab()
    s = lab.datagram_socket(53)
    s.send(b"answer", PEER, 4444, tos=0x10, ttl=5)
    s.send(b"", PEER, 4445)
    lab.run()
    first, second = lab.datagrams
    assert first == Datagram(
        source=STACK, destination=PEER, source_port=53, destination_port=4444, payload=b"answer", tos=0x10, ttl=5
    )
    assert (second.payload, second.ttl, second.tos, second.destination_port) == (b"", 64, 0, 4445)
    assert s.slot.unacknowledged == 0


@pytest.mark.rfc("768:checksum")
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1472])
def test_every_size_both_ways(size):
    lab = Lab(rings=4096)
    s = lab.datagram_socket(7)
    data = bytes(k & 0xFF for k in range(size))
    for _ in range(200):  # many times round the ring
        lab.inject_datagram(data, 7)
        assert s.recv().payload == data
        s.send(data, PEER, 9)
        lab.run()
    assert [d.payload for d in lab.datagrams] == [data] * 200


@pytest.mark.rfc("1122:udp-checksum", "768:checksum", "768:zero-taken")
def test_checksums():
    """RFC 1122 section 4.1.3.4: a wrong one is dropped silently, none is accepted, and ours is there (is_sound)."""
    lab = Lab()
    s = lab.datagram_socket(7)
    d = Datagram(source=PEER, destination=STACK, source_port=1, destination_port=7, payload=b"odd")
    lab.inject_frame(build_datagram(d, source_mac=PEER_MAC, destination_mac=STACK_MAC, checked=False))
    assert s.recv().payload == b"odd"
    frame = build_datagram(d, source_mac=PEER_MAC, destination_mac=STACK_MAC)
    lab.inject_frame(frame[:-1] + b"X")
    assert s.recv() is None and lab.drops("udp_checksum") == 1
    assert not lab.datagrams and not lab.left
    lab.inject_frame(frame[:-1] + b"X", checked=True)  # the device has found it good
    assert s.recv().payload == b"odX"


@pytest.mark.rfc("768:zero-sent")
def test_a_checksum_that_adds_up_to_zero_is_sent_as_all_ones():
    lab = Lab()
    s = lab.datagram_socket(7)
    for word in range(0, 65536, 251):
        s.send(struct.pack("!H", word), PEER, 9)
        lab.run()
    # the word that makes the sum all ones
    plain = build_udp(Datagram(source=STACK, destination=PEER, source_port=7, destination_port=9, payload=b"\0\0"))
    s.send(plain[6:8], PEER, 9)
    lab.run()
    assert lab.datagrams[-1].payload == plain[6:8], "parse_datagram refuses a checksum field of 0"


@pytest.mark.rfc("768:length")
@pytest.mark.parametrize("length", [0, 7, 12, 65535])
def test_a_length_that_cannot_be(length):
    lab = Lab()
    s = lab.datagram_socket(7)
    d = Datagram(source=PEER, destination=STACK, source_port=1, destination_port=7, payload=b"abc")
    udp = build_udp(d, checked=False, length=length)
    packet = build_ip(udp, source=PEER, destination=STACK, protocol=17)
    lab.inject_frame(build_ethernet(packet, source=PEER_MAC, destination=STACK_MAC))
    assert s.recv() is None and lab.drops("udp_header") == 1


@pytest.mark.rfc("768:port")
def test_a_datagram_from_port_0_is_taken():
    lab = Lab()
    s = lab.datagram_socket(7)
    lab.inject_datagram(b"no answer, please", 7, peer_port=0)
    got = s.recv()
    assert (got.payload, got.source) == (b"no answer, please", (PEER, 0))


@pytest.mark.rfc("768:length")
def test_bytes_after_the_datagram_are_not_its():
    lab = Lab()
    s = lab.datagram_socket(7)
    d = Datagram(source=PEER, destination=STACK, source_port=1, destination_port=7, payload=b"abc")
    packet = build_ip(build_udp(d) + b"padding", source=PEER, destination=STACK, protocol=17)
    lab.inject_frame(build_ethernet(packet, source=PEER_MAC, destination=STACK_MAC))
    assert s.recv().payload == b"abc"


def test_no_socket_no_datagram():
    lab = Lab()
    lab.inject_datagram(b"x", 99)
    assert lab.drops("udp_port") == 1
    lab.listening(99)  # TCP's ports are others
    lab.inject_datagram(b"x", 99)
    assert lab.drops("udp_port") == 2


def test_the_nearest_socket_has_it():
    """The connected one, else the one bound to the address, else the one bound to any."""
    lab = Lab()
    anywhere = lab.datagram_socket(53)
    here = lab.datagram_socket(53, STACK)
    connected = lab.datagram_socket(53)
    connected.connect(PEER, 4444)
    lab.run()
    lab.inject_datagram(b"from the peer", 53, peer_port=4444)
    lab.inject_datagram(b"from elsewhere", 53, peer_port=4445)
    here.close()
    lab.run()
    lab.inject_datagram(b"once more", 53, peer_port=4445)
    connected.close()
    lab.inject_datagram(b"peer again", 53, peer_port=4444)
    assert connected.recv_all() == [b"from the peer"]
    assert here.slot.is_free
    assert anywhere.recv_all() == [b"once more", b"peer again"]


def test_connecting_elsewhere_and_nowhere():
    lab = Lab()
    s = lab.datagram_socket(53)
    for peer in (4444, 4445):
        s.connect(PEER, peer)
        lab.run()
        assert s.slot.answered
    lab.inject_datagram(b"old", 53, peer_port=4444)
    lab.inject_datagram(b"new", 53, peer_port=4445)
    s.connect("0.0.0.0", 0)
    lab.run()
    lab.inject_datagram(b"any", 53, peer_port=4444)
    assert s.recv_all() == [b"new", b"any"]


def test_a_group_that_shares_a_port():
    """SO_REUSEPORT: each flow has one of them, and all get some."""
    lab = Lab()
    group = [lab.datagram_socket(53, flags=neat.BIND_REUSEPORT) for _ in range(4)]
    for _ in range(3):
        for port in range(2000, 2100):
            lab.inject_datagram(struct.pack("!H", port), 53, peer_port=port)
    got = [s.recv_all() for s in group]
    assert sum(map(len, got)) == 300
    for one in got:
        assert len(one) > 30
        assert all(one.count(flow) == 3 for flow in one)


def test_a_full_ring_drops():
    lab = Lab(rings=4096)
    s = lab.datagram_socket(7)
    for number in range(40):
        lab.inject_datagram(bytes([number]), 7)
    assert lab.drops("udp_full") == 40 - 32
    assert s.recv_all() == [bytes([n]) for n in range(32)]
    lab.inject_datagram(b"again", 7)
    assert s.recv_all() == [b"again"]


def test_receive_buffer():
    lab = Lab(rings=65536)
    s = lab.datagram_socket(7)
    s.slot.set(receive_buffer=2048)
    for _ in range(40):
        lab.inject_datagram(bytes(100), 7)
    assert len(s.recv_all()) == 2048 // 192 + 1


def test_a_datagram_larger_than_the_mtu_leaves_in_fragments():
    lab = Lab()
    s = lab.datagram_socket(7)
    data = bytes(k * 7 & 0xFF for k in range(5001))
    s.send(data, PEER, 9)
    lab.run()
    assert len(lab.other_frames) == 4
    assert join(lab.other_frames).payload == data
    ends = [frame[18:20] for frame in lab.other_frames]
    s.send(data, PEER, 9)
    lab.run()
    assert lab.other_frames[-1][18:20] not in ends, "another datagram, another identification"


@pytest.mark.rfc("6864:4.2-copies", "6864:4.3-unique", "6864:4.1-any")
@pytest.mark.rfc("791:fragment-id")
def test_identifications_come_round_late_and_each_replica_has_its_own():
    page, _, _ = stack_page(4, 1)
    numbers = []
    for replica in (0, 3):
        lab = Lab(replica=replica, stack_page=page)
        s = lab.datagram_socket(7)
        for _ in range(200):
            for _ in range(20):
                s.send(bytes(1500), PEER, 9)
            lab.run()
        numbers += [int.from_bytes(frame[18:20], "big") for frame in lab.other_frames[::2]]
    assert len(set(numbers)) == 8000


@pytest.mark.rfc("791:dont-fragment", "6864:4.3-cut", "1191:6.1")
def test_dont_fragment():
    lab = Lab()
    s = lab.datagram_socket(7)
    s.send(bytes(1473), PEER, 9, flags=neat.DATAGRAM_DONT_FRAGMENT)
    s.send(bytes(1472), PEER, 9, flags=neat.DATAGRAM_DONT_FRAGMENT)
    lab.run()
    assert [len(d.payload) for d in lab.datagrams] == [1472] and not lab.other_frames
    assert lab.drops("udp_send") == 1


def test_one_send_many_segments():
    """UDP_SEGMENT: as many datagrams, the last one shorter."""
    lab = Lab()
    s = lab.datagram_socket(7)
    data = bytes(k & 0xFF for k in range(4500))
    s.send(data, PEER, 9, segment=1000)
    lab.run()
    assert [d.payload for d in lab.datagrams] == [data[at : at + 1000] for at in range(0, 4500, 1000)]
    s.send(data, PEER, 9, segment=1473)  # a segment may not become fragments
    s.send(data, PEER, 9, segment=1)  # too many of them
    lab.run()
    assert len(lab.datagrams) == 5 and lab.drops("udp_send") == 2
    s.send(b"whole", PEER, 9, segment=65535)
    s.send(bytes(2000), PEER, 9, segment=2000)  # not more than one: as if nothing had been said
    lab.run()
    assert lab.datagrams[5].payload == b"whole" and lab.drops("udp_send") == 2


@pytest.mark.parametrize("where", ["127.0.0.1", "127.3.4.5", STACK])
def test_to_ourselves(where):
    lab = Lab()
    server, client = lab.datagram_socket(7), lab.datagram_socket()
    big = bytes(k & 0xFF for k in range(20000))
    for data in (b"ping", big):
        client.send(data, where, 7)
        lab.run()
        got = server.recv()
        assert got.payload == data and got.destination == (where, 7)
        assert got.source == (STACK if where == STACK else "127.0.0.1", client.port)
        server.send(data, *got.source, source=where)
        lab.run()
        assert client.recv().source == (where, 7)
    assert not lab.datagrams and not lab.other_frames


@pytest.mark.rfc("1122:own-source", "1122:choose-source", "1122:broadcast-source", "1122:udp-source-told", "791:source")
def test_the_source_that_was_asked_for_must_be_ours():
    lab = Lab()
    s = lab.datagram_socket(7)
    s.send(b"x", PEER, 9, source="10.0.0.77")
    s.send(b"x", PEER, 9, source="127.0.0.1")
    s.send(b"x", "0.1.2.3", 9)
    s.send(b"y", PEER, 9, source=STACK)
    lab.run()
    assert [d.payload for d in lab.datagrams] == [b"y"]
    assert lab.drops("udp_send") == 3


@pytest.mark.rfc("1122:multicast", "1122:broadcast-formats")
def test_broadcast_and_multicast():
    lab = Lab(addresses=["10.1.0.2/16", "10.2.0.2/31"])
    first, second = lab.datagram_socket(5353), lab.datagram_socket(5353, flags=neat.BIND_REUSEADDR)
    elsewhere = lab.datagram_socket(5353, STACK)
    lab.engine.join("224.0.0.251")
    for group, mac in (
        ("255.255.255.255", b"\xff" * 6),
        ("10.0.0.255", b"\xff" * 6),
        ("10.1.255.255", b"\xff" * 6),
        ("224.0.0.251", b"\1\0\x5e\0\0\xfb"),
    ):
        d = Datagram(source=PEER, destination=group, source_port=9, destination_port=5353, payload=b"all")
        lab.inject_frame(build_datagram(d, source_mac=PEER_MAC, destination_mac=mac))
        for s in (first, second):
            got = s.recv()
            assert (got.payload, got.destination) == (b"all", (group, 5353))
        assert elsewhere.recv() is None
        first.send(b"to all", group, 5353, ttl=1, flags=neat.DATAGRAM_LOOP)
        lab.run()
        frame = lab.other_frames.pop()
        assert frame[:6] == mac and frame[30:34] == address(group) and frame[22] == 1
        assert first.recv_all() == second.recv_all() == [b"to all"]
    for host in ("10.1.0.255", "10.2.0.3"):
        lab.engine.neighbour(host, PEER_MAC)
        first.send(b"one", host, 5353, flags=neat.DATAGRAM_LOOP)
        lab.run()
        assert lab.datagrams.pop().destination == host and not first.waiting
    first.send(b"not to us", "239.255.1.2", 5353)
    lab.run()
    assert lab.other_frames.pop()[:6] == b"\1\0\x5e\x7f\1\2" and not first.waiting


def test_a_tcp_segment_to_a_group_is_none_of_ours():
    lab = Lab()
    lab.listening(80)
    d = Datagram(source=PEER, destination=STACK, source_port=9, destination_port=7, payload=b"x")
    s = lab.datagram_socket(7)
    lab.inject_frame(build_datagram(d, source_mac=PEER_MAC, destination_mac=b"\xff" * 6))
    lab.inject_frame(build_datagram(d, source_mac=PEER_MAC, destination_mac=b"\2\0\0\0\0\7"))
    assert s.recv() is None and lab.drops("not_ours") == 2


@pytest.mark.rfc("1122:arp-queue", "1122:arp-no-error", "4861:7.2.2-3")
def test_a_neighbour_that_is_not_known_yet():
    """RFC 1122 section 2.3.2.2: the datagrams wait for it, in order, while others go."""
    lab = Lab()
    s = lab.datagram_socket(7)
    for number in range(3):
        s.send(bytes([number]), "10.0.0.9", 9)
    s.send(b"other", PEER, 9)
    lab.run()
    assert [d.payload for d in lab.datagrams] == [b"other"]
    lab.wait(0.1)
    lab.engine.neighbour("10.0.0.9", PEER_MAC)
    lab.wait(0.01)
    assert [d.payload for d in lab.datagrams[1:]] == [b"\0", b"\1", b"\2"]
    s.send(b"nobody", "10.0.0.10", 9)
    s.close()
    lab.run()
    lab.wait(3)
    assert s.slot.is_free and lab.drops("neighbour") == 1 and lab.engine.next_deadline() is None


def test_what_was_sent_before_close_goes():
    lab = Lab()
    s = lab.datagram_socket(7)
    for number in range(200):
        s.send(bytes([number]), PEER, 9)
    s.close()
    lab.run()
    assert [d.payload[0] for d in lab.datagrams] == list(range(200))
    assert s.slot.is_free
    lab.inject_datagram(b"late", 7)
    assert lab.drops("udp_port") == 1


def test_a_slot_is_used_again():
    lab = Lab(sockets=2)
    for port in range(50):
        s = lab.datagram_socket(1000 + port)
        lab.inject_datagram(b"x", 1000 + port)
        assert s.recv().payload == b"x"
        s.send(b"y", PEER, 9)
        s.close()
        lab.run()
        c = lab.connected(80)
        c.socket.abort()
        lab.run()
        assert c.receives()[-1].flags == "RA"  # a later connection may by chance have the same port
    assert len(lab.datagrams) == 50 and lab.drops("command") == 0


def test_a_slot_that_is_bound_before_its_command_is_taken_and_after():
    lab = Lab()
    early, late = lab.datagram_socket(1), lab.datagram_socket(2, bind=False)
    assert early.slot.state == neat.STATE_OPEN and late.slot.state == neat.STATE_FREE
    lab.inject_datagram(b"x", 2)
    assert lab.drops("udp_port") == 1
    late.bind()
    lab.inject_datagram(b"y", 2)
    assert late.recv_all() == [b"y"]


def test_a_binding_that_was_refused():
    lab = Lab(sockets=2)
    for _ in range(5):
        s = lab.datagram_socket(2, bind=False)
        s.slot.close()
        lab.run()
        assert s.slot.is_free


def test_fork_and_death():
    lab = Lab()
    s = lab.datagram_socket(7)
    child = Program(lab.engine, channel=2, inherit=1)
    lab.inject_datagram(b"both hear", 7)
    assert child.events() == [(neat.OP_LOOK, s.slot.number, 1)] == lab.program.events()
    s.send(b"last words", PEER, 9)
    assert lab.engine.drop_channel(1), "the child uses the memory"
    lab.run()
    assert [d.payload for d in lab.datagrams] == [b"last words"]
    lab.inject_datagram(b"the child hears", 7)
    assert len(child.events()) == 1
    assert s.recv_all() == [b"both hear", b"the child hears"]
    s.send(b"from the child", PEER, 9)
    child.command(neat.OP_LOOK, s.slot.number, channel=1)
    lab.run()
    assert lab.datagrams[-1].payload == b"from the child"
    lab.engine.drop_channel(2)
    lab.run()
    lab.inject_datagram(b"nobody hears", 7)
    assert lab.drops("udp_port") == 1
    assert sorted(lab.engine.reap()) == [1] or 1 not in lab.engine.channels()


def test_a_stranger_cannot_use_the_socket():
    lab = Lab()
    s = lab.datagram_socket(7)
    other = Program(lab.engine, channel=2)
    s.put(bytes(64), 0)
    lab.run()
    other.command(neat.OP_LOOK, s.slot.number, channel=1)
    lab.run()
    assert lab.drops("command") == 1


@pytest.mark.parametrize("head", [1, 63, 64, 65536, 65600, 0x80000000, 0xFFFFFFC0])
def test_a_send_ring_that_cannot_be(head):
    """Whatever a program writes, it is counted and harms nobody; and the socket can be used afterwards."""
    lab = Lab(rings=65536)
    s = lab.datagram_socket(7)
    record = Record(length=0xFFFFFFF0, flags=0xFFFF, segment=0xFFFF)
    s.put(bytes(record), head)
    lab.run()
    s.slot.mine.tx_head = s.slot.replica.tx_tail
    for base in (1, 0xFFFFFFFF, 12345):
        s.slot.mine.tx_base = base
        s.slot.mine.tx_head = (s.slot.mine.tx_head + ALIGN) & 0xFFFFFFFF
        s.slot.look()
        lab.run()
    for tail in (1, 0x80000000, 0xFFFFFFFF):
        s.slot.mine.rx_tail = tail
        lab.inject_datagram(b"x", 7)
    s.slot.mine.rx_tail = s.slot.replica.rx_head
    lab.inject_datagram(b"fine", 7)
    assert s.recv_all()[-1] == b"fine"
    s.close()
    lab.run()
    assert s.slot.is_free


def test_a_sender_that_waits_for_room_is_told():
    lab = Lab(rings=4096)
    s = lab.datagram_socket(7)
    lab.program.events()
    for _ in range(4):
        s.send(bytes(900), PEER, 9)
    assert s.slot.writable < 4096 // 3
    lab.run()
    assert lab.program.events() == [(neat.OP_LOOK, s.slot.number, 1)]
    s.send(bytes(10), PEER, 9)
    lab.run()
    assert lab.program.events() == []


def test_a_sender_that_waits_for_room_by_so_sndbuf_is_told():
    lab = Lab(rings=65536)
    s = lab.datagram_socket(7)
    s.slot.set(send_buffer=3000, flags=neat.FLAG_SEND_BUFFER)
    lab.program.events()
    s.send(bytes(1900), PEER, 9)  # 1984 bytes with what is beside them
    lab.run()
    assert lab.program.events() == []
    s.send(bytes(1960), PEER, 9)
    lab.run()
    assert lab.program.events() == [(neat.OP_LOOK, s.slot.number, 1)]


def test_more_than_the_outbox_holds():
    lab = Lab(rings=1 << 20)
    s = lab.datagram_socket(7)
    for number in range(1200):
        s.send(struct.pack("!H", number), PEER, 9)
    for _ in range(10):
        s.send(bytes(60000), PEER, 9, segment=500)
    lab.run()
    assert [d.payload for d in lab.datagrams[:1200]] == [struct.pack("!H", n) for n in range(1200)]
    assert len(lab.datagrams) == 1200 + 10 * 120
    assert lab.engine.counters()["datagrams_out"] == 1200 + 10 * 120


def test_only_groups_that_somebody_has_joined():
    """RFC 1112 section 7.2; all hosts (224.0.0.1) is everybody's."""
    lab = Lab()
    s = lab.datagram_socket(5353)

    def arrives(group: str) -> bool:
        d = Datagram(source=PEER, destination=group, source_port=9, destination_port=5353, payload=b"x")
        mac = b"\1\0\x5e" + bytes([address(group)[1] & 0x7F]) + address(group)[2:]
        lab.inject_frame(build_datagram(d, source_mac=PEER_MAC, destination_mac=mac))
        return len(s.recv_all()) == 1

    assert arrives("224.0.0.1") and not arrives("239.1.2.3")
    for _ in range(2):
        lab.engine.join("239.1.2.3")
    assert arrives("239.1.2.3") and not arrives("239.1.2.4")
    lab.engine.leave("239.1.2.3")
    assert arrives("239.1.2.3")
    lab.engine.leave("239.1.2.3")
    lab.engine.leave("239.1.2.3")
    assert not arrives("239.1.2.3")
    for number in range(256):
        lab.engine.join(f"239.0.0.{number}")
    with pytest.raises(OSError, match="group"):
        lab.engine.join("239.1.0.0")


def test_a_closed_port_of_our_own():
    """A connected socket is told, as by an ICMP error; one that wants to know everything, of every datagram."""
    lab = Lab()
    plain, connected, curious = (lab.datagram_socket() for _ in range(3))
    curious.slot.set(flags=neat.FLAG_ERRORS)
    connected.connect("127.0.0.1", 99)
    lab.run()
    lab.program.events()
    for s in (plain, connected, curious):
        s.send(b"anybody?", "127.0.0.1", 99)
    lab.run()
    assert [(s.slot.error, s.slot.replica.listener) for s in (plain, connected, curious)] == [
        (0, 0), (errno.ECONNREFUSED, 1), (errno.ECONNREFUSED, 1),
    ]  # fmt: skip
    assert {socket for _, socket, _ in lab.program.events()} == {connected.slot.number, curious.slot.number}
    news = curious.recv()
    assert (news.flags, news.error, news.payload) == (neat.DATAGRAM_ERROR, errno.ECONNREFUSED, b"anybody?")
    assert (news.source, news.destination[0]) == (("127.0.0.1", 99), "127.0.0.1")
    assert not plain.waiting and not connected.waiting


def test_a_socket_that_its_program_has_closed_is_deaf_before_the_manager_says_so():
    lab = Lab()
    s = lab.datagram_socket(7)
    s.send(b"still goes", PEER, 9)
    s.slot.set(shut=neat.SHUT_ABORT)
    s.connect(PEER, 9)
    lab.run()
    lab.inject_datagram(b"late", 7, peer_port=9)
    assert not s.waiting and lab.drops("udp_port") == 1
    assert [d.payload for d in lab.datagrams] == [b"still goes"]
    s.close()
    lab.run()
    assert s.slot.is_free


@pytest.mark.parametrize("seed", range(4))
def test_frames_with_bits_turned_over(seed):
    """Each is delivered or dropped, and counted; none harms the socket."""
    chance = random.Random(seed)
    lab = Lab()
    s = lab.datagram_socket(7)
    got = 0
    for _ in range(500):
        d = Datagram(source=PEER, destination=STACK, source_port=9, destination_port=7, payload=chance.randbytes(50))
        frame = bytearray(build_datagram(d, source_mac=PEER_MAC, destination_mac=STACK_MAC))
        for _ in range(chance.randrange(1, 4)):
            frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
        length = chance.choice([len(frame), chance.randrange(len(frame))])
        lab.inject_frame(bytes(frame[:length]), checked=chance.random() < 0.5)
        got += len(s.recv_all())
    counters = lab.engine.counters()
    assert got + sum(n for name, n in counters.items() if name.startswith("drop_")) == 500 == counters["packets_in"]
    assert 0 < got < 300
    lab.inject_datagram(b"fine", 7)
    assert s.recv_all() == [b"fine"]
