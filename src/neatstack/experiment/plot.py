"""Plots of experiments. recovery.png and recovery.svg: how long connections waited, and how many a fault cost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neatstack.experiment.results import Series, percentile
from neatstack.experiment.stage import Combination

COLOURS = {"kill": "#0072b2", "segv": "#d55e00", "abort": "#cc79a7", "hang": "#009e73", "flip": "#e69f00"}
STYLES = {"adopt": "-", "reset": "--"}
SHADES = (1.0, 0.65, 0.4, 0.25)  # opacity of the bars of 1, 2, ... replicas
STEPS = 400  # points of a curve


def draw(series: Mapping[Combination, Series], out: Path) -> None:
    """Write both files. Needs matplotlib: ImportError without it."""
    with drawing(out / "recovery", 2) as (left, right):
        _gaps(left, series)
        _losses(right, series)


@contextlib.contextmanager
def drawing(file: Path, columns: int) -> Iterator[Any]:
    """Axes side by side, written as FILE.png and FILE.svg. Needs matplotlib: ImportError without it."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "neat"  # the same rows give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(6.5 * columns, 5), layout="constrained")
    yield axes
    for kind in ("png", "svg"):
        figure.savefig(file.with_suffix(f".{kind}"), dpi=150, metadata={"Date": None} if kind == "svg" else None)
    pyplot.close(figure)


def _gaps(axes: Any, series: Mapping[Combination, Series]) -> None:
    """The distribution of the gaps by kind and mode, over all numbers of replicas."""
    together: dict[tuple[str, str], list[float]] = {}
    for what, each in series.items():
        together.setdefault((what.kind, what.mode), []).extend(each.gaps)
    for (kind, mode), gaps in together.items():
        if gaps:
            parts = [step / STEPS for step in range(1, STEPS + 1)]
            ordered = sorted(gaps)
            points = [percentile(ordered, part) for part in parts]
            axes.plot(points, parts, STYLES.get(mode, "-"), color=COLOURS.get(kind), label=f"{kind}, {mode}")
    axes.set(xscale="log", xlabel="gap between two answers on a connection of the replica hit, ms",
             ylabel="part of the connections", ylim=(0, 1.02), title="Service gap at a fault")  # fmt: skip
    axes.grid(alpha=0.3, which="both")
    if together:
        axes.legend(fontsize="small")


def _losses(axes: Any, series: Mapping[Combination, Series]) -> None:
    """Connections lost per fault: the mean as a bar, the most as a mark; hatched: reset."""
    from matplotlib.patches import Patch

    kinds = [kind for kind in COLOURS if any(what.kind == kind for what in series)]
    groups = sorted({(what.mode, what.replicas) for what in series})
    numbers = sorted({replicas for _, replicas in groups})
    width = 0.8 / max(1, len(groups))
    for column, (mode, replicas) in enumerate(groups):
        shade = SHADES[min(numbers.index(replicas), len(SHADES) - 1)]
        hatch = "//" if mode == "reset" else None
        for at, kind in enumerate(kinds):
            each = series.get(Combination(mode, replicas, kind))
            if each is None or not each.faults:
                continue
            lost = [fault.connections_lost for fault in each.faults]
            place = at - 0.4 + (column + 0.5) * width
            mean = sum(lost) / len(lost)
            axes.bar(place, mean, width * 0.9, color=COLOURS[kind], alpha=shade, hatch=hatch, edgecolor="white")
            axes.plot(place, max(lost), marker="_", color="black", markersize=6)
            axes.annotate(f"{mean:.3g}", (place, mean), ha="center", va="bottom", fontsize=6)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.set(ylabel="connections lost per fault: mean (bar), most (mark)", title="Connections lost")
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)
    patches = [
        Patch(facecolor="#555555", alpha=SHADES[min(numbers.index(replicas), len(SHADES) - 1)], edgecolor="white",
              hatch="//" if mode == "reset" else None, label=f"{mode}, {replicas} replica{'s' * (replicas > 1)}")
        for mode, replicas in groups
    ]  # fmt: skip
    if patches:
        axes.legend(handles=patches, fontsize="small")
