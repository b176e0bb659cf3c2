"""A replica dies at each named point in turn, at each time that it passes it, in every state of TCP: nothing shows.

The other end is an ordinary stack, which sends again what was lost.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from neatstack.dataplane.journal import Point
from tests.crash import scenarios
from tests.support.crash import CrashWire, CrashWire6
from tests.support.layout import neat

NAMES = [point.name.removeprefix("POINT_").lower() for point in Point if point]


def passes(scenario: Callable[[CrashWire], None], side: str, kind: type[CrashWire] = CrashWire) -> dict[str, int]:
    """How often one end passes each point when nobody dies."""
    wire = kind()
    wire.die(side, None)
    scenario(wire)
    assert wire.deaths == 0
    return getattr(wire, side).engine.hits()


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("scenario", scenarios.ALL, ids=lambda scenario: scenario.__name__)
def test_death_at_every_point(scenario: Callable[[CrashWire], None], side: str) -> None:
    die_everywhere(scenario, side, CrashWire)


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("scenario", [scenarios.orderly, scenarios.lossy], ids=lambda scenario: scenario.__name__)
def test_death_at_every_point_over_ipv6(scenario: Callable[[CrashWire], None], side: str) -> None:
    die_everywhere(scenario, side, CrashWire6)


def die_everywhere(scenario: Callable[[CrashWire], None], side: str, kind: type[CrashWire]) -> None:
    hits = passes(scenario, side, kind)
    for name, count in hits.items():
        for after in spread(count):
            wire = kind()
            wire.die(side, name, after)
            try:
                scenario(wire)
            except AssertionError as error:
                raise AssertionError(f"{side} died at {name} number {after}: {error}") from error
            assert wire.deaths == 1, (name, after)
            assert wire.lost == 0, (name, after)


def spread(count: int, most: int = 40) -> list[int]:
    """Up to `most` numbers below `count`, the first ones all."""
    if count <= most:
        return list(range(count))
    return sorted({*range(most // 2), *(most // 2 + (count - most // 2) * k // (most // 2) for k in range(most // 2))})


def test_every_point_is_passed() -> None:
    """What no scenario reaches would be tested by nobody."""
    reached = {name for scenario in scenarios.ALL for side in "ab" for name, n in passes(scenario, side).items() if n}
    assert reached == set(NAMES)


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("then", [None, "taken", "command_taken"])
@pytest.mark.parametrize("name", NAMES)
def test_a_handshake_is_not_delayed(name: str, then: str | None, side: str) -> None:
    """What a dead stack had to send for a connection just made is sent at once, not when a timer says so."""
    for after in range(4):
        wire = CrashWire()
        wire.b.program.listen(scenarios.PORT)
        wire.run()
        client = wire.a.program.connect(wire.b.address, scenarios.PORT)
        wire.die(side, name, after, *([] if then is None else [(then, 0)]))
        wire.until(lambda client=client: client.state == neat.STATE_OPEN, limit=10)
        assert wire.time < 0.5, after
