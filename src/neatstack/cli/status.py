"""`neat status`: what a stack is doing."""

import json
import sys
from typing import Annotated, Any

import typer

from neatstack.control import rundir

EXAMPLES = "Examples: [bold]neat status[/] · [bold]neat status --stack web --json[/]"


def status(
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Show replicas, programs, steering and the device of a stack."""
    answer = rundir.ask(rundir.find(stack), {"op": "status"})
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        show(answer)


def show(answer: dict[str, Any]) -> None:
    """Print the answer as tables."""
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    device, processes = answer["device"], answer["processes"]
    place = f" in {device['netns']}" if device["netns"] else ""
    console.print(f"[bold]{answer['name']}[/]  {answer['address']} ({device['mac']}) on {device['name']}{place}")
    told = (f"{name} {process['pid']} ({process['cpu_percent']} % CPU)" for name, process in processes.items())
    console.print("processes: " + ", ".join(told))
    console.print(replica_table(answer))
    drops = {name: n for replica in answer["replicas"] for name, n in replica["drops"].items()}
    for reason in sorted(drops):
        counts = (f"replica {r['id']}: {r['drops'][reason]}" for r in answer["replicas"] if reason in r["drops"])
        console.print(f"dropped, {reason}: {', '.join(counts)}")
    for program in answer["programs"]:
        console.print(f"program {program['pid']} {program['name']} (channel {program['channel']})")


def replica_table(answer: dict[str, Any]):  # type: ignore[no-untyped-def]
    """One row for each replica."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("replica")
    for column in ("pid", "incarnation", "state", "CPU %", "MiB", "connections", "packets in", "out", "MB in", "out"):
        table.add_column(column, justify="right")
    table.add_column("dropped", justify="right")
    table.add_column("buckets", justify="right")
    for replica in answer["replicas"]:
        cells = [
            replica["id"],
            replica["pid"],
            replica["incarnation"],
            replica["state"],
            replica["cpu_percent"],
            round(replica["resident"] / 2**20, 1),
            replica["connections"],
            replica["packets_in"],
            replica["packets_out"],
            round(replica["bytes_in"] / 1e6, 1),
            round(replica["bytes_out"] / 1e6, 1),
            sum(replica["drops"].values()),
            answer["steering"]["buckets"].get(str(replica["id"]), 0),
        ]
        table.add_row(*map(str, cells))
    return table
