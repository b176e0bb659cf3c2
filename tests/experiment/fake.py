"""A stage without a stack: the server on the kernel's loopback; a fault holds it up, and costs what it is told to.

python -m tests.experiment.fake OUT FAULTS    # an experiment on it, to be interrupted
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neatstack.control.watchdog import is_runnable
from neatstack.experiment.netns import Lab, Process, Side, environment
from neatstack.experiment.recovery import Plan, experiment
from neatstack.experiment.results import Results
from neatstack.experiment.stage import Combination, Injection, Stage, loaded, module

STOP = 0.03  # seconds that a fault lasts
CONNECTIONS = 8


def local(lab: Lab) -> Side:
    return Side(lab, "loopback", "127.0.0.1", [], environment())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def serve(side: Side) -> tuple[Process, int]:
    """The server at work, and its port."""
    port = free_port()
    process = side.spawn(*module("server", port))
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return process, port
        time.sleep(0.01)
    raise AssertionError(process.output)


def hold(server: Process, client: Process) -> None:
    """Stop the server, until SIGCONT. What it had answered before, the client has read: it sees the whole time."""
    os.kill(server.pid, signal.SIGSTOP)
    while is_runnable(server.pid) or is_runnable(client.pid):
        time.sleep(0.001)


class FakeStack:
    """Replica of a connection: its port, modulo. A fault stops the server for a while, with all connections kept."""

    fatal = -1  # the fault with this seed is one that nothing recovers from

    def __init__(self, replicas: int, server: Process, load: Any) -> None:
        self.replicas, self.server, self.load = replicas, server, load
        self.past: list[dict[str, Any]] = []

    def inject(self, replica: int, kind: str, seed: int) -> Injection:
        at = time.monotonic_ns()
        hold(self.server, self.load.process)
        if seed != self.fatal:
            threading.Timer(STOP, self.recover, [replica]).start()
        return Injection(at, "what it was")

    def recover(self, replica: int) -> None:
        os.kill(self.server.pid, signal.SIGCONT)
        now = time.monotonic_ns()
        adopted = sum(owner == replica for owner in self.owners().values())
        told = {"replica": replica, "how": "adopt", "died_ns": now, "running_ns": now, "adopted": adopted, "lost": 0}
        self.past.append(told)

    def recoveries(self) -> list[dict[str, Any]]:
        return self.past

    def status(self) -> dict[str, Any]:
        replicas = []
        for number in range(self.replicas):
            past = [each for each in self.past if each["replica"] == number]
            last = past[-1] if past else None
            replicas.append({"id": number, "state": "running", "recoveries": len(past), "last_recovery": last})
        return {"replicas": replicas, "spares": [{"ready": True}]}

    def owners(self) -> dict[int, int]:
        return {port: port // 2 % self.replicas for port in self.load.timeline.ports}


@contextlib.contextmanager
def fake_stage(lab: Lab, what: Combination) -> Iterator[Stage]:
    with lab.scope():
        server, port = serve(local(lab))
        with loaded(local(lab), "127.0.0.1", port, CONNECTIONS, None) as load:
            yield Stage(load, FakeStack(what.replicas, server, load))


def main() -> None:
    out, faults = Path(sys.argv[1]), int(sys.argv[2])
    results = Results(out)
    try:
        with Lab() as lab:
            plan = Plan(faults, (2,), ("kill",), ("adopt",), seed=1)
            experiment(plan, lambda what: fake_stage(lab, what), results, lambda *_: print("fault", flush=True))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        results.finish([])


if __name__ == "__main__":
    main()
