"""Both ends of a connection for the scripts that are played on the stack and on the kernel."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from typing import Any

SOON = 0.03  # seconds until what was sent is there


def connection(address: str) -> tuple[socket.socket, socket.socket]:
    with socket.create_server((address, 0)) as server:
        sender = socket.create_connection(server.getsockname())
        receiver = server.accept()[0]
    for end in sender, receiver:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sender, receiver


class Ends:
    """What `sender` sends, `receiver` receives; `edges` is for either of them."""

    def __init__(self, address: str) -> None:
        self.sender, self.receiver = connection(address)
        self.edges = select.epoll()
        self.timers: list[threading.Timer] = []

    def later(self, work: Callable[[], Any]) -> None:
        self.timers.append(threading.Timer(2 * SOON, work))
        self.timers[-1].start()

    def close(self) -> None:
        for timer in self.timers:
            timer.join()
        self.edges.close()
        self.sender.close()
        self.receiver.close()
