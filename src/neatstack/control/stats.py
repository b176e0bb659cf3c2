"""What a stack is doing: the answers to `neat status` and `neat ss`, as JSON-ready values."""

import asyncio
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neatstack.control import messages, routes
from neatstack.control.activity import slept
from neatstack.control.slots import Slot
from neatstack.control.spares import Spare

if TYPE_CHECKING:
    from neatstack.control.manager import Manager

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
TRAFFIC = ("packets_in", "packets_out", "bytes_in", "bytes_out", "connections", "retransmits")


def status(manager: "Manager") -> dict[str, Any]:
    """The whole stack."""
    settings = manager.settings
    return {
        "name": settings.name,
        "version": manager.replicas.code.version,
        "at_ns": time.monotonic_ns(),
        "uptime_s": round(lived(os.getppid()), 3),
        "address": settings.address,
        "addresses": addresses(manager),
        "gateway": None if manager.page.gateway is None else str(manager.page.gateway),
        "routes": settings.routes,
        "learned_routes": [routes.text(route) for route in manager.page.routes[len(settings.routes) :]],
        "gateway6": manager.link.ipv6["router"] if manager.link.ipv6 else None,
        "device": {
            "name": settings.device,
            "netns": settings.netns,
            "host_address": settings.host_address,
            "host_addresses": settings.host_addresses,
            "mac": manager.page.mac.hex(":"),
            "mtu": settings.mtu,
            "queues": len(manager.queues),
            "queue_drops": manager.activity.queue_drops,
        },
        "processes": {
            "keeper": process(os.getppid()),
            "manager": process(os.getpid()),
            "link": {**process(manager.link.pid), "incarnation": manager.link.incarnation},
        },
        "replicas": [
            {**replica(slot), **role(manager, slot)}
            for slot in manager.replicas.slots
            if slot.number in manager.replicas.active
        ],
        "spares": [spare(waiting) for waiting in manager.replicas.spares.waiting],
        "recovery": settings.recovery,
        "allow_faults": settings.allow_faults,
        "max_replicas": settings.max_replicas,
        "scaling": {
            "active": len(manager.scaling.active),
            "draining": manager.scaling.draining,
            "auto": manager.autoscale.bounds,
            "under_way": manager.change.under_way,
        },
        "rejuvenation": manager.schedule.status(),
        "steering": steering(manager),
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


def addresses(manager: "Manager") -> list[str]:
    """All that the stack uses: those given, and those of IPv6 that have proved to be free, or were formed."""
    told = manager.link.ipv6["addresses"] if manager.link.ipv6 else []
    own = [f"{each['address']}/{each['length']}" for each in told]
    return [*map(str, manager.settings.interfaces4), *own]


def steering(manager: "Manager") -> dict[str, Any]:
    """Which replica gets which flow."""
    table, pins = manager.steering.table(), manager.scaling.pins
    return {
        "buckets": {str(slot): table.count(slot) for slot in sorted(set(table))},
        "table": table,
        "pins": sum(pins.values()),
        "pins_by_replica": {str(slot): count for slot, count in sorted(pins.items())},
        "wrong_replica": manager.scaling.wrong_replica,
    }


def role(manager: "Manager", slot: Slot) -> dict[str, Any]:
    """What the replica is there for, and how much it has to do."""
    takes_new = bool(manager.page.active >> slot.number & 1)
    state = "draining" if slot.state == "running" and not takes_new else slot.state
    busy = manager.activity.busy(slot.number)
    return {"state": state, "takes_new": takes_new, "busy": None if busy is None else round(busy, 4)}


def replica(slot: Slot) -> dict[str, Any]:
    """One replica: its process, and the counters of its region."""
    from neatstack.dataplane import inspect

    counters = {**look(slot.region, inspect.counters, {}), "slept_ns": slept(slot, time.monotonic_ns())}
    return {
        "id": slot.number,
        "incarnation": slot.incarnation,
        "version": slot.version,
        "state": slot.state,
        **process(slot.pid),
        **{name: counters.get(name, 0) for name in TRAFFIC},
        "drops": {name.removeprefix("drop_"): n for name, n in counters.items() if name.startswith("drop_") and n},
        "counters": counters,
        "recoveries": slot.recoveries,
        "last_recovery": asdict(slot.last_recovery) if slot.last_recovery else None,
    }


def spare(waiting: Spare) -> dict[str, Any]:
    """One process that waits for a slot."""
    resident = process(waiting.pid)["resident"]
    return {"pid": waiting.pid, "ready": waiting.ready, "version": waiting.version, "resident": resident}


async def sockets(manager: "Manager") -> dict[str, Any]:
    """Every connection, listener and UDP socket. Reading many takes long: it is done beside the manager's work."""
    users = {program.channel: {"pid": program.pid, "program": program.name} for program in manager.programs}
    listeners = [
        {
            "listener": binding.number,
            "address": str(binding.address),
            "port": binding.port,
            "backlog": binding.backlog,
            "programs": [users[channel] for channel in sorted(binding.holders) if channel in users],
        }
        for binding in manager.programs.ports
        if binding.listening
    ]
    datagrams = [
        {
            "binding": binding.number,
            "address": str(binding.address),
            "port": binding.port,
            "groups": [str(group) for group in binding.groups],
            "programs": [users[channel] for channel in sorted(binding.holders) if channel in users],
        }
        for binding in manager.programs.ports
        if binding.datagram
    ]
    # of their own: a replica's death replaces its region
    regions = {n: os.dup(manager.replicas.slots[n].region) for n in sorted(manager.replicas.active)}
    try:
        connections = await asyncio.to_thread(_connections, regions, users)
    finally:
        messages.close(list(regions.values()))
    return {"connections": connections, "listeners": listeners, "datagrams": datagrams}


def _connections(regions: dict[int, int], users: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The connections of all replicas, with the programs that have them."""
    from neatstack.dataplane import inspect

    return [
        {"replica": number, **connection, **users.get(connection["channel"], {})}
        for number, region in regions.items()
        for connection in look(region, inspect.connections, [])
    ]


def lived(pid: int) -> float:
    """Seconds since the process was started; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / TICKS


def process(pid: int) -> dict[str, Any]:
    """pid, CPU seconds, CPU share of its life and resident bytes; zeros when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return {"pid": pid, "cpu_seconds": 0.0, "cpu_percent": 0.0, "resident": 0}
    used = (int(fields[11]) + int(fields[12])) / TICKS
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / TICKS
    percent = round(100 * used / age, 1) if age > 0 else 0.0
    return {"pid": pid, "cpu_seconds": used, "cpu_percent": percent, "resident": resident}


def look(region: int, question: Callable[[mmap.mmap], Any], otherwise: Any) -> Any:
    """Ask a region, mapped to read for that long; `otherwise` while its replica has not set it up yet."""
    with mmap.mmap(region, 0, prot=mmap.PROT_READ) as memory:
        try:
            return question(memory)
        except ValueError:
            return otherwise
