"""A new incarnation over channels that were in use: connections are reset, posted slots are linked again."""

import errno
import mmap

import pytest

from neatstack.dataplane.channel.region import region_size
from neatstack.dataplane.engine import Died, Engine
from tests.support.lab import PEER, PEER_MAC, START, Lab
from tests.support.layout import neat


def reborn(lab: Lab, region: mmap.mmap, *, keep: bool = False) -> None:
    """The replica has died; the manager gives region, channels and listeners to the next one."""
    lab.engine = Engine(region=region, max_tcbs=64, incarnation=2, keep=keep)
    lab.engine.now = START
    lab.engine.neighbour(PEER, PEER_MAC)
    lab.program.engine = lab.engine
    lab.engine.add_channel(1, lab.program.memory)


def test_connections_are_reset_and_listening_goes_on():
    region = mmap.mmap(-1, region_size(64))
    lab = Lab(region=region, max_tcbs=64)
    listener = lab.listening(80, post=4)
    old = lab.accepted(80, listener=listener)
    lab.program.events()
    reborn(lab, region)
    lab.engine.listen(listener, "0.0.0.0", 80, 128)
    lab.engine.grant(listener, 1)
    lab.engine.adopt()
    lab.run()
    assert (old.socket.state, old.socket.error) == (neat.STATE_CLOSED, errno.ECONNRESET)
    assert (neat.OP_LOOK, old.socket.number, 1) in lab.program.events()
    old.sends(data=b"still there?")
    old.expects("R")
    old.socket.close()
    lab.run()
    assert old.socket.is_free
    lab.accepted(80, listener=listener).sends(data=b"again")


def test_a_socket_that_was_closed_is_free():
    region = mmap.mmap(-1, region_size(64))
    lab = Lab(region=region, max_tcbs=64)
    c = lab.accepted(80)
    c.socket.close()
    lab.run()
    assert c.socket.state != neat.STATE_FREE
    reborn(lab, region)
    lab.engine.adopt()
    assert c.socket.is_free


def test_what_waits_is_whole_when_a_death_has_left_more_behind_it():
    """Text from ourselves that was copied and not committed: it comes again, and what came before it is in order."""
    region = mmap.mmap(-1, region_size(64))
    lab = Lab(region=region, max_tcbs=64)
    listener = lab.listening(80, post=0)
    client = lab.program.connect("127.0.0.1", 80)
    lab.wait(0.1)
    client.send(b"12345")
    lab.wait(0.1)
    client.send(b"678")
    lab.engine.die_at("copied")
    with pytest.raises(Died):
        lab.wait(0.1)
    reborn(lab, region, keep=True)
    lab.engine.listen(listener, "0.0.0.0", 80, 128)
    lab.engine.grant(listener, 1)
    assert lab.engine.adopt()["kept"] == 2
    lab.program.post(listener)
    lab.run()
    socket = lab.program.accept(listener)
    lab.wait(1)
    assert socket.recv() == b"12345678"
