"""Sets and gets socket options, and prints what came of it as JSON: on the kernel, or on a stack. No test itself."""

from __future__ import annotations

import errno
import json
import socket
import struct
import sys

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET
NAMES = {
    "TCP_NODELAY": (TCP, 1), "TCP_MAXSEG": (TCP, 2), "TCP_CORK": (TCP, 3), "TCP_KEEPIDLE": (TCP, 4),
    "TCP_KEEPINTVL": (TCP, 5), "TCP_KEEPCNT": (TCP, 6), "TCP_SYNCNT": (TCP, 7), "TCP_LINGER2": (TCP, 8),
    "TCP_DEFER_ACCEPT": (TCP, 9), "TCP_WINDOW_CLAMP": (TCP, 10), "TCP_QUICKACK": (TCP, 12),
    "TCP_USER_TIMEOUT": (TCP, 18), "TCP_FASTOPEN": (TCP, 23), "TCP_NOTSENT_LOWAT": (TCP, 25),
    "TCP_FASTOPEN_CONNECT": (TCP, 30), "TCP_INQ": (TCP, 36),
    "SO_REUSEADDR": (SOL, 2), "SO_REUSEPORT": (SOL, 15), "SO_KEEPALIVE": (SOL, 9), "SO_OOBINLINE": (SOL, 10),
    "SO_RCVLOWAT": (SOL, 18), "SO_BROADCAST": (SOL, 6), "SO_DONTROUTE": (SOL, 5), "SO_PRIORITY": (SOL, 12),
    "SO_SNDBUF": (SOL, 7), "SO_RCVBUF": (SOL, 8), "SO_SNDBUFFORCE": (SOL, 32), "SO_RCVBUFFORCE": (SOL, 33),
    "SO_MAX_PACING_RATE": (SOL, 47), "IP_TOS": (0, 1), "IP_TTL": (0, 2),
}  # fmt: skip
VALUES = (0, 1, 2, 3, 5, 7, 20, 61, 88, 121, 127, 128, 255, 256, 1000, 1400, 32767, 32768, 65535, 100_000, -1, -5)
ONLY = {"SO_PRIORITY": (0, 1, 6), "SO_RCVLOWAT": (1, 100, 0, 60000), "TCP_FASTOPEN": (0, 5, 4096, -1)}
# of an open socket's these are measured, or mean what the two ends have agreed on
NOT_OPEN = {
    "TCP_MAXSEG", "TCP_QUICKACK", "TCP_WINDOW_CLAMP", "TCP_FASTOPEN", "TCP_FASTOPEN_CONNECT", "SO_SNDBUF", "SO_RCVBUF",
}  # fmt: skip


def attempt(work):
    try:
        return work()
    except OSError as error:
        return errno.errorcode[error.errno]


def one(sock: socket.socket, level: int, name: int, values) -> list:
    told = [attempt(lambda: sock.getsockopt(level, name))]
    for value in values:
        told.append((value, attempt(lambda v=value: sock.setsockopt(level, name, v)),
                     attempt(lambda: sock.getsockopt(level, name))))  # fmt: skip
    told.append(attempt(lambda: sock.setsockopt(level, name, b"\1\0")))  # too short
    told.append(attempt(lambda: len(sock.getsockopt(level, name, 2))))
    told.append(attempt(lambda: len(sock.getsockopt(level, name, 64))))
    return told


def lingers(sock: socket.socket) -> list:
    told = []
    for value in ((0, 0), (1, 5), (0, 7), (2, 0), (1, 3)):
        told.append(attempt(lambda v=value: sock.setsockopt(SOL, 13, struct.pack("ii", *v))))
        told.append(struct.unpack("ii", sock.getsockopt(SOL, 13, 8)))
    told.append(attempt(lambda: sock.setsockopt(SOL, 13, 1)))
    sock.setsockopt(SOL, 13, struct.pack("ii", 0, 0))
    return told


def states(address: str):
    """A socket in each state."""
    fresh = socket.socket()
    listening = socket.socket()
    listening.bind((address, 0))
    listening.listen()
    server = socket.socket()
    server.bind((address, 0))
    server.listen()
    opened = socket.create_connection(server.getsockname())
    accepted = server.accept()[0]
    return {"fresh": fresh, "listening": listening, "open": opened, "accepted": accepted}


def main(address: str) -> None:
    told = {}
    for state, sock in states(address).items():
        for name, (level, number) in NAMES.items():
            if state in ("open", "accepted") and name in NOT_OPEN:
                continue
            told[f"{state} {name}"] = one(sock, level, number, ONLY.get(name, VALUES))
        told[f"{state} SO_LINGER"] = lingers(sock)
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
