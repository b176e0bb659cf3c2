"""What is measured of recovery once, on our stack alone. What the journal costs is in measure.py: side by side."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from bench.adoption import adoptions
from neatstack.experiment.netns import Lab, LabError
from neatstack.experiment.recovery import MS, Plan, experiment
from neatstack.experiment.results import Results, percentile
from neatstack.experiment.stage import Combination, open_stage
from neatstack.experiment.timeline import WINDOW

KILLS, CONNECTIONS, SEED = 30, 64, 1
SECONDS = 3  # without a kill
KILL = Combination("adopt", 1, "kill")


def adoption(lab: Lab) -> tuple[list[float], ...]:
    """ms to take over connections; needs nothing of the laboratory."""
    return (adoptions(),)


def recovery(lab: Lab) -> tuple[list[float], ...]:
    """Gaps in ms, their median and 99th percentile, the median without a kill, and connections lost.

    `neat experiment recovery` on a small scale; docs/recovery.md defines the terms.
    """
    results = Results(lab.directory / "recovery")
    plan = Plan(KILLS, (KILL.replicas,), (KILL.kind,), (KILL.mode,), SEED)
    try:
        experiment(plan, lambda what: open_stage(lab, what, CONNECTIONS), results, lambda *progress: None)
    finally:
        results.finish([])
    series = results.series.get(KILL)
    if not series or len(series.faults) < KILLS:
        raise LabError(f"{len(series.faults) if series else 0} of {KILLS} kills were survived")
    if series.wrong:
        raise LabError(f"{series.wrong} bytes were wrong")
    p50, p99 = (percentile(series.gaps, part) for part in (0.5, 0.99))
    if p50 is None or p99 is None:
        raise LabError("no connection was affected by any kill")
    return [p50], [p99], [undisturbed(lab)], [float(sum(fault.connections_lost for fault in series.faults))]


def undisturbed(lab: Lab) -> float:
    """What the median of the gaps would be if nothing were killed: how busy the machine is."""
    with open_stage(lab, KILL, CONNECTIONS) as stage:
        stage.load.pump(SECONDS + 1)
        timeline = stage.load.timeline
        last = timeline.now - WINDOW
        starts = range(last - (SECONDS - 1) * WINDOW, last + 1, WINDOW)
        found = [timeline.gap(place, at, at + WINDOW) / MS for place in range(CONNECTIONS) for at in starts]
    return median(found)


# One run gives one or more figures, each with all that was measured of it.
Once = Callable[[Lab], tuple[list[float], ...]]
ONCE: dict[tuple[str, ...], Once] = {
    ("adoption",): adoption,
    ("gap_p50", "gap_p99", "gap_floor", "lost"): recovery,
}
