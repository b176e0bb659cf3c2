"""Nagle's algorithm (RFC 9293 section 3.7.4), TCP_NODELAY, TCP_CORK."""

import pytest

from tests.support.lab import Lab
from tests.support.layout import neat


@pytest.mark.rfc("9293:SHLD-7")
def test_a_small_segment_waits_for_the_one_before():
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"a")
    lab.run()
    c.expects("A", data=b"a")
    c.socket.send(b"b")
    c.socket.send(b"c")
    lab.run()
    c.expects_nothing()
    c.sends(ack=2)
    c.expects("A", data=b"bc")


def test_a_full_segment_does_not_wait():
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"a")
    lab.run()
    c.expects("A", data=b"a")
    c.socket.send(b"b" * 1500)
    lab.run()
    c.expects("A", length=1460)
    c.expects_nothing()


@pytest.mark.rfc("9293:MUST-17")
def test_nodelay():
    lab = Lab()
    c = lab.accepted()
    c.socket.set_flags(c.socket.flags | neat.FLAG_NODELAY)
    for letter in (b"a", b"b", b"c"):
        c.socket.send(letter)
        lab.run()
        c.expects("A", data=letter)


def test_setting_nodelay_sends_what_waits():
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"a")
    lab.run()
    c.receives()
    c.socket.send(b"b")
    lab.run()
    c.expects_nothing()
    c.socket.set_flags(c.socket.flags | neat.FLAG_NODELAY)
    lab.run()
    c.expects("A", data=b"b")


@pytest.mark.rfc("9293:MUST-60")
def test_cork_holds_small_segments_back_for_200_ms():
    """Linux: a corked partial segment leaves after 200 ms at the latest."""
    lab = Lab()
    c = lab.accepted()
    c.socket.set_flags(c.socket.flags | neat.FLAG_CORK)
    start = lab.time
    c.socket.send(b"x" * 1500)
    lab.run()
    c.expects("A", length=1460)
    c.sends(ack=1461)
    lab.wait(0.1)
    c.expects_nothing()
    lab.wait(1)
    assert c.expects("A", length=40).at - start <= 0.25


def test_uncorking_sends_at_once():
    lab = Lab()
    c = lab.accepted()
    c.socket.set_flags(c.socket.flags | neat.FLAG_CORK)
    c.socket.send(b"head")
    lab.run()
    c.expects_nothing()
    c.socket.send(b"body")
    c.socket.set_flags(c.socket.flags & ~neat.FLAG_CORK)
    lab.run()
    c.expects("A", data=b"headbody")


def test_fin_takes_the_last_small_piece_along():
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"a")
    lab.run()
    c.receives()
    c.socket.send(b"b")
    c.socket.shutdown()
    lab.run()
    c.expects("FA", data=b"b")
