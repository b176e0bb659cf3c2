"""A long run on our stack: every request answered, none late, the replicas' shares."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field

from bench.measure import CONNECTIONS, wrk
from bench.sides import FILE, HTTP, Place

STALL = 1.0  # seconds
WATCHERS = 8


@dataclass
class Watch:
    """Connections that ask slowly beside the load, and time every answer."""

    place: Place
    requests: int = 0
    failures: int = 0
    resets: int = 0
    stalls: int = 0
    slowest: float = 0.0  # seconds
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, end: float) -> None:
        request = f"GET /{FILE} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        while time.monotonic() < end:
            try:
                with self.place.client.connect(self.place.server.address, HTTP) as made:
                    for _ in range(1000):
                        self.ask(made, request)
                        if time.monotonic() > end:
                            return
                        time.sleep(0.02)
            except OSError as error:
                with self.lock:
                    self.failures += 1
                    self.resets += isinstance(error, ConnectionResetError)

    def ask(self, made: socket.socket, request: bytes) -> None:
        started = time.monotonic()
        made.sendall(request)
        answer = b""
        while not answer.endswith(b"twenty bytes, no mor"):
            got = made.recv(4096)
            if not got:
                raise ConnectionError("the server has closed the connection")
            answer += got
        took = time.monotonic() - started
        with self.lock:
            self.requests += 1
            self.failures += not answer.startswith(b"HTTP/1.1 200")
            self.stalls += took > STALL
            self.slowest = max(self.slowest, took)


@dataclass
class Soak:
    """What a run gave. `shares`: connections of each replica halfway, of 1."""

    rate: float
    requests: int
    failures: int
    resets: int
    stalls: int
    slowest: float
    shares: list[float]

    @property
    def good(self) -> bool:
        return not (self.failures or self.resets or self.stalls) and self.requests > 0


def soak(place: Place, seconds: float) -> Soak:
    assert place.stack
    watch = Watch(place)
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=watch.run, args=(end,)) for _ in range(WATCHERS)]
    shares: list[float] = []
    threads.append(threading.Thread(target=lambda: shares.extend(replica_shares(place, seconds / 2))))
    for thread in threads:
        thread.start()
    try:
        load = wrk(place, CONNECTIONS, seconds, "--timeout", f"{STALL:g}s")
    finally:
        for thread in threads:
            thread.join()
    slowest = max(watch.slowest, load.slowest / 1e6)
    requests, failures = load.requests + watch.requests, load.failures + watch.failures
    return Soak(load.rate, requests, failures, watch.resets, watch.stalls, slowest, shares)


def replica_shares(place: Place, after: float) -> list[float]:
    """Each replica's part of the connections, `after` seconds from now."""
    assert place.stack
    time.sleep(after)
    counts = [replica["connections"] for replica in place.stack.replicas()]
    return [count / max(1, sum(counts)) for count in counts]
