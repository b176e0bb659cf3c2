"""The manager's side of the keeper: what must outlive the manager."""

import os
import socket
from dataclasses import dataclass
from typing import Any

from neatstack.control import messages


@dataclass
class Entry:
    """What is stored under one key. The descriptors are the manager's own copies."""

    data: dict[str, Any]
    descriptors: list[int]


class Store:
    """Puts into the keeper and takes from it.

    Sending blocks, on purpose: the keeper does nothing but answer, and what it was told must be in its hands before
    the manager goes on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    def connect(cls) -> "Store":
        """Over the descriptor that the keeper has left in the environment."""
        number = int(os.environ.pop("NEAT_KEEPER"))
        os.set_inheritable(number, False)
        return cls(socket.socket(fileno=number))

    def put(self, key: str, data: dict[str, Any], descriptors: list[int] | None = None) -> None:
        """Store under `key` in place of what was there. The descriptors stay ours too."""
        messages.send(self.sock, {"op": "put", "key": key, "data": data}, descriptors)

    def drop(self, key: str) -> None:
        messages.send(self.sock, {"op": "drop", "key": key})

    def end(self, status: int = 0) -> None:
        """The stack ends now, and this process with it."""
        messages.send(self.sock, {"op": "end", "status": status})

    def fate(self, pid: int) -> int | None:
        """How a process ended that the keeper has reaped: exit status, or minus the signal; None: it does not know."""
        messages.send(self.sock, {"op": "fate", "pid": pid})
        received = messages.receive(self.sock)
        fate = received[0].get("fate") if received else None
        return fate if isinstance(fate, int) else None

    def list(self) -> dict[str, Entry]:
        """Everything stored. Raises EOFError when the keeper is gone."""
        messages.send(self.sock, {"op": "list"})
        entries: dict[str, Entry] = {}
        while True:
            received = messages.receive(self.sock)
            if received is None:
                raise EOFError("the keeper is gone")
            message, descriptors = received
            if "key" not in message:
                return entries
            entries[message["key"]] = Entry(message["data"], descriptors)
