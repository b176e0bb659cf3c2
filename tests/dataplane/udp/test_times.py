"""When a datagram has left, for programs that want to know (NEAT_DATAGRAM_TIME)."""

from tests.support.lab import PEER, PEER_MAC, STACK, Lab
from tests.support.layout import neat

TOLD = neat.DATAGRAM_ERROR | neat.DATAGRAM_TIME


def test_who_asks_is_told_when_a_datagram_has_left():
    """With what was sent of it, up to a limit; it is no error."""
    lab = Lab()
    s = lab.datagram_socket(7)
    s.send(b"unasked", PEER, 53)
    s.send(b"long" * 1000, PEER, 53, flags=neat.DATAGRAM_TIME)
    lab.run()
    news = s.recv()
    assert (news.flags, news.payload, news.error) == (TOLD, (b"long" * 1000)[:512], 0)
    assert (news.source, news.destination) == ((PEER, 53), (STACK, 7)) and news.time_ns
    assert not s.waiting and s.slot.error == 0 and s.slot.replica.listener == 0


def test_what_is_not_sent_has_not_left():
    lab = Lab()
    s = lab.datagram_socket(7)
    s.send(b"x" * 2000, PEER, 53, flags=neat.DATAGRAM_TIME | neat.DATAGRAM_DONT_FRAGMENT)
    lab.run()
    assert not s.waiting and lab.drops("udp_send") == 1


def test_what_waits_for_a_neighbour_has_not_left_yet():
    lab = Lab()
    s = lab.datagram_socket(7)
    s.send(b"x", "10.0.0.9", 53, flags=neat.DATAGRAM_TIME)
    lab.run()
    assert not s.waiting
    before = lab.time
    lab.wait(1)
    lab.engine.neighbour("10.0.0.9", PEER_MAC)
    lab.wait(1)
    news = s.recv()
    assert (news.flags, news.payload, news.source) == (TOLD, b"x", ("10.0.0.9", 53))
    assert news.time_ns > before * 1e9
