"""`neat status`: what a stack is doing."""

import json
import sys
from typing import Annotated, Any

import typer

from neatstack.control import durations, rundir

EXAMPLES = (
    "Examples: [bold]neat status[/] · [bold]neat status --stack web --json[/] · [bold]neat status --isolation[/]"
    " (as root; exit status 1 when two replicas share writable memory)"
)

MILLION = 1_000_000


def status(
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    isolation: Annotated[
        bool, typer.Option("--isolation", help="What replicas may do and touch, as the kernel tells it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Show replicas, programs, steering and the device of a stack."""
    if isolation:
        show_isolation(rundir.find(stack), as_json)
        return
    answer = rundir.ask(rundir.find(stack), {"op": "status"})
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        show(answer)


def show_isolation(stack: str, as_json: bool) -> None:
    """Look into the replicas; exit status 1 when two of them share what must be one's own."""
    from neatstack.cli.isolation import show
    from neatstack.control.isolation import examine

    report = examine(lambda: rundir.ask(stack, {"op": "status"}))
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    if report["shared_by_replicas"]:
        raise typer.Exit(1)


def show(answer: dict[str, Any]) -> None:
    """Print the answer as tables."""
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    device, processes = answer["device"], answer["processes"]
    place = f" in {device['netns']}" if device["netns"] else ""
    addresses = plain(" ".join(answer.get("addresses") or [answer["address"]]))
    console.print(f"[bold]{answer['name']}[/]  {addresses} ({device['mac']}) on {device['name']}{place}")
    if routes := answer.get("routes"):
        console.print(f"routes: {plain(', '.join(routes))}")
    if "recovery" in answer:
        console.print(f"recovery: {recovery(answer)}")
    if schedule := answer.get("rejuvenation"):
        console.print(f"rejuvenation: {rejuvenation(schedule)}")
    told = (f"{name} {process['pid']} ({process['cpu_percent']} % CPU)" for name, process in processes.items())
    console.print("processes: " + ", ".join(told))
    console.print(replica_table(answer))
    drops = {name: n for replica in answer["replicas"] for name, n in replica["drops"].items()}
    for reason in sorted(drops):
        counts = (f"replica {r['id']}: {r['drops'][reason]}" for r in answer["replicas"] if reason in r["drops"])
        console.print(f"dropped, {reason}: {', '.join(counts)}")
    if refused := device.get("queue_drops"):
        console.print(f"refused by full queues of the device, replicas' or link's: {refused}")
    if said := versions(answer["replicas"]):
        console.print(f"version: {plain(said)}")
    for replica in answer["replicas"]:
        if last := replica.get("last_recovery"):
            console.print(f"last recovery of replica {replica['id']}: {last_recovery(last)}")
    for program in answer["programs"]:
        console.print(f"program {program['pid']} {plain(program['name'])} (channel {program['channel']})")


def plain(text: str) -> str:
    """Text that strangers choose, such as a program's name: without markup or control characters."""
    from rich.markup import escape

    return escape("".join(character if character.isprintable() else "?" for character in text))


def in_short(count: float) -> str:
    """A number that shall not widen its column too much."""
    return str(count) if count < MILLION * 10 else f"{count / MILLION:.0f} M"


def recovery(answer: dict[str, Any]) -> str:
    """How the stack meets a death, and how many wait for one."""
    spares = answer.get("spares", [])
    ready = sum(spare["ready"] for spare in spares)
    count = "no spare" if not spares else f"{ready} spare{'s' * (ready != 1)} ready"
    starting = f", {len(spares) - ready} starting" if ready < len(spares) else ""
    faults = "; faults are allowed" if answer.get("allow_faults") else ""
    return f"{answer['recovery']}, {count}{starting}{faults}"


def versions(replicas: list[dict[str, Any]]) -> str:
    """Which version they run, or each of them."""
    found = {replica["id"]: replica["version"] for replica in replicas if replica.get("version")}
    if len(set(found.values())) <= 1:
        return next(iter(found.values()), "")
    return ", ".join(f"replica {number}: {version}" for number, version in found.items())


def rejuvenation(schedule: dict[str, Any]) -> str:
    """When replicas are replaced by fresh processes."""
    spread = f" ± {schedule['jitter']:.0%}" if schedule["jitter"] else ""
    return f"every {durations.text(schedule['every'])}{spread}, next in {schedule['next_in']:.0f} s"


def last_recovery(last: dict[str, Any]) -> str:
    """What became of the connections of a replica that died, and how long nobody served them."""
    milliseconds = (last["running_ns"] - last["died_ns"]) / 1e6
    kept = f"{last['adopted']} connections kept, {last['lost']} reset"
    return f"{last['cause']}; {last['how']}: {kept}, running again after {milliseconds:.1f} ms"


def replica_table(answer: dict[str, Any]):  # type: ignore[no-untyped-def]
    """One row for each replica."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("replica")
    for column in ("pid", "incarnation", "state", "CPU %", "MiB", "connections", "packets in", "out", "MB in", "out"):
        table.add_column(column, justify="right")
    for column in ("dropped", "buckets", "recoveries"):
        table.add_column(column, justify="right")
    for replica in answer["replicas"]:
        cells = [
            replica["id"],
            replica["pid"],
            replica["incarnation"],
            replica["state"],
            replica["cpu_percent"],
            round(replica["resident"] / 2**20, 1),
            replica["connections"],
            in_short(replica["packets_in"]),
            in_short(replica["packets_out"]),
            in_short(round(replica["bytes_in"] / 1e6, 1)),
            in_short(round(replica["bytes_out"] / 1e6, 1)),
            sum(replica["drops"].values()),
            answer["steering"]["buckets"].get(str(replica["id"]), 0),
            replica.get("recoveries", 0),
        ]
        table.add_row(*map(str, cells))
    return table
