"""Joins and leaves groups of hosts in every way, and prints what came of it as JSON: on the kernel, or on a stack.

No test itself. The argument is an address of the host, of IPv4, that stands on its interface to a network.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from typing import Any

from tests.client.options_table import attempt

IP, V6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
ADD, DROP, JOIN6, LEAVE6, MCAST_JOIN, MCAST_LEAVE, MULTICAST_ALL = 35, 36, 20, 21, 42, 45, 49
UNBLOCK, BLOCK, JOIN, LEAVE = range(4)  # sources: IP_UNBLOCK_SOURCE and so on, from 37; and with MCAST_:
MCAST_SOURCES = (44, 43, 46, 47)
INTERFACE = max(index for index, _ in socket.if_nameindex())  # a stack's only one, or the kernel's beside lo
GROUPS = ("239.1.2.3", "224.0.0.251", "10.0.0.1", "0.0.0.0")
OTHER = "10.0.0.9"
GROUPS6 = ("ff15::1", "ff02::fb", "fd00::1", "::ffff:239.1.2.3")


def request(family: int, group: str, interface: int = 0) -> bytes:
    """struct group_req."""
    if family == socket.AF_INET:
        name = struct.pack("=HH4s", family, 0, socket.inet_aton(group))
    else:
        name = struct.pack("=HHI16sI", family, 0, 0, socket.inet_pton(family, group), 0)
    return struct.pack("=I4x", interface) + name.ljust(128, b"\0")


def mreq(group: str, address: str = "0.0.0.0", interface: int | None = None) -> bytes:
    index = b"" if interface is None else struct.pack("i", interface)
    return socket.inet_aton(group) + socket.inet_aton(address) + index


def mreq6(group: str, interface: int = 0) -> bytes:
    return socket.inet_pton(socket.AF_INET6, group) + struct.pack("i", interface)


def four(own: str) -> list[Any]:
    told: list[Any] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:

        def ask(name: int, value: bytes) -> None:
            told.append(attempt(lambda: sock.setsockopt(IP, name, value)))

        for group in GROUPS:
            for name in (MCAST_LEAVE, MCAST_JOIN, MCAST_JOIN, ADD, MCAST_LEAVE, MCAST_LEAVE, DROP):
                ask(name, request(socket.AF_INET, group) if name > ADD + 1 else mreq(group))
            for interface in (INTERFACE, INTERFACE + 70):
                for name in (MCAST_LEAVE, MCAST_JOIN, MCAST_JOIN, MCAST_LEAVE):
                    ask(name, request(socket.AF_INET, group, interface))
                for name in (ADD, ADD, DROP, DROP):
                    ask(name, mreq(group, interface=interface))
            for address in (own, "10.9.9.9"):
                for name in (ADD, ADD, DROP, DROP):
                    ask(name, mreq(group, address))
        whole = request(socket.AF_INET, GROUPS[0])
        for value in (whole[:135], whole[:24], whole + b"\0" * 20, request(socket.AF_INET6, GROUPS6[0])):
            ask(MCAST_JOIN, value)
            ask(MCAST_LEAVE, value)
        for value in (mreq(GROUPS[0])[:7], mreq(GROUPS[0])[:4]):
            ask(ADD, value)
            ask(DROP, value)
        for last in range(21):
            ask(MCAST_JOIN, request(socket.AF_INET, f"239.0.0.{last + 1}"))
    return told


def six() -> list[Any]:
    told: list[Any] = []
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:

        def ask(name: int, value: bytes) -> None:
            told.append(attempt(lambda: sock.setsockopt(V6, name, value)))

        for group in GROUPS6:
            for interface in (0, INTERFACE, INTERFACE + 70):
                for name in (
                    MCAST_LEAVE,
                    MCAST_JOIN,
                    MCAST_JOIN,
                    JOIN6,
                    MCAST_LEAVE,
                    MCAST_LEAVE,
                    JOIN6,
                    JOIN6,
                    LEAVE6,
                ):
                    ask(name, (mreq6 if name < ADD else six_request)(group, interface))
        whole = six_request(GROUPS6[0])
        for value in (whole[:135], whole + b"\0" * 20, request(socket.AF_INET, GROUPS[0])):
            ask(MCAST_JOIN, value)
            ask(MCAST_LEAVE, value)
        told.append(attempt(lambda: sock.setsockopt(IP, MCAST_JOIN, request(socket.AF_INET, GROUPS[0]))))
        told.append(attempt(lambda: sock.setsockopt(IP, MCAST_LEAVE, request(socket.AF_INET, GROUPS[0]))))
    return told


def six_request(group: str, interface: int = 0) -> bytes:
    return request(socket.AF_INET6, group, interface)


def received(own: str) -> list[Any]:
    """Who has joined, before or after bind(), is sent what goes to the group."""
    told = []
    for first in (True, False):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, socket.socket(socket.AF_INET, 2) as sender:
            if first:
                sock.setsockopt(IP, MCAST_JOIN, request(socket.AF_INET, GROUPS[0], INTERFACE))
            sock.bind(("", 0))
            if not first:
                sock.setsockopt(IP, MCAST_JOIN, request(socket.AF_INET, GROUPS[0], INTERFACE))
            sock.settimeout(0.2)
            sender.setsockopt(IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
            time.sleep(0.1)  # until every replica knows
            for leave in (False, True):
                if leave:
                    sock.setsockopt(IP, MCAST_LEAVE, request(socket.AF_INET, GROUPS[0], INTERFACE))
                    time.sleep(0.1)
                sender.sendto(b"x", (GROUPS[0], sock.getsockname()[1]))
                told.append(attempt(lambda sock=sock: sock.recv(9).decode()) if not leave else None)
    return told


def of_others(own: str) -> list[Any]:
    """IP_MULTICAST_ALL: whether what goes to a group that another socket has joined is received."""
    told = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member, socket.socket(socket.AF_INET, 2) as other:
        for sock in (member, other):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", member.getsockname()[1]))
        member.setsockopt(IP, MCAST_JOIN, request(socket.AF_INET, GROUPS[0], INTERFACE))
        member.setsockopt(IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
        time.sleep(0.1)
        for every in (1, 0, 1):
            other.setsockopt(IP, MULTICAST_ALL, every)
            for text, to in ((b"x", GROUPS[0]), (b"yz", own)):  # the second to the last one bound
                member.sendto(text, (to, member.getsockname()[1]))
                time.sleep(0.1)
                for sock in (member, other):
                    told.append(bool(select.select([sock], [], [], 0)[0]))
                    told.append(attempt(lambda sock=sock: sock.recv(9, socket.MSG_DONTWAIT).decode()))
    return told


def source_request(group: str, source: str, interface: int = 0) -> bytes:
    """struct group_source_req."""
    six = ":" in group
    source_six = ":" in source
    return (
        request(socket.AF_INET6 if six else socket.AF_INET, group, interface)
        + request(socket.AF_INET6 if source_six else socket.AF_INET, source)[8:]
    )


def sources(own: str) -> list[Any]:
    """Wanted and blocked sources of groups (RFC 3678), and what then comes from this host."""
    told: list[Any] = []
    steps = (
        (BLOCK, own), (JOIN, own), "send", (JOIN, own), (JOIN, OTHER), (BLOCK, own), (LEAVE, own), "send", (LEAVE, own),
        (LEAVE, OTHER), (UNBLOCK, own), "join", "send", (UNBLOCK, own), (BLOCK, own), "send", (BLOCK, own),
        (BLOCK, OTHER), (JOIN, own), (UNBLOCK, own), "send", (UNBLOCK, OTHER), (JOIN, own), "leave", (JOIN, own),
        "send", "leave", "send", *((JOIN, f"10.0.0.{last + 1}") for last in range(11)),
    )  # fmt: skip
    for by_address in (True, False):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", 0))
            sock.setsockopt(IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
            for step in steps:
                told.append(attempt(lambda step=step, sock=sock, one=by_address: source_step(sock, own, step, one)))
            for last in range(11):
                told.append(
                    attempt(lambda last=last, sock=sock: source_step(sock, own, (JOIN, f"10.0.0.{last + 1}"), True))
                )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name in (39, MCAST_SOURCES[JOIN]):
            for value in (
                b"", bytes(11), bytes(12), bytes(13), source_request(OTHER, own), source_request(GROUPS[0], own)[:263],
                source_request(GROUPS[0], "fd77::2"), source_request(GROUPS[0], own, INTERFACE + 70),
                mreq(GROUPS[0], "10.9.9.9") + socket.inet_aton(own),
            ):  # fmt: skip
                told.append(attempt(lambda name=name, value=value: sock.setsockopt(IP, name, value)))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        for name in MCAST_SOURCES:
            for group in (GROUPS6[0], "fd00::1", GROUPS6[1]):
                for source, interface in (
                    ("fd77::2", 0),
                    ("fd77::9", INTERFACE),
                    (own, 0),
                    ("fd77::2", INTERFACE + 70),
                ):
                    value = source_request(group, source, interface)
                    told.append(attempt(lambda name=name, value=value: sock.setsockopt(V6, name, value)))
    return told


def source_step(sock: socket.socket, own: str, step: Any, by_address: bool) -> Any:
    match step:
        case "join" | "leave":
            return sock.setsockopt(IP, ADD if step == "join" else DROP, mreq(GROUPS[0]))
        case "send":
            sock.sendto(b"x", (GROUPS[0], sock.getsockname()[1]))
            time.sleep(0.1)
            return [bool(select.select([sock], [], [], 0)[0]), len(sock.recv(9, socket.MSG_DONTWAIT))]
        case (which, source) if by_address:
            return sock.setsockopt(IP, 37 + which, mreq(GROUPS[0]) + socket.inet_aton(source))
        case which, source:
            return sock.setsockopt(IP, MCAST_SOURCES[which], source_request(GROUPS[0], source))


def main(own: str) -> None:
    print(json.dumps({"four": four(own), "six": six(), "received": received(own), "of others": of_others(own),
                      "sources": sources(own)}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
