"""Sockets on their way from program to program: NEAT_IN_FLIGHT holds them, whoever has sent them."""

import pytest

from tests.support.crash import CrashWire
from tests.support.lab import Lab
from tests.support.layout import neat
from tests.support.program import Program

FLIGHT = neat.IN_FLIGHT


def passed(lab: Lab):
    """A connection that program 1 has sent and closed."""
    c = lab.accepted()
    lab.engine.hold(1, c.socket.number, 1, FLIGHT)
    c.socket.close()
    lab.run()
    c.expects_nothing()
    assert c.state == "ESTABLISHED"
    return c


def test_a_socket_lives_while_it_is_on_its_way():
    lab = Lab()
    c = passed(lab)
    c.sends(data=b"early")
    other = Program(lab.engine, channel=2)
    lab.engine.hold(1, c.socket.number, FLIGHT, 2)
    lab.engine.let_go(1, c.socket.number)
    lab.run()
    assert c.socket.recv() == b"early"
    c.sends(data=b"late")
    assert (neat.OP_LOOK, c.socket.number, 1) in other.events()
    assert c.socket.recv() == b"late"
    lab.left.clear()
    other.command(neat.OP_DETACH, c.socket.number, channel=1)
    lab.run()
    c.expects("FA")


def test_what_nobody_receives_is_closed():
    lab = Lab()
    c = passed(lab)
    for _ in range(2):  # the manager may say it twice
        lab.engine.let_go(1, c.socket.number)
        lab.run()
    c.expects("FA")


def test_it_outlives_its_sender():
    lab = Lab()
    c = passed(lab)
    assert lab.engine.drop_channel(1), "it uses the memory"
    lab.run()
    c.expects_nothing()
    Program(lab.engine, channel=2)
    lab.engine.hold(1, c.socket.number, FLIGHT, 2)
    lab.engine.let_go(1, c.socket.number)
    lab.engine.drop_channel(2)  # that it has it not from a parent makes no difference
    lab.run()
    assert "R" in c.receives()[-1].flags


def test_only_who_holds_it_may_pass_it():
    lab = Lab()
    c = lab.accepted()
    number = c.socket.number
    Program(lab.engine, channel=2)
    for channel, socket, holder, other in (
        (1, number, 2, FLIGHT), (1, number, FLIGHT, 2), (1, number, 3, 2), (1, number, 1, 256), (1, number, 256, 1),
        (3, number, 1, 2), (1, number, 1, 3), (1, 1 << 20, 1, 2), (1, number + 1, 2, FLIGHT),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="channel"):
            lab.engine.hold(channel, socket, holder, other)
    lab.engine.hold(1, number + 1, 1, FLIGHT)  # its own, without a connection: nothing is held
    lab.engine.let_go(1, number + 1)
    for channel, socket in ((3, number), (1, 1 << 20)):
        with pytest.raises(ValueError, match="channel"):
            lab.engine.let_go(channel, socket)


def test_what_the_receiver_has_closed_before_counts_before():
    """A forked child closes its copy, and receives it once more."""
    lab = Lab()
    c = lab.accepted()
    child = Program(lab.engine, channel=2, inherit=1)
    lab.engine.hold(1, c.socket.number, 1, FLIGHT)
    child.command(neat.OP_DETACH, c.socket.number, channel=1)
    lab.engine.hold(1, c.socket.number, FLIGHT, 2)
    lab.engine.let_go(1, c.socket.number)
    c.socket.close()
    lab.run()
    c.expects_nothing()
    assert c.state == "ESTABLISHED"


def test_the_replica_dies_meanwhile():
    wire = CrashWire()
    listener = wire.b.program.listen(80, post=2)
    wire.run()
    client = wire.a.program.connect(wire.b.address, 80)
    wire.until(lambda: client.state == neat.STATE_OPEN)
    wire.wait(0.1)
    server = wire.b.program.accept(listener)
    assert server is not None
    wire.wait(0.1)
    wire.b.engine.hold(1, server.number, 1, FLIGHT)
    wire.die("b", "detached")
    server.close()
    wire.wait(0.1)
    assert wire.deaths == 1
    client.send(b"still there?")
    wire.wait(0.1)
    assert server.recv() == b"still there?" and client.state == neat.STATE_OPEN
    assert not client.replica.seen & neat.SEEN_EOF
    wire.b.engine.let_go(1, server.number)
    wire.wait(0.1)
    assert client.replica.seen & neat.SEEN_EOF
