"""The board of what is on its way, against a model that has every byte (hypothesis)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neatstack.dataplane.tcp.scoreboard import after_steps

SACKED, LOST, AGAIN = 1, 2, 4
MOST = 128  # STRETCHES


class Model:
    """Every byte's last time and flags."""

    def __init__(self) -> None:
        self.una = 0
        self.sent: list[tuple[int, int]] = []
        self.steps: list[tuple] = []

    def mark(self, left: int, right: int, change) -> None:
        for n in range(left, right):
            self.sent[n] = change(*self.sent[n])


def play(draw, steps: int, longest: int) -> Model:
    """Steps that can happen, on the model; they are kept for the board."""
    m, now = Model(), 0
    for _ in range(steps):
        now += draw(st.integers(0, 3))
        kind = draw(st.sampled_from(["send", "sacked", "sacked", "sacked", "again", "lost", "acked", "timeout"]))
        if kind == "send" or m.una == len(m.sent):
            length = draw(st.integers(1, longest))
            m.steps.append(("send", length, now))
            m.sent += [(now, 0)] * length
            continue
        left = draw(st.integers(m.una, len(m.sent) - 1))
        right = draw(st.integers(left + 1, min(len(m.sent), left + longest)))
        if kind == "sacked" and left > m.una:
            m.steps.append((kind, left, right))
            m.mark(left, right, lambda at, flags: (at, SACKED))
        elif kind == "again":
            m.steps.append((kind, left, right, now))
            m.mark(left, right, lambda at, flags, now=now: (now, AGAIN))
        elif kind == "acked":
            m.steps.append((kind, right))
            m.una = right
        elif kind == "timeout":
            m.steps.append((kind,))
            m.mark(m.una, len(m.sent), lambda at, flags: (at, AGAIN if flags & SACKED else flags))
    return m


def check(m: Model, iss: int, *, exact: bool) -> None:
    board = after_steps(iss, m.steps)
    left, sacked, lost = m.una, 0, 0
    for right, at, flags in board["stretches"]:
        assert left < right <= len(m.sent)
        assert not (flags & SACKED and flags & LOST)
        sacked += right - left if flags & SACKED else 0
        lost += right - left if flags & LOST else 0
        for n in range(left, right):
            if flags & SACKED:
                assert m.sent[n][1] & SACKED, "never acknowledged"
            else:
                assert at >= m.sent[n][0], "taken for older than it is"
            if exact:
                assert flags == m.sent[n][1]
                assert flags & (SACKED | AGAIN) or at == m.sent[n][0]
        left = right
    assert len(board["stretches"]) <= MOST
    if board["stretches"]:
        assert board["bytes"] == (sacked, lost)
        assert board["pipe"] == len(m.sent) - m.una - sacked - lost
    if exact and left < len(m.sent):  # what was sent last
        assert len(set(m.sent[left:])) == 1


@pytest.mark.rfc("8985:4-TIME", "8985:6.1")
@settings(max_examples=150, deadline=None)
@given(data=st.data(), iss=st.sampled_from([0, 0xFFFFFFC0, 0x7FFFFFF0]))
def test_the_board_knows_what_happened_to_every_byte(data, iss):
    """As long as it has room."""
    check(play(data.draw, 25, 40), iss, exact=True)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_full_board_forgets_and_never_invents(data):
    """It may not know that something has come; but nothing is taken for come, or for older, that is not."""
    m = Model()
    m.sent = [(0, 0)] * 4000
    m.steps = [("send", 4000, 0)]
    for n in range(1, 1900, 6):
        m.steps.append(("sacked", 2 * n, 2 * n + 2))
        m.mark(2 * n, 2 * n + 2, lambda at, flags: (at, SACKED))
    now = 1
    for left in data.draw(st.lists(st.integers(0, 3990), min_size=20, max_size=60)):
        now += 1
        m.steps.append(("again", left, left + 5, now))
        m.mark(left, left + 5, lambda at, flags, now=now: (now, AGAIN))
    check(m, 0xFFFFF000, exact=False)
