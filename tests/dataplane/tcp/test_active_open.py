"""Active open: RFC 9293 sections 3.5, 3.10.1 (OPEN) and 3.10.7.3 (SYN-SENT)."""

import errno

import pytest

from tests.support.lab import PEER, STACK, Lab
from tests.support.layout import neat
from tests.support.packet import read_options
from tests.support.program import address_be, port_be
from tests.support.wire import Wire


def test_connect_sends_a_syn_and_opens():
    lab = Lab()
    c = lab.connecting(80)
    assert c.socket.state == neat.STATE_CONNECTING
    syn = c.expects("S", seq=0)
    assert syn.mss == 1460
    assert syn.wscale is not None
    lab.program.events()
    c.sends("SA", ack=1, options=c.syn_options)
    c.expects("A", seq=1, ack=1)
    assert c.socket.state == neat.STATE_OPEN
    assert c.socket.error == 0
    assert [op for op, number, _ in lab.program.events() if number == c.socket.number] == [neat.OP_LOOK]
    lines = c.socket.replica
    assert (lines.remote_be, lines.remote_port_be) == (address_be(PEER), port_be(80))
    assert (lines.local_be, lines.local_port_be) == (address_be(STACK), port_be(c.port))


def test_data_sent_before_the_connection_opens_follows_the_handshake():
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    c.socket.send(b"eager")
    lab.run()
    c.expects_nothing()
    c.sends("SA", ack=1, options=c.syn_options)
    c.expects("A", seq=1, data=b"eager")


@pytest.mark.rfc("9293:MUST-22")
def test_syn_is_retransmitted_with_backoff_until_etimedout():
    """RFC 9293 section 3.8.3 (R2 of a SYN is at least 3 minutes; Linux stops after 127 s): 1, 2, 4... seconds apart."""
    lab = Lab()
    c = lab.connecting()
    c.expects("S", seq=0, at=0)
    lab.until(63.5)
    assert [s.at for s in c.receives()] == pytest.approx([1, 3, 7, 15, 31, 63], abs=0.01)
    assert c.socket.state == neat.STATE_CONNECTING
    lab.until(400)
    assert c.socket.state == neat.STATE_CLOSED
    assert c.socket.error == errno.ETIMEDOUT
    assert c.state == "CLOSED"


@pytest.mark.rfc("9293:MUST-23")
@pytest.mark.parametrize(("syn_retries", "least", "most"), [(0, 120, 130), (7, 180, 260)])
def test_how_long_a_syn_is_tried(syn_retries: int, least: int, most: int):
    """RFC 9293 section 3.8.3, R2: three minutes are there for who asks for them (TCP_SYNCNT)."""
    lab = Lab()
    c = lab.connecting(lines={"syn_retries": syn_retries})
    c.expects("S")
    lab.until(least)
    assert c.socket.state == neat.STATE_CONNECTING
    lab.until(most)
    assert c.socket.state == neat.STATE_CLOSED and c.socket.error == errno.ETIMEDOUT


def test_a_retransmitted_syn_is_the_same_syn():
    lab = Lab()
    c = lab.connecting()
    first = c.expects("S")
    lab.until(1.1)
    again = c.expects("S", seq=first.seq)
    assert len(again.options) == len(first.options)
    options, before = read_options(again.options), read_options(first.options)
    assert options.pop(8) > before.pop(8)  # but for the time
    assert options == before
    assert again.window == first.window


def test_a_refused_connection():
    """3.10.7.3, second: RST with an acceptable ACK."""
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    lab.program.events()
    c.sends("RA", seq=0, ack=1)
    assert c.socket.state == neat.STATE_CLOSED
    assert c.socket.error == errno.ECONNREFUSED
    assert lab.program.events()
    c.expects_nothing()
    assert c.state == "CLOSED"


@pytest.mark.parametrize("flags,ack", [("R", 0), ("RA", 0), ("RA", 2), ("RA", -1)])
def test_a_reset_that_does_not_acknowledge_the_syn_is_ignored(flags, ack):
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    c.sends(flags, seq=0, ack=ack)
    c.expects_nothing()
    assert c.socket.state == neat.STATE_CONNECTING


@pytest.mark.parametrize("flags", ["A", "SA", "FA"])
@pytest.mark.parametrize("ack", [0, 2, -5])
def test_an_unacceptable_ack_is_reset(flags, ack):
    """3.10.7.3, first: <SEQ=SEG.ACK><CTL=RST>; the open goes on."""
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    c.sends(flags, seq=0, ack=ack)
    c.expects("R", seq=ack)
    assert c.state == "SYN_SENT"


@pytest.mark.parametrize("flags", ["A", "", "FA", "PA"])
def test_an_acceptable_ack_without_syn_is_dropped(flags):
    """3.10.7.3, fifth."""
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    c.sends(flags, seq=0, ack=1)
    c.expects_nothing()
    assert c.state == "SYN_SENT"


@pytest.mark.rfc("9293:MUST-10")
def test_simultaneous_open_by_script():
    """Section 3.5, figure 8: SYN crosses SYN."""
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    c.sends("S", seq=0, options=c.syn_options)
    c.expects("SA", seq=0, ack=1)
    assert c.state == "SYN_RECEIVED"
    c.sends("SA", seq=0, ack=1)
    assert c.state == "ESTABLISHED"
    assert c.socket.state == neat.STATE_OPEN
    c.receives()
    c.sends(data=b"hello", seq=1)
    assert c.socket.recv() == b"hello"


def test_simultaneous_open_completed_by_a_bare_ack():
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    c.sends("S", seq=0)
    c.expects("SA", seq=0, ack=1)
    c.sends("A", seq=1, ack=1)
    assert c.socket.state == neat.STATE_OPEN
    c.expects_nothing()


@pytest.mark.rfc("9293:MUST-11")
def test_reset_after_simultaneous_open_is_connection_refused():
    """3.10.7.4, second: in SYN-RECEIVED from an active open, "connection refused"."""
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    c.sends("S", seq=0)
    c.expects("SA")
    c.sends("R", seq=1)
    assert c.socket.state == neat.STATE_CLOSED
    assert c.socket.error == errno.ECONNREFUSED


def test_simultaneous_open_of_two_stacks():
    wire = Wire()
    left = wire.a.program.connect("10.0.0.2", 7002, local_port=7001)
    right = wire.b.program.connect("10.0.0.1", 7001, local_port=7002)
    wire.until(lambda: left.state == right.state == neat.STATE_OPEN, limit=10)
    left.send(b"ping")
    right.send(b"pong")
    wire.until(lambda: left.readable == right.readable == 4, limit=10)
    assert (left.recv(), right.recv()) == (b"pong", b"ping")
    assert wire.a.engine.counters()["connections"] == 1


def test_close_while_connecting():
    """3.10.4, SYN-SENT: the TCB is deleted; nothing is owed to the peer."""
    lab = Lab()
    c = lab.connecting()
    c.expects("S")
    c.socket.close()
    lab.run()
    assert c.state == "CLOSED"
    lab.until(10)
    c.expects_nothing()
    assert c.socket.is_free
    c.sends("SA", seq=0, ack=1)
    c.expects("R", seq=1)


# ---- what connect() refuses ----


@pytest.mark.rfc("5942:4-4c")
def test_connect_without_a_route():
    lab = Lab()
    socket = lab.program.connect("192.0.2.1", 80)
    lab.run()
    assert socket.state == neat.STATE_CLOSED
    assert socket.error == errno.ENETUNREACH


@pytest.mark.rfc("9293:MUST-43", "1122:own-source", "1122:choose-source")
@pytest.mark.parametrize(
    ("remote", "local"),
    [(PEER, "10.0.0.77"), ("127.0.0.1", "::1"), ("::1", "127.0.0.1")],
    ids=["not ours", "from IPv6 to IPv4", "from IPv4 to IPv6"],
)
def test_connect_from_an_address_that_cannot_be(remote, local):
    lab = Lab()
    socket = lab.program.connect(remote, 80, local=local)
    lab.run()
    assert socket.state == neat.STATE_CLOSED
    assert socket.error == errno.EADDRNOTAVAIL


@pytest.mark.rfc("6056:3.3a")
def test_connect_twice_from_one_port_to_one_place():
    lab = Lab()
    first = lab.program.connect(PEER, 80, local_port=5000)
    lab.run()
    second = lab.program.connect(PEER, 80, local_port=5000)
    lab.run()
    assert first.state == neat.STATE_CONNECTING
    assert second.state == neat.STATE_CLOSED
    assert second.error in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
    other = lab.program.connect(PEER, 81, local_port=5000)
    lab.run()
    assert other.state == neat.STATE_CONNECTING


def test_connect_with_no_tcb_left():
    lab = Lab(max_tcbs=8)
    sockets = [lab.program.connect(PEER, 80) for _ in range(10)]
    lab.run()
    assert sockets[0].state == neat.STATE_CONNECTING
    assert sockets[-1].state == neat.STATE_CLOSED
    assert sockets[-1].error in (errno.ENOBUFS, errno.ENOMEM)
    sockets[-1].close()
    lab.run()
    assert sockets[-1].is_free


@pytest.mark.rfc("9293:MUST-46")
@pytest.mark.parametrize("target", ["0.0.0.0", "255.255.255.255", "224.0.0.1", "10.0.0.255"])
def test_connect_to_what_is_no_single_host(target):
    """RFC 9293 section 3.9.2.3: a stream is between two unicast addresses. 0.0.0.0 means this host, as in Linux."""
    lab = Lab()
    socket = lab.program.connect(target, 80)
    lab.run()
    assert socket.state == neat.STATE_CLOSED
    assert socket.error in (errno.ENETUNREACH, errno.EINVAL, errno.ECONNREFUSED, errno.EACCES)
    assert not lab.left
