"""A server that hands over to its successor by SO_REUSEPORT: python reuseport_server.py ADDRESS PORT DIRECTORY.

SIGTERM: it accepts what waits, closes the listener, answers once more on each kept connection, and ends.
"""

import contextlib
import socket
import sys
import threading
from pathlib import Path
from signal import SIGTERM, signal

stopping = threading.Event()


def serve(connection: socket.socket, root: Path) -> None:
    with connection, connection.makefile("rb") as stream:
        while request := stream.readline():
            fields = set(iter(stream.readline, b"\r\n"))
            body = (root / request.split()[1][1:].decode()).read_bytes()
            last = stopping.is_set() or b"Connection: close\r\n" in fields
            manner = "close" if last else "keep-alive"
            connection.sendall(
                f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: {manner}\r\n\r\n".encode()
            )
            connection.sendall(body)
            if last:
                return


def take(listener: socket.socket, root: Path) -> None:
    connection, _ = listener.accept()
    connection.setblocking(True)
    threading.Thread(target=serve, args=(connection, root)).start()


def main(address: str, port: int, root: Path) -> None:
    signal(SIGTERM, lambda *_: stopping.set())
    with socket.create_server((address, port), backlog=128, reuse_port=True) as listener:
        print("listening", flush=True)
        listener.settimeout(0.02)
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                take(listener, root)
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                take(listener, root)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
