"""Does with sockets of both families what programs do, and prints what came of it as JSON: on the kernel, or a stack.

No test itself. The argument is an IPv6 address of the host; ports are replaced by names, so that both can be compared.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

SIX, FOUR, V6 = socket.AF_INET6, socket.AF_INET, socket.IPPROTO_IPV6
STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
OWN = sys.argv[1] if len(sys.argv) > 1 else "::1"
RECVORIGDSTADDR, ERRQUEUE = 74, socket.MSG_ERRQUEUE
OPTIONS = {
    "V6ONLY": 26, "UNICAST_HOPS": 16, "TCLASS": 67, "MULTICAST_HOPS": 18, "MULTICAST_LOOP": 19, "RECVPKTINFO": 49,
    "RECVHOPLIMIT": 51, "RECVTCLASS": 66, "RECVERR": 25, "MTU_DISCOVER": 23, "DONTFRAG": 62, "MTU": 24,
    "ORIGDSTADDR": RECVORIGDSTADDR, "NONE": 99,
}  # fmt: skip
TARGETS = ((SIX, "::1"), (SIX, OWN), (SIX, "::"), (FOUR, "127.0.0.1"), (SIX, "::ffff:127.0.0.1"))
BOUND = (("::", False), ("::", True), ("0.0.0.0", None), ("::1", False), ("127.0.0.1", None))
SOURCES = (
    "::1", OWN, "::", "2001:db8::9", "ff02::1", "::ffff:127.0.0.7", "::ffff:0.0.0.0", "::ffff:10.4.3.2",
)  # fmt: skip
FAR = "10.77.0.1"
VALUES = (0, 1, 2, 5, 6, 64, 255, 256, -1, -2)


def attempt(work: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return work(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def plain(name: tuple, *ports: int) -> list:
    """A socket's name, known ports by their place in `ports`."""
    return [name[0], ports.index(name[1]) if name[1] in ports else bool(name[1]), *name[2:]]


def made(family: int, kind: int, address: str | None = None, only: bool | None = None) -> socket.socket:
    sock = socket.socket(family, kind)
    if only is not None:
        sock.setsockopt(V6, socket.IPV6_V6ONLY, only)
    if address is not None:
        sock.bind((address, 0))
        if kind == STREAM:
            sock.listen()
    return sock


# ---- streams ----


def pairs() -> list:
    """Who can reach whom, and what both are told of it."""
    told = []
    for bound, only in (("::", False), ("::", True), ("::1", None), (OWN, None), ("::ffff:127.0.0.1", None)):
        with made(SIX, STREAM, bound, only) as listener:
            port = listener.getsockname()[1]
            for family, target in TARGETS:
                told.append([bound, only, target, attempt(meet, listener, family, target, port)])
    return told


def meet(listener: socket.socket, family: int, target: str, port: int) -> list:
    with socket.socket(family, STREAM) as client:
        client.settimeout(5)
        client.connect((target, port))
        listener.settimeout(5)
        server, name = listener.accept()
        with server:
            theirs = client.getsockname()[1]
            client.sendall(b"ask")
            got = server.recv(10)
            server.sendall(got + b"ed")
            names = [client.getsockname(), client.getpeername(), server.getsockname(), server.getpeername(), name]
            domain = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) for sock in (client, server)]
            return [[plain(each, port, theirs) for each in names], client.recv(10).decode(), domain]


def refusals() -> list:
    """What is not let through, and why."""
    told = []
    for family, kind in ((SIX, STREAM), (SIX, DGRAM), (FOUR, STREAM), (FOUR, DGRAM)):
        for name in ["::1", "fe80::1", "2001:db8::1", "::ffff:10.0.0.9", "ff02::1"] if family == SIX else []:
            for only in (False, True):
                told.append([name, only, attempt(made(family, kind, only=only).bind, (name, 0))])
        if family == SIX:
            told.append(attempt(made(family, kind).connect, ("fe80::1", 9)))
            told.append(attempt(made(family, kind, only=True).connect, ("::ffff:127.0.0.1", 9)))
            told.extend(from_one_family_to_another(kind))
        if kind == STREAM:
            told.append(attempt(made(family, kind).connect, ("::1" if family == SIX else "127.0.0.1", 9)))
    return told


def from_one_family_to_another(kind: int) -> list:
    """From an address of one family to one of the other: not at all, whether bound to it or not connected yet."""
    told = []
    four = "::ffff:127.0.0.1"
    for bound, target in (("::1", four), (OWN, four), (four, "::1"), (four, OWN), ("::", "::1"), ("::", four)):
        with socket.socket(SIX, kind) as sock:
            sock.bind((bound, 0))
            told.append([bound, target, attempt(sock.connect, (target, 9))])
        with socket.socket(SIX, DGRAM) as sock:
            sock.bind((bound, 0))
            told.append(attempt(sock.sendto, b"x", (target, 9)))
    return told


def raw_names() -> list:
    """Names of other families, and short ones."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    six = struct.pack("=HHI16sI", SIX, socket.htons(9), 0, socket.inet_pton(SIX, "::1"), 0)
    four = struct.pack("=HH4s8x", FOUR, socket.htons(9), socket.inet_aton("127.0.0.1"))
    none = struct.pack("=HH24x", 0, 0)
    told = []
    for family in (SIX, FOUR):
        for kind in (STREAM, DGRAM):
            for call in ("bind", "connect"):
                for name in (six, four, none, six[:24], six[:23], four[:15], six[:1]):
                    if call == "connect" and kind == STREAM and name in (six[:24], six, four):
                        continue  # refused in other ways
                    with socket.socket(family, kind) as sock:
                        done = getattr(libc, call)(sock.fileno(), name, len(name))
                        told.append([family, kind, call, len(name), errno.errorcode[ctypes.get_errno()] if done else 0])
    return told


def conflicts() -> list:
    """Two sockets that want the same port."""
    told = []
    for kind in (STREAM, DGRAM):
        for first, only1 in BOUND:
            with made(SIX if ":" in first else FOUR, kind, first, only1) as one:
                port = one.getsockname()[1]
                for second, only2 in BOUND:
                    with made(SIX if ":" in second else FOUR, kind, only=only2) as other:
                        told.append([kind, first, only1, second, only2, attempt(other.bind, (second, port))])
    return told


# ---- options ----


def options() -> dict:
    told = {}
    for kind in (STREAM, DGRAM):
        for name, number in OPTIONS.items():
            with socket.socket(SIX, kind) as sock:
                results = [attempt(sock.getsockopt, V6, number)]
                for value in VALUES:
                    done = attempt(sock.setsockopt, V6, number, value)
                    results.append([value, done, attempt(sock.getsockopt, V6, number)])
                results.append(attempt(sock.setsockopt, V6, number, b"\1\0"))
            told[f"{name} {kind}"] = results
        with socket.socket(SIX, kind) as sock:
            sock.bind(("::", 0))
            told[f"bound {kind}"] = attempt(sock.setsockopt, V6, socket.IPV6_V6ONLY, 1)
        with socket.socket(FOUR, kind) as sock:
            told[f"of IPv4 {kind}"] = [
                attempt(sock.setsockopt, V6, socket.IPV6_V6ONLY, 1),
                attempt(sock.getsockopt, V6, socket.IPV6_V6ONLY),
            ]
    return told


# ---- datagrams ----


def control(sock: socket.socket, flags: int = 0) -> list:
    """A message with its ancillary data; which interface it came by is not compared."""
    data, told, flags, name = sock.recvmsg(2048, 512, flags)
    cut = [[level, kind, (value[:16] if kind == 50 else value).hex()] for level, kind, value in told]
    return [data.decode(), cut, flags, name]


def datagrams() -> list:
    """What is told of a datagram: to a socket of both families, from each."""
    told = []
    with made(SIX, DGRAM, "::", False) as server:
        server.settimeout(5)
        for name in ("RECVPKTINFO", "RECVHOPLIMIT", "RECVTCLASS"):
            server.setsockopt(V6, OPTIONS[name], 1)
        port = server.getsockname()[1]
        for family, target in TARGETS:
            with made(family, DGRAM) as client:
                client.settimeout(5)
                if family == SIX:
                    client.setsockopt(V6, socket.IPV6_TCLASS, 0x28)
                    client.setsockopt(V6, socket.IPV6_UNICAST_HOPS, 9)
                client.sendto(b"one", (target, port))
                data, ancillary, flags, name = control(server)
                theirs = client.getsockname()[1]
                told.append([target, data, ancillary, flags, plain(name, port, theirs)])
                server.sendto(b"back", name)
                back, name = client.recvfrom(100)
                told.append([back.decode(), plain(name, port)])
                client.connect((target, port))
                told.append([plain(client.getsockname(), port, theirs), plain(client.getpeername(), port)])
                client.send(b"two")
                told.append(control(server)[0])
    return told


def of_each() -> list:
    """What a datagram is told to be sent as."""
    told = []
    info = socket.inet_pton(SIX, "::1") + struct.pack("=I", 0)
    with made(SIX, DGRAM, "::") as server, made(SIX, DGRAM) as client:
        server.settimeout(5)
        for name in ("RECVPKTINFO", "RECVHOPLIMIT", "RECVTCLASS", "ORIGDSTADDR"):
            server.setsockopt(V6, OPTIONS[name], 1)
        port = server.getsockname()[1]
        for kind, value in (
            (50, info), (52, struct.pack("=i", 7)), (67, struct.pack("=i", 0x54)), (52, struct.pack("=i", 300)),
            (67, b"\1"), (50, info[:-1]), (50, info[:-4] + struct.pack("=I", 77)), (99, b"\1\0\0\0"), (62, b"\1\0\0\0"),
        ):  # fmt: skip
            sent = attempt(client.sendmsg, [b"x"], [(V6, kind, value)], 0, ("::1", port))
            got = control(server) if sent == 1 else None
            if got:
                got[1] = [each for each in got[1] if each[1] != RECVORIGDSTADDR] + [len(got[1])]
                got[3] = plain(got[3], port)
            told.append([kind, sent, got])
    return told


def sources() -> list:
    """From where a datagram comes that is told to come from there."""
    told = []
    for target in ("::1", OWN, "::ffff:127.0.0.1"):
        with made(SIX, DGRAM, target) as server, made(SIX, DGRAM, "::") as client:
            server.settimeout(5)
            for source in SOURCES:
                info = [(V6, socket.IPV6_PKTINFO, struct.pack("=16sI", socket.inet_pton(SIX, source), 0))]
                sent = attempt(client.sendmsg, [b"x"], info, 0, server.getsockname())
                came = server.recvfrom(9)[1][0] if sent == 1 else None
                told.append([target, source, sent, came])
    return told


def segments() -> list:
    """What UDP_SEGMENT cuts, and what may not be cut: Linux refused that with EINVAL before 6.14 and 6.1.129."""
    told = []
    for family, target, most in ((FOUR, FAR, 1472), (SIX, f"::ffff:{FAR}", 1472), (SIX, f"{OWN[:-1]}1", 1452)):
        for segment, length in (
            (most, 3000),
            (most + 1, 3000),
            (65535, most),
            (65535, most + 1),
            (most + 1, 9),
            (9, 9000),
        ):
            with made(family, DGRAM) as client:
                client.setsockopt(socket.IPPROTO_UDP, 103, segment)
                sent = attempt(client.sendto, bytes(length), (target, 9))
                told.append([target, segment, length, "refused" if sent in ("EINVAL", "EMSGSIZE") else sent])
    return told


def errors() -> list:
    """Nobody listens there."""
    told = []
    for family, target in ((SIX, "::1"), (SIX, OWN), (SIX, "::ffff:127.0.0.1")):
        with made(SIX, DGRAM, "::1") as vacant:
            port = vacant.getsockname()[1]
        with made(family, DGRAM) as sock:
            sock.settimeout(5)
            sock.setsockopt(V6, OPTIONS["RECVERR"], 1)
            if "ffff" in target:
                sock.setsockopt(socket.IPPROTO_IP, 11, 1)
            sock.connect((target, port))
            sock.send(b"lost")
            select.select([sock], [], [], 5)
            data, ancillary, flags, name = control(sock, ERRQUEUE)
            told.append([target, data, ancillary, flags, plain(name, port)])
            told.append(attempt(sock.send, b"again"))
    return told


def inherited() -> list:
    """A child has the listener, and what it accepts is of its family."""
    with made(SIX, STREAM, "::") as listener:
        port = listener.getsockname()[1]
        child = os.fork()
        if not child:
            server, name = listener.accept()
            server.sendall(json.dumps([plain(name), server.family, server.getsockopt(1, socket.SO_DOMAIN)]).encode())
            os._exit(0)
        told = []
        with socket.create_connection(("::1", port)) as client:
            told.append(client.makefile().read())
        os.waitpid(child, 0)
        return told


def main() -> None:
    parts = (pairs, refusals, raw_names, conflicts, options, datagrams, of_each, sources, segments, errors, inherited)
    print(json.dumps({part.__name__: part() for part in parts}))


if __name__ == "__main__":
    main()
