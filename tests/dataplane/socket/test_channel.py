"""The rings between a program and a replica, and what several programs do with one socket (docs/architecture.md)."""

import mmap

import pytest

from neatstack.dataplane.channel.create import channel_size, format_channel
from tests.support.lab import PEER, PEER_MAC, STACK_MAC, Lab
from tests.support.layout import ChannelHeader, neat
from tests.support.packet import build
from tests.support.program import Program, address_be, port_be


def test_a_full_event_ring_asks_for_a_rescan():
    """Events are never lost: what finds no room bumps `rescan`, and the program looks at all its sockets.

    Only sockets that several programs hold can fill a ring: theirs are the entries that may be repeated.
    """
    lab = Lab()
    c = lab.accepted()
    child = Program(lab.engine, channel=2, sockets=16, inherit=1)
    for _ in range(child.header.entries):
        c.sends(data=b"x")
    assert child.replica.rescan == 0
    c.sends(data=b"x")
    assert child.replica.rescan > 0
    assert len(child.events()) == child.header.entries
    c.sends(data=b"x")
    assert child.events() == [(neat.OP_LOOK, c.socket.number, 1)]


def test_an_entry_is_not_repeated_while_it_waits():
    lab = Lab()
    c = lab.accepted()
    lab.program.events()
    for _ in range(20):
        c.sends(data=b"x")
    assert len(lab.program.events()) == 1
    c.sends(data=b"x")
    assert len(lab.program.events()) == 1


def test_looking_too_often_does_no_harm():
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"once")
    for _ in range(20):
        c.socket.look()
    lab.run()
    assert b"".join(s.payload for s in c.receives()) == b"once"


def test_a_posted_slot_looked_at_twice_is_posted_once():
    lab = Lab()
    listener = lab.listening(80, post=1)
    socket = lab.program.posted[listener][0]
    for _ in range(5):
        socket.look()
    lab.run()
    first, second = lab.connection(80), lab.connection(80)
    for c in (first, second):
        c.sends("S")
        c.expects("SA")
        c.sends("A", seq=1)
    assert lab.engine.listeners()[0]["waiting"] == 2
    assert sum(s.state == neat.STATE_OPEN for s in lab.program.sockets) == 1


@pytest.mark.parametrize("field", [name for name, _ in ChannelHeader._fields_[:-1]])
def test_a_channel_with_a_wrong_header_is_refused(field):
    lab = Lab()
    size = channel_size(16, 4096, 4096)
    for value in (0, 3, 0xFFFFFFFF):
        memory = mmap.mmap(-1, size)
        format_channel(memory, 0, 5, 16, 4096, 4096)
        header = ChannelHeader.from_buffer(memory)
        if getattr(header, field) == value:
            continue
        setattr(header, field, value)
        with pytest.raises((OSError, ValueError)):
            lab.engine.add_channel(5, memory)
    Program(lab.engine, channel=5)


def test_a_channel_larger_than_its_memory_is_refused():
    lab = Lab()
    memory = mmap.mmap(-1, channel_size(16, 4096, 4096))
    format_channel(memory, 0, 5, 16, 4096, 4096)
    with pytest.raises((OSError, ValueError)):
        lab.engine.add_channel(5, memoryview(memory)[:-4096])


# ---- fork ----


def family(lab: Lab):
    """A connection of the parent (channel 1), and a child (channel 2) that was forked after it was accepted."""
    c = lab.accepted()
    child = Program(lab.engine, channel=2, inherit=1)
    lab.run()
    return c, child


def test_a_socket_lives_until_the_last_holder_has_closed_it():
    lab = Lab()
    c, child = family(lab)
    c.socket.close()
    lab.run()
    c.expects_nothing()
    assert c.state == "ESTABLISHED"
    child.command(neat.OP_DETACH, c.socket.number, channel=1)
    lab.run()
    c.expects("FA")


def test_a_child_sends_and_gets_events_on_its_own_channel():
    lab = Lab()
    c, child = family(lab)
    child.events()
    c.sends(data=b"for the child")
    assert (neat.OP_LOOK, c.socket.number, 1) in child.events()
    assert c.socket.recv() == b"for the child"
    c.socket.send(b"from the child")  # the bytes go into the socket's own memory...
    child.command(neat.OP_LOOK, c.socket.number, channel=1)  # ...and the command through the child's
    lab.run()
    assert b"from the child" in b"".join(s.payload for s in c.receives())


def test_the_parent_dies_and_the_child_goes_on():
    lab = Lab()
    c, child = family(lab)
    lab.engine.drop_channel(1)
    lab.run()
    c.expects_nothing()
    c.sends(data=b"still here")
    assert (neat.OP_LOOK, c.socket.number, 1) in child.events()
    assert c.socket.recv() == b"still here"
    lab.engine.drop_channel(2)
    lab.run()
    assert "R" in c.receives()[-1].flags
    assert lab.engine.counters()["connections"] == 0


def test_the_child_dies_and_the_parent_goes_on():
    lab = Lab()
    c, _ = family(lab)
    lab.engine.drop_channel(2)
    lab.run()
    c.expects_nothing()
    c.sends(data=b"x")
    assert c.socket.recv() == b"x"
    c.socket.close()
    lab.run()
    c.expects("FA")


def test_a_stranger_may_not_touch_a_socket():
    """A program that is no child has no say in another's sockets: counted, and nothing happens."""
    lab = Lab()
    c = lab.accepted()
    stranger = Program(lab.engine, channel=2)
    before = lab.drops("command")
    stranger.command(neat.OP_DETACH, c.socket.number, channel=1)
    lab.run()
    assert c.state == "ESTABLISHED"
    assert lab.drops("command") == before + 1


def test_a_channel_number_can_be_used_again():
    lab = Lab()
    for _ in range(5):
        program = Program(lab.engine, channel=7)
        number = program.listen(90)
        lab.run()
        c = lab.connection(90)
        c.sends("S")
        c.expects("SA")
        c.sends("A", seq=1)
        assert program.accept(number) is not None
        lab.engine.drop_channel(7)
        lab.engine.unlisten(number)
        lab.run()
        lab.left.clear()
    assert lab.engine.counters()["connections"] == 0


def test_all_connections_end_in_one_batch_and_open_in_the_next():
    """Every TCB changes, is given back and taken again: the work list has a place for each, once."""
    lab = Lab(max_tcbs=66, sockets=128)
    listener = lab.listening(80, post=1)
    connections = [lab.accepted(80, listener=listener) for _ in range(60)]
    free = [s for s in lab.program.sockets if s.is_free][:60]
    for c in connections:
        lab.engine.input(build(c.segment("R"), source_mac=PEER_MAC, destination_mac=STACK_MAC))
        c.socket.close()
    lab.run()
    for n, socket in enumerate(free):
        socket.open(neat.ROLE_CONNECT, remote_be=address_be(PEER), remote_port_be=port_be(1000 + n))
    lab.run()
    assert all(socket.state == neat.STATE_CONNECTING for socket in free)
    assert all(c.socket.is_free for c in connections)
    assert len([s for s in lab.left if s.flags == "S"]) == 60
