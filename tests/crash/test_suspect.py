"""A stack that broke by itself: what it had in hand is reset, and nothing else; or all is, when it broke again.

Both ends see at once that a connection is reset: its program ECONNRESET, its peer a RST.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import ECONNRESET, EPIPE

import pytest

from tests.crash.scenarios import PORT, End, Scenario
from tests.crash.test_points import NAMES, spread
from tests.support.crash import CrashWire
from tests.support.layout import neat

SOON = 3.0  # seconds; nothing that waits for a timeout is over by then


class Party:
    """Connections in many states, all of them busy: `step()` by `step()` their programs do what is next."""

    def __init__(self, wire: CrashWire) -> None:
        self.wire = wire
        self.scenario = Scenario(wire)
        wire.b.program.post(self.scenario.listener, 6)
        self.pairs = [self.scenario.open() for _ in range(6)]
        self.half, self.closing, self.idle = self.pairs[3], self.pairs[4], self.pairs[5]

    @property
    def ends(self) -> list[End]:
        return [end for pair in self.pairs for end in pair]

    def talk(self) -> None:
        """Two exchange data, one only sends, one is half closed, one closes, one is idle; a new one comes."""
        for client, server in self.pairs[:2]:
            client.send(4000)
            server.send(3000)
        self.pairs[2][0].send(6000)
        self.half[0].socket.shutdown()
        self.half[1].send(2500)
        self.closing[0].socket.shutdown()
        self.closing[1].socket.shutdown()
        self.client = self.wire.a.program.connect(self.wire.b.address, PORT)
        self.scenario.until(self.quiet)
        self.wire.wait(SOON)

    def quiet(self) -> bool:
        return self.client.state != neat.STATE_CONNECTING and all(self.done(pair) for pair in self.pairs)

    def done(self, pair: tuple[End, End]) -> bool:
        if any(lost(end) for end in pair):
            return True
        client, server = pair
        return not client.left and not server.left and server.got == client.sent and client.got == server.sent

    def close(self) -> tuple[int, int]:
        """Everybody closes in order. How many connections were reset, and how many were whole to the end."""
        reset = 0
        for pair in self.pairs:
            told = [lost(end) for end in pair]
            if any(told):
                reset += 1
                continue
            assert self.done(pair)
            for end in pair:
                end.socket.shutdown()
        alive = [end for pair in self.pairs if not any(map(lost, pair)) for end in pair]
        self.scenario.until(lambda: all(end.socket.eof for end in alive))
        newcomer = self.scenario.wire.b.program.accept(self.scenario.listener)
        self.client.close()
        if newcomer is not None:
            newcomer.close()
        for end in self.ends:
            end.socket.close()
        self.wire.wait(200)
        check_no_slot_is_lost(self.wire)
        return reset, len(self.pairs) - reset


def lost(end: End) -> bool:
    """Its program was told ECONNRESET, or EPIPE when it has already seen the peer's end, as on Linux."""
    if not end.socket.reset:
        return False
    assert end.socket.state == neat.STATE_CLOSED
    assert end.socket.error in (ECONNRESET, EPIPE if end.socket.eof else ECONNRESET)
    return True


def over(end: End) -> bool:
    """It had come to its end in order before the other one was reset, but perhaps for the last acknowledgement."""
    return end.socket.eof and (end.socket.fin_acked or end.socket.state == neat.STATE_CLOSED)


def check_no_slot_is_lost(wire: CrashWire) -> None:
    for host in (wire.a, wire.b):
        assert host.engine.connections() == []
        posted = [socket for sockets in host.program.posted.values() for socket in sockets]
        for socket in host.program.sockets:
            assert socket in posted or socket.is_free, socket


def serve(wire: CrashWire, scenario: Scenario) -> None:
    """The listener goes on: a new connection carries data and ends in order."""
    scenario.ends.clear()
    client, server = scenario.open()
    scenario.exchange(client, server, 3000, 2000)
    client.socket.shutdown()
    server.socket.shutdown()
    scenario.until(lambda: client.socket.eof and server.socket.eof)
    client.socket.close()
    server.socket.close()


def passes(side: str) -> dict[str, int]:
    wire = CrashWire()
    party = Party(wire)
    wire.die(side, None)
    party.talk()
    return getattr(wire, side).engine.hits()


def deaths(side: str, most: int) -> Iterator[tuple[str, int]]:
    for name, count in passes(side).items():
        for after in spread(count, most):
            yield name, after


@pytest.mark.parametrize("side", ["a", "b"])
def test_only_what_was_in_hand_is_reset(side: str) -> None:
    """At most one connection; its peer is told; all others carry every byte and close in order."""
    for name, after in deaths(side, 12):
        try:
            broken_once(side, name, after)
        except AssertionError as error:
            raise AssertionError(f"{side} broke at {name} number {after}: {error}") from error


def broken_once(side: str, *deaths: tuple[str, int] | str | int) -> None:
    wire = CrashWire(how="suspect")
    party = Party(wire)
    wire.die(side, *deaths)
    party.talk()
    wire.die(side, None)
    assert wire.deaths >= 1
    for pair in party.pairs:
        assert not any(map(lost, pair)) or all(lost(end) or over(end) for end in pair), "one end is not told"
    newcomer = party.client.state != neat.STATE_OPEN
    reset, _ = party.close()
    assert reset + newcomer <= wire.deaths
    serve(wire, party.scenario)


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("name", NAMES)
def test_broken_while_it_took_over(side: str, name: str) -> None:
    """The next one begins anew; a connection may be lost by each."""
    for after in (0, 1, 3, 8):
        broken_once(side, "changed", 20, (name, after))
        broken_once(side, "flushed", 3, (name, after), (name, after))


@pytest.mark.parametrize("side", ["a", "b"])
def test_broken_again_resets_all_and_tells_everybody(side: str) -> None:
    for name, after in deaths(side, 4):
        wire = CrashWire(how="reset")
        party = Party(wire)
        wire.die(side, name, after)
        party.talk()
        assert wire.deaths == 1
        for pair in party.pairs:
            assert any(map(lost, pair)) and all(lost(end) or over(end) for end in pair), (name, after)
        party.scenario.ends.clear()
        party.close()
        serve(wire, party.scenario)
        wire.wait(200)
        check_no_slot_is_lost(wire)
