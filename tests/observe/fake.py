"""A stack that only answers: what `status` and `events` say is the test's."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from neatstack.control import rundir

# as a stack answers that knows everything; tests change copies
REPLICA: dict[str, Any] = {
    "id": 0, "pid": 1000, "incarnation": 1, "state": "running", "takes_new": True, "busy": 0.25, "version": "0.1.0",
    "cpu_seconds": 1.0, "cpu_percent": 2.0, "resident": 13 << 20,
    "packets_in": 100, "packets_out": 90, "bytes_in": 10_000, "bytes_out": 90_000, "connections": 5, "retransmits": 1,
    "drops": {"no_port": 2},
    "counters": {
        "packets_in": 100, "packets_out": 90, "bytes_in": 10_000, "bytes_out": 90_000, "connections": 5,
        "retransmits": 1, "connections_opened": 3, "connections_accepted": 40, "connections_closed": 38,
        "connections_reset": 0, "batches": 50, "sleeps": 20, "commands": 9, "events": 8, "doorbells": 7,
        "cookies_sent": 3, "cookies_taken": 2, "cookies_refused": 1,
        "requests": 40, "slept_ns": 10_000_000_000, "drop_no_port": 2, "drop_sequence": 0,
    },
    "recoveries": 0, "last_recovery": None,
}  # fmt: skip
LAST = {
    "replica": 0, "incarnation": 2, "cause": "was killed by SIGKILL", "how": "adopt",
    "died_ns": 5_000_000, "running_ns": 8_500_000, "adopted": 5, "lost": 0, "took_us": 900,
}  # fmt: skip
EVENT = {
    "id": 1, "at_ns": 2_000_000_000, "time": 1.75e9, "kind": "crash", "replica": 0,
    "text": "replica 0 was killed by SIGKILL", "gap_ms": 3.5, "adopted": 5, "lost": 0,
}  # fmt: skip


def replica(number: int, **changes: Any) -> dict[str, Any]:
    """One replica's part of the answer; `counters` changes single ones."""
    made = copy.deepcopy(REPLICA)
    counters = changes.pop("counters", {})
    made["counters"] |= counters
    return {**made, "id": number, "pid": 1000 + number, **changes}


def status(replicas: int | list[dict[str, Any]] = 2, at: float = 1.0, **changes: Any) -> dict[str, Any]:
    """The answer to `status` at a time in seconds."""
    several = [replica(number) for number in range(replicas)] if isinstance(replicas, int) else replicas
    taking = [each["id"] for each in several if each.get("takes_new")]
    table = [taking[bucket % len(taking)] for bucket in range(256)] if taking else []
    answer: dict[str, Any] = {
        "name": "web", "address": "10.77.0.2/24", "gateway": None, "at_ns": round(at * 1e9), "version": "0.1.0",
        "uptime_s": 61.5, "device": {"name": "neat0", "netns": None, "mtu": 1500, "queues": 5, "queue_drops": 4},
        "processes": {
            name: {"pid": pid, "cpu_seconds": 0.5, "cpu_percent": 1.0, "resident": 20 << 20}
            for pid, name in enumerate(("keeper", "manager", "link"), 900)
        },
        "replicas": several, "spares": [{"pid": 990, "ready": True, "resident": 12 << 20}], "recovery": "adopt",
        "allow_faults": False, "max_replicas": 4,
        "scaling": {"active": len(taking), "draining": [], "auto": None, "under_way": None},
        "steering": {
            "buckets": {str(slot): table.count(slot) for slot in taking}, "table": table,
            "pins": 3, "pins_by_replica": {"1": 3}, "wrong_replica": 0,
        },
        "rejuvenation": None,
        "programs": [{"channel": 0, "pid": 5, "name": "lighttpd", "bindings": 1}],
    }  # fmt: skip
    return {**answer, **changes}


class Stack:
    """Answers on control.sock of a stack `web` in NEAT_RUN_DIR. `asked` holds every request."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = status()
        self.events: list[dict[str, Any]] = []
        self.others: dict[str, dict[str, Any]] = {}  # answers to other requests, by op
        self.asked: list[dict[str, Any]] = []
        self.deaf = False  # takes requests and says nothing
        self.raw: bytes | None = None  # said instead of any answer
        self._lock = rundir.claim("web")
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """A manager comes."""
        self._server = await asyncio.start_unix_server(self._serve, path=rundir.directory("web") / "control.sock")

    async def stop(self) -> None:
        """The manager is gone; the keeper is not."""
        if self._server:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.sleep(0.01)
            self._server = None
            (rundir.directory("web") / "control.sock").unlink(missing_ok=True)

    async def end(self) -> None:
        """The keeper too."""
        await self.stop()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"op": "status"}:
                return self.status
            case {"op": "events", "since": since}:
                following = self.events[-1]["id"] + 1 if self.events else 1
                return {"events": [each for each in self.events if each["id"] >= since], "next": following}
        return self.others.get(request["op"], {"error": "no such request"})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                request = json.loads(line)
                self.asked.append(request)
                if not self.deaf:
                    writer.write(self.raw or json.dumps(self.answer(request)).encode() + b"\n")
        self._writers.discard(writer)
        writer.close()


@contextlib.asynccontextmanager
async def stack() -> AsyncIterator[Stack]:
    made = Stack()
    try:
        await made.start()
        yield made
    finally:
        await made.end()
