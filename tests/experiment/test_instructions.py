"""Instructions per request, counted: they do not grow with the number of replicas."""

from __future__ import annotations

import ctypes
import shutil

import pytest

from neatstack.control.errors import NeatError
from neatstack.experiment import channel, engines, instructions
from neatstack.experiment.instructions import Count, count
from neatstack.experiment.netns import LabError
from tests.support.layout import ChannelHeader, ChannelProgram, Entry, Socket, neat

REQUESTS = 2048
TOLERANCE = 0.03


def test_the_offsets_are_those_of_the_header() -> None:
    program, replica, lines = Socket.program, Socket.replica, {}
    kind = dict(Socket._fields_)
    for name in ("generation", "role", "flags", "tx_head", "tx_base", "rx_tail", "listener"):
        lines[name.upper()] = program.offset + getattr(kind["program"], name).offset
    for name in ("state", "rx_head", "rx_base", "tx_tail"):
        lines[name.upper()] = replica.offset + getattr(kind["replica"], name).offset
    assert lines == {name: getattr(channel, name) for name in lines}
    assert channel.COMMANDS_HEAD == 128 + ChannelProgram.commands_head.offset
    assert channel.SLOTS_USED == 128 + ChannelProgram.slots_used.offset
    assert channel.SHAPE_AT == ChannelHeader.sockets.offset
    assert channel.SHAPE.size == ChannelHeader.buffers_at.offset + 8 - ChannelHeader.sockets.offset
    assert (channel.SOCKET_SIZE, channel.ENTRY.size) == (ctypes.sizeof(Socket), ctypes.sizeof(Entry))
    for name in ("OP_LOOK", "ROLE_ACCEPT", "STATE_OPEN", "FLAG_TAKEN"):
        assert getattr(channel, name) == getattr(neat, name)


def test_each_replica_has_its_share_of_the_connections() -> None:
    for replicas in (1, 2, 4, 8):
        shares = engines.shares(replicas, 128)
        assert [len(ports) for ports in shares] == [128 // replicas] * replicas
        assert len(set().union(*shares)) == 128


def test_requests_and_answers_are_compared() -> None:
    (ports,) = engines.shares(1, 8)
    replica = engines.Replica(0, engines.stack_page(1), ports, engines.BETWEEN)
    for _ in replica.turns(512, 8):
        pass
    assert replica.engine.counters()["bytes_in"] > 512 * len(engines.REQUEST)
    replica.connections[3].seq += 1  # lost on the way
    with pytest.raises(ValueError, match="request"):
        replica.exchange(replica.connections)


@pytest.mark.alone("two counts are compared to the last instruction")
def test_they_do_not_grow_with_the_replicas() -> None:
    """The same requests, served by one replica and by eight; and the count is the same when it is done again."""
    one, eight = count(1, REQUESTS), count(8, REQUESTS)
    assert 1000 < one.each < 20000
    assert abs(eight.each / one.each - 1) < TOLERANCE
    assert count(8, REQUESTS) == eight == Count(8, REQUESTS, instructions.AT_ONCE, eight.instructions)


def test_without_valgrind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: None)
    with pytest.raises(NeatError, match="apt-get install valgrind"):
        count(1)


def test_nothing_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "COUNTED", "no such function")
    with pytest.raises(LabError, match="no symbols"):
        count(1, 8)
