"""A flood of spoofed SYNs, while clients go on opening connections, each with a request and its answer.

    python -m neatstack.experiment.flood send DESCRIPTOR DEVICE MAC ADDRESS PORT SYNS    # the flood
    python -m neatstack.experiment.flood work DESCRIPTOR ADDRESS PORT THREADS            # the clients

Both begin at a line on the descriptor, a socket, and answer there in JSON: the flood when all is sent, the clients at
the next line. Every SYN is of a flow of its own, whose sender does not exist and answers nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neatstack.experiment import frames, protocol
from neatstack.experiment.netns import Lab, LabError, Process, Side, Stack
from neatstack.experiment.stage import PORT, Control, Cores, module
from neatstack.experiment.tables import Columns, Outcomes

LIMIT = 180.0  # seconds for a step
PATIENCE = 30.0  # seconds until a connection, or its answer, has failed
QUIET = 0.5  # seconds of work without a flood, before it and after
LOOK = 0.1  # seconds between two looks at the replicas
PACKET_QDISC_BYPASS, SOL_PACKET = 20, 263
SOURCES = "198.18.0.0"  # RFC 2544: for benchmarks; nobody's
Tell = Callable[[int, str], None]
STEPS = 3


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    syns: int
    replicas: int
    seconds: float  # until the last was sent
    syns_per_second: float
    lost_at_device: int  # frames that found a replica's queue full
    cookies: int  # SYNs answered with one
    connections: int  # that the clients opened, and got their answer on
    by_cookie: int  # of those
    failed: int
    wrong_bytes: int
    slowest_ms: float  # from connect() to the whole answer
    most_connections: int  # that the replicas had at one time, half open ones included
    resident_before: int  # bytes, of all replicas
    resident_most: int

    @property
    def good(self) -> bool:
        return bool(self.connections) and not (self.failed or self.wrong_bytes)


TABLE: Columns = {
    "SYNs": ("syns", ",d"),
    "replicas": ("replicas", "d"),
    "SYNs/s": ("syns_per_second", ",.0f"),
    "lost at the device": ("lost_at_device", ",d"),
    "answered with a cookie": ("cookies", ",d"),
    "connections of clients": ("connections", ",d"),
    "by cookie": ("by_cookie", ",d"),
    "failed": ("failed", ",d"),
    "wrong bytes": ("wrong_bytes", ",d"),
    "slowest, ms": ("slowest_ms", ",.0f"),
    "TCBs at most": ("most_connections", ",d"),
    "memory before, KiB": ("before_kib", ",d"),
    "at most, KiB": ("most_kib", ",d"),
}


class Results(Outcomes[Outcome]):
    kind, columns = Outcome, TABLE

    def shown(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "before_kib": row["resident_before"] // 1024, "most_kib": row["resident_most"] // 1024}


# ---- the experiment ----


class Part:
    """One of the two processes, as the experiment sees it."""

    def __init__(self, lab: Lab, place: Side, cpu: int | None, what: str, *arguments: object) -> None:
        self.link, theirs = socket.socketpair()
        lab.cleanup.callback(self.link.close)
        self.link.settimeout(LIMIT)
        with theirs:
            argv = module("flood", what, theirs.fileno(), *arguments)
            self.process: Process = place.spawn(*argv, cpu=cpu, pass_fds=[theirs.fileno()])

    def go(self) -> None:
        self.link.sendall(b"go\n")

    def answer(self) -> dict[str, Any]:
        """Wait for it. Raises LabError."""
        try:
            told = self.link.recv(1 << 12)
        except OSError as error:
            raise LabError(f"the flood does not end: {error}") from None
        if not told:
            raise LabError(f"a part has ended: {self.process.output.strip() or 'without a word'}")
        answer: dict[str, Any] = json.loads(told)
        return answer


class Watch:
    """What the replicas have at most, looked at again and again in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.control = Control(path, LIMIT)
        self.before = self.control.status()
        self.connections = 0
        self.resident = self.resident_before = resident(self.before)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(LOOK):
            with contextlib.suppress(LabError):
                status = self.control.status()
                self.resident = max(self.resident, resident(status))
                self.connections = max(self.connections, counted(status, "connections"))

    def stop(self) -> dict[str, Any]:
        """The last answer."""
        self._over.set()
        self._thread.join()
        status = self.control.status()
        self.control.close()
        return status


def resident(status: dict[str, Any]) -> int:
    return sum(each["resident"] or 0 for each in status["replicas"] if each["resident"])


def counted(status: dict[str, Any], name: str) -> int:
    return sum(each["counters"].get(name, 0) for each in status["replicas"] if each["counters"])


@contextlib.contextmanager
def serving(lab: Lab, replicas: int, syns: int, threads: int, more: str = "") -> Iterator[tuple[Part, Part, Path]]:
    """A stack with a server; the flood and the clients, which wait for the word; where the stack is asked.

    `more` goes into the stack's configuration.
    """
    cores = Cores.choose()
    with lab.scope():
        config = f'gateway = "{Stack.host_address}"\nmax_replicas = {replicas}\n{more}'
        stack = lab.stack(replicas=replicas, config=config, cpu=cores.server)
        server = stack.programs.spawn(*module("server", PORT), cpu=cores.server)
        stack.host.wait_port(stack.address, PORT, process=server)
        with stack.host.entered():
            mac = Path("/proc/net/arp").read_text()
        mac = next(line.split()[3] for line in mac.splitlines() if line.startswith(stack.address))
        cpu = cores.client
        flood = Part(lab, stack.host, cpu, "send", stack.device, mac, stack.address, PORT, syns)
        work = Part(lab, stack.host, cpu, "work", stack.address, PORT, threads)
        yield flood, work, stack.run_dir / stack.name / "control.sock"


def experiment(replicas: int, syns: int, flood: Part, work: Part, path: Path, tell: Tell) -> Outcome:
    """Let the clients work, flood, and let them work on. Raises LabError."""
    watch = Watch(path)
    try:
        tell(0, "clients at work")
        work.go()
        time.sleep(QUIET)
        tell(1, f"{syns:,} SYNs")
        flood.go()
        sent = flood.answer()
        tell(2, "clients at work")
        time.sleep(QUIET)
        work.go()
        done = work.answer()
    finally:
        after = watch.stop()
    tell(3, "done")
    grown = {name: counted(after, name) - counted(watch.before, name) for name in ("cookies_sent", "cookies_taken")}
    return Outcome(
        syns=sent["sent"], replicas=replicas, seconds=sent["seconds"],
        syns_per_second=sent["sent"] / max(sent["seconds"], 1e-9),
        lost_at_device=after["device"]["queue_drops"] - watch.before["device"]["queue_drops"],
        cookies=grown["cookies_sent"], connections=done["done"], by_cookie=grown["cookies_taken"],
        failed=done["failed"], wrong_bytes=done["wrong"], slowest_ms=done["slowest"] * 1000,
        most_connections=watch.connections, resident_before=watch.resident_before, resident_most=watch.resident,
    )  # fmt: skip


# ---- the flood ----


class Syns:
    """Frames of SYNs, each of another flow, whose checksums are right without being computed.

    The low half of the source address and the IP identification, and each port and half of the sequence number, change
    against each other: the sum of n and 0xFFFF - n is nothing in one's complement.
    """

    def __init__(self, mac: bytes, address: str, port: int) -> None:
        flow = (SOURCES, 0, address, port)
        self.frame = frames.frame((b"\x02\0\0\0\0\x99", mac), flow, frames.SYN, 0, options=frames.mss(1460))
        struct.pack_into("!H", self.frame, frames.IP + 4, 0xFFFF)  # identification
        struct.pack_into("!I", self.frame, frames.SEQ, 0xFFFFFFFF)
        frames.sum_header(self.frame)
        tcp = bytes(self.frame[frames.IP + 20 :])
        pseudo = bytes(self.frame[frames.SOURCE : frames.SOURCE + 8]) + struct.pack("!HH", 6, len(tcp))
        total = sum(struct.unpack(f"!{(len(pseudo) + len(tcp)) // 2}H", pseudo + tcp))
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        struct.pack_into("!H", self.frame, frames.IP + 36, ~total & 0xFFFF)

    def numbered(self, number: int) -> bytearray:
        """The SYN of flow `number`, below 2^31; good until the next call."""
        low, port = number & 0xFFFF, 1024 + (number >> 16)
        struct.pack_into("!H", self.frame, frames.IP + 4, 0xFFFF - low)
        struct.pack_into("!H", self.frame, frames.SOURCE + 2, low)
        struct.pack_into("!H", self.frame, frames.PORT, port)
        struct.pack_into("!HH", self.frame, frames.SEQ, 0xFFFF - port, 0xFFFF - low)
        return self.frame


def send(link: socket.socket, device: str, mac: str, address: str, port: str, syns: str) -> None:
    """Send all, as fast as it goes."""
    made = Syns(bytes.fromhex(mac.replace(":", "")), address, int(port))
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    out.bind((device, 0))
    link.recv(16)
    began, sent = time.monotonic(), 0
    for number in range(int(syns)):
        try:
            out.send(made.numbered(number))
        except OSError:  # the queue is full, or memory short: it is lost, and counted there
            pass
        sent += 1
    link.sendall(json.dumps({"sent": sent, "seconds": time.monotonic() - began}).encode())


# ---- the clients ----


class Work:
    """Connections one after the other in each thread, until told to stop."""

    def __init__(self, address: str, port: int) -> None:
        self.server = address, port
        self.over = threading.Event()
        self.done = self.failed = self.wrong = 0
        self.slowest = 0.0
        self.lock = threading.Lock()

    def run(self, first: int) -> None:
        number = first
        while not self.over.is_set():
            began = time.monotonic()
            try:
                wrong, failed = self.once(number), 0
            except OSError:
                wrong, failed = 0, 1
            took = time.monotonic() - began
            with self.lock:
                self.done += not failed
                self.failed += failed
                self.wrong += wrong
                self.slowest = max(self.slowest, took)
            number += 1

    def once(self, number: int) -> int:
        """A connection with one request; how many bytes of the answer are wrong."""
        expected = protocol.answer(number, 0)
        with socket.create_connection(self.server, timeout=PATIENCE) as sock:
            sock.sendall(protocol.request(number, 0))
            got = b""
            while len(got) < len(expected):
                data = sock.recv(1 << 16)
                if not data:
                    raise ConnectionError("the answer is cut off")
                got += data
        return protocol.differing(got, expected)


def work(link: socket.socket, address: str, port: str, threads: str) -> None:
    """Work from the first line to the next."""
    doing = Work(address, int(port))
    link.recv(16)
    running = [threading.Thread(target=doing.run, args=(number << 24,)) for number in range(int(threads))]
    for thread in running:
        thread.start()
    link.recv(16)
    doing.over.set()
    for thread in running:
        thread.join()
    told = {"done": doing.done, "failed": doing.failed, "wrong": doing.wrong, "slowest": doing.slowest}
    link.sendall(json.dumps(told).encode())


def main() -> None:
    what, descriptor, *rest = sys.argv[1:]
    part: Callable[..., None] = send if what == "send" else work
    part(socket.socket(fileno=int(descriptor)), *rest)
    os._exit(0)


if __name__ == "__main__":
    main()
