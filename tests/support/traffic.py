"""Many connections to an echo server on a stack, each always with data on its way, and every byte compared."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neatstack.experiment.netns import Stack

ECHO = Path(__file__).parents[1] / "programs/echo_server.py"
CONNECTIONS = 16
CHUNK = 4096
DEADLINE = 60.0  # seconds; only what is broken takes so long


def until(true: Callable[[], Any], seconds: float = DEADLINE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Flow(threading.Thread):
    """One connection to the echo server: some data is always on its way, and what comes back is compared."""

    def __init__(self, made: socket.socket, seed: int) -> None:
        super().__init__(daemon=True)
        self.made, self.numbers = made, random.Random(seed)
        self.rounds = 0
        self.ended: Exception | None = None
        self.stopping = False
        made.settimeout(DEADLINE)
        self.start()

    def run(self) -> None:
        try:
            while not self.stopping:
                self.exchange(self.numbers.randbytes(self.numbers.randrange(1, CHUNK)))
                self.rounds += 1
            self.made.shutdown(socket.SHUT_WR)
            assert self.made.recv(1) == b"", "more than was sent"
        except Exception as error:
            self.ended = error
        finally:
            self.made.close()

    def exchange(self, data: bytes) -> None:
        self.made.sendall(data)
        back = b""
        while len(back) < len(data):
            more = self.made.recv(len(data) - len(back))
            assert more, "an end that was not sent"
            back += more
        assert back == data, "not what was sent"


class Traffic:
    """Flows to an echo server on the stack; `address` is the stack's, of the family that they shall be of."""

    def __init__(self, stack: Stack, port: int, address: str | None = None) -> None:
        self.stack = stack
        to = address or stack.address
        self.server = stack.programs.spawn("python3", ECHO, "::" if ":" in to else "0.0.0.0", port)
        stack.host.wait_port(to, port, process=self.server)
        self.flows = [Flow(stack.host.connect(to, port), seed) for seed in range(CONNECTIONS)]
        self.moves()

    def alive(self) -> list[Flow]:
        return [flow for flow in self.flows if flow.ended is None]

    def reset(self) -> list[Flow]:
        """Those that were reset; nothing else may happen to one."""
        ended = [flow for flow in self.flows if flow.ended is not None]
        for flow in ended:
            assert isinstance(flow.ended, ConnectionResetError), flow.ended
        return ended

    def moves(self) -> None:
        """Every connection that is left carries data from now on."""
        before = {flow: flow.rounds for flow in self.flows}
        until(lambda: all(flow.rounds > before[flow] + 1 for flow in self.alive()))

    def finish(self) -> None:
        """All that are left end in order."""
        for flow in self.flows:
            flow.stopping = True
        for flow in self.flows:
            flow.join(DEADLINE)
            assert not flow.is_alive()
