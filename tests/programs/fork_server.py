"""Echo servers of three old kinds: python fork_server.py KIND ADDRESS PORT.

fork    a parent that accepts, and a child for each connection
inetd   each connection becomes standard input and output of `cat`
exec    a process that listens, then replaces itself by another program image, which accepts
"""

import os
import socket
import socketserver
import subprocess
import sys
import threading


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


class ForkingServer(socketserver.ForkingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128


def inetd(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            child = subprocess.Popen(["cat"], stdin=connection, stdout=connection)
        threading.Thread(target=child.wait, daemon=True).start()


def become(address: str, port: int) -> None:
    listener = listen(address, port)
    listener.set_inheritable(True)
    os.execv(sys.executable, [sys.executable, __file__, "inherited", str(listener.fileno()), "0"])


def inherited(descriptor: int) -> None:
    listener = socket.socket(fileno=descriptor)
    while True:
        threading.Thread(target=echo, args=listener.accept(), daemon=True).start()


def echo(connection: socket.socket, peer: object) -> None:
    with connection:
        Echo(connection, peer, None)


def listen(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port), backlog=128)


def main(kind: str, address: str, port: int) -> None:
    if kind == "fork":
        ForkingServer((address, port), Echo).serve_forever()
    elif kind == "inetd":
        inetd(listen(address, port))
    elif kind == "exec":
        become(address, port)
    elif kind == "inherited":
        inherited(int(address))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
