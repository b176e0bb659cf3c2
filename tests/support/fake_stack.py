"""A stack that is none: the directory and the control.sock of one, with answers that a test decides on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any, Self

from tests.observe import fake


class FakeStack:
    """Answers as a manager does, in a thread, in the run directory `root`. Its counters grow with each second."""

    def __init__(self, root: Path, name: str = "web", replicas: int = 2) -> None:
        self.root, self.name = root, name
        self.replicas = list(range(replicas))
        self.requests: list[dict[str, Any]] = []  # all that change something
        self.events: list[dict[str, Any]] = []
        self.incarnations = dict.fromkeys(range(16), 1)
        self.looks = 0  # how often somebody asked for the status
        self.program = "lighttpd"
        self.replies: dict[str, dict[str, Any]] = {}  # answers to operations, instead of ours
        self._born = time.monotonic()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        directory = self.root / self.name
        directory.mkdir(parents=True, exist_ok=True)
        lock = self._stack.enter_context((directory / "keeper.pid").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.answer()
        return self

    def __exit__(self, *error: object) -> None:
        self.be_silent()
        self._stack.close()

    def answer(self) -> None:
        """The manager is there."""
        path = self.root / self.name / "control.sock"
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._thread.start()

    def be_silent(self) -> None:
        """The manager is gone."""
        for sock in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._thread.join()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                self._connections.append(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), sock.makefile("rwb") as stream:
            for line in stream:
                stream.write(json.dumps(self._reply(json.loads(line))).encode() + b"\n")
                stream.flush()

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        operation = request["op"]
        if operation == "status":
            self.looks += 1
            return self.replies.get("status") or self.status()
        if operation == "events":
            return {"events": self.events[request["since"] :], "next": len(self.events)}
        self.requests.append(request)
        return self.replies.get(operation) or getattr(self, f"_do_{operation}")(request)

    def _do_kill(self, request: dict[str, Any]) -> dict[str, Any]:
        slot = int(request["target"])
        if slot not in self.replicas:
            return {"error": f"no replica {slot}; there are: {', '.join(map(str, self.replicas))}, manager, link"}
        self.incarnations[slot] += 1
        self.happen("crash", slot, f"replica {slot} was killed by SIGKILL; adopt", gap_ms=1.25, adopted=16, lost=0)
        return {"ok": True, "target": request["target"], "pid": 1000 + slot}

    def _do_scale(self, request: dict[str, Any]) -> dict[str, Any]:
        before, self.replicas = len(self.replicas), list(range(request["replicas"]))
        kind = "scale_up" if request["replicas"] > before else "scale_down"
        self.happen(kind, None, f"{before} to {request['replicas']} replicas")
        return {"ok": True, "from": before, "to": request["replicas"], "draining": [], "took_ms": 12.5}

    def _do_rejuvenate(self, request: dict[str, Any]) -> dict[str, Any]:
        for slot in self.replicas:
            self.happen("rejuvenation", slot, f"replica {slot} has a new layout", gap_ms=0.9, adopted=8, lost=0)
        return {"ok": True, "replaced": [{"replica": s, "gap_ms": 0.9, "adopted": 8, "lost": 0} for s in self.replicas]}

    def happen(self, kind: str, replica: int | None, text: str, **more: Any) -> None:
        """One more event."""
        told = {"id": len(self.events), "at_ns": time.monotonic_ns(), "time": time.time(), "kind": kind}
        empty = {"gap_ms": None, "adopted": None, "lost": None}
        self.events.append(told | {"replica": replica, "text": text} | empty | more)

    def status(self) -> dict[str, Any]:
        lived = time.monotonic() - self._born
        return fake.status(
            [self._replica(slot, lived) for slot in self.replicas],
            at=time.monotonic(),
            uptime_s=lived,
            programs=[{"channel": 0, "pid": 5, "name": self.program}],
        )

    def _replica(self, slot: int, lived: float) -> dict[str, Any]:
        """Replica n does n + 1 thousand requests a second."""
        requests = int(lived * 1000 * (slot + 1))
        counters = {"requests": requests, "bytes_in": requests * 100, "bytes_out": requests * 900}
        incarnation = self.incarnations[slot]
        return fake.replica(
            slot, incarnation=incarnation, recoveries=incarnation - 1, connections=16, counters=counters
        )
