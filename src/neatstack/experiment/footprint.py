"""What a stack and a server on it take up: memory, descriptors, mappings, and what the stack counts itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neatstack.experiment.netns import Stack
from neatstack.experiment.stage import Control

MEMFD = "/memfd:"
BLOCK = 512  # bytes: st_blocks
ENDING = ("TIME_WAIT",)  # its connections are nobody's any more, and last a minute


@dataclass(frozen=True)
class Taken:
    """What one process takes up."""

    private: int  # bytes of memory that is its own
    descriptors: int
    mappings: int


@dataclass
class Footprint:
    """Everything at one moment."""

    processes: dict[str, Taken]  # keeper, manager, link, replica 0, ...
    programs: int
    connections: int
    listeners: int
    memories: int  # memfds, each once
    shared: int  # bytes of them that are in use
    system_shared: int  # Shmem of /proc/meminfo, which others change too
    reloads: int = 0
    counts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        names = ("programs", "connections", "listeners", "memories", "shared")
        self.counts = {name: getattr(self, name) for name in names}
        for process, taken in self.processes.items():
            self.counts |= {f"{process}: {what}": value for what, value in vars(taken).items()}

    @property
    def held(self) -> tuple[int, ...]:
        """What changes as long as somebody who has ended is being cleared away."""
        descriptors = (taken.descriptors for taken in self.processes.values())
        return self.programs, self.connections, self.memories, *descriptors


@dataclass(frozen=True)
class Tolerance:
    """How much more than at the start is no leak: what is in use differs from moment to moment."""

    private: int = 2 << 20
    shared: int = 16 << 20  # the rings of connections that were busy, in the channels of the newest workers
    descriptors: int = 2
    mappings: int = 6
    memories: int = 2
    programs: int = 0
    connections: int = 0
    listeners: int = 0

    def grown(self, before: Footprint, after: Footprint) -> list[str]:
        """In words, what has grown by more."""
        found = []
        for name, value in after.counts.items():
            most = getattr(self, name.rpartition(": ")[2])
            if name in before.counts and value - before.counts[name] > most:
                found.append(f"{name}: {before.counts[name]} at {before.reloads} reloads, {value} at {after.reloads}")
        return found


def measure(stack: Stack, control: Control, server: int, workers: Iterable[int]) -> Footprint:
    """The stack's, and that of the server's main process on it."""
    status, sockets = control.status(), control.ask(op="ss")
    processes = {name: told["pid"] for name, told in status["processes"].items()}
    processes |= {f"replica {told['id']}": told["pid"] for told in status["replicas"]}
    processes["server"] = server
    memories = used_memories({*stack.pids(), server, *workers})
    return Footprint(
        processes={name: taken(pid) for name, pid in processes.items()},
        programs=len(status["programs"]),
        connections=sum(live(each) for each in sockets["connections"]),
        listeners=len(sockets["listeners"]),
        memories=len(memories),
        shared=sum(memories.values()),
        system_shared=meminfo("Shmem"),
    )


def live(connection: dict[str, Any]) -> bool:
    return connection["state"] not in ENDING


def taken(pid: int) -> Taken:
    directory = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (directory / "status").read_text().splitlines())
    return Taken(
        private=int(status["RssAnon"].split()[0]) << 10,
        descriptors=len(os.listdir(directory / "fd")),
        mappings=len((directory / "maps").read_text().splitlines()),
    )


def used_memories(pids: Iterable[int]) -> dict[int, int]:
    """Every memfd that one of these has open or mapped: its inode, and the bytes in use."""
    found = {}
    for pid in pids:
        for directory in ("fd", "map_files"):
            with contextlib.suppress(OSError):
                for entry in os.scandir(f"/proc/{pid}/{directory}"):
                    with contextlib.suppress(OSError):
                        if os.readlink(entry.path).startswith(MEMFD):
                            status = os.stat(entry.path)
                            found[status.st_ino] = status.st_blocks * BLOCK
    return found


def meminfo(name: str) -> int:
    """A line of /proc/meminfo, in bytes."""
    lines = (line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return next(int(value.split()[0]) << 10 for key, value in lines if key == name)
