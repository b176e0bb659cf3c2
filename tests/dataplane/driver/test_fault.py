"""The fault injector: a bad link, always the same for the same seed."""

import pytest

from neatstack.dataplane.engine import Engine
from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, Lab
from tests.support.packet import Segment, build


def frames(count: int) -> list[bytes]:
    """SYNs to a closed port: each is answered by a RST that names it."""
    return [
        build(
            Segment(source=PEER, destination=STACK, source_port=1000 + n, destination_port=9, seq=n, flags="S"),
            source_mac=PEER_MAC,
            destination_mac=STACK_MAC,
        )
        for n in range(count)
    ]


def answered(count: int, **faults) -> list[int]:
    """Port numbers that the answers go to, in order."""
    lab = Lab(faults=faults)
    for frame in frames(count):
        lab.engine.input(frame)
    lab.run()
    return [segment.destination_port for segment in lab.left]


def test_without_faults_nothing_changes():
    assert answered(200, seed=1) == [1000 + n for n in range(200)]


def test_dropping():
    left = answered(1000, seed=1, drop=0.1)
    assert 750 < len(left) < 870  # both ways
    assert left == sorted(left)


def test_duplicating():
    left = answered(1000, seed=2, duplicate=0.1)
    assert 1130 < len(left) < 1290
    assert set(left) == {1000 + n for n in range(1000)}


def test_reordering_loses_nothing():
    left = answered(1000, seed=3, reorder=0.1)
    assert left != sorted(left)
    assert sorted(left) == [1000 + n for n in range(1000)]


def test_corrupting_is_noticed():
    left = answered(1000, seed=4, corrupt=0.1)
    assert 700 < len(left) < 900
    assert set(left) <= {1000 + n for n in range(1000)}


def test_the_same_seed_makes_the_same_link():
    everything = {"drop": 0.05, "duplicate": 0.05, "reorder": 0.05, "corrupt": 0.05}
    assert answered(500, seed=5, **everything) == answered(500, seed=5, **everything)
    assert answered(500, seed=5, **everything) != answered(500, seed=6, **everything)


@pytest.mark.parametrize("bad", [{"drop": 1.5}, {"reorder": -0.1}, {"corrupt": float("nan")}])
def test_what_is_not_a_probability_is_refused(bad):
    with pytest.raises(ValueError, match="faults"):
        Engine(faults=bad)
