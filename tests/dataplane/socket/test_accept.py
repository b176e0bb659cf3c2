"""Who gets a connection: posted slots, several programs on one listener, held connections, slots asked back."""

import errno
import mmap
import os

import pytest

from neatstack.dataplane.channel.region import region_size
from tests.support.lab import PEER_MAC, STACK_MAC, Connection, Lab
from tests.support.layout import neat
from tests.support.packet import build
from tests.support.program import Program


def peer_opens(lab: Lab, port: int = 80) -> Connection:
    c = lab.connection(port)
    c.sends("S", options=c.syn_options)
    c.expects("SA")
    c.sends("A", seq=1)
    return c


def join(lab: Lab, listener: int, program: Program, *, post: int = 4) -> None:
    """Another program may accept on the listener, and posts slots."""
    lab.engine.grant(listener, program.channel)
    program.posted[listener] = []
    program.post(listener, post)
    lab.run()


def doorbell() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def rung(fd: int) -> bool:
    try:
        return os.eventfd_read(fd) > 0
    except BlockingIOError:
        return False


def test_connections_go_round_among_equals():
    lab = Lab()
    listener = lab.listening(80, post=4)
    others = [Program(lab.engine, channel=n) for n in (2, 3)]
    for program in others:
        join(lab, listener, program)
    for _ in range(12):
        peer_opens(lab)
    given = [sum(s.state == neat.STATE_OPEN for s in p.sockets) for p in (lab.program, *others)]
    assert given == [4, 4, 4]


def test_a_busy_program_gets_fewer():
    """The one with the fewest connections not yet taken comes first."""
    lab = Lab()
    listener = lab.listening(80, post=8)
    other = Program(lab.engine, channel=2)
    join(lab, listener, other, post=8)
    quick = slow = 0
    for _ in range(10):
        peer_opens(lab)
        while other.accept(listener):
            quick += 1
            lab.run()
        slow = sum(s.state == neat.STATE_OPEN for s in lab.program.sockets)
    assert quick > slow >= 1


def test_one_connection_wakes_one_program():
    lab = Lab(sockets=16)
    bells = [doorbell() for _ in range(3)]
    programs = [Program(lab.engine, channel=2 + n, doorbell=bell) for n, bell in enumerate(bells)]
    listener = lab.listening(80, post=0)
    for program in programs:
        join(lab, listener, program)
        program.events()
        program.sleeps()
    for bell in bells:
        rung(bell)
    peer_opens(lab)
    assert sum(rung(bell) for bell in bells) == 1
    peer_opens(lab)
    peer_opens(lab)
    assert sorted(sum(s.state == neat.STATE_OPEN for s in p.sockets) for p in programs) == [1, 1, 1]
    for bell in bells:
        os.close(bell)


def test_a_sleeping_program_is_preferred():
    lab = Lab()
    listener = lab.listening(80, post=4)
    bell = doorbell()
    sleeper = Program(lab.engine, channel=2, doorbell=bell)
    join(lab, listener, sleeper)
    sleeper.events()
    sleeper.sleeps()
    peer_opens(lab)
    assert sleeper.accept(listener) is not None
    assert rung(bell)
    os.close(bell)


def test_a_doorbell_is_rung_once_for_one_sleep():
    lab = Lab()
    bell = doorbell()
    program = Program(lab.engine, channel=2, doorbell=bell)
    listener = program.listen(81)
    lab.run()
    c = peer_opens(lab, 81)
    socket = program.accept(listener)
    lab.run()
    rung(bell)
    program.events()
    c.sends(data=b"x")
    assert not rung(bell), "awake: no doorbell"
    program.events()
    program.sleeps()
    c.sends(data=b"y")
    assert rung(bell)
    c.sends(data=b"z")
    assert not rung(bell), "rung already for this sleep"
    program.sleeps(False)
    program.events()
    assert socket.recv() == b"xyz"
    program.sleeps()
    lab.run()
    c.sends(data=b"!")
    assert rung(bell)
    os.close(bell)


def test_without_a_posted_slot_a_connection_waits():
    lab = Lab()
    listener = lab.listening(80, post=0)
    first, second = peer_opens(lab), peer_opens(lab)
    first.sends(data=b"first")
    second.sends(data=b"second")
    assert lab.engine.listeners()[0]["waiting"] == 2
    lab.program.post(listener, 2)
    lab.run()
    assert [lab.program.accept(listener).recv() for _ in range(2)] == [b"first", b"second"]
    lab.run()
    assert lab.engine.listeners()[0]["waiting"] == 0


def test_a_held_connection_with_a_hole_keeps_it():
    lab = Lab()
    listener = lab.listening(80, post=0)
    c = peer_opens(lab)
    c.sends(seq=5, data=b"5678")
    lab.program.post(listener)
    lab.run()
    socket = lab.program.accept(listener)
    lab.run()
    c.sends(seq=1, data=b"1234")
    assert socket.recv() == b"12345678"


def test_a_held_connection_that_ends_is_still_given():
    lab = Lab()
    listener = lab.listening(80, post=0)
    c = peer_opens(lab)
    c.sends("FA", data=b"bye")
    lab.program.post(listener)
    lab.run()
    socket = lab.program.accept(listener)
    assert socket.recv() == b"bye"
    assert socket.eof


@pytest.mark.parametrize("place", [0, 10])
def test_what_waits_and_was_damaged_is_not_given_out(place: int):
    region = mmap.mmap(-1, region_size(64))
    lab = Lab(region=region, max_tcbs=64)
    listener = lab.listening(80, post=0)
    c = peer_opens(lab)
    c.sends(data=b"ten bytes, ")
    region[region.find(b"ten bytes, ") + place] ^= 1
    lab.program.post(listener)
    lab.run()
    assert lab.program.accept(listener) is None
    assert "R" in c.receives()[-1].flags
    assert lab.engine.listeners()[0]["waiting"] == 0


def reset_after(lab: Lab, text: bytes = b"") -> Connection:
    """A peer that opens a connection, says something, and resets it."""
    c = peer_opens(lab)
    if text:
        c.sends(data=text)
    c.sends("R", seq=1 + len(text))
    return c


def all_given_back(lab: Lab) -> bool:
    return all(lab.engine.tcb(index)["state"] == 0 for index in range(1, 16)) and not lab.engine.damaged()


def test_a_held_connection_that_is_reset_is_still_given():
    """As on Linux: with what it had received, and an error after that."""
    lab = Lab()
    listener = lab.listening(80, post=0)
    reset_after(lab, b"bye")
    assert lab.engine.listeners()[0]["waiting"] == 1
    assert lab.engine.counters()["connections"] == 0
    lab.program.post(listener)
    lab.run()
    socket = lab.program.accept(listener)
    lab.run()
    assert (socket.state, socket.recv(), socket.error) == (neat.STATE_CLOSED, b"bye", errno.ECONNRESET)
    assert lab.engine.listeners()[0]["waiting"] == 0
    assert not lab.left
    socket.close()
    lab.run()
    assert socket.is_free
    assert all_given_back(lab)


def test_what_was_reset_counts_for_the_backlog_until_it_is_accepted():
    lab = Lab()
    listener = lab.listening(80, backlog=1, post=0)
    for _ in range(2):
        reset_after(lab)
    late = lab.connection(80)
    late.sends("S")
    late.expects_nothing()
    lab.program.post(listener)
    lab.run()
    assert lab.program.accept(listener).error == errno.ECONNRESET
    lab.run()
    late.sends("S")
    late.expects("SA")


@pytest.mark.parametrize("dies", [False, True])
def test_what_was_reset_is_given_to_another_when_its_slot_is_asked_back_or_its_program_dies(dies: bool):
    lab = Lab()
    listener = lab.listening(80, post=1)
    reset_after(lab, b"bye")
    other = Program(lab.engine, channel=2)
    if dies:
        lab.engine.drop_channel(1)
    join(lab, listener, other)
    if not dies:
        lab.program.withdraw(lab.program.posted[listener].pop())
        lab.run()
    socket = other.accept(listener)
    assert (socket.recv(), socket.error) == (b"bye", errno.ECONNRESET)


def test_what_was_reset_and_waits_ends_with_its_listener():
    lab = Lab()
    listener = lab.listening(80, post=0)
    reset_after(lab, b"bye")
    lab.engine.unlisten(listener)
    lab.run()
    assert all_given_back(lab)


def test_a_program_that_closes_what_it_has_not_accepted_frees_a_place():
    lab = Lab()
    lab.listening(80, post=1)
    reset_after(lab)
    lab.program.sockets[0].close()
    lab.run()
    assert lab.engine.listeners()[0]["waiting"] == 0
    assert all_given_back(lab)


def test_a_posted_slot_is_asked_back():
    lab = Lab()
    listener = lab.listening(80, post=1)
    socket = lab.program.posted[listener].pop()
    lab.program.withdraw(socket)
    lab.run()
    assert socket.state == neat.STATE_FREE
    peer_opens(lab)
    assert socket.state == neat.STATE_FREE


def test_a_slot_asked_back_after_it_was_given_out_moves_its_connection():
    """NEAT_ROLE_WITHDRAW: the connection goes to another program that waits for one."""
    lab = Lab()
    listener = lab.listening(80, post=1)
    c = peer_opens(lab)
    c.sends(data=b"question")
    socket = lab.program.posted[listener].pop()
    assert socket.state == neat.STATE_OPEN
    other = Program(lab.engine, channel=2)
    join(lab, listener, other)
    lab.program.withdraw(socket)
    lab.run()
    assert socket.state == neat.STATE_FREE
    moved = other.accept(listener)
    assert moved.recv() == b"question"
    moved.send(b"answer")
    lab.run()
    assert b"answer" in b"".join(s.payload for s in c.receives())


def test_a_slot_asked_back_with_nobody_waiting_holds_its_connection():
    lab = Lab()
    listener = lab.listening(80, post=1)
    c = peer_opens(lab)
    c.sends(data=b"question")
    socket = lab.program.posted[listener].pop()
    lab.program.withdraw(socket)
    lab.run()
    assert socket.state == neat.STATE_FREE
    assert lab.engine.listeners()[0]["waiting"] == 1
    lab.program.post(listener)
    lab.run()
    assert lab.program.accept(listener).recv() == b"question"


def test_what_was_read_and_then_not_accepted_is_reset():
    """It cannot begin anew with another program."""
    lab = Lab()
    listener = lab.listening(80, post=1)
    c = peer_opens(lab)
    c.sends(data=b"question")
    socket = lab.program.posted[listener].pop()
    assert socket.recv() == b"question"
    socket.look()
    lab.run()
    lab.program.withdraw(socket)
    lab.run()
    assert "R" in c.expects().flags
    assert lab.engine.listeners()[0]["waiting"] == 0
    assert all_given_back(lab)


def test_revoke_takes_the_programs_untaken_connections_away():
    lab = Lab()
    listener = lab.listening(80, post=2)
    other = Program(lab.engine, channel=2)
    join(lab, listener, other)
    lab.engine.revoke(listener, 1)
    lab.run()
    for _ in range(3):
        peer_opens(lab)
    assert all(s.state != neat.STATE_OPEN for s in lab.program.sockets)
    assert other.accept(listener) is not None


def test_a_program_that_dies_leaves_what_it_had_not_taken_to_others():
    lab = Lab()
    listener = lab.listening(80, post=2)
    c = peer_opens(lab)
    c.sends(data=b"hello")
    assert sum(s.state == neat.STATE_OPEN for s in lab.program.sockets) == 1
    other = Program(lab.engine, channel=2)
    join(lab, listener, other)
    lab.engine.drop_channel(1)
    lab.run()
    socket = other.accept(listener)
    assert socket is not None, "the peer has not noticed that a worker died"
    assert socket.recv() == b"hello"


def test_a_slot_posted_for_a_listener_that_is_anothers_is_refused():
    lab = Lab()
    listener = lab.listening(80, post=0)
    other = Program(lab.engine, channel=2)
    before = lab.drops("command")
    other.post(listener)
    lab.run()
    assert lab.drops("command") > before
    peer_opens(lab)
    assert all(s.state != neat.STATE_OPEN for s in other.sockets)


def test_text_that_comes_with_the_last_ack_of_a_handshake_is_taken_whole():
    """The SYN-ACK has offered the ring of the program that waits: no hold buffer may come in between, being smaller."""
    lab = Lab()
    listener = lab.listening(80)
    c = lab.connection(80)
    c.sends("S", options=c.syn_options)
    c.expects("SA")
    text = os.urandom(5 * 1460)
    segments = [c.segment("PA", seq=1 + at, ack=1, data=text[at : at + 1460]) for at in range(0, len(text), 1460)]
    for segment in (c.segment("A", seq=1, ack=1), *segments):
        lab.engine.input(build(segment, source_mac=PEER_MAC, destination_mac=STACK_MAC))
    lab.run()  # all in one batch
    assert lab.drops("sequence") == 0
    taken = lab.program.accept(listener)
    assert taken is not None and taken.recv() == text
