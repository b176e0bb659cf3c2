"""A UDP echo server and its load: recvmmsg and sendmmsg by the batch, so that Python is not what is measured.

python udp_echo.py server ADDRESS PORT
python udp_echo.py client ADDRESS PORT SECONDS    prints answers per second, and requests that were lost, as JSON
"""

from __future__ import annotations

import ctypes
import json
import socket
import struct
import sys
import time

SOCKETS, WINDOW = 16, 4  # 64 requests are under way
BATCH = 64
SIZE = 20  # bytes, as the file of the other figures
MSG_WAITFORONE = 0x10000
LIBC = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    """struct mmsghdr"""

    _fields_ = [
        ("name", ctypes.c_void_p), ("name_length", ctypes.c_uint), ("iov", ctypes.c_void_p),
        ("pieces", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t), ("flags", ctypes.c_long),
        ("length", ctypes.c_uint),
    ]  # fmt: skip


class Batch:
    """Room for so many messages of SIZE bytes, with names or without."""

    def __init__(self, count: int, names: bool) -> None:
        self.data = ctypes.create_string_buffer(SIZE * count)
        self.names = ctypes.create_string_buffer(16 * count)
        self.pieces = (Iovec * count)()
        self.messages = (Message * count)()
        for k in range(count):
            self.pieces[k] = Iovec(ctypes.addressof(self.data) + SIZE * k, SIZE)
            self.messages[k].iov, self.messages[k].pieces = ctypes.addressof(self.pieces[k]), 1
            if names:
                self.messages[k].name, self.messages[k].name_length = ctypes.addressof(self.names) + 16 * k, 16


def server(address: str, port: int) -> None:
    batch = Batch(BATCH, True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((address, port))
        fd = s.fileno()
        while True:
            count = LIBC.recvmmsg(fd, batch.messages, BATCH, MSG_WAITFORONE, None)
            LIBC.sendmmsg(fd, batch.messages, count, 0)


def client(address: str, port: int, seconds: float) -> None:
    made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(SOCKETS)]
    for s in made:
        s.connect((address, port))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 100_000))
    while not answered(made[0]):  # the server is not there yet
        time.sleep(0.02)
    batch = Batch(WINDOW, False)
    numbers = [s.fileno() for s in made]
    answers = lost = 0
    for fd in numbers:
        LIBC.sendmmsg(fd, batch.messages, WINDOW, 0)
    began = time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        for fd in numbers:
            count = max(LIBC.recvmmsg(fd, batch.messages, WINDOW, 0, None), 0)
            answers += count
            lost += WINDOW - count
            LIBC.sendmmsg(fd, batch.messages, WINDOW, 0)
    print(json.dumps({"rate": answers / (now - began), "lost": lost}))


def answered(s: socket.socket) -> bool:
    try:
        s.send(bytes(SIZE))
        return len(s.recv(SIZE)) == SIZE
    except OSError:
        return False


if __name__ == "__main__":
    what, address, port, *more = sys.argv[1:]
    if what == "server":
        server(address, int(port))
    else:
        client(address, int(port), float(more[0]))
