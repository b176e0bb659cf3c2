"""TCP_SAVE_SYN: the headers of the SYN that has opened a connection, kept for the program."""

import struct

import pytest

from tests.crash.scenarios import PORT
from tests.dataplane.test_fragments import arrive
from tests.dataplane.test_ipv6 import OPTIONS, PEER, TCP, Lab6, framed, packet, tcp, wire
from tests.support.crash import CrashWire
from tests.support.lab import PEER as PEER4
from tests.support.lab import PEER_MAC, STACK, STACK_MAC, Connection, Lab
from tests.support.layout import neat
from tests.support.packet import ETHERNET, NOP, build, build_ip, build_tcp, cut, mss
from tests.support.program import Socket

SYN, ACK = 2, 16


def saved(lab: Lab, socket: Socket) -> bytes:
    socket.ask()
    lab.run()
    syn = socket.info.syn
    return bytes(syn.headers[: syn.length])


def opened(lab: Lab, how: int, options: bytes = b"", port: int = 80) -> tuple[Connection, bytes]:
    """A connection, and the frame of its SYN."""
    c = lab.connection(port)
    c.listener = lab.listening(port, save_syn=how)
    frame = build(c.segment("S", options=options), source_mac=PEER_MAC, destination_mac=STACK_MAC)
    c.sends("S", options=options)
    c.expects("SA")
    c.sends(seq=1)
    c.socket = lab.program.accept(c.listener)
    return c, frame


@pytest.mark.parametrize(("how", "start"), [(1, ETHERNET), (2, 0)])
@pytest.mark.parametrize("options", [b"", mss(1460) + 36 * NOP], ids=["short", "long"])
def test_the_headers_of_the_syn_are_kept(how: int, start: int, options: bytes) -> None:
    c, frame = opened(Lab(), how, options)
    c.sends(data=b"text")
    assert saved(c.lab, c.socket) == frame[start:]
    assert c.socket.info.tcp_state == 1


def test_not_unless_it_was_asked_for() -> None:
    """Nor is what another connection has left in the same place given out."""
    lab = Lab()
    c, _ = opened(lab, 1)
    assert saved(lab, c.socket)
    c.sends("R")
    c.socket.close()
    lab.run()
    again, _ = opened(lab, 0, port=81)
    assert saved(lab, again.socket) == b""


@pytest.mark.parametrize(("length", "kept"), [(72, True), (80, False)])
def test_of_many_extension_headers_as_far_as_there_is_room(length: int, kept: bool) -> None:
    """40 bytes of IPv6, so many of an option that pads, 28 of TCP; with Ethernet's 14 they may be 158."""
    lab = Lab6()
    listener = lab.program.listen(80, address="::", save_syn=2)
    head = bytes([TCP, length // 8 - 1, 1, length - 4]) + bytes(length - 4)
    syn = packet(OPTIONS, head + tcp(80, 100, 0, SYN, options=mss(1440) + 4 * NOP))
    (answer,) = lab.takes(syn)
    lab.takes(packet(TCP, tcp(80, 101, struct.unpack_from("!I", answer.body, 4)[0] + 1, ACK)))
    assert saved(lab, lab.program.accept(listener)) == (framed(syn) if kept else b"")
    assert wire(PEER) in syn


def test_one_that_came_in_fragments_has_no_ethernet_header() -> None:
    lab = Lab()
    c = lab.connection()
    c.listener = lab.listening(save_syn=2)
    whole = build_ip(build_tcp(c.segment("S", options=mss(1460))), source=PEER4, destination=STACK, fragment=0)
    arrive(lab, *cut(whole, 8))
    c.nxt = 1
    c.expects("SA")
    c.sends()
    syn = saved(lab, lab.program.accept(c.listener))
    assert (len(syn), syn[0], syn[20:]) == (44, 0x45, whole[20:])


def test_a_successor_still_has_it() -> None:
    crash = CrashWire()
    listener = crash.b.program.listen(PORT, save_syn=1)
    crash.run()
    client = crash.a.program.connect(crash.b.address, PORT)
    crash.until(lambda: client.state == neat.STATE_OPEN)
    crash.wait(0.1)
    server = crash.b.program.accept(listener)
    assert server is not None
    crash.die("b", "command_taken")
    server.ask()
    crash.wait(0.1)
    assert crash.deaths == 1
    assert server.info.syn.length > 40 and server.info.syn.headers[0] == 0x45
