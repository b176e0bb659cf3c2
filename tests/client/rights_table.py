"""Sockets that go from process to process (SCM_RIGHTS): prints it as JSON, on the kernel or on a stack. No test itself.

The argument is an IPv4 address of the host.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 10  # seconds, for what must come
ADDRESS = sys.argv[1] if len(sys.argv) > 1 else ""
RECEIVER = (
    "import json, socket, sys; way = socket.socket(fileno=0);"
    "data, (fd,), _, _ = socket.recv_fds(way, 9, 1); s = socket.socket(fileno=fd);"
    "print(json.dumps([data.decode(), s.recv(9).decode(), s.send(b'from the new image')]))"
)


def attempt(work: Callable[..., Any], *arguments: Any) -> Any:
    try:
        told = work(*arguments)
        return told.decode() if isinstance(told, bytes) else told
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def in_the_end(wanted: Any, work: Callable[..., Any], *arguments: Any) -> Any:
    """What an attempt comes to: what ends with another process, or with a message, ends behind our back."""
    until = time.monotonic() + PATIENCE
    while (told := attempt(work, *arguments)) != wanted and time.monotonic() < until:
        time.sleep(0.01)
    return told


def silent(sock: socket.socket) -> bool:
    """Whether nothing is heard, neither text nor the end."""
    return not select.select([sock], [], [], 0.05)[0]


def listener() -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((ADDRESS, 0))
    made.listen()
    return made


def pair() -> tuple[socket.socket, socket.socket]:
    """A connection: the end that connected, the end that was accepted; neither waits for ever."""
    with listener() as accepting:
        client = socket.create_connection(accepting.getsockname())
        server, _ = accepting.accept()
    client.settimeout(PATIENCE)
    return client, server


def arrived(way: socket.socket, most: int = 4, flags: int = 0) -> tuple[Any, list[socket.socket]]:
    """A message: its text and flags; the sockets that came with it."""
    room = socket.CMSG_SPACE(most * 4) if most else 0
    data, ancillary, told, _ = way.recvmsg(100, room, flags)
    fds = array.array("i")
    for _, _, numbers in ancillary:
        fds.frombytes(numbers)
    return [data.decode(), told], [socket.socket(fileno=fd) for fd in fds]


def send(way: socket.socket, *passed: Any, text: bytes = b"x") -> None:
    socket.send_fds(way, [text], [one if isinstance(one, int) else one.fileno() for one in passed])


class Other:
    """A process that has been there before the sockets that it is sent."""

    def __init__(self, work: Callable[[socket.socket], Any]) -> None:
        self.way, theirs = socket.socketpair()
        self.said, say = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self.way.close()
            os.close(self.said)
            signal.alarm(20)
            with os.fdopen(say, "w") as out:
                json.dump(attempt(work, theirs), out)
            os._exit(0)
        theirs.close()
        os.close(say)

    def result(self) -> Any:
        with os.fdopen(self.said) as told:
            said = json.load(told)
        os.waitpid(self.pid, 0)
        return said


def talk(sock: socket.socket) -> Any:
    sock.settimeout(PATIENCE)
    heard = sock.recv(100).decode()
    return [heard, sock.send(b"from the other"), sock.family, sock.type, sock.getpeername()[0]]


def connection() -> Any:
    other = Other(lambda way: [talk(sock) for sock in arrived(way)[1]])
    client, server = pair()
    send(other.way, server)
    server.close()
    client.send(b"hello")
    return [client.recv(100).decode(), other.result(), client.recv(1).decode()]


def both_keep_it() -> Any:
    other = Other(lambda way: [sock.send(b"other") for sock in arrived(way)[1]])
    client, server = pair()
    send(other.way, server)
    said = [other.result(), client.recv(5).decode(), server.send(b"still"), client.recv(5).decode()]
    server.close()
    return [*said, client.recv(1).decode()]


def sender_is_gone() -> Any:
    """It exits before anybody has received."""
    ours, theirs = socket.socketpair()
    accepting = listener()

    def give(way: socket.socket) -> None:
        server, _ = accepting.accept()
        send(theirs, server)

    other = Other(give)
    client = socket.create_connection(accepting.getsockname())
    client.settimeout(PATIENCE)
    said = other.result()
    client.send(b"late")
    theirs.close()
    early = silent(client)
    [server] = arrived(ours)[1]
    said = [said, early, server.recv(10).decode(), server.send(b"found"), client.recv(10).decode()]
    server.close()
    return [*said, client.recv(1).decode()]


def nobody_receives() -> Any:
    one, two = socket.socketpair()
    client, server = pair()
    send(one, server)
    server.close()
    before = silent(client)
    one.close()
    two.close()
    return [before, attempt(client.recv, 1)]


def no_room() -> Any:
    """MSG_CTRUNC: of two sockets one is lost, and closed."""
    one, two = socket.socketpair()
    ends = [pair() for _ in range(2)]
    send(one, *(server for _, server in ends))
    for _, server in ends:
        server.close()
    data, ancillary, flags, _ = two.recvmsg(10, socket.CMSG_LEN(4))
    fds = array.array("i", ancillary[0][2])
    said = [data.decode(), flags & socket.MSG_CTRUNC != 0, len(fds), attempt(ends[1][0].recv, 1)]
    with socket.socket(fileno=fds[0]) as server:
        server.send(b"kept")
    return [*said, ends[0][0].recv(4).decode()]


def no_room_at_all() -> Any:
    one, two = socket.socketpair()
    client, server = pair()
    send(one, server)
    server.close()
    return [two.recv(10).decode(), attempt(client.recv, 1)]


def to_itself() -> Any:
    """Descriptors of one description."""
    one, two = socket.socketpair()
    client, server = pair()
    send(one, server)
    [again] = arrived(two)[1]
    os.set_blocking(server.fileno(), False)
    said: list[Any] = [os.get_blocking(again.fileno())]
    server.close()
    client.send(b"abc")
    os.set_blocking(again.fileno(), True)
    said.append(again.recv(3).decode())
    again.close()
    return [*said, client.recv(1).decode()]


def to_itself_closed() -> Any:
    """Twice: nobody has it in between, but the message."""
    one, two = socket.socketpair()
    client, server = pair()
    said = []
    for n in range(3):
        send(one, server)
        server.close()
        [server] = arrived(two)[1]
        pair()  # the place that it was in is not free
        with select.epoll() as epoll:
            epoll.register(server, select.EPOLLIN)
            threading.Timer(0.05, client.send, [b"%d" % n]).start()
            said.append(len(epoll.poll(PATIENCE)))
        said.append([server.recv(1).decode(), server.send(b"y"), client.recv(1).decode()])
    server.close()
    said.append(client.recv(1).decode())
    return said


def peeked() -> Any:
    one, two = socket.socketpair()
    client, server = pair()
    send(one, server)
    server.close()
    [early] = arrived(two, flags=socket.MSG_PEEK)[1]
    client.send(b"abcd")
    said = [early.recv(1).decode()]
    early.close()
    [late] = arrived(two)[1]
    said.append(late.recv(10).decode())
    late.close()
    return [*said, client.recv(1).decode()]


def among_files() -> Any:
    """And whether each is closed by exec()."""
    one, two = socket.socketpair()
    reading, writing = os.pipe()
    client, server = pair()
    client.setblocking(True)
    send(one, reading, server, 0, client)
    data, ancillary, _, _ = two.recvmsg(10, 100)
    fds = array.array("i", ancillary[0][2])
    os.write(writing, b"pipe")
    os.write(fds[1], b"socket")
    said = [data.decode(), len(fds), os.read(fds[0], 10).decode(), os.read(fds[3], 10).decode()]
    said.append([fcntl.fcntl(fd, fcntl.F_GETFD) for fd in fds])
    send(one, server)
    two.recvmsg(10, 0)
    send(one, server)
    [(_, _, numbers)] = two.recvmsg(10, 100, socket.MSG_CMSG_CLOEXEC)[1]
    return [*said, fcntl.fcntl(array.array("i", numbers)[0], fcntl.F_GETFD)]


def a_listener() -> Any:
    def serve(way: socket.socket) -> Any:
        [accepting] = arrived(way)[1]
        accepting.settimeout(PATIENCE)
        for _ in range(3):
            with accepting.accept()[0] as server:
                server.send(server.recv(10))
        return accepting.getsockname()[0]

    other = Other(serve)
    accepting = listener()
    name = accepting.getsockname()
    with socket.create_connection(name), accepting.accept()[0]:
        send(other.way, accepting)
    said = []
    for n in range(3):  # the sender could accept, but does not
        with socket.create_connection(name, PATIENCE) as client:
            client.send(b"%d" % n)
            said.append(client.recv(10).decode())
    accepting.close()
    said = [said, other.result()]
    other.way.close()
    return [*said, in_the_end(errno.ECONNREFUSED, lambda: socket.socket().connect_ex(name))]


def an_idle_listener() -> Any:
    """Nobody has it but the message; then nobody."""
    one, two = socket.socketpair()
    accepting = listener()
    name = accepting.getsockname()
    send(one, accepting)
    accepting.close()
    client = socket.create_connection(name, PATIENCE)
    [accepting] = arrived(two)[1]
    server, _ = accepting.accept()
    server.send(b"x")
    said = client.recv(1).decode()
    send(one, accepting)
    accepting.close()
    one.close()
    two.close()
    again = socket.socket()
    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    in_the_end(None, again.bind, name)
    again.listen()
    return [said, socket.create_connection(name, PATIENCE).getpeername() == name]


def datagrams() -> Any:
    def serve(way: socket.socket) -> Any:
        [sock] = arrived(way)[1]
        sock.settimeout(PATIENCE)
        heard, whence = sock.recvfrom(10)
        sock.sendto(b"answer", whence)
        return [
            heard.decode(),
            sock.getsockname()[0],
            sock.type,
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST),
        ]

    other = Other(serve)
    one, two = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    one.bind((ADDRESS, 0))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    two.settimeout(PATIENCE)
    two.connect(one.getsockname())
    send(other.way, one)
    one.close()
    two.send(b"ask")
    said = [two.recv(10).decode(), other.result()]
    other.way.close()
    two.settimeout(0.05)
    return [*said, in_the_end("ECONNREFUSED", lambda: (two.send(b"nobody"), two.recv(1)))]


def datagrams_to_itself() -> Any:
    one, two = socket.socketpair()
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind((ADDRESS, 0))
    sock.settimeout(PATIENCE)
    name = sock.getsockname()
    said = []
    for n in range(3):
        send(one, sock)
        sock.close()
        [sock] = arrived(two)[1]
        sock.settimeout(PATIENCE)
        sock.sendto(b"%d" % n, name)
        said.append(sock.recv(10).decode())
    return said


def fresh() -> Any:
    """One that is neither bound nor connected, but has options."""
    accepting = listener()

    def go(way: socket.socket) -> Any:
        [sock] = arrived(way)[1]
        sock.connect(accepting.getsockname())
        return [sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), sock.recv(10).decode()]

    other = Other(go)
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    send(other.way, sock)
    sock.close()
    accepting.accept()[0].send(b"go")
    return other.result()


def to_a_new_image() -> Any:
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, "-c", RECEIVER], stdin=theirs, stdout=subprocess.PIPE)
    client, server = pair()
    send(ours, server)
    server.close()
    client.send(b"hi")
    out, _ = process.communicate(timeout=20)
    return [json.loads(out), client.recv(100).decode(), client.recv(1).decode()]


def passed_on() -> Any:
    last = Other(lambda way: [talk(sock) for sock in arrived(way)[1]])

    def forward(way: socket.socket) -> None:
        [sock] = arrived(way)[1]
        send(last.way, sock)

    first = Other(forward)
    client, server = pair()
    send(first.way, server)
    server.close()
    said = [first.result()]
    client.send(b"far")
    return [*said, client.recv(100).decode(), last.result(), client.recv(1).decode()]


def to_a_relative() -> Any:
    """It has the socket by fork() already, and once more; or has closed it."""
    said = []
    for closes in (False, True):
        client, server = pair()

        def work(way: socket.socket, closes: bool = closes, mine: socket.socket = server) -> Any:
            if closes:
                mine.close()
            way.send(b"ready")
            [sock] = arrived(way)[1]
            os.set_blocking(sock.fileno(), False)
            same = None if closes else os.get_blocking(mine.fileno())
            mine.close()
            os.set_blocking(sock.fileno(), True)
            return [same, talk(sock)]

        other = Other(work)
        other.way.recv(5)
        send(other.way, server)
        server.close()
        client.send(b"once more")
        said.append([client.recv(100).decode(), other.result(), client.recv(1).decode()])
        client.close()
    return said


def waited_for() -> Any:
    """By poll, select and epoll of who has received it."""

    def work(way: socket.socket) -> Any:
        [sock] = arrived(way)[1]
        said: list[Any] = []
        epoll, poll = select.epoll(), select.poll()
        epoll.register(sock, select.EPOLLIN)
        poll.register(sock, select.POLLIN)
        way.send(b"1")
        said.append([events for _, events in epoll.poll(PATIENCE)])
        said.append(sock.recv(10).decode())
        said.append([events for _, events in poll.poll(0)])
        way.send(b"2")
        said.append([events for _, events in poll.poll(PATIENCE * 1000)])
        said.append([len(ready) for ready in select.select([sock], [sock], [], 0)])
        return said

    other = Other(work)
    client, server = pair()
    send(other.way, server)
    server.close()
    for text in (b"one", b"two"):
        other.way.recv(1)
        client.send(text)
    return other.result()


def text_on_both_sides() -> Any:
    """What waits goes with it, in both directions, and is read in turns."""
    other = Other(lambda way: [sock.recv(3).decode() for sock in arrived(way)[1]])
    client, server = pair()
    client.send(b"123456789")
    first = server.recv(3).decode()
    send(other.way, server)
    said = [first, other.result(), server.recv(3).decode()]
    server.close()  # with text that was not read
    return [*said, attempt(client.recv, 1)]


def an_error() -> Any:
    """A reset that came on the way."""
    one, two = socket.socketpair()
    client, server = pair()
    send(one, server)
    server.close()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    [server] = arrived(two)[1]
    server.settimeout(PATIENCE)
    return [attempt(server.recv, 1), attempt(server.recv, 1)]


def refused() -> Any:
    """What is no descriptor, and what is no Unix socket's message."""
    one, two = socket.socketpair()
    client, server = pair()
    said = [attempt(send, one, server, 99999), attempt(send, client, server), attempt(server.recv, 9)]
    one.close()
    said.append(attempt(send, two, server))
    server.close()
    return [*said, client.recv(9).decode()]


def no_reader() -> Any:
    """Messages that find no room are given up, and their sockets with them."""
    one, two = socket.socketpair()
    client, server = pair()
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            one.send(b"x" * 1000)
    said = [attempt(send, one, server)]
    server.close()
    return [*said, attempt(client.recv, 1), len(two.recv(100))]


if __name__ == "__main__":
    STEPS = (
        connection, both_keep_it, sender_is_gone, nobody_receives, no_room, no_room_at_all, to_itself, to_itself_closed,
        peeked, among_files, a_listener, an_idle_listener, datagrams, datagrams_to_itself, fresh, to_a_new_image,
        passed_on, to_a_relative, waited_for, text_on_both_sides, an_error, refused, no_reader,
    )  # fmt: skip
    chosen = sys.argv[2:]
    print(json.dumps({step.__name__: attempt(step) for step in STEPS if not chosen or step.__name__ in chosen}))
