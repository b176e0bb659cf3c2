"""What a listener is told and its connections have: prints it as JSON, on the kernel or on a stack. No test itself.

TCP_SAVE_SYN and TCP_SAVED_SYN, TCP_FASTOPEN_KEY. The argument is an IPv4 address of the host.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from typing import Any

from tests.client.options_table import TCP, attempt

TCP_FASTOPEN, SAVE_SYN, SAVED_SYN, KEY = 23, 27, 28, 33
FASTOPEN = 0x20000000  # MSG_FASTOPEN
ETHERNET = 14
MOST = 200


def pair(address: str, *, before: int = 0, after: int | None = None, family: int = socket.AF_INET) -> Any:
    """Both ends, whose listener was told TCP_SAVE_SYN before listen(), or after it."""
    with socket.socket(family) as listener:
        listener.setsockopt(TCP, SAVE_SYN, before)
        listener.bind((address, 0))
        listener.listen()
        if after is not None:
            listener.setsockopt(TCP, SAVE_SYN, after)
        client = socket.create_connection(listener.getsockname()[:2])
        return client, listener.accept()[0]


def told(sock: socket.socket, room: int = MOST) -> Any:
    return attempt(lambda: sock.getsockopt(TCP, SAVED_SYN, room))


def looked_at(syn: bytes, client: socket.socket, *, mac: bool = False) -> list[Any]:
    """What of the headers of a SYN must be as on Linux."""
    kind, ip = syn[:ETHERNET][12:] if mac else b"", syn[ETHERNET:] if mac else syn
    at = 20 if ip[0] >> 4 == 4 else 40
    tcp = ip[at:]
    source = socket.inet_ntop(socket.AF_INET if at == 20 else socket.AF_INET6, ip[12:16] if at == 20 else ip[8:24])
    return [
        kind.hex(),
        ip[0],
        ip[9] if at == 20 else ip[6],
        source == client.getsockname()[0],
        len(tcp) - (tcp[12] >> 2 & ~3),
        int.from_bytes(tcp[:2], "big") == client.getsockname()[1],
        tcp[13] & 0x12,
    ]


def saved(address: str, family: int = socket.AF_INET) -> list[Any]:
    said: list[Any] = []
    for before, after in ((0, None), (1, None), (2, None), (0, 1), (1, 0), (0, 2)):
        client, accepted = pair(address, before=before, after=after, family=family)
        with client, accepted:
            said.append([accepted.getsockopt(TCP, SAVE_SYN), str(told(accepted, 10)), str(told(client))])
            syn = told(accepted)
            said.append(looked_at(syn, client, mac=2 in (before, after)) if syn else "nothing")
            said.append([str(told(accepted)), str(told(accepted, 4))])
            said.append([attempt(lambda end=end: end.setsockopt(TCP, SAVED_SYN, 1)) for end in (client, accepted)])
    return said


def values(address: str) -> list[Any]:
    said: list[Any] = []
    with socket.create_server((address, 0)) as server, socket.socket() as fresh:
        said += [str(told(server)), str(told(fresh)), str(told(fresh, 0)), fresh.getsockopt(TCP, SAVE_SYN)]
        for value in (1, 2, 3, -1, 0, b"\1"):
            said.append(attempt(lambda value=value: fresh.setsockopt(TCP, SAVE_SYN, value)))
            said.append(fresh.getsockopt(TCP, SAVE_SYN))
    return said


def after_the_end(address: str) -> list[Any]:
    """Of a connection that the peer has closed, of one that it has reset."""
    client, accepted = pair(address, before=1)
    with accepted:
        client.close()
        accepted.recv(1)
        return [len(told(accepted))]


def fast(address: str, *keys: bytes) -> list[bool]:
    """With each of some keys, whether text comes with the first SYN to a listener that has it, then with some other.

    Not with the next: the stack's replicas keep their cookies apart.
    """
    said = []
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.setsockopt(TCP, TCP_FASTOPEN, 5)
        listener.listen()
        for key in keys:
            listener.setsockopt(TCP, KEY, key)
            said += [came(listener), any(came(listener) for _ in range(30))]
    return said


def came(listener: socket.socket) -> bool:
    """Whether the text on a SYN was taken: TCPI_OPT_SYN_DATA."""
    with socket.socket() as client:
        client.sendto(b"early", FASTOPEN, listener.getsockname())
        with listener.accept()[0] as accepted:
            accepted.recv(9)
            return bool(accepted.getsockopt(TCP, socket.TCP_INFO, 200)[5] & 32)


def key_values() -> list[Any]:
    said: list[Any] = []
    with socket.socket() as fresh, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        get: Callable[[int], Any] = lambda room: attempt(lambda: fresh.getsockopt(TCP, KEY, room).hex())  # noqa: E731
        for size in (16, 32, 16, 0, 8, 17, 31, 33, 48):
            said.append(
                [attempt(lambda size=size: fresh.setsockopt(TCP, KEY, bytes(range(size)))), get(64), get(20), get(4)]
            )
        said.append(
            [
                attempt(lambda: datagram.setsockopt(TCP, KEY, bytes(16))),
                attempt(lambda: datagram.getsockopt(TCP, KEY, 16)),
            ]
        )
    return said


def main(address: str) -> None:
    one, two = bytes(range(16)), bytes(range(16, 32))
    said = {
        "saved": saved(address), "saved of IPv6": saved("::1", socket.AF_INET6), "values": values(address),
        "after the end": after_the_end(address), "keys": key_values(), "one key, then another": fast(address, one, two),
    }  # fmt: skip
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
