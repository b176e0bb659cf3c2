"""Very many live flows through a scale-down: every one is answered afterwards, by the replica that it had.

    python -m neatstack.experiment.flows DESCRIPTOR ADDRESS PORT    # a client: does what it reads there

The servers are those of the other experiments, so that every byte is checked. A process can have only so many
descriptors: each client and the server on its port carry a part of the connections.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neatstack.experiment import protocol
from neatstack.experiment.netns import Lab, LabError, Process, Side
from neatstack.experiment.stage import Control, Cores, module
from neatstack.experiment.tables import Columns, Outcomes

FIRST_PORT = 7000  # of the first server; the others follow
EACH = 16000  # connections of a client and of its server
SOCKETS, RING = 32768, 4096  # of a program; bytes
LIMIT = 150.0  # seconds for a step of the client, or an answer of the stack
AT_ONCE = 64  # connections that a client opens, or asks, at the same time
PATIENCE = 8.0  # seconds without any progress: what is left is lost
DESCRIPTORS = EACH + 2000  # of a process
Tell = Callable[[int, str], None]
STEPS = 5


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    flows: int
    before: int  # replicas
    after: int
    open_s: float  # seconds to open all connections, with a request and its answer each
    took_ms: float  # until the stack said that it had scaled
    answered: int  # afterwards
    answer_s: float  # seconds for that
    lost: int
    wrong_bytes: int
    changed_owner: int  # flows that another replica has now
    wrong_replica: int  # packets of live flows that reached another replica
    pins: int  # flows that are steered one by one, right after the scaling

    @property
    def good(self) -> bool:
        faults = self.lost or self.wrong_bytes or self.changed_owner or self.wrong_replica
        return self.answered == self.flows and not faults


TABLE: Columns = {
    "live flows": ("flows", ",d"),
    "replicas before": ("before", "d"),
    "after": ("after", "d"),
    "scaling took, ms": ("took_ms", ",.0f"),
    "flows steered one by one": ("pins", ",d"),
    "answered afterwards": ("answered", ",d"),
    "lost": ("lost", ",d"),
    "wrong bytes": ("wrong_bytes", ",d"),
    "at another replica": ("changed_owner", ",d"),
    "packets at a wrong replica": ("wrong_replica", ",d"),
}


class Results(Outcomes[Outcome]):
    kind, columns = Outcome, TABLE


# ---- the experiment ----


class Clients:
    """The processes with the connections, as the experiment sees them: one for each port."""

    def __init__(self, place: Side, address: str, ports: range, cpu: int | None) -> None:
        self.links: list[socket.socket] = []
        self.processes: list[Process] = []
        for port in ports:
            link, theirs = socket.socketpair()
            link.settimeout(LIMIT)
            with theirs:
                argv = module("flows", theirs.fileno(), address, port)
                self.processes.append(place.spawn(*argv, cpu=cpu, pass_fds=[theirs.fileno()]))
            self.links.append(link)

    def open(self, flows: int) -> dict[str, Any]:
        """Open so many connections, and ask each of them once."""
        count = len(self.links)
        return self.do([f"open {(flows + number) // count}" for number in range(count)])

    def ask(self) -> dict[str, Any]:
        """Ask every connection once."""
        return self.do(["ask 0"] * len(self.links))

    def do(self, what: list[str]) -> dict[str, Any]:
        """A step of each: how many connections were answered, wrong bytes, seconds. Raises LabError."""
        began = time.monotonic()
        told = []
        for link, line in zip(self.links, what, strict=True):
            link.sendall(line.encode() + b"\n")
        for link, process in zip(self.links, self.processes, strict=True):
            try:
                answer = link.recv(1 << 12)
            except OSError as error:
                raise LabError(f"the clients do not {what[0]}: {error}") from None
            if not answer:
                raise LabError(f"a client has ended: {process.output.strip() or 'without a word'}")
            told.append(json.loads(answer))
        seconds = time.monotonic() - began
        return {**{name: sum(each[name] for each in told) for name in ("done", "wrong")}, "seconds": seconds}

    def close(self) -> None:
        for link in self.links:
            link.close()


@contextlib.contextmanager
def serving(lab: Lab, replicas: int, flows: int) -> Iterator[tuple[Clients, Control]]:
    """A stack with the servers, and clients that have not opened anything yet."""
    cores = Cores.choose()
    check_descriptors()
    ports = range(FIRST_PORT, FIRST_PORT - (-flows // EACH))
    config = f"sockets = {SOCKETS}\nreceive_buffer = {RING}\nsend_buffer = {RING}\nmax_replicas = {replicas}\n"
    with lab.scope():
        stack = lab.stack(replicas=replicas, config=config, cpu=cores.server)
        with stack.host.entered():
            Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("1024 65535")
        for port in ports:
            server = stack.programs.spawn(*module("server", port), cpu=cores.server)
            stack.host.wait_port(stack.address, port, process=server)
        control = Control(stack.run_dir / stack.name / "control.sock", LIMIT)
        lab.cleanup.callback(control.close)
        clients = Clients(stack.host, stack.address, ports, cores.client)
        lab.cleanup.callback(clients.close)
        yield clients, control


def check_descriptors() -> None:
    """Let our processes have as many descriptors as they need. Raises LabError."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < DESCRIPTORS:
        raise LabError(f"a process may have {most} descriptors here, and needs {DESCRIPTORS}; raise `ulimit -Hn`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, most))


def experiment(
    flows: int, before: int, after: int, clients: Clients, control: Control, scale: Callable[[int], Any], tell: Tell
) -> Outcome:
    """Open, scale, ask everybody. `scale` does that. Raises LabError."""
    tell(0, f"opening {flows:,} connections")
    opened = clients.open(flows)
    if opened["done"] != flows:
        raise LabError(f"{opened['done']} of {flows} connections came about")
    tell(1, "asking whose they are")
    owners = owners_of(control)
    if len(owners) != flows:
        raise LabError(f"the stack knows {len(owners)} of {flows} connections")
    counted = steering(control, "wrong_replica")
    tell(2, f"scaling from {before} to {after} replicas")
    began = time.monotonic()
    scale(after)
    took = time.monotonic() - began
    pins = steering(control, "pins")
    tell(3, "asking every connection")
    asked = clients.ask()
    tell(4, "asking whose they are")
    now = owners_of(control)
    changed = sum(now.get(flow, owner) != owner for flow, owner in owners.items())
    tell(5, "done")
    return Outcome(
        flows=flows, before=before, after=after, open_s=opened["seconds"], took_ms=took * 1000,
        answered=asked["done"], answer_s=asked["seconds"], lost=flows - asked["done"], wrong_bytes=asked["wrong"],
        changed_owner=changed, wrong_replica=steering(control, "wrong_replica") - counted, pins=pins,
    )  # fmt: skip


def owners_of(control: Control) -> dict[tuple[int, int], int]:
    """The replica of each flow, by the ports of both ends."""
    connections = control.ask(op="ss")["connections"]
    return {
        (each["remote_port"], each["local_port"]): each["replica"]
        for each in connections
        if each["local_port"] >= FIRST_PORT and each["state"] == "ESTABLISHED"
    }


def steering(control: Control, what: str) -> int:
    return int(control.status().get("steering", {}).get(what) or 0)


# ---- the client ----


class Flow:
    """One connection, with at most one request under way."""

    __slots__ = ("number", "sequence", "sock", "expected", "got")

    def __init__(self, number: int) -> None:
        self.number, self.sequence = number, -1
        self.sock = socket.socket()
        self.expected = self.got = b""


class Flows:
    """All connections, in one loop."""

    def __init__(self, address: str, port: int) -> None:
        self.server = address, port
        self.flows: list[Flow] = []
        self.by_descriptor: dict[int, Flow] = {}
        self.poll = select.epoll()
        self.wrong = 0

    def open(self, count: int) -> int:
        """Open so many more, and ask each of them once; how many were answered."""
        made = [Flow(number) for number in range(len(self.flows), len(self.flows) + count)]
        self.flows += made
        return self.rounds(made, self.begin)

    def ask(self, count: int) -> int:
        """Ask every connection once; how many were answered. `count` says nothing."""
        return self.rounds(self.flows, self.request)

    def rounds(self, flows: list[Flow], start: Callable[[Flow], None]) -> int:
        """Start each, some at a time, and wait until all are answered, or nothing happens any more."""
        waiting, under_way, answered = iter(flows), 0, 0
        progress = time.monotonic()
        while True:
            while under_way < AT_ONCE and (flow := next(waiting, None)):
                with contextlib.suppress(OSError):
                    start(flow)
                    under_way += 1
            if not under_way or time.monotonic() - progress > PATIENCE:
                return answered
            for descriptor, events in self.poll.poll(0.5):
                outcome = self.event(self.by_descriptor[descriptor], events)
                if outcome is not None:
                    under_way -= 1
                    answered += outcome
                    progress = time.monotonic()

    def begin(self, flow: Flow) -> None:
        flow.sock.setblocking(False)
        self.by_descriptor[flow.sock.fileno()] = flow
        self.poll.register(flow.sock, select.EPOLLOUT)
        flow.sock.connect_ex(self.server)

    def request(self, flow: Flow) -> None:
        flow.sequence += 1
        flow.expected, flow.got = protocol.answer(flow.number, flow.sequence), b""
        flow.sock.send(protocol.request(flow.number, flow.sequence))

    def event(self, flow: Flow, events: int) -> bool | None:
        """True: it was answered; False: it is lost; None: neither yet."""
        try:
            if events == select.EPOLLOUT and not flow.expected:
                self.poll.modify(flow.sock, select.EPOLLIN)
                self.request(flow)
                return None
            data = flow.sock.recv(protocol.LARGEST + protocol.ANSWER.size)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self.poll.unregister(flow.sock)
            return False
        flow.got += data
        if len(flow.got) < len(flow.expected):
            return None
        self.wrong += protocol.differing(flow.got, flow.expected)
        return True


def serve(link: socket.socket, flows: Flows) -> None:
    """Do what is asked for, until nobody asks."""
    steps = {"open": flows.open, "ask": flows.ask}
    with link.makefile("r") as stream:
        for line in stream:
            what, count = line.split()
            began, before = time.monotonic(), flows.wrong
            done = steps[what](int(count))
            told = {"done": done, "wrong": flows.wrong - before, "seconds": time.monotonic() - began}
            link.sendall(json.dumps(told).encode() + b"\n")


def main() -> None:
    serve(socket.socket(fileno=int(sys.argv[1])), Flows(sys.argv[2], int(sys.argv[3])))
    os._exit(0)  # the kernel closes them all, sooner than one by one


if __name__ == "__main__":
    main()
