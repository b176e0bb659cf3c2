"""Two stacks that die again and again, against two that never do: the same script, and nobody can tell which is which.

A script is what programs do on a bad wire, and when the stacks die. Hypothesis draws it, and shrinks what fails.
"""

from __future__ import annotations

import socket as kernel
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neatstack.dataplane.journal import Point
from tests.dataplane import test_transfer as transfer
from tests.support.crash import CrashWire
from tests.support.layout import neat
from tests.support.program import Program
from tests.support.wire import Faults

PORT, NOBODY = 80, 81
FIRST_PORT = 40000  # of those who connect, each from its own
MOST = 5  # connections of a script
OPTIONS = [
    {"flags": 0}, {"flags": neat.FLAG_NODELAY}, {"flags": neat.FLAG_CORK}, {"flags": neat.FLAG_KEEPALIVE},
    {"receive_buffer": 2048}, {"receive_buffer": 0},
]  # fmt: skip
SIDE = st.sampled_from("ab")
WHICH = st.integers(0, 2 * MOST - 1)
POINT = st.sampled_from([point.name.removeprefix("POINT_").lower() for point in Point if point])
DEATH = st.tuples(POINT, st.integers(0, 30))
STEP = st.one_of(
    st.tuples(st.just("connect"), SIDE, st.sampled_from([PORT, PORT, PORT, NOBODY])),
    st.tuples(st.just("send"), WHICH, st.integers(1, 9000)),
    st.tuples(st.just("send"), WHICH, st.integers(1, 9000)),
    st.tuples(st.just("read"), WHICH, st.integers(1, 9000)),
    st.tuples(st.just("set"), WHICH, st.sampled_from(OPTIONS)),
    st.tuples(st.sampled_from(["shutdown", "close", "abort"]), WHICH, st.none()),
    st.tuples(st.sampled_from(["post", "withdraw", "accept"]), SIDE, st.none()),
    st.tuples(st.just("wait"), SIDE, st.sampled_from([1, 50, 500, 3000])),
    st.tuples(st.just("die"), SIDE, st.lists(DEATH, min_size=1, max_size=4)),
    st.tuples(st.just("die"), SIDE, st.lists(DEATH, min_size=1, max_size=1)),
)


@dataclass
class End(transfer.End):
    """What the program wants does not depend on how far the stack is: it does what it wants as soon as it can."""

    socket: Any  # None: not accepted yet
    last: bool = False  # it will send no more than it has said
    closed: bool = False  # by its program: the slot may serve another connection since

    @property
    def opened(self) -> bool:
        socket = self.socket
        return socket is not None and not self.closed and socket.answered and socket.state == neat.STATE_OPEN

    def work(self) -> None:
        if self.opened:
            self.push()
            if self.last and not self.left and not self.finished:
                self.finished = True
                self.socket.shutdown()

    def close(self, how: str = "close") -> None:
        self.closed = True
        getattr(self.socket, how)()


@dataclass
class Talk:
    """One connection: its opener's end, and the other's."""

    side: str
    ends: list[End]
    loose: bool = False  # a program did not wait for the end: what was on its way may be lost
    refused: bool = False


class Run:
    """A script on a pair of stacks; `mortal`: they die when the script says so."""

    def __init__(self, faults: Faults, seed: int, small: bool, mortal: bool) -> None:
        self.wire = CrashWire(seed=seed, rings=4096 if small else 16384)
        self.faults, self.mortal = faults, mortal
        self.talks: list[Talk] = []
        self.listeners = {side: self.program(side).listen(PORT, post=2) for side in "ab"}
        self.wire.run()
        self.set_wire()

    def program(self, side: str) -> Program:
        return getattr(self.wire, side).program

    def set_wire(self) -> None:
        """As bad as the script wants it, but while there are handshakes."""
        opening = any(talk.ends[1].socket is None and not talk.refused for talk in self.talks)
        mild = Faults(delay=self.faults.delay, loss=0.02 if self.faults.loss else 0)
        self.wire.faults = mild if opening else self.faults

    # ---- what programs do ----

    def do(self, what: str, where: Any, amount: Any) -> None:
        match what:
            case "wait":
                self.wire.wait(amount / 1000)
            case "die":
                if self.mortal:
                    self.wire.die(where, *amount[0], *amount[1:])
            case "connect":
                self.connect(where, amount)
            case "accept":
                self.accept(where)
            case "post":
                self.program(where).post(self.listeners[where])
            case "withdraw":
                self.withdraw(where)
            case _:
                self.act(what, where, amount)
        self.set_wire()
        for end in self.open_ends():
            end.work()
        self.wire.run()

    def connect(self, side: str, port: int) -> None:
        if len(self.talks) == MOST:
            return
        other = self.wire.b if side == "a" else self.wire.a
        socket = self.program(side).connect(other.address, port, local_port=FIRST_PORT + len(self.talks))
        number = 2 * len(self.talks)
        self.talks.append(Talk(side, [End(socket, number), End(None, number + 1)], refused=port == NOBODY))

    def accept(self, side: str) -> None:
        socket = self.program(side).accept(self.listeners[side])
        if socket is None:
            return
        number = kernel.ntohs(socket.replica.remote_port_be) - FIRST_PORT
        talk = self.talks[number]
        assert talk.side != side and talk.ends[1].socket is None, "accepted what was not opened, or twice"
        talk.ends[1].socket = socket

    def withdraw(self, side: str) -> None:
        posted = self.program(side).posted[self.listeners[side]]
        if posted:
            socket = posted.pop(0)
            socket.program.withdraw(socket)
            socket.closed = True  # so that it is free as soon as the replica says so

    def act(self, what: str, which: int, amount: Any) -> None:
        """One end of one connection wants something."""
        if not self.talks:
            return
        talk = self.talks[which // 2 % len(self.talks)]
        end = talk.ends[which % 2]
        if talk.refused or end.closed:
            return
        match what:
            case "send" if not end.last:
                end.left += amount
            case "shutdown":
                end.last = True
            case "read" if end.opened:
                end.pull(amount)
            case "set" if end.opened:
                taken = {"flags": amount["flags"] | end.socket.flags & neat.FLAG_TAKEN} if "flags" in amount else {}
                end.socket.set(**{**amount, **taken})
            case "close" | "abort":
                talk.loose = True
                if end.opened:
                    end.close(what)

    def open_ends(self) -> list[End]:
        return [end for talk in self.talks for end in talk.ends if end.socket is not None and not end.closed]

    # ---- the end ----

    def settled(self) -> bool:
        """Everybody accepts, sends the rest, says so, and reads to the end. Whether all have."""
        for side in "ab":
            self.accept(side)
        self.set_wire()
        for end in self.open_ends():
            end.last = True
            end.work()
            if end.socket.answered:
                end.pull()
        return all(self.over(talk) for talk in self.talks)

    def over(self, talk: Talk) -> bool:
        if talk.ends[1].socket is None and not (talk.refused or talk.loose):
            return False
        return all(
            end.socket is None or end.closed or end.socket.state == neat.STATE_CLOSED
            or (end.finished and end.socket.eof and end.socket.fin_acked)
            for end in talk.ends
        )  # fmt: skip

    def finish(self) -> None:
        for side in "ab":
            self.program(side).post(self.listeners[side], MOST)
        self.wire.until(self.settled, limit=7200)
        self.wire.wait(1)  # what was reset before it was accepted
        for side in "ab":
            for _ in self.talks:
                self.accept(side)
        self.results = [self.result(talk) for talk in self.talks]
        for end in self.open_ends():
            end.close()
        self.wire.faults = Faults()
        self.wire.wait(400)

    def result(self, talk: Talk) -> Any:
        """What both programs have seen. Of a loose one that depends on when what came: a beginning of what was sent."""
        for end, other in (talk.ends, talk.ends[::-1]):
            got, sent = bytes(end.got), bytes(other.sent)
            assert got == sent[: len(got)], "a wrong byte"
            if not talk.loose and not talk.refused:
                assert got == sent
        if talk.loose:
            return None
        return [
            end.socket and (bytes(end.sent), end.socket.error, end.socket.reset, end.socket.eof) for end in talk.ends
        ]

    def check_empty(self) -> None:
        """All slots are free but those that are posted, and no connection is left."""
        for host in (self.wire.a, self.wire.b):
            assert host.engine.connections() == []
            posted = [socket for sockets in host.program.posted.values() for socket in sockets]
            for socket in host.program.sockets:
                assert socket in posted or socket.is_free, socket
            (listener,) = host.engine.listeners()
            assert (listener["half_open"], listener["waiting"]) == (0, 0)


def play(steps: list[tuple[str, Any, Any]], faults: Faults, seed: int, small: bool, mortal: bool) -> Run:
    run = Run(faults, seed, small, mortal)
    for step in steps:
        run.do(*step)
    run.finish()
    run.check_empty()
    return run


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(STEP, min_size=8, max_size=30), transfer.FAULTS, st.integers(0, 1 << 16), st.booleans())
def test_a_stack_that_dies_is_like_one_that_does_not(steps, faults, seed, small) -> None:
    connect = ("connect", "a", PORT)  # a script of nothing shows nothing
    mortal, immortal = (play([connect, *steps], faults, seed, small, mortal) for mortal in (True, False))
    assert mortal.results == immortal.results
    assert mortal.wire.lost == immortal.wire.deaths == 0
