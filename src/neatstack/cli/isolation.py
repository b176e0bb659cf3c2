"""`neat status --isolation`: how isolated the replicas are, as tables."""

import sys
from typing import Any

from neatstack.cli.status import plain

CAPABILITIES_SHOWN = 4


def show(report: dict[str, Any]) -> None:
    """Print what control/isolation.py has found."""
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(f"[bold]{report['name']}[/]")
    console.print(rights_table(report["processes"]))
    console.print(memory_table(report["processes"]))
    console.print(layout_table(report["processes"]))
    for line in summary(report):
        console.print(plain(line), soft_wrap=True)


def summary(report: dict[str, Any]) -> list[str]:
    """What is common to processes that should have nothing in common."""
    same = []
    for agreement in report["same_addresses"]:
        fixed = agreement["part"] == "executable" and report["fixed_executable"]
        why = " (this Python is linked at a fixed address)" if fixed else ""
        same.append(f"{_part(agreement['part'])} {agreement['address']:#x} of {_list(agreement['processes'])}{why}")
    shared = [
        f"{memory['name']} (inode {memory['inode']}) of {_list(memory['processes'])}"
        for memory in report["shared_by_replicas"]
    ]
    return [
        f"addresses that two agree on: {'; '.join(same) or 'none'}",
        f"writable mappings shared by two replicas: {'; '.join(shared) or 'none'}",
    ]


def rights_table(processes: list[dict[str, Any]]):  # type: ignore[no-untyped-def]
    """One row for each process: who it is and what it may do."""
    table = _table()
    for column in (
        "process",
        "pid",
        "user",
        "group",
        "more groups",
        "capabilities",
        "system calls",
        "new rights",
        "dumpable",
        "core file",
        "own namespaces",
        "shared namespaces",
    ):
        table.add_column(column, min_width=len(max(column.split(), key=len)))
    for process in processes:
        namespaces = process["namespaces"]
        own = [f"{kind} (empty)" if "empty" in how else kind for kind, how in namespaces.items() if how != "shared"]
        core = process["core_limit"]
        table.add_row(
            process["process"] + ("" if process["state"] in ("running", "ready") else f" ({process['state']})"),
            str(process["pid"]),
            _who(process["users"]),
            _who(process["groups"]),
            _who(process["supplementary_groups"]) or "none",
            _capabilities(process["capabilities"]),
            {"filter": "filtered", "none": "all"}.get(process["seccomp"], process["seccomp"]),
            "none" if process["no_new_privileges"] else "possible",
            {True: "yes", False: "no", None: "unknown"}[process["dumpable"]],
            {None: "unlimited", 0: "none"}.get(core, f"{core} bytes"),
            ", ".join(own) or "none",
            ", ".join(kind for kind, how in namespaces.items() if how == "shared") or "none",
        )
    return table


def memory_table(processes: list[dict[str, Any]]):  # type: ignore[no-untyped-def]
    """What each process can write that others may see, and who they are."""
    table = _table("process", "shared memory that it can write")
    table.add_column("KiB", justify="right")
    table.add_column("also mapped by (r: to read, w: to write)")
    for process in processes:
        for memory in process["memory"]:
            others = ", ".join(f"{name}: {rights}" for name, rights in memory["shared_with"].items())
            table.add_row(
                process["process"], plain(memory["name"]), f"{memory['size'] // 1024}", plain(others) or "nobody"
            )
        if not process["memory"]:
            table.add_row(process["process"], "none", "", "")
    return table


def layout_table(processes: list[dict[str, Any]]):  # type: ignore[no-untyped-def]
    """Where each address space has its parts."""
    parts = sorted({part for process in processes for part in process["layout"]})
    table = _table("address space of")
    for part in parts:
        table.add_column(_part(part), justify="right")
    for process in processes:
        places = (process["layout"].get(part) for part in parts)
        table.add_row(process["process"], *("" if place is None else f"{place:#x}" for place in places))
    return table


def _table(*columns: str):  # type: ignore[no-untyped-def]
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _who(identities: list[dict[str, Any]]) -> str:
    """Users or groups with their numbers, each once."""
    return ", ".join(dict.fromkeys(f"{each['name']} {each['id']}" for each in identities))


def _capabilities(sets: dict[str, list[str]]) -> str:
    """The sets that are not empty."""
    told = []
    for name, held in sets.items():
        more = f" and {len(held) - CAPABILITIES_SHOWN} more" if len(held) > CAPABILITIES_SHOWN else ""
        if held:
            told.append(f"{name}: {', '.join(held[:CAPABILITIES_SHOWN])}{more}")
    return "; ".join(told) or "none"


def _part(part: str) -> str:
    return part.replace("_", " ")


def _list(names: Any) -> str:
    return ", ".join(names)
