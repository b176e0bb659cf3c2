"""What scripts that run on the mirror stack have in common."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import termios
import time
from collections.abc import Callable, Iterator

ADDRESS = "10.66.0.2"


def listener(address: str = "0.0.0.0", backlog: int = 128) -> tuple[socket.socket, int]:
    """A listening socket and its port."""
    made = socket.socket()
    made.bind((address, 0))
    made.listen(backlog)
    return made, made.getsockname()[1]


def sharing(count: int) -> list[socket.socket]:
    """So many listeners of one port by SO_REUSEPORT."""
    made: list[socket.socket] = []
    for _ in range(count):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("0.0.0.0", made[0].getsockname()[1] if made else 0))  # noqa: S104
        one.listen()
        made.append(one)
    return made


def share(group: list[socket.socket], count: int) -> list[int]:
    """How many of so many connections each of these listeners gets, none of which blocks."""
    clients = [socket.create_connection((ADDRESS, group[0].getsockname()[1])) for _ in range(count)]
    shares = [0] * len(group)
    while sum(shares) < len(clients):
        for k, one in enumerate(group):
            with contextlib.suppress(BlockingIOError):
                one.accept()[0].close()
                shares[k] += 1
    return shares


def pair() -> tuple[socket.socket, socket.socket]:
    """A connection: the end that connected, the end that was accepted."""
    accepting, port = listener()
    with accepting:
        client = socket.create_connection((ADDRESS, port))
        return client, accepting.accept()[0]


def fill(sock: socket.socket, least: int = 0) -> int:
    """Send until the socket takes no more; how many bytes. It takes so many at `least`, however long that takes."""
    sock.setblocking(False)
    sent = 0
    idle_since = time.monotonic()
    while sent < least or time.monotonic() < idle_since + 0.05:  # the other side's ring fills as well
        try:
            sent += sock.send(b"x" * 5000)
            idle_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.005)
    return sent


def unsent(sock: socket.socket) -> int:
    """Bytes in the send buffer."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), "little")


@contextlib.contextmanager
def raises(number: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        assert error.errno == number, f"{errno.errorcode[error.errno or 0]}, not {errno.errorcode[number]}"
    else:
        raise AssertionError(f"nothing, not {errno.errorcode[number]}")


@contextlib.contextmanager
def takes(least: float, most: float) -> Iterator[None]:
    """Between so many seconds."""
    begin = time.monotonic()
    yield
    assert least <= time.monotonic() - begin <= most, time.monotonic() - begin


def forked(work: Callable[[], object]) -> int:
    """Run in a child; its process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def succeeded(pid: int) -> bool:
    return os.waitpid(pid, 0)[1] == 0
