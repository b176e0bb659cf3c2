"""A UDP echo server and client in plain Python and in asyncio.

datagram_echo.py server ADDRESS PORT          echoes until it is ended
datagram_echo.py asyncio ADDRESS PORT         the same by asyncio
datagram_echo.py client ADDRESS PORT COUNT    asks from four sockets in turn; prints what was answered and from where
datagram_echo.py steady ADDRESS PORT SECONDS  asks one by one for a time; prints answers and losses
"""

import asyncio
import json
import socket
import sys
import time


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        self.transport.sendto(data, source)  # type: ignore[attr-defined]


def opened(address: str) -> socket.socket:
    """A socket of the family of `address`."""
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)


def server(address: str, port: int) -> None:
    with opened(address) as s:
        s.bind((address, port))
        while True:
            s.sendto(*s.recvfrom(65536))


async def serve(address: str, port: int) -> None:
    await asyncio.get_running_loop().create_datagram_endpoint(Echo, local_addr=(address, port))
    await asyncio.Event().wait()


def ask(s: socket.socket, where: tuple[str, int], data: bytes, tries: int = 50) -> tuple[bytes, tuple[str, int]] | None:
    """Send until it is answered: at first the server may not be there."""
    for _ in range(tries):
        try:
            s.sendto(data, where)
            return s.recvfrom(65536)
        except TimeoutError:
            continue
        except ConnectionRefusedError:
            time.sleep(0.1)
    return None


def client(address: str, port: int, count: int) -> None:
    sockets = [opened(address) for _ in range(4)]
    for s in sockets:
        s.settimeout(0.2)
    sockets[0].connect((address, port))
    answers, sources = 0, set()
    for number in range(count):
        data = bytes([number & 0xFF]) * (1 + number * 37 % 1400)
        got = ask(sockets[number % 4], (address, port), data)
        if got is not None:
            answers += got[0] == data
            sources.add(got[1])
    print(json.dumps({"answers": answers, "sources": sorted(sources)}))


def steady(address: str, port: int, seconds: float) -> None:
    s = opened(address)
    s.settimeout(0.1)
    s.connect((address, port))
    assert ask(s, (address, port), b"first") is not None
    answers = losses = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = b"%d" % answers
        got = ask(s, (address, port), data, 1)
        while got is not None and got[0] != data:  # an answer that came late
            got = ask(s, (address, port), data, 1)
        answers += got is not None
        losses += got is None
    print(json.dumps({"answers": answers, "losses": losses}))


if __name__ == "__main__":
    what, address, port, *more = sys.argv[1:]
    if what == "asyncio":
        asyncio.run(serve(address, int(port)))
    else:
        {"server": server, "client": client, "steady": steady}[what](
            address, int(port), *map(float if what == "steady" else int, more)
        )
