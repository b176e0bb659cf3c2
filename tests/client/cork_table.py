"""Sends datagrams in pieces (UDP_CORK, MSG_MORE), and prints what came of it as JSON: on the kernel, or on a stack.

No test itself. The argument is an IPv4 address of the host.
"""

from __future__ import annotations

import itertools
import json
import socket
import struct
import sys
import time
from typing import Any

from tests.client.inside_datagrams import IP_RECVTTL, UDP_SEGMENT
from tests.client.options_table import attempt

UDP, CORK, MORE = socket.IPPROTO_UDP, 1, socket.MSG_MORE
TTL = [(socket.IPPROTO_IP, socket.IP_TTL, struct.pack("i", 7))]
BAD = [(socket.IPPROTO_IP, socket.IP_TTL, struct.pack("i", 700))]
SCRIPTS: dict[str, list[tuple[Any, ...]]] = {
    "corked": [("cork", 1), ("send", 1), ("send", 2), ("look",), ("cork", 0)],
    "uncorked by nothing": [("cork", 0), ("send", 3)],
    "more": [("send", 1, MORE), ("send", 2, MORE), ("look",), ("send", 3)],
    "more, the last one empty": [("send", 5, MORE), ("send", 0), ("send", 1)],
    "of nothing": [("send", 0, MORE), ("look",), ("send", 0), ("send", 4)],
    "corked of nothing": [("cork", 1), ("send", 0), ("cork", 0), ("cork", 0)],
    "corked and more": [("cork", 1), ("send", 1, MORE), ("send", 2), ("look",), ("cork", 0)],
    "cork while it waits": [("send", 1, MORE), ("cork", 1), ("send", 2), ("look",), ("cork", 0)],
    "uncorked while it waits": [("send", 1, MORE), ("cork", 0), ("send", 2)],
    "the first address": [("to", "a", 1, MORE), ("to", "b", 2, MORE), ("send", 3)],
    "corked addresses": [("cork", 1), ("to", "b", 1), ("to", "a", 2), ("cork", 0), ("to", "a", 3), ("cork", 0)],
    "no address": [("alone",), ("cork", 1), ("send", 1), ("to", "a", 2), ("send", 3), ("cork", 0)],
    "connect meanwhile": [("send", 1, MORE), ("connect", "b"), ("send", 2), ("send", 3)],
    "to more": [("alone",), ("to", "a", 1, MORE), ("send", 2)],
    "largest": [("cork", 1), ("send", 60000), ("send", 5507), ("cork", 0), ("send", 1), ("cork", 0)],
    "one too large": [("cork", 1), ("send", 60000), ("send", 5508), ("send", 2), ("cork", 0)],
    "much too large": [("cork", 1), ("send", 1), ("send", 70000), ("send", 2), ("cork", 0)],
    "too large at once": [("send", 65508, MORE), ("send", 2)],
    "options of the first": [("ttl", 9), ("cork", 1), ("send", 1), ("message", 2, TTL), ("cork", 0)],
    "ancillary data": [("cork", 1), ("message", 1, TTL), ("message", 2, BAD), ("cork", 0)],
    "bad ancillary data": [("cork", 1), ("message", 1, BAD), ("send", 2), ("cork", 0)],
    "out of band": [("cork", 1), ("send", 1), ("send", 2, socket.MSG_OOB), ("cork", 0)],
    "end": [("cork", 1), ("send", 1), ("close",)],
    "shut": [("cork", 1), ("shut",), ("send", 1), ("cork", 0)],
    "segments": [("segment", 10), ("send", 15, MORE), ("segment", 0), ("send", 10)],
    "vectors": [("cork", 1), ("vector", (1, 2, 0, 3)), ("vector", (4,)), ("cork", 0)],
    "an error": [("connect", "nobody"), ("send", 1), ("send", 2, MORE), ("send", 3, MORE), ("connect", "a"),
                 ("send", 4)],
}  # fmt: skip


def text(count: int) -> bytes:
    return bytes([65 + count % 26]) * count


def step(sock: socket.socket, names: dict[str, Any], what: str, *rest: Any) -> Any:
    match what, *rest:
        case "cork", value:
            sock.setsockopt(UDP, CORK, value)
            return sock.getsockopt(UDP, CORK)
        case "segment", value:
            return sock.setsockopt(UDP, UDP_SEGMENT, value)
        case "ttl", value:
            return sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, value)
        case "send", count, *flags:
            return sock.send(text(count), *flags)
        case "vector", counts:
            return sock.sendmsg([text(count) for count in counts])
        case "message", count, control:
            return sock.sendmsg([text(count)], control)
        case "to", name, count, *flags:
            return sock.sendto(text(count), *flags, names[name])
        case "connect", name:
            return sock.connect(names[name])
        case ("shut",):
            return sock.shutdown(socket.SHUT_WR)
        case ("close",):
            return sock.close()
    raise ValueError(what)


def received(receivers: dict[str, socket.socket]) -> list[Any]:
    """Of each what has come: how many bytes of what, and its time to live."""
    time.sleep(0.03)  # until it is there
    told: list[Any] = []
    for name, sock in receivers.items():
        while True:
            try:
                data, control, *_ = sock.recvmsg(70000, 100)
            except BlockingIOError:
                break
            runs = [(chr(letter), len(list(same))) for letter, same in itertools.groupby(data)]
            told.append([name, runs, [struct.unpack("i", value)[0] for *_, value in control]])
    return told


def play(address: str, script: list[tuple[Any, ...]]) -> list[Any]:
    receivers = {name: socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for name in "ab"}
    for receiver in receivers.values():
        receiver.bind((address, 0))
        receiver.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        receiver.setblocking(False)
    names: dict[str, Any] = {name: receiver.getsockname() for name, receiver in receivers.items()}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind((address, 0))
        names["nobody"] = nobody.getsockname()
    told: list[Any] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if script[0] != ("alone",):
            sock.connect(names["a"])
        for each in script:
            if each == ("look",):
                told.append(received(receivers))
            elif each != ("alone",):
                told.append([*each[:2], attempt(lambda each=each: step(sock, names, *each))])
                if each[0] == "send":
                    time.sleep(0.01)  # until it has been refused
        told.append(received(receivers))
    for receiver in receivers.values():
        receiver.close()
    return told


def main(address: str) -> None:
    print(json.dumps({name: play(address, script) for name, script in SCRIPTS.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
