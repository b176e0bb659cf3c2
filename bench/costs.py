"""What is measured of recovery and elasticity once, on our stack alone. The journal is in measure.py: side by side."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from bench.adoption import adoptions
from neatstack.experiment import elasticity
from neatstack.experiment.instructions import count
from neatstack.experiment.netns import Lab, LabError
from neatstack.experiment.recovery import MS, Plan, experiment
from neatstack.experiment.results import Results
from neatstack.experiment.stage import Combination, open_stage
from neatstack.experiment.tables import percentile
from neatstack.experiment.timeline import WINDOW

KILLS, CONNECTIONS, SEED = 30, 64, 1
SECONDS = 3  # without a kill
KILL = Combination("adopt", 1, "kill")
CHANGES = elasticity.Plan(scalings=20, renewals=20, most=4, seed=SEED, quiet=0)
REQUESTS = 8192  # whose instructions are counted


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


def changes(lab: Lab) -> tuple[list[float], ...]:
    """Of scalings: connections lost, requests failed, 99th percentile of the gaps in ms; of renewals: first and last.

    `neat experiment elasticity` on a small scale; docs/elasticity.md defines the terms.
    """
    results = elasticity.Results(lab.directory / "elasticity")
    try:
        elasticity.experiment(CHANGES, elasticity.arena(lab, CHANGES, CONNECTIONS), results, lambda *progress: None)
    finally:
        results.finish([])
    if results.wrong:
        raise LabError(f"{results.wrong} bytes were wrong")
    scalings, renewals = (
        elasticity.summarize("", [change for change in results.changes if change.kind in kinds])
        for kinds in ((elasticity.SCALE,), (elasticity.REJUVENATE, elasticity.UPGRADE))
    )
    lost = [[float(each["connections_lost"])] for each in (scalings, renewals)]
    return lost[0], [float(scalings["failed_requests"])], [scalings["gap_p99_ms"]], lost[1], [renewals["gap_p99_ms"]]


def instructions(lab: Lab) -> tuple[list[float], ...]:
    """What a request costs with eight replicas, over that with one; needs nothing of the laboratory."""
    return ([count(8, REQUESTS).each / count(1, REQUESTS).each],)


# One run gives one or more figures, each with all that was measured of it.
Once = Callable[[Lab], tuple[list[float], ...]]
ONCE: dict[tuple[str, ...], Once] = {
    ("adoption",): adoption,
    ("gap_p50", "gap_p99", "gap_floor", "lost"): recovery,
    ("scaling_lost", "scaling_failed", "scaling_gap", "renewal_lost", "renewal_gap"): changes,
    ("instructions",): instructions,
}
