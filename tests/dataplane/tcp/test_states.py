"""RFC 9293 section 3.3.2, figure 5: every way from state to state, and no other.

The edges below are the figure's, with those that its notes name. Whatever happens on a random walk, a connection goes
only along them.
"""

import itertools
import random

import pytest

from tests.support.lab import Connection, Lab
from tests.support.layout import neat

EDGES = {
    "SYN_SENT": {"SYN_RECEIVED", "ESTABLISHED", "CLOSED"},
    "SYN_RECEIVED": {"ESTABLISHED", "FIN_WAIT_1", "CLOSED"},
    "ESTABLISHED": {"FIN_WAIT_1", "CLOSE_WAIT", "CLOSED"},
    "FIN_WAIT_1": {"FIN_WAIT_2", "CLOSING", "TIME_WAIT", "CLOSED"},
    "FIN_WAIT_2": {"TIME_WAIT", "CLOSED"},
    "CLOSE_WAIT": {"LAST_ACK", "CLOSED"},
    "CLOSING": {"TIME_WAIT", "CLOSED"},
    "LAST_ACK": {"CLOSED"},
    "TIME_WAIT": {"CLOSED"},
    "CLOSED": {"SYN_SENT", "SYN_RECEIVED"},
}


def reachable(state: str) -> set[str]:
    """In one event a segment may take a connection along several edges: an ACK that carries a FIN, say."""
    return {state} | EDGES[state] | {far for near in EDGES[state] for far in EDGES[near]}


@pytest.mark.parametrize("seed", range(30))
def test_a_random_walk_keeps_to_the_figure(seed):
    chance = random.Random(seed)
    lab = Lab()
    c = lab.accepted() if chance.random() < 0.6 else lab.connecting()
    state = c.state
    seen = {state}
    for _ in range(60):
        step(lab, c, chance)
        c.receives()
        assert c.state in reachable(state), f"from {state} to {c.state}"
        state = c.state
        seen.add(state)
        if state == "CLOSED":
            break
    assert len(seen) > 1


def step(lab: Lab, c: Connection, chance: random.Random) -> None:
    """Something that can happen: mostly legal, sometimes not."""
    what = chance.randrange(12)
    tcb = c.tcb
    sent = (tcb["snd"]["max"] - tcb["snd"]["iss"]) & 0xFFFFFFFF if tcb else 1
    if what == 0:
        c.sends("FA", ack=chance.choice([sent, max(0, sent - 1)]))
    elif what == 1:
        c.sends("A", seq=max(c.nxt, 1), ack=sent)
    elif what == 2:
        c.sends("A", data=b"x" * chance.randrange(1, 1000), ack=sent)
    elif what == 3 and not c.socket.closed:
        c.socket.shutdown()
    elif what == 4 and not c.socket.closed:
        c.socket.recv()
        c.socket.close()
    elif what == 5 and not c.socket.closed:
        c.socket.send(b"y" * chance.randrange(1, 3000))
    elif what == 6:
        lab.wait(chance.choice([0.01, 0.3, 2, 10]))
    elif what == 7:
        c.sends("SA" if c.nxt == 0 else "S", seq=0, ack=1)
    elif what == 8 and chance.random() < 0.2:
        c.sends("R", seq=c.nxt)
    elif what == 9:
        c.sends("A", seq=c.nxt + chance.randrange(-1000, 100_000), ack=chance.randrange(sent + 2))
    lab.run()


def test_every_state_is_reached():
    reached = set()
    for seed in itertools.count():
        chance = random.Random(1000 + seed)
        lab = Lab()
        c = lab.accepted() if seed % 3 else lab.connecting()
        for _ in range(30):
            step(lab, c, chance)
            c.receives()
            reached.add(c.state)
        if reached >= set(EDGES):
            break
        assert seed < 300, set(EDGES) - reached


def test_the_programs_lines_show_the_state():
    """tcp_state, as getsockopt(TCP_INFO) gives it: Linux's numbers."""
    lab = Lab()
    c = lab.accepted()
    assert c.socket.replica.tcp_state == 1
    c.sends("FA")
    assert c.socket.replica.tcp_state == 8
    assert c.socket.state == neat.STATE_OPEN
    c.socket.shutdown()
    lab.run()
    assert c.socket.replica.tcp_state == 9
    c.sends("A", ack=2)
    assert c.socket.replica.tcp_state == 7
    assert c.socket.state == neat.STATE_CLOSED
    assert c.socket.error == 0
