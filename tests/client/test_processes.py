"""fork, exec, exit."""

# ruff: noqa: PLC0415, F403, F405 - a body that runs in a process of its own imports for itself
from __future__ import annotations

import errno
import signal
import subprocess
import sys

from tests.client.inside import *
from tests.client.mirror import LIBRARY, Mirror
from tests.client.script import on_stack
from tests.support.layout import neat


@on_stack
def test_parent_accepts_child_serves() -> None:
    accepting, port = listener()

    def ask() -> None:
        accepting.close()
        for n in range(5):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"%d" % n)
                assert client.recv(100) == b"child of %d" % n
                assert client.recv(100) == b""

    asking = forked(ask)
    children = []
    for _ in range(5):
        server, _ = accepting.accept()

        def serve(server: socket.socket = server) -> None:
            accepting.close()
            server.sendall(b"child of " + server.recv(100))

        children.append(forked(serve))
        server.close()
    assert all(map(succeeded, children)) and succeeded(asking)


def test_closing_a_shared_listener_does_not_wait(mirror: Mirror) -> None:
    """A worker that stops goes on at once with its connections; nobody whom it then connects to is the listener."""
    mirror.close_takes = 0.5
    process = mirror.python(
        "import os, socket, time\n"
        "s = socket.create_server(('0.0.0.0', 7000))\n"
        "if os.fork() == 0: time.sleep(0.1); os._exit(0)\n"
        "began = time.monotonic(); s.close()\n"
        "print(time.monotonic() - began)\n"
        "os.wait()\n"
        "print(socket.socket().connect_ex(('10.66.0.2', 7000)))\n"
    )
    told, errors = process.communicate(timeout=10)
    took, refused = told.split()
    assert float(took) < 0.2 and int(refused) == errno.ECONNREFUSED, errors


@on_stack
def test_workers_accept_on_one_listener() -> None:
    """A worker that is busy does not keep connections from the others."""
    accepting, port = listener()

    def work() -> None:
        while True:
            server, _ = accepting.accept()
            with server:
                if server.recv(1) == b"q":
                    return
                server.sendall(b"%d" % os.getpid())

    workers = [forked(work) for _ in range(3)]
    busy = [socket.create_connection((ADDRESS, port)) for _ in range(2)]
    time.sleep(0.1)
    for _ in range(10):
        with socket.create_connection((ADDRESS, port)) as client:
            client.settimeout(5)
            client.sendall(b"a")
            assert int(client.recv(20)) in workers
    for client in busy:
        client.sendall(b"q")
    with socket.create_connection((ADDRESS, port)) as last:
        last.sendall(b"q")
        assert all(map(succeeded, workers))


@on_stack
def test_a_worker_that_gets_two_gives_one_back() -> None:
    """It has been given a connection by each replica before it wakes; it takes one, and is busy with that."""
    accepting, port = listener()

    def work() -> None:
        server, _ = accepting.accept()
        with server:
            server.sendall(b"mine")
            server.recv(1)

    workers = [forked(work)]
    time.sleep(0.2)
    os.kill(workers[0], signal.SIGSTOP)
    clients = [socket.create_connection((ADDRESS, port)) for _ in range(8)]
    workers += [forked(work) for _ in range(7)]
    os.kill(workers[0], signal.SIGCONT)
    for client in clients:
        client.settimeout(5)
        assert client.recv(4) == b"mine"
    for client in clients:
        client.sendall(b"q")
    assert all(map(succeeded, workers))


@on_stack
def test_both_use_an_inherited_connection() -> None:
    client, server = pair()

    def talk() -> None:
        for _ in range(200):
            client.sendall(b"c" * 10)

    child = forked(talk)
    for _ in range(200):
        client.sendall(b"p" * 10)
    assert succeeded(child)
    client.close()
    data = b"".join(iter(lambda: server.recv(4096), b""))
    assert len(data) == 4000
    assert all(data[at : at + 10] in (b"c" * 10, b"p" * 10) for at in range(0, 4000, 10))


@on_stack
def test_epoll_after_fork() -> None:
    """The child waits on the set that it inherited, for a connection and for the listener."""
    import select

    accepting, port = listener()
    client, server = pair()
    epoll = select.epoll()
    epoll.register(server, select.EPOLLIN)
    epoll.register(accepting, select.EPOLLIN)

    def wait() -> None:
        assert epoll.poll(5) == [(server.fileno(), select.EPOLLIN)]
        assert server.recv(10) == b"hello"
        assert epoll.poll(5) == [(accepting.fileno(), select.EPOLLIN)]
        accepting.accept()[0].sendall(b"child")

    child = forked(wait)
    accepting.close()
    time.sleep(0.1)
    client.send(b"hello")
    time.sleep(0.1)
    with socket.create_connection((ADDRESS, port)) as other:
        assert other.recv(10) == b"child"
    assert succeeded(child)


@on_stack
def test_exec_keeps_a_connection() -> None:
    import subprocess
    import sys

    client, server = pair()
    _, closing = pair()
    program = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(b'from the new image')"
    number = server.fileno()
    subprocess.run([sys.executable, "-c", program, str(number)], pass_fds=[number], check=True, env={})
    server.close()
    assert client.recv(100) == b"from the new image"
    assert client.recv(100) == b""
    assert closing.fileno() >= 0


@on_stack
def test_exec_that_fails() -> None:
    client, server = pair()
    try:
        os.execv("/nonexistent", ["x"])
    except FileNotFoundError:
        client.send(b"x")
    assert server.recv(1) == b"x"


@on_stack
def test_closing_all_descriptors_does_not_hurt() -> None:
    """As daemons do: the library's own descriptors survive."""
    import ctypes

    client, server = pair()
    close = ctypes.CDLL(None).close
    for fd in range(3, 8192):
        if fd not in (client.fileno(), server.fileno()):
            close(fd)
    os.closerange(8192, 1 << 20)
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    assert pair()


def test_exit_delivers_what_was_sent(mirror: Mirror) -> None:
    """A process that ends without close() closes its connections, and does not reset them."""
    server = mirror.python(
        "import socket; s = socket.socket(); s.bind(('0.0.0.0', 7000)); s.listen(); print(flush=True);"
        "c = s.accept()[0]; print(sum(len(d) for d in iter(lambda: c.recv(4096), b'')))"
    )
    assert server.stdout
    server.stdout.readline()
    client = mirror.python(
        "import socket, os; s = socket.create_connection(('10.66.0.2', 7000)); s.sendall(b'x' * 20000); os._exit(0)"
    )
    assert client.wait(10) == 0
    assert server.communicate(timeout=10)[0] == "20000\n"


def test_library_is_idle_in_programs_without_sockets(mirror: Mirror) -> None:
    process = mirror.spawn("sh", "-c", "cat /proc/self/maps | grep -c libneat; true | cat")
    assert int(process.communicate(timeout=10)[0]) > 0
    assert not mirror.requests


def test_one_channel_for_each_process_with_sockets(mirror: Mirror) -> None:
    process = mirror.python("import socket, os; socket.socket(); os.fork() or os._exit(0); os.wait()")
    process.communicate(timeout=10)
    assert mirror.requests == [neat.REQUEST_HELLO, neat.REQUEST_FORK, neat.REQUEST_CLAIM]


def test_no_stack(mirror: Mirror) -> None:
    """socket() says ENETDOWN, and one line on standard error why; everything else works."""
    script = (
        "import socket, errno\n"
        "for _ in range(2):\n"
        "  try: socket.socket()\n"
        "  except OSError as e: assert e.errno == errno.ENETDOWN\n"
        "socket.socket(socket.AF_UNIX); socket.socketpair()\n"
    )
    environment = {"LD_PRELOAD": str(LIBRARY), "NEAT_STACK": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "neat: the stack cannot be reached: no sockets (/nonexistent)\n"
