"""What scripts with UDP sockets have in common, on the kernel and on the mirror stack."""

from __future__ import annotations

import asyncio  # noqa: F401
import ctypes
import fcntl  # noqa: F401
import select  # noqa: F401
import socket
import struct  # noqa: F401
import sys  # noqa: F401
import termios  # noqa: F401
import threading  # noqa: F401

IP_PKTINFO, IP_RECVERR, IP_RECVTTL, IP_MTU, UDP_SEGMENT, UDP_GRO, SO_TIMESTAMPNS = 8, 11, 12, 14, 103, 104, 35


def sockets(count: int = 2, bound: int = 1) -> list[socket.socket]:
    """UDP sockets that give up after 5 s, the first of them bound."""
    made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for one in made[:bound]:
        one.bind(("127.0.0.1", 0))
    for one in made:
        one.settimeout(5)
    return made


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("len", ctypes.c_size_t)]


class Msghdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint),
        ("iov", ctypes.POINTER(Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class Mmsghdr(ctypes.Structure):
    _fields_ = [("hdr", Msghdr), ("len", ctypes.c_uint)]


def vector(texts: list[bytes]) -> ctypes.Array[Mmsghdr]:
    """For sendmmsg() and recvmmsg(): a message for each text."""
    pieces = [Iovec(text, len(text)) for text in texts]
    made = (Mmsghdr * len(texts))(*[Mmsghdr(Msghdr(iov=ctypes.pointer(p), iovlen=1)) for p in pieces])
    made.pieces = pieces
    return made
