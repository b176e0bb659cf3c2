"""Connections as a program sees them: data, ends, errors, names, options."""

# ruff: noqa: PLC0415, F403, F405 - a body that runs in a process of its own imports for itself
from __future__ import annotations

from tests.client.inside import *
from tests.client.script import on_stack


@on_stack
def test_names() -> None:
    accepting, port = listener()
    client = socket.create_connection((ADDRESS, port))
    server, peer = accepting.accept()
    assert client.getpeername() == (ADDRESS, port) == server.getsockname()
    assert client.getsockname() == peer == server.getpeername()
    with raises(errno.ENOTCONN):
        socket.socket().getpeername()


@on_stack
def test_echo_of_a_megabyte() -> None:
    """More than the rings hold, both ways at once, by threads that share the socket."""
    import threading

    client, server = pair()

    def echo() -> None:
        while data := server.recv(65536):
            server.sendall(data)
        server.close()

    data = os.urandom(1_000_000)
    threads = [
        threading.Thread(target=echo),
        threading.Thread(target=lambda: (client.sendall(data), client.shutdown(1))),
    ]
    for thread in threads:
        thread.start()
    received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received == data


@on_stack
def test_to_receive_nothing_waits_for_something() -> None:
    """As Linux: an empty buffer takes no byte, but the call returns only when there is one, or the end."""
    import threading

    client, server = pair()
    threading.Timer(0.2, client.send, [b"x"]).start()
    with takes(0.1, 5):
        assert server.recvfrom_into(bytearray())[0] == 0
    assert server.recvfrom_into(bytearray())[0] == 0
    assert server.recv(10) == b"x"
    server.setblocking(False)
    with raises(errno.EAGAIN):
        server.recvfrom_into(bytearray())[0]


@on_stack
def test_refused() -> None:
    with raises(errno.ECONNREFUSED):
        socket.create_connection((ADDRESS, 1))
    again = socket.socket()
    with raises(errno.ECONNREFUSED):
        again.connect((ADDRESS, 1))
    accepting, port = listener()
    again.connect((ADDRESS, port))  # the socket is as new after a failure
    assert again.getpeername() == (ADDRESS, port) and accepting.accept()


@on_stack
def test_connect_without_blocking() -> None:
    import select

    accepting, port = listener()
    client = socket.socket()
    client.setblocking(False)
    assert client.connect_ex((ADDRESS, port)) == errno.EINPROGRESS
    assert select.select([], [client], [], 5)[1]
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert client.connect_ex((ADDRESS, port)) == 0, "who asks again hears of success"
    assert client.connect_ex((ADDRESS, port)) == errno.EISCONN, "once"
    blocking = socket.create_connection((ADDRESS, port))
    assert blocking.connect_ex((ADDRESS, port)) == errno.EISCONN
    failing = socket.socket()
    failing.setblocking(False)
    assert failing.connect_ex((ADDRESS, 1)) == errno.EINPROGRESS
    assert select.select([], [failing], [], 5)[1]
    assert failing.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    assert failing.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    accepting.close()


@on_stack
def test_half_close() -> None:
    client, server = pair()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert server.recv(100, socket.MSG_WAITALL) == b"question"
    assert server.recv(100) == b""
    server.sendall(b"answer")
    server.close()
    assert client.recv(100, socket.MSG_WAITALL) == b"answer"
    with raises(errno.EPIPE):
        client.send(b"x")


@on_stack
def test_reset() -> None:
    """ECONNRESET once, then the end; EPIPE when writing."""
    import struct

    client, server = pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with raises(errno.ECONNRESET):
        server.recv(1)
    assert server.recv(1) == b""
    with raises(errno.EPIPE):
        server.send(b"x")


@on_stack
def test_sigpipe() -> None:
    """The signal comes unless MSG_NOSIGNAL is given."""
    import signal

    seen = []
    signal.signal(signal.SIGPIPE, lambda *_: seen.append(True))
    client, _ = pair()
    client.shutdown(socket.SHUT_WR)
    with raises(errno.EPIPE):
        client.send(b"x", socket.MSG_NOSIGNAL)
    assert not seen
    with raises(errno.EPIPE):
        os.write(client.fileno(), b"x")
    assert seen


@on_stack
def test_flags() -> None:
    import threading

    client, server = pair()
    with raises(errno.EAGAIN):
        server.recv(1, socket.MSG_DONTWAIT)
    client.sendall(b"abcdef")
    assert server.recv(3, socket.MSG_PEEK) == b"abc"
    assert server.recv(2) == b"ab"
    assert server.recv(4, socket.MSG_WAITALL) == b"cdef"
    client.sendall(b"gh")
    threading.Timer(0.05, client.sendall, [b"ij"]).start()
    assert server.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL) == b"ghij" == server.recv(4)


@on_stack
def test_vectors_and_messages() -> None:
    client, server = pair()
    assert os.writev(client.fileno(), [b"one", b"", b"two"]) == 6
    first, second = bytearray(2), bytearray(100)
    assert server.recvmsg_into([first, second])[0] == 6
    assert first + second[:4] == b"onetwo"
    assert client.sendmsg([b"a", b"bc"]) == 3
    assert os.readv(server.fileno(), [first, second]) == 3


@on_stack
def test_sendfile() -> None:
    import hashlib
    import tempfile
    import threading

    client, server = pair()
    content = os.urandom(300_001)
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()

        def send() -> None:
            at = 1
            while at < len(content):
                at += os.sendfile(server.fileno(), file.fileno(), at, len(content) - at)
            server.close()

        thread = threading.Thread(target=send)
        thread.start()
        received = b"".join(iter(lambda: client.recv(65536), b""))
        thread.join()
    assert hashlib.sha256(received).digest() == hashlib.sha256(content[1:]).digest()


@on_stack
def test_options() -> None:
    import struct

    client, server = pair()
    for level, name, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
        (socket.IPPROTO_IP, socket.IP_TOS, 16),
        (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
    ):
        client.setsockopt(level, name, value)
        assert client.getsockopt(level, name) == value
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET
    algorithm = (socket.IPPROTO_TCP, socket.TCP_CONGESTION)
    assert client.getsockopt(*algorithm, 16) == b"cubic".ljust(16, b"\0")
    client.setsockopt(*algorithm, b"reno")
    assert client.getsockopt(*algorithm, 16).rstrip(b"\0") == b"reno"
    with raises(errno.ENOENT):
        client.setsockopt(*algorithm, b"bic")
    for times in (1, 2):
        info = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 320)
        assert len(info) == 280 and info[0] == 1 and struct.unpack_from("I", info, 140)[0] == times, "asked each time"
    assert len(server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 3)) == 3
    assert client.getsockopt(socket.IPPROTO_TCP, 26, 64) == b"", "TCP_CC_INFO: CUBIC has none"
    server.send(b"12345")
    client.recv(1)
    used, size, _, send_size, *_ = struct.unpack("9I", client.getsockopt(socket.SOL_SOCKET, 55, 64))  # SO_MEMINFO
    assert used == 4 and size == client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert send_size == client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    with raises(errno.ENOPROTOOPT):
        client.setsockopt(socket.SOL_SOCKET, 9999, 1)


@on_stack
def test_waiting_and_unsent_bytes() -> None:
    import fcntl
    import struct
    import termios

    client, server = pair()
    client.sendall(b"12345")
    server.recv(1)
    assert struct.unpack("i", fcntl.ioctl(server, termios.FIONREAD, b"    "))[0] == 4


@on_stack
def test_descriptors() -> None:
    """Duplicates share the connection; the flags are those of the description, close-on-exec that of the descriptor."""
    import fcntl
    import stat

    client, server = pair()
    assert stat.S_ISSOCK(os.fstat(client.fileno()).st_mode)
    twin = os.dup(client.fileno())
    os.set_blocking(twin, False)
    assert not os.get_blocking(client.fileno())
    fcntl.fcntl(twin, fcntl.F_SETOWN, os.getpid())
    assert [fcntl.fcntl(s, fcntl.F_GETOWN) for s in (client, server)] == [os.getpid(), 0]
    assert fcntl.fcntl(twin, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    client.close()
    os.write(twin, b"still here")
    assert server.recv(100) == b"still here"
    os.dup2(server.fileno(), twin)
    assert server.recv(1) == b""  # the last descriptor of the other end is gone


@on_stack
def test_names_of_scopes() -> None:
    """The one interface of the stack; names that the host does not know are the stack's."""
    for scope in ("1", "lo", "neat9"):
        found = socket.getaddrinfo(f"fe80::7%{scope}", 80, type=socket.SOCK_STREAM)
        assert [name for *_, name in found] == [("fe80::7", 80, 0, 1)], found
    for name in ("fd77::7%neat9", "fe80::7%", "nobody%neat9", "fe80::" + "7" * 50 + "%neat9"):
        try:
            raise AssertionError(socket.getaddrinfo(name, 80))
        except socket.gaierror as error:
            assert error.args[0] == socket.EAI_NONAME, (name, error)


@on_stack
def test_the_port_is_known_at_once() -> None:
    accepting, port = listener()
    for _ in range(20):
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex((ADDRESS, port))
            assert client.getsockname()[1] > 0


@on_stack
def test_closing_by_syscall() -> None:
    """As libuv does, so that close() is no cancellation point."""
    import ctypes

    client, server = pair()
    assert ctypes.CDLL(None).syscall(3, server.detach()) == 0
    client.settimeout(5)
    assert client.recv(1) == b""


@on_stack
def test_listeners_that_share_a_port() -> None:
    """SO_REUSEPORT within a process: each gets its share, whoever has posted; one that is closed gets none."""
    group = sharing(3)
    for one in group:
        one.setblocking(False)
        with raises(errno.EAGAIN):
            one.accept()
    assert share(group, 9) == [3, 3, 3]
    group.pop(1).close()
    assert share(group, 8) == [4, 4]
    group.pop(0).close()
    assert share(group, 2) == [2]


@on_stack
def test_who_waits_in_accept_goes_before_who_is_busy() -> None:
    import threading

    busy, waiting = sharing(2)
    busy.setblocking(False)
    with raises(errno.EAGAIN):
        busy.accept()
    for _ in range(4):
        thread = threading.Thread(target=waiting.accept)
        thread.start()
        time.sleep(0.02)
        client = socket.create_connection((ADDRESS, busy.getsockname()[1]))
        thread.join(20)
        assert not thread.is_alive()
        client.close()


@on_stack
def test_addresses_that_cannot_be_bound() -> None:
    one, port = listener()
    other = socket.socket()
    with raises(errno.EADDRINUSE):
        other.bind(("0.0.0.0", port))
    with raises(errno.EINVAL):
        one.bind(("0.0.0.0", 0))


@on_stack
def test_stream_of_stdio() -> None:
    """libc's own reads and writes do not pass the library: fdopen() leads them to it."""
    import ctypes

    client, server = pair()
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.fdopen(client.fileno(), b"r+"))
    libc.fputs(b"line\n", stream)
    libc.fflush(stream)
    assert server.recv(100) == b"line\n"
    assert libc.fileno(stream) == client.fileno()
