"""Where the experiment plays: a stack with the server on it, the load, and what faults are injected with."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from neatstack.experiment.netns import Lab, LabError, Process
from neatstack.experiment.timeline import Timeline

PORT = 7000
PIPE = 1 << 20  # bytes of log that wait while we do something else: seconds of it
CONTROL_LIMIT = 10.0  # seconds for an answer on control.sock
READ = 1 << 18  # bytes of log at once


@dataclass(frozen=True)
class Combination:
    """What stays the same over a series of faults."""

    mode: str  # adopt, reset
    replicas: int
    kind: str  # kill, segv, abort, hang, flip

    def __str__(self) -> str:
        return f"{self.mode}, {self.replicas} replica{'s' * (self.replicas > 1)}, {self.kind}"


@dataclass(frozen=True)
class Injection:
    """A fault that was injected: CLOCK_MONOTONIC ns just before it, and what it was, if there is more to say."""

    at: int
    what: str = ""


class Faults(Protocol):
    """What the experiment needs of the stack. The tests put something simpler in its place."""

    def inject(self, replica: int, kind: str, seed: int) -> Injection: ...

    def status(self) -> dict[str, Any]:
        """As `neat status --json`."""

    def recoveries(self) -> list[dict[str, Any]]: ...

    def owners(self) -> dict[int, int]:
        """The replica of each connection, by the client's port."""


class Control:
    """A connection to control.sock that stays open: asking costs no process, and little of the manager's time."""

    def __init__(self, path: Path, limit: float = CONTROL_LIMIT) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(limit)
        self.sock.connect(str(path))
        self.stream = self.sock.makefile("rb")

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer. Raises LabError when it is an error, or none comes."""
        try:
            self.sock.sendall(json.dumps(request).encode() + b"\n")
            line = self.stream.readline()
        except OSError as error:
            raise LabError(f"the stack does not answer to {request['op']}: {error}") from None
        if not line:
            raise LabError(f"the stack has closed control.sock at {request['op']}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LabError(f"the stack refuses {request['op']}: {answer['error']}")
        return answer

    def inject(self, replica: int, kind: str, seed: int) -> Injection:
        answer = self.ask(op="kill", target=str(replica), fault=kind, seed=seed)
        return Injection(answer["at_ns"], answer.get("what") or "")

    def status(self) -> dict[str, Any]:
        return self.ask(op="status")

    def recoveries(self) -> list[dict[str, Any]]:
        return self.ask(op="recoveries")["recoveries"]

    def owners(self) -> dict[int, int]:
        connections = self.ask(op="ss")["connections"]
        return {each["remote_port"]: each["replica"] for each in connections if each["local_port"] == PORT}

    def scale(self, replicas: int) -> dict[str, Any]:
        return self.ask(op="scale", replicas=replicas, deadline=None)

    def rejuvenate(self) -> dict[str, Any]:
        return self.ask(op="rejuvenate")

    def upgrade(self) -> dict[str, Any]:
        return self.ask(op="upgrade", to=None, drain=False, deadline=None)

    def close(self) -> None:
        self.stream.close()
        self.sock.close()


class Load:
    """The client process, and what has come of its log."""

    def __init__(self, process: Process, pipe: int, base: int, connections: int) -> None:
        self.process, self.pipe, self.base = process, pipe, base
        self.timeline = Timeline(connections)
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)

    def pump(self, seconds: float) -> None:
        """Take in the log for a time. Raises LabError when the client has ended."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if self._poll.poll(max(0, left) * 1000):
                data = os.read(self.pipe, READ)
                if not data:
                    raise LabError(f"the load has ended: {self.process.output.strip() or 'without a word'}")
                self.timeline.feed(data)
            if left <= 0:
                return

    def start(self, limit: float = 10.0) -> None:
        """Wait until every connection works."""
        end = time.monotonic() + limit
        while not self.timeline.open():
            if time.monotonic() > end:
                raise LabError(f"not all connections came about within {limit:g} s")
            self.pump(0.01)


@dataclass
class Stage:
    """Everything for one series of faults."""

    load: Load
    faults: Faults


@dataclass(frozen=True)
class Cores:
    """Where the client runs, and where the server with the stack; None: anywhere."""

    client: int | None
    server: int | None

    @classmethod
    def choose(cls) -> Cores:
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[1]) if len(usable) > 1 else cls(None, None)


def module(name: str, *arguments: object) -> list[str]:
    """The command line of one of our own programs."""
    return [sys.executable, "-m", f"neatstack.experiment.{name}", *map(str, arguments)]


@contextlib.contextmanager
def loaded(
    place: Any, address: str, port: int, connections: int, cpu: int | None, life: int = 0, seed: int = 0
) -> Iterator[Load]:
    """The client at work. `place` can spawn(): a Side of the laboratory. `life`: requests of a connection, at most."""
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, PIPE)
        base = time.monotonic_ns()
        client = place.spawn(
            *module("client", address, port, connections, base, writing, life, seed), cpu=cpu, pass_fds=[writing]
        )  # fmt: skip
        os.close(writing)
        writing = -1
        load = Load(client, reading, base, connections)
        load.start()
        yield load
    finally:
        for descriptor in (reading, writing):
            if descriptor >= 0:
                os.close(descriptor)


@contextlib.contextmanager
def open_stage(lab: Lab, what: Combination, connections: int) -> Iterator[Stage]:
    """A stack of its own for one series, under load. All of it ends with the block."""
    options = ["--recovery", what.mode, *(["--allow-faults"] if what.kind != "kill" else [])]
    with under_load(lab, what.replicas, connections, options) as (load, control):
        yield Stage(load, control)


@contextlib.contextmanager
def under_load(
    lab: Lab,
    replicas: int,
    connections: int,
    options: Sequence[object],
    limit: float = CONTROL_LIMIT,
    life: int = 0,
    seed: int = 0,
) -> Iterator[tuple[Load, Control]]:
    """A stack with the server on one core, the client with all its connections on the other.

    `limit`: seconds that the stack may take to answer; `life` and `seed`: of the connections.
    """
    cores = Cores.choose()
    with lab.scope():
        stack = lab.stack(replicas=replicas, cpu=cores.server, options=options)
        server = stack.programs.spawn(*module("server", PORT), cpu=cores.server)
        stack.host.wait_port(stack.address, PORT, process=server)
        control = Control(stack.run_dir / stack.name / "control.sock", limit)
        lab.cleanup.callback(control.close)
        cpu = cores.client
        with loaded(stack.host, stack.address, PORT, connections, cpu, life, seed) as load, kept_to(cpu):
            yield load, control


@contextlib.contextmanager
def kept_to(cpu: int | None) -> Iterator[None]:
    """This thread runs on the client's core only: it does not take time from the stack."""
    before = os.sched_getaffinity(0)
    try:
        if cpu is not None:
            os.sched_setaffinity(0, [cpu])
        yield
    finally:
        os.sched_setaffinity(0, before)
