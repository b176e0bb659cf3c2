"""What is measured of recovery once, on our stack alone. What the journal costs is in measure.py: side by side."""

from __future__ import annotations

from collections.abc import Callable

from bench.adoption import adoptions
from neatstack.experiment.netns import Lab, LabError
from neatstack.experiment.recovery import Plan, experiment
from neatstack.experiment.results import Results, percentile
from neatstack.experiment.stage import Combination, open_stage

KILLS, CONNECTIONS, SEED = 30, 64, 1
KILL = Combination("adopt", 1, "kill")


def adoption(lab: Lab) -> tuple[list[float], ...]:
    """ms to take over connections; needs nothing of the laboratory."""
    return (adoptions(),)


def recovery(lab: Lab) -> tuple[list[float], ...]:
    """Gaps in ms, median and 99th percentile, and connections lost: `neat experiment recovery` on a small scale."""
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
    return [p50], [p99], [float(sum(fault.connections_lost for fault in series.faults))]


# One run gives one or more figures, each with all that was measured of it.
Once = Callable[[Lab], tuple[list[float], ...]]
ONCE: dict[tuple[str, ...], Once] = {
    ("adoption",): adoption,
    ("gap_p50", "gap_p99", "lost"): recovery,
}
