"""Two engines over a link whose mishaps are a schedule: this frame is lost, that one late, another changed on its way.

Hypothesis draws it and shrinks what fails to the fewest mishaps that matter. And a link that is only slow.
"""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.dataplane.test_transfer import run
from tests.support.wire import Faults, Mishap, Wire

# Twelve losses of one segment in a row take some 15 minutes: each wait is twice the one before.
MOST, LIMIT = 12, 1500  # mishaps, seconds
BYTES = 60_000

MISHAP = st.one_of(
    st.just(Mishap(lost=True)),
    st.builds(Mishap, copies=st.integers(2, 4)),
    st.builds(Mishap, late=st.sampled_from([0.001, 0.03, 0.25, 1.5])),
    st.builds(Mishap, changed=st.tuples(st.integers(0, 1500), st.integers(0, 254))),
    st.builds(
        Mishap, copies=st.just(2), late=st.just(0.4), changed=st.tuples(st.integers(20, 60), st.integers(0, 254))
    ),
)
SCHEDULE = st.dictionaries(st.tuples(st.sampled_from("ab"), st.integers(0, 80)), MISHAP, max_size=MOST)


def transfer(schedule: dict[tuple[str, int], Mishap], wire: Wire, amounts: tuple[int, int]) -> float:
    """Everything that is sent arrives and both ends close (run() sees to that); the seconds from the first byte on.

    The schedule begins with the connection: six lost SYN-ACKs in a row rightly end the attempt.
    """
    begun = []

    def begin() -> None:
        wire.schedule, wire.carried = schedule, {"a": 0, "b": 0}
        begun.append(wire.time)

    ends = run([("send", "a", amounts[0]), ("send", "b", amounts[1])], wire, begin, LIMIT)
    return ends - begun[0]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schedule=SCHEDULE, small=st.booleans(), offload=st.booleans(), both=st.booleans())
@example(schedule={("a", n): Mishap(lost=True) for n in range(MOST)}, small=False, offload=False, both=True)
@example(schedule={("b", n): Mishap(changed=(n, 0)) for n in range(MOST)}, small=True, offload=True, both=True)
def test_any_schedule(schedule, small, offload, both):
    wire = Wire(Faults(delay=0.01), rings=4096 if small else 65536, offload=offload)
    assert transfer(schedule, wire, (BYTES, BYTES // 2 if both else 0)) < LIMIT


def test_both_ends_hear_each_other_though_windows_are_rounded():
    """Found by a drawn schedule: each end took the other's acknowledgments for old ones, and answered them for ever.

    One had lost sight of what it had sent last, since the window behind it was rounded down to less.
    """
    schedule = {
        ("b", 0): Mishap(late=0.03), ("a", 30): Mishap(lost=True), ("b", 39): Mishap(late=1.5),
        ("a", 33): Mishap(changed=(378, 191)), ("b", 9): Mishap(lost=True), ("b", 36): Mishap(changed=(65, 159)),
        ("a", 37): Mishap(copies=2, late=0.4, changed=(36, 96)), ("a", 44): Mishap(changed=(985, 78)),
        ("a", 4): Mishap(copies=2, late=0.4, changed=(27, 122)), ("b", 32): Mishap(late=0.25),
        ("b", 12): Mishap(lost=True), ("a", 74): Mishap(changed=(826, 140)),
    }  # fmt: skip
    wire = Wire(Faults(delay=0.01), rings=4096, offload=False)
    transfer(schedule, wire, (BYTES, BYTES // 2))
    assert wire.frames < 2000


@pytest.mark.parametrize("kind", [{"lost": True}, {"copies": 3}, {"late": 0.05}, {"changed": (47, 1)}], ids=str)
def test_each_single_mishap_costs_little(kind):
    """Whichever frame it befalls: no retransmission timeout but at the end, where nothing tells of the loss sooner."""
    for side in "ab":
        for number in range(0, 40, 3):
            took = transfer({(side, number): Mishap(**kind)}, Wire(Faults(delay=0.01)), (BYTES, 0))
            assert took < 2.0, (side, number)


@pytest.mark.parametrize(("rate", "queue", "rings"), [
    (10_000, 8_000, 65536), (100_000, 20_000, 65536), (1_000_000, 64_000, 65536), (1_000_000, 5_000, 65536),
    (100_000, 6_000, 4096),
])  # fmt: skip
def test_a_slow_link_is_used(rate, queue, rings):
    """A bottleneck with a short queue: what is dropped is repaired, and the link is not idle for long."""
    wire = Wire(Faults(delay=0.005, rate=rate, queue=queue), rings=rings)
    took = transfer({}, wire, (300_000, 0))
    assert 300_000 / rate <= took < 2.5 * 300_000 / rate + 2, wire.dropped


def test_bytes_that_are_changed_never_arrive():
    """Every third frame, wherever it is changed: its checksums tell, and it is as if it had been lost."""
    schedule = {(side, n): Mishap(changed=(7 * n, n)) for side in "ab" for n in range(0, 240, 5)}
    wire = Wire(Faults(delay=0.002), rings=16384)
    transfer(schedule, wire, (120_000, 60_000))
    drops = [host.engine.counters() for host in (wire.a, wire.b)]
    assert all(each["drop_tcp_checksum"] > 10 for each in drops)
