"""A replica dies while UDP sockets are in use: at every point, what the next one does with what is left."""

from __future__ import annotations

import mmap

import pytest

from neatstack.dataplane.channel.region import region_size
from neatstack.dataplane.engine import Died, Engine
from tests.support.datagrams import DatagramSocket
from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, Lab
from tests.support.packet import Datagram, build_datagram

TCBS = 64
POINTS = ["taken", "command_taken", "planned", "event", "published", "sent", "flushed", "rung", "finished"]


def reborn(lab: Lab, region: mmap.mmap, sockets: list[DatagramSocket]) -> None:
    """The next incarnation of the lab's engine, told what the manager knows: only these sockets are still bound."""
    old, program = lab.engine, lab.program
    lab.engine = Engine(
        address=STACK, mac=STACK_MAC, max_tcbs=TCBS, region=region, keep=True, incarnation=2,
    )  # fmt: skip
    lab.engine.now = old.now
    lab.engine.neighbour(PEER, PEER_MAC)
    for frame in old.untaken():
        lab.engine.input(frame)
    program.engine = lab.engine
    lab.engine.add_channel(program.channel, program.memory)
    for s in sockets:
        s.bind()
    lab.engine.adopt()
    lab.collect(old.output())
    lab.run()


def arrives(lab: Lab, payload: bytes, port: int) -> None:
    d = Datagram(source=PEER, destination=STACK, source_port=5000, destination_port=port, payload=payload)
    lab.engine.input(build_datagram(d, source_mac=PEER_MAC, destination_mac=STACK_MAC))


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("point", POINTS)
def test_sockets_go_on(point: str, after: int) -> None:
    region = mmap.mmap(-1, region_size(TCBS))
    lab = Lab(region=region, max_tcbs=TCBS)
    s, connected, closed = (lab.datagram_socket(port) for port in (7, 8, 9))
    connected.connect(PEER, 5000)
    lab.run()
    lab.engine.die_at(point, after)
    sent = arrived = 0
    with pytest.raises(Died):
        while True:
            for _ in range(3):
                s.send(b"%d" % sent, PEER, 2)
                arrives(lab, b"%d" % sent, 7)
                sent += 1
            arrived = sent
            lab.run()
    reborn(lab, region, [s, connected])  # the third was closed while nobody served
    assert s.slot.replica.state == connected.slot.replica.state != closed.slot.replica.state
    assert lab.program.replica.rescan, "programs look at all their sockets"
    got = [int(each) for each in s.recv_all()]
    assert sorted(set(got)) == list(range(arrived)), "none is lost"
    assert len(got) <= arrived + 1, "and at most one comes twice"
    left = [int(d.payload) for d in lab.datagrams]
    assert sorted(set(left)) == list(range(sent))
    assert len(left) <= sent + 3, "what was not known to have left goes again"
    assert s.slot.unacknowledged == 0
    lab.inject_datagram(b"friend", 8)
    lab.inject_datagram(b"stranger", 8, peer_port=4)
    assert connected.recv_all() == [b"friend"]
    lab.inject_datagram(b"late", 9)
    assert lab.drops("udp_port") == 2 and lab.drops("command") == 0


def test_what_was_asked_for_while_nobody_served() -> None:
    """A socket bound, one connected, and something sent: all of it is found."""
    region = mmap.mmap(-1, region_size(TCBS))
    lab = Lab(region=region, max_tcbs=TCBS)
    s = lab.datagram_socket(7)
    new = DatagramSocket(lab.program, 8, bind=False)
    never = DatagramSocket(lab.program, 9, bind=False)
    s.connect(PEER, 5000)
    s.send(b"sent", PEER, 1)
    reborn(lab, region, [s, new])
    assert [d.payload for d in lab.datagrams] == [b"sent"]
    lab.inject_datagram(b"x", 7, peer_port=4)
    lab.inject_datagram(b"y", 8)
    assert not s.waiting and new.recv_all() == [b"y"]
    never.bind()
    lab.inject_datagram(b"z", 9)
    assert never.recv_all() == [b"z"]
