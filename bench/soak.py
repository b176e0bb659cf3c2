"""A long run on our stack: every request answered, none late, the replicas' shares; a replica killed, if wanted."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from typing import Any

from neatstack.experiment.netns import LabError
from neatstack.experiment.sides import FILE, HTTP, Place
from neatstack.experiment.stage import Control
from neatstack.experiment.wrk import CONNECTIONS, wrk

STALL = 1.0  # seconds
PATIENCE = 5.0  # seconds without an answer: the request has failed
WATCHERS = 16
PAUSE = 0.02  # seconds between an answer and the next request, while nothing is watched closely
LEAD, WINDOW = 0.2, 1.0  # seconds of watching closely before a kill, and after it
REUSE = 1000  # requests of one connection
REQUEST = f"GET /{FILE} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
END = b"twenty bytes, no mor"  # of the answer
NS = 1_000_000_000


@dataclass(eq=False)
class Watcher:
    """A connection that asks slowly beside the load, or all the time, and notes when it was answered."""

    sock: socket.socket
    port: int
    asked: int = 0  # ns; 0: there is no request under way
    due: int = 0  # ns: when to ask again
    answer: bytes = b""
    times: list[int] = field(default_factory=list)  # ns, of every answer


class Watch(threading.Thread):
    """All watchers, in one loop: they do not wait for each other, nor for the lock of the interpreter."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.requests = self.failures = self.resets = self.stalls = 0
        self.slowest = 0.0  # seconds
        self.closely = False  # ask all the time, and keep each connection
        self.over = False
        self.poll = select.poll()
        self.watchers: dict[int, Watcher] = {}
        self.closed: list[Watcher] = []
        for _ in range(WATCHERS):
            self.open()

    def run(self) -> None:
        while not self.over:
            for descriptor, _ in self.poll.poll(1 if self.closely else 5):
                self.guarded(self.watchers[descriptor], self.take)
            for watcher in list(self.watchers.values()):
                self.guarded(watcher, self.ask)
        for watcher in self.watchers.values():
            watcher.sock.close()

    def open(self) -> None:
        sock = self.place.client.connect(self.place.server.address, HTTP, timeout=PATIENCE)
        self.watchers[sock.fileno()] = Watcher(sock, sock.getsockname()[1])
        self.poll.register(sock, select.POLLIN)

    def close(self, watcher: Watcher) -> None:
        self.poll.unregister(watcher.sock)
        del self.watchers[watcher.sock.fileno()]
        watcher.sock.close()
        self.closed.append(watcher)

    def guarded(self, watcher: Watcher, step: Callable[[Watcher], None]) -> None:
        """A step of a watcher; if it fails, another connection takes its place."""
        try:
            step(watcher)
        except OSError as error:
            self.failures += 1
            self.resets += isinstance(error, ConnectionResetError)
            self.close(watcher)
            self.replace()

    def replace(self) -> None:
        try:
            self.open()
        except OSError:
            self.failures += 1

    def ask(self, watcher: Watcher) -> None:
        now = time.monotonic_ns()
        if watcher.asked:
            if now - watcher.asked > PATIENCE * NS:
                raise TimeoutError("no answer")
        elif now >= watcher.due or self.closely:
            if len(watcher.times) >= REUSE and not self.closely:
                self.close(watcher)
                self.replace()
                return
            watcher.asked = now
            watcher.sock.sendall(REQUEST)

    def take(self, watcher: Watcher) -> None:
        got = watcher.sock.recv(4096)
        if not got:
            raise ConnectionError("the server has closed the connection")
        watcher.answer += got
        if not watcher.answer.endswith(END):
            return
        now = time.monotonic_ns()
        took = (now - watcher.asked) / NS
        self.requests += 1
        self.failures += not watcher.answer.startswith(b"HTTP/1.1 200")
        self.stalls += took > STALL
        self.slowest = max(self.slowest, took)
        watcher.times.append(now)
        watcher.answer, watcher.asked, watcher.due = b"", 0, now + int(PAUSE * NS)
        self.ask(watcher)


@dataclass
class Kill:
    """Replica 0 was killed. `gaps`: seconds, of each watcher that it served; `others`: of all others."""

    lost: int
    gaps: list[float]
    others: list[float]


@dataclass
class Soak:
    """What a run gave. `shares`: connections of each replica, of 1; before a kill."""

    rate: float
    requests: int
    failures: int
    resets: int
    stalls: int
    slowest: float
    shares: list[float]
    kill: Kill | None

    @property
    def good(self) -> bool:
        return not (self.failures or self.resets or self.stalls) and self.requests > 0


def soak(place: Place, seconds: float, patience: float = STALL, kill: Callable[[], None] | None = None) -> Soak:
    """The load, for that time. wrk's answers fail when they take longer than `patience`.

    `kill` kills replica 0; it is called after a while, and lost connections are counted.
    """
    assert place.stack
    try:
        watch = Watch(place)
    except OSError as error:
        raise LabError(f"the server does not take a connection: {error}") from None
    watch.start()
    shares: list[float] = []
    told: list[Kill | BaseException] = []
    threads = [threading.Thread(target=lambda: shares.extend(replica_shares(place, seconds / 5)))]
    if kill:
        threads.append(threading.Thread(target=lambda: told.append(attempt(place, watch, kill, seconds / 4))))
    for thread in threads:
        thread.start()
    try:
        load = wrk(place, CONNECTIONS, seconds, "--timeout", f"{patience:g}s")
    finally:
        for thread in threads:
            thread.join()
        watch.over = True
        watch.join()
    for each in told:
        if isinstance(each, BaseException):
            raise each
    slowest = max(watch.slowest, load.slowest / 1e6)
    requests, failures = load.requests + watch.requests, load.failures + watch.failures
    killed = next((each for each in told if isinstance(each, Kill)), None)
    return Soak(load.rate, requests, failures, watch.resets, watch.stalls, slowest, shares, killed)


def asking(place: Place) -> AbstractContextManager[Control]:
    """The stack's control.sock: on a busy machine, the command line would take long to start."""
    assert place.stack
    return closing(Control(place.stack.run_dir / place.stack.name / "control.sock"))


def replica_shares(place: Place, after: float) -> list[float]:
    """Each replica's part of the connections, `after` seconds from now."""
    time.sleep(after)
    with asking(place) as control:
        counts = [replica["connections"] for replica in control.status()["replicas"]]
    return [count / max(1, sum(counts)) for count in counts]


# ---- a kill ----


def attempt(place: Place, watch: Watch, kill: Callable[[], None], after: float) -> Kill | BaseException:
    """For a thread: what was raised is returned."""
    try:
        time.sleep(after)
        return killed(place, watch, kill)
    except Exception as error:
        return error


def killed(place: Place, watch: Watch, kill: Callable[[], None]) -> Kill:
    """Kill replica 0 while its clients are watched closely."""
    with asking(place) as control:
        wait(lambda: any(spare["ready"] for spare in control.status()["spares"]), "no spare is ready")
        watch.closely = True
        time.sleep(LEAD)
        connections = control.ask(op="ss")["connections"]
        owners = {each["remote_port"]: each["replica"] for each in connections}
        kill()
        recovery = wait(lambda: last_recovery(control), "replica 0 was not replaced")
    at: int = recovery["died_ns"]
    time.sleep(max(0.0, (at - time.monotonic_ns()) / NS + WINDOW))
    watch.closely = False
    time.sleep(2 * PAUSE)
    gaps: list[float] = []
    others: list[float] = []
    for watcher in (*watch.closed, *watch.watchers.values()):
        if watcher.port in owners and watcher.times:
            (others if owners[watcher.port] else gaps).append(gap(watcher.times, at))
    if not gaps:
        raise LabError("replica 0 served none of the connections that were watched")
    return Kill(recovery["lost"], gaps, others)


def last_recovery(control: Control) -> dict[str, Any] | None:
    return next(each for each in control.status()["replicas"] if each["id"] == 0).get("last_recovery")


def gap(times: list[int], at: int) -> float:
    """Seconds: the longest time between two answers that spans `at`, or begins within WINDOW after it."""
    pairs = [*zip(times, times[1:], strict=False), (times[-1], time.monotonic_ns())]
    return max((later - one for one, later in pairs if later > at and one < at + WINDOW * NS), default=0) / NS


def wait(until: Callable[[], Any], otherwise: str, limit: float = 10.0) -> Any:
    """What `until` returns, as soon as it is true."""
    end = time.monotonic() + limit
    while not (found := until()):
        if time.monotonic() > end:
            raise LabError(otherwise)
        time.sleep(0.02)
    return found
