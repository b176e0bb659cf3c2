"""Connections that never leave the stack: 127.0.0.0/8 and its own address, served inside one replica."""

import errno

import pytest

from tests.support.lab import STACK, Lab
from tests.support.layout import neat
from tests.support.program import Program, port_be


@pytest.mark.parametrize("target", ["127.0.0.1", "127.8.9.10", STACK])
def test_a_program_talks_to_itself(target):
    lab = Lab(rings=1 << 18)
    listener = lab.listening(80)
    client = lab.program.connect(target, 80)
    lab.run()
    server = lab.program.accept(listener)
    lab.run()
    assert client.state == server.state == neat.STATE_OPEN
    assert client.replica.rx_limit == server.replica.rx_limit == lab.program.header.rx_size
    client.send(b"ping")
    lab.run()
    assert server.recv() == b"ping"
    server.send(b"pong")
    lab.run()
    assert client.recv() == b"pong"
    client.close()
    lab.run()
    assert server.eof
    server.close()
    lab.run()
    lab.wait(61)
    assert lab.engine.counters()["connections"] == 0
    assert lab.left == [], "nothing of it reaches the wire"


def test_so_rcvbuf_of_a_listener_limits_the_window_from_the_first():
    """Offered for a moment, a larger one would stand, and nobody hear of the room that reading makes."""
    lab = Lab(rings=1 << 18)
    listener = lab.listening(80)
    for socket in lab.program.posted[listener]:
        socket.set(receive_buffer=8192)
    client = lab.program.connect("127.0.0.1", 80)
    lab.run()
    server = lab.program.accept(listener)
    lab.run()
    got = 0
    client.send(bytes(200_000))
    for _ in range(50):
        lab.run()
        got += len(server.recv())
    assert got == 200_000, "in no time"


def test_two_programs_of_one_replica():
    lab = Lab()
    other = Program(lab.engine, channel=2)
    listener = other.listen(80)
    lab.run()
    client = lab.program.connect("127.0.0.1", 80)
    lab.run()
    server = other.accept(listener)
    data = bytes(range(256)) * 1000
    sent, got = 0, bytearray()
    for _ in range(1000):
        sent += client.send(data[sent:])
        lab.run()
        got += server.recv()
        lab.wait(0.001)
        if len(got) == len(data):
            break
    assert got == data


@pytest.mark.parametrize("port", [81, 0])
def test_refused_inside(port):
    lab = Lab()
    client = lab.program.connect("127.0.0.1", port)
    lab.run()
    assert client.state == neat.STATE_CLOSED
    assert client.error == errno.ECONNREFUSED


def test_a_connection_to_itself():
    """RFC 9293 section 3.5: simultaneous open of a socket with itself: what it sends it receives."""
    lab = Lab()
    socket = lab.program.connect(STACK, 7000, local_port=7000)
    lab.run()
    assert socket.state == neat.STATE_OPEN
    assert socket.replica.local_port_be == socket.replica.remote_port_be == port_be(7000)
    socket.send(b"echo")
    lab.run()
    assert socket.recv() == b"echo"
    socket.close()
    lab.run()
    lab.wait(61)
    assert socket.is_free
    assert lab.engine.counters()["connections"] == 0


def test_a_listener_on_127_0_0_1_is_not_seen_from_outside():
    lab = Lab()
    lab.listening(80, address="127.0.0.1")
    inside = lab.program.connect("127.0.0.1", 80)
    outside = lab.program.connect(STACK, 80)
    lab.run()
    assert inside.state == neat.STATE_OPEN
    assert outside.error == errno.ECONNREFUSED


def test_many_connections_inside():
    lab = Lab(sockets=512, max_tcbs=512)
    listener = lab.listening(80, post=100)
    clients = [lab.program.connect("127.0.0.1", 80) for _ in range(100)]
    lab.run()
    servers = []
    while (server := lab.program.accept(listener)) is not None:
        servers.append(server)
        lab.run()
    assert len(servers) == 100
    for n, client in enumerate(clients):
        client.send(b"%d" % n)
    lab.run()
    assert sorted(int(s.recv()) for s in servers) == list(range(100))


def test_a_message_comes_in_one_piece_and_is_acknowledged_at_once():
    """As over Linux's loopback interface, whose packets are as long as packets can be."""
    lab = Lab(rings=65536)
    listener = lab.listening(80)
    client = lab.program.connect("127.0.0.1", 80)
    lab.run()
    server = lab.program.accept(listener)
    before = lab.engine.counters()["packets_out"]
    start = lab.time
    client.send(b"a" * 3000)
    lab.run()
    client.send(b"b" * 3000)
    lab.run()
    assert server.recv() == b"a" * 3000 + b"b" * 3000
    assert client.unacknowledged == 0 and lab.time == start
    assert lab.engine.counters()["packets_out"] - before <= 6, "two segments, their ACKs, and news of the window"
