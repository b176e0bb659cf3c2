"""What a stack is doing: the answers to `neat status` and `neat ss`, as JSON-ready values."""

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neatstack.control.replicas import Slot

if TYPE_CHECKING:
    from neatstack.control.manager import Manager

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
TRAFFIC = ("packets_in", "packets_out", "bytes_in", "bytes_out", "connections", "retransmits")


def status(manager: "Manager") -> dict[str, Any]:
    """The whole stack."""
    settings = manager.settings
    table = manager.page.table
    return {
        "name": settings.name,
        "address": settings.address,
        "gateway": settings.gateway,
        "device": {
            "name": settings.device,
            "netns": settings.netns,
            "host_address": settings.host_address,
            "mac": manager.page.mac.hex(":"),
            "mtu": settings.mtu,
            "queues": len(manager.queues),
        },
        "processes": {
            "keeper": process(os.getppid()),
            "manager": process(os.getpid()),
            "link": {**process(manager.link.pid), "incarnation": manager.link.incarnation},
        },
        "replicas": [replica(slot) for slot in manager.replicas.slots if slot.number in manager.replicas.active],
        "max_replicas": settings.max_replicas,
        "steering": {
            "buckets": {str(slot): table.count(slot) for slot in sorted(set(table))},
            "pins": len(manager.steering.pins()),
        },
        "programs": [
            {
                "channel": program.channel,
                "pid": program.pid,
                "name": program.name,
                "bindings": len(manager.programs.ports.of(program.channel)),
            }
            for program in manager.programs
        ],
    }


def replica(slot: Slot) -> dict[str, Any]:
    """One replica: its process, and the counters of its region."""
    from neatstack.dataplane import inspect

    counters = look(slot, inspect.counters)
    return {
        "id": slot.number,
        "incarnation": slot.incarnation,
        "state": slot.state,
        **process(slot.pid),
        **{name: counters.get(name, 0) for name in TRAFFIC},
        "drops": {name.removeprefix("drop_"): n for name, n in counters.items() if name.startswith("drop_") and n},
        "counters": counters,
    }


def sockets(manager: "Manager") -> dict[str, Any]:
    """Every connection and listener."""
    from neatstack.dataplane import inspect

    programs = {program.channel: program for program in manager.programs}
    connections = []
    for slot in manager.replicas.slots:
        if slot.number not in manager.replicas.active:
            continue
        for connection in look(slot, inspect.connections):
            owner = programs.get(connection.get("channel", -1))
            user = {"pid": owner.pid, "program": owner.name} if owner else {}
            connections.append({"replica": slot.number, **connection, **user})
    listeners = [
        {
            "listener": binding.number,
            "address": str(binding.address),
            "port": binding.port,
            "backlog": binding.backlog,
            "programs": [
                {"pid": programs[channel].pid, "program": programs[channel].name}
                for channel in sorted(binding.holders)
                if channel in programs
            ],
        }
        for binding in manager.programs.ports
        if binding.listening
    ]
    return {"connections": connections, "listeners": listeners}


def process(pid: int) -> dict[str, Any]:
    """pid, CPU seconds, CPU share of its life and resident bytes; zeros when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return {"pid": pid, "cpu_seconds": 0.0, "cpu_percent": 0.0, "resident": 0}
    used = (int(fields[11]) + int(fields[12])) / TICKS
    lived = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / TICKS
    percent = round(100 * used / lived, 1) if lived > 0 else 0.0
    return {"pid": pid, "cpu_seconds": used, "cpu_percent": percent, "resident": resident}


def look(slot: Slot, question: Callable[[mmap.mmap], Any]) -> Any:
    """Ask the slot's region, mapped to read for that long."""
    with mmap.mmap(slot.region, 0, prot=mmap.PROT_READ) as region:
        return question(region)
