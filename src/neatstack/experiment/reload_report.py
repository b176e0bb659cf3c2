"""What came of the reloads, to read."""

from __future__ import annotations

from neatstack.experiment.footprint import Footprint
from neatstack.experiment.reload import Course, Result

MB = 1 << 20


def report(result: Result) -> str:
    lines = ["| | stack | kernel |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {a} | {b} |" for name, a, b in zip(NAMES, row(result.stack), row(result.kernel), strict=True)
    ]
    if result.stack.footprints:
        lines += ["", *table(result.stack.footprints)]
    lines += ["", *(f"failed: {what}" for what in result.stack.tally.failures)]
    lines += [f"grown: {what}" for what in result.grown] or ["nothing has grown"]
    return "\n".join(lines)


NAMES = (
    "reloads", "replicas killed", "seconds", "requests answered", "connections", "failed requests",
    "kept connections closed while idle", "of these by a reset", "slowest answer, ms", "slowest reload, ms",
)  # fmt: skip


def row(course: Course) -> list[str]:
    tally = course.tally
    counts = course.reloads, course.kills, round(course.seconds), tally.answered, tally.connections, tally.failed
    slowest = tally.slowest_ms, course.slowest_reload * 1000
    return [f"{n:,}" for n in (*counts, tally.closed_idle, tally.reset_idle)] + [f"{ms:.0f}" for ms in slowest]


def table(footprints: list[Footprint]) -> list[str]:
    """A line for each count; at most the first, the last and some between of the measurements."""
    step = max(1, (len(footprints) - 1) // 4)
    shown = sorted({*range(0, len(footprints), step), len(footprints) - 1})
    chosen = [footprints[n] for n in shown]
    lines = ["| after reloads | " + " | ".join(str(each.reloads) for each in chosen) + " |"]
    lines.append("|---|" + "---:|" * len(chosen))
    names = dict.fromkeys(name for each in chosen for name in each.counts)
    for name in names:
        values = (value(name, each.counts.get(name)) for each in chosen)
        lines.append(f"| {label(name)} | " + " | ".join(values) + " |")
    everybody = (f"{each.system_shared / MB:.1f}" for each in chosen)
    lines.append("| Shmem of the whole machine, not checked, MB | " + " | ".join(everybody) + " |")
    return lines


def label(name: str) -> str:
    in_mb = name.endswith(("private", "shared"))
    return name + (", MB" if in_mb else "")


def value(name: str, count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / MB:.1f}" if label(name) != name else str(count)
