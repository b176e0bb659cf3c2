"""What a stack goes without (StackPage.without), in virtual time: it is not offered, and not granted."""

from __future__ import annotations

import pytest

from tests.dataplane.tcp.test_cookies import timestamp, under_pressure
from tests.support.lab import Lab
from tests.support.layout import neat
from tests.support.packet import NOP, SACK_PERMITTED, mss, read_options, wscale

ALL = (MSS, WSCALE, SACK, STAMPS) = 2, 3, 4, 8
WITHOUT = [(neat.WITHOUT_TIMESTAMPS, STAMPS), (neat.WITHOUT_SACK, SACK), (neat.WITHOUT_SCALING, WSCALE)]
EVERYTHING = mss(1460) + SACK_PERMITTED + timestamp(7)[2:] + NOP + wscale(7)
SEGMENT = 1460


def offered(options: bytes) -> set[int]:
    return set(read_options(options))


@pytest.mark.parametrize(("without", "missing"), [(0, 0), *WITHOUT])
def test_it_is_not_granted(without: int, missing: int) -> None:
    lab = Lab(without=without)
    lab.listening(80)
    c = lab.connection(80)
    c.sends("S", options=EVERYTHING)
    assert offered(c.expects("SA", ack=1).options) == set(ALL) - {missing}
    assert (c.tcb["snd"]["wscale"] == 7) == (missing != WSCALE)


@pytest.mark.parametrize(("without", "missing"), [(0, {0}), *((bit, {kind}) for bit, kind in WITHOUT)])
def test_nor_with_a_cookie(without: int, missing: set[int]) -> None:
    """What else was offered stands in a timestamp, and goes with it."""
    lab, listener = under_pressure(without=without)
    c = lab.connection(80)
    c.sends("S", options=EVERYTHING)
    answer = c.expects("SA", ack=1)
    given = set(ALL) - missing if missing != {STAMPS} else {MSS}
    assert offered(answer.options) == given
    stamps = read_options(answer.options).get(STAMPS, bytes(8))
    c.sends("A", ack=1, options=timestamp(8, int.from_bytes(stamps[:4], "big")))
    assert c.state == "ESTABLISHED" and lab.program.accept(listener) is not None
    assert (c.tcb["snd"]["wscale"] == 7) == (WSCALE in given)


@pytest.mark.parametrize(("without", "missing"), WITHOUT)
def test_it_is_not_offered_and_not_taken_from_who_has_it_unasked(without: int, missing: int) -> None:
    lab = Lab(without=without)
    c = lab.connecting()
    assert offered(c.expects("S").options) == set(ALL) - {missing}
    c.sends("SA", seq=0, ack=1, options=EVERYTHING, window=1000)
    ack = c.expects("A", seq=1)
    assert (STAMPS in offered(ack.options)) == (missing != STAMPS)
    assert (c.tcb["snd"]["wscale"] == 7) == (missing != WSCALE)
    lab.run()
    c.sends(data=b"late", seq=5, options=ack.options and timestamp(8))
    assert (5 in offered(c.expects("A", ack=1).options)) == (missing != SACK)


@pytest.mark.parametrize(("without", "segments"), [(0, 10), (neat.WITHOUT_RESTART, 20)])
@pytest.mark.rfc("5681:4.1-RESTART")
def test_the_window_after_a_pause(without: int, segments: int) -> None:
    """RFC 5681 section 4.1; and as on Linux without tcp_slow_start_after_idle."""
    lab = Lab(without=without, rings=1 << 20)
    c = lab.accepted(window=65535, wscale=7)
    c.socket.send(b"x" * 10 * SEGMENT)
    lab.run()
    for segment in c.receives():
        c.sends(ack=segment.seq + len(segment.payload))
    lab.wait(5)
    c.receives()
    c.socket.send(b"x" * 100 * SEGMENT)
    lab.run()
    assert sum(len(s.payload) for s in c.receives()) == segments * SEGMENT
