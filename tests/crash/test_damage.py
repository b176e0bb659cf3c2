"""One bit of a stack's memory is turned over, anywhere: no program ever gets a wrong byte, and the next one serves."""

from __future__ import annotations

import random

import pytest

from neatstack.dataplane.engine import Died
from neatstack.dataplane.flip import flip_in
from neatstack.dataplane.stack import sizes
from tests.crash.damage import DETECTED, FINE, STALLED, WRONG, Case, mortal, try_bit
from tests.support.wire import Mishap

PARTS = (
    "region: header", "region: counters", "region: listeners", "region: connections", "region: hold buffers",
    "heap: stack", "heap: views", "heap: flows", "heap: dirty list", "heap: accept queues",
)  # fmt: skip
# what lies beyond belongs to no listener, and to no connection that waits
IN_USE = {"region: listeners": 192, "region: hold buffers": 2000, "heap: accept queues": 2200}
SAMPLE = 14
OF_ALL = 4  # and so many among all bytes of the part


def places(part: str, size: int) -> list[tuple[int, int]]:
    chance = random.Random(part)
    used = min(size, IN_USE.get(part, size))
    bytes_ = [chance.randrange(used) for _ in range(SAMPLE)] + [chance.randrange(size) for _ in range(OF_ALL)]
    return [(byte, chance.randrange(8)) for byte in bytes_]


@pytest.mark.parametrize("part", PARTS)
def test_no_wrong_byte_and_service_goes_on(part: str) -> None:
    """Where the header no longer describes the region it cannot be taken over: then all begins anew."""
    for byte, bit in places(part, Case().sizes[part]):
        ended, successors = try_bit(part, byte, bit)
        assert ended not in (WRONG, STALLED), (part, byte, bit, ended)
        assert successors[-1][1] == FINE, (part, byte, bit, ended, successors)
        if part != "region: header":
            assert [how for how, _ in successors] == ["suspect"], (part, byte, bit, ended, successors)


def test_a_damaged_connection_is_found_before_it_is_used() -> None:
    size, unchecked = sizes()["Tcb"], sizes()["Late"] + sizes()["Tally"]
    for byte in random.Random(1).sample(range(size - unchecked - 8), 12):
        ended, successors = try_bit("region: connections", size + byte, 0)
        assert ended == DETECTED, byte
        assert successors == [("suspect", FINE)], byte


@pytest.mark.parametrize("waits", [True, False])
def test_what_is_known_of_text_out_of_order_is_checked_while_there_is_some(waits: bool) -> None:
    case, (size, late) = Case(), (sizes()["Tcb"], sizes()["Late"] + sizes()["Tally"])
    wire, (client, server) = case.wire, case.pairs[0]
    wire.b.engine.die_at("finished", 2**31)
    if waits:
        wire.schedule["a", wire.carried["a"]] = Mishap(lost=True)
    client.push(client.sent + 2500)  # two segments
    wire.wait(0.015)
    for end in range(2 * size, case.sizes["region: connections"] + 1, size):
        flip_in(wire.b.engine, "region: connections", end - late, 0)
    if waits:
        with pytest.raises(Died):
            wire.wait(1)
    else:
        wire.wait(1)
        server.pull()
        assert server.got == client.sent


def test_a_child_may_end_as_it_likes() -> None:
    assert mortal(lambda: 3) == 3
    assert mortal(lambda: 1 // 0) != 0
