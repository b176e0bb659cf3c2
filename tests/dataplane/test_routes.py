"""Where packets go: the network, the gateway, neighbours not known yet; flows that belong to another replica."""

import errno
from dataclasses import replace

import pytest

from neatstack.dataplane.engine import Engine
from tests.dataplane.tcp.test_numbers import flow_hash, stack_page
from tests.dataplane.test_ipv6 import PEER as PEER6
from tests.dataplane.test_ipv6 import UDP, Lab6, packet, udp
from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, START, Lab
from tests.support.layout import neat
from tests.support.packet import Segment, address, build, parse

GATEWAY, GATEWAY_MAC = "10.0.0.254", bytes.fromhex("0200000000fe")


def frames_of_connect(lab: Lab, address: str) -> list[bytes]:
    lab.program.connect(address, 80)
    lab.engine.run()
    return [frame for frame, _ in lab.engine.output()]


@pytest.mark.rfc("1122:subnet")
def test_a_neighbour_is_sent_to_directly():
    (frame,) = frames_of_connect(Lab(gateway=GATEWAY), PEER)
    assert frame[:6] == PEER_MAC


@pytest.mark.rfc("1122:subnet", "1122:configured")
def test_others_are_sent_to_the_gateway():
    """RFC 1122 section 3.3.1.1."""
    lab = Lab(gateway=GATEWAY)
    lab.engine.neighbour(GATEWAY, GATEWAY_MAC)
    (frame,) = frames_of_connect(lab, "192.0.2.7")
    assert frame[:6] == GATEWAY_MAC
    assert parse(frame).destination == "192.0.2.7"


@pytest.mark.rfc("1122:arp-no-error")
def test_a_connection_waits_for_the_hardware_address():
    lab = Lab()
    address = "10.0.0.9"
    socket = lab.program.connect(address, 80)
    lab.engine.run()
    assert lab.engine.output() == []
    assert lab.drops("neighbour") >= 1
    lab.engine.neighbour(address, PEER_MAC)
    lab.wait(0.5)
    assert [s.destination for s in lab.left if s.flags == "S"] == [address], "well before the SYN's retransmission"
    assert socket.state == neat.STATE_CONNECTING


@pytest.mark.rfc("4861:7.2.2-4")
def test_a_host_that_does_not_answer_arp_is_unreachable():
    """Linux: EHOSTUNREACH after three seconds."""
    lab = Lab()
    socket = lab.program.connect("10.0.0.9", 80)
    lab.run()
    lab.wait(2)
    assert socket.state == neat.STATE_CONNECTING
    lab.wait(4)
    assert socket.state == neat.STATE_CLOSED
    assert socket.error == errno.EHOSTUNREACH


def test_many_neighbours():
    lab = Lab(prefix=16, max_tcbs=1024, sockets=1024)
    for n in range(500):
        lab.engine.neighbour(f"10.0.{1 + n // 200}.{1 + n % 200}", n.to_bytes(6, "big"))
    for n in range(500):
        lab.program.connect(f"10.0.{1 + n // 200}.{1 + n % 200}", 80)
    lab.engine.run()
    frames = [frame for frame, _ in lab.engine.output()]
    assert sorted(int.from_bytes(frame[:6], "big") for frame in frames) == list(range(500))


@pytest.mark.rfc("9293:MUST-48", "9293:SHLD-21", "9293:SHLD-22", "9293:MUST-49", "1122:tos", "1122:ttl")
def test_tos_and_ttl_of_the_socket():
    """IP_TOS and IP_TTL."""
    lab = Lab()
    c = lab.connecting(lines={"tos": 0x10, "ttl": 9})
    syn = c.expects("S")
    assert (syn.tos, syn.ttl) == (0x10, 9)
    c.sends("SA", ack=1)
    assert c.expects("A").ttl == 9
    c.socket.set(tos=0, ttl=0)
    c.socket.send(b"x")
    lab.run()
    data = c.expects("A", data=b"x")
    assert (data.tos, data.ttl) == (0, 64)


@pytest.mark.rfc("1122:ttl-configured", "4443:2.4-rate-option")
def test_time_to_live_hop_limit_and_how_many_errors_are_the_operators() -> None:
    lab = Lab6(ttl=9, hop_limit=8, icmp_errors=3)
    s = lab.datagram_socket(53, "::")
    s.send(b"x", PEER6, 9)
    lab.run()
    assert [one.hops for one in lab.six] == [8]
    assert [one.hops for one in lab.takes(*[packet(UDP, udp(b"x", 99))] * 5)] == [8] * 3
    four = Lab(ttl=9, icmp_errors=2)
    four.program.connect(PEER, 80)
    for _ in range(3):
        four.inject_datagram(b"x", 99)
    assert four.left[0].ttl == 9 and [frame[22] for frame in four.other_frames] == [9, 9]


@pytest.mark.parametrize("flags", ["A", "PA", "FA", ""])
def test_a_stray_segment_of_another_replicas_flow_is_not_answered(flags):
    """While steering changes a packet may come to the wrong replica: a RST would kill what lives elsewhere."""
    page, key, table = stack_page(4, 1)
    engine = Engine(address=STACK, mac=STACK_MAC, replica=0, stack_page=page)
    engine.now = START
    engine.neighbour(PEER, PEER_MAC)
    answers = {True: 0, False: 0}
    for port in range(2000, 2100):
        segment = Segment(source=PEER, destination=STACK, source_port=port, destination_port=80, seq=1, flags=flags)
        engine.input(build(segment, source_mac=PEER_MAC, destination_mac=STACK_MAC))
        engine.run()
        ours = table[flow_hash(key, PEER, STACK, port, 80) >> 24] == 0
        answers[ours] += len(engine.output())
    assert answers[True] > 5
    assert answers[False] == 0
    assert engine.counters()["drop_moved"] == 100 - answers[True]


@pytest.mark.rfc("1122:reply-source", "791:several")
def test_who_is_answered_hears_from_the_address_that_he_has_spoken_to():
    """RFC 1122 section 3.3.4.2: of two addresses of ours, by TCP, and by an error about a datagram."""
    second = "10.0.0.9"
    lab = Lab(addresses=[f"{second}/24"])
    lab.listening(80)
    for destination in (STACK, second):
        for port in (80, 81):
            syn = lab.connection(port).segment("S")
            lab.inject(replace(syn, destination=destination))
            [answer] = lab.left
            lab.left = []
            assert (answer.source, answer.source_port) == (destination, port)
        lab.inject_datagram(b"x", 99, destination=destination)
        assert lab.other_frames.pop()[26:30] == address(destination)
