"""Waiting: select, poll, epoll, with kernel descriptors among the sockets; timeouts, signals, threads."""

# ruff: noqa: PLC0415, F403, F405 - a body that runs in a process of its own imports for itself
from __future__ import annotations

from tests.client.inside import *
from tests.client.mirror import Mirror
from tests.client.script import on_stack


@on_stack
def test_selectors() -> None:
    """The same story by select, poll and epoll: a listener, a connection, a pipe."""
    import selectors

    for kind in (selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector):
        with kind() as selector:
            accepting, port = listener()
            accepting.setblocking(False)
            read_end, write_end = os.pipe()
            selector.register(accepting, selectors.EVENT_READ)
            selector.register(read_end, selectors.EVENT_READ)

            def ready(timeout: float = 2, selector: selectors.BaseSelector = selector) -> set[int]:
                return {key.fd for key, _ in selector.select(timeout)}

            assert not ready(0)
            with takes(0.05, 0.5):
                assert not ready(0.05)
            os.write(write_end, b"x")
            assert ready() == {read_end}
            os.read(read_end, 1)
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex((ADDRESS, port))
            assert ready() == {accepting.fileno()}
            server, _ = accepting.accept()
            with raises(errno.EAGAIN):
                accepting.accept()
            selector.register(client, selectors.EVENT_WRITE)
            assert ready() == {client.fileno()}
            selector.modify(client, selectors.EVENT_READ)
            assert not ready(0)
            server.sendall(b"hi")
            assert ready() == ready() == {client.fileno()}  # until it is read
            assert client.recv(10) == b"hi"
            assert not ready(0)
            server.close()
            assert ready() == {client.fileno()}
            assert client.recv(10) == b""
            os.close(read_end)
            os.close(write_end)


@on_stack
def test_room_to_send() -> None:
    import select

    client, server = pair()
    sent = fill(client)
    assert not select.select([], [client], [], 0)[1]
    received = 0
    while received < sent:
        received += len(server.recv(65536))
    assert select.select([], [client], [], 2)[1]


@on_stack
def test_edges() -> None:
    """EPOLLET tells once for each change."""
    import select

    client, server = pair()
    with select.epoll() as epoll:
        epoll.register(server, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET | select.EPOLLRDHUP)
        assert [event for _, event in epoll.poll(1)] == [select.EPOLLOUT]
        assert not epoll.poll(0.02)
        for _ in range(2):
            client.send(b"abc")
            assert [event for _, event in epoll.poll(1)] == [select.EPOLLIN | select.EPOLLOUT]
            assert not epoll.poll(0.02)
        client.close()
        assert epoll.poll(1)[0][1] & select.EPOLLRDHUP
        assert server.recv(100) == b"abcabc"


@on_stack
def test_no_io_uring() -> None:
    """libuv would put our sockets into its epoll set by it, past us; where there is none, it does without."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(425, 8, bytes(200)) == -1 and ctypes.get_errno() == errno.ENOSYS


@on_stack
def test_edges_of_both_ends() -> None:
    """As test_control_and_wait of CPython's test_epoll, but for what was sent is waited."""
    import select

    client, server = pair()
    both = client.fileno(), server.fileno()
    with select.epoll() as epoll:
        for end in both:
            epoll.register(end, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        assert dict(epoll.poll(1, 4)) == dict.fromkeys(both, select.EPOLLOUT)
        assert not epoll.poll(0.1, 4)
        client.sendall(b"Hello!")
        server.sendall(b"world!!!")
        told: dict[int, int] = {}
        while len(told) < 2:
            events = epoll.poll(2, 4)
            assert events and not told.keys() & dict(events).keys(), (told, events)
            told.update(events)
        assert told == dict.fromkeys(both, select.EPOLLIN | select.EPOLLOUT)
        epoll.unregister(client)
        epoll.modify(server, select.EPOLLOUT)
        assert epoll.poll(1, 4) == [(server.fileno(), select.EPOLLOUT)]


@on_stack
def test_edge_of_room() -> None:
    import select

    client, server = pair()
    with select.epoll() as epoll:
        epoll.register(client, select.EPOLLOUT | select.EPOLLET)
        assert epoll.poll(1)
        sent = fill(client)
        assert not epoll.poll(0)
        received = 0
        while received < sent:
            received += len(server.recv(65536))
        assert [event for _, event in epoll.poll(1)] == [select.EPOLLOUT]
        assert not epoll.poll(0.02)


@on_stack
def test_so_sndbuf_bounds_what_waits_to_be_sent() -> None:
    """As Linux: twice what was asked for; writable again when a third of that is free."""
    import select

    client, server = pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 3000)
    size = client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    ring = 16384  # the mirror's: the peer's takes so much
    sent = fill(client, ring + size)
    assert (size, unsent(client), sent) == (6000, 6000, ring + 6000)
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    assert not poll.poll(0)
    received = len(server.recv(1990))
    assert not poll.poll(20)
    received += len(server.recv(3000))
    assert poll.poll(5000)
    fill(client, ring + size + received - sent)
    assert unsent(client) == 6000
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    assert client.send(bytes(20000)) == 16384 - 6000
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with raises(errno.EAGAIN):
        client.send(b"x")


@on_stack
def within_limits() -> None:
    import select

    client, server = pair()
    assert fill(client, 2 * 3000) == 2 * 3000
    assert (unsent(client), client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)) == (3000, 3000)
    poll = select.poll()
    poll.register(client, select.POLLOUT)
    assert not poll.poll(20)
    server.settimeout(5)
    assert len(server.recv(2000)) == 2000  # more than a quarter was waiting: the replica is told of the room
    assert poll.poll(5000)
    assert unsent(client) == 1000
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4000)
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 8000
    fill(client, 7000)
    assert unsent(client) == 8000


def test_limits_that_the_replica_tunes(mirror: Mirror) -> None:
    """Of the receive ring, for when reading is worth telling; of the send ring, unless SO_SNDBUF says it."""
    mirror.limit = 3000
    within_limits(mirror)


@on_stack
def bounded_by_what_is_unsent() -> None:
    client, _ = pair()
    client.setsockopt(socket.IPPROTO_TCP, 25, 2000)  # TCP_NOTSENT_LOWAT
    client.setblocking(False)
    assert client.send(bytes(10_000)) == 7000


def test_one_send_keeps_to_what_may_be_unsent(mirror: Mirror) -> None:
    """Beyond what the windows have room for."""
    mirror.window, mirror.still = 5000, True
    bounded_by_what_is_unsent(mirror)


@on_stack
def test_a_low_water_mark_that_cannot_be_reached() -> None:
    """The peer may send no more than the ring takes, and perhaps less."""
    import select

    client, server = pair()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1_000_000)
    client.sendall(bytes(8000))
    assert not select.select([server], [], [], 0.05)[0]
    client.sendall(bytes(500))
    assert select.select([server], [], [], 5)[0]


@on_stack
def test_a_larger_so_sndbuf_wakes_who_waits() -> None:
    import threading

    client, _ = pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 3000)
    fill(client, 16384 + 6000)
    client.settimeout(5)
    threading.Timer(0.1, client.setsockopt, (socket.SOL_SOCKET, socket.SO_SNDBUF, 7000)).start()
    with takes(0.05, 2):
        assert client.send(b"x") == 1


@on_stack
def test_accepted_sockets_have_the_listeners_buffers() -> None:
    made, port = listener()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 3000)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4000)
    client = socket.create_connection((ADDRESS, port))
    server = made.accept()[0]
    assert server.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 6000
    assert server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 8000
    fill(server, 16384 + 6000)
    assert unsent(server) == 6000
    del client


@on_stack
def test_one_shot() -> None:
    import select

    client, server = pair()
    with select.epoll() as epoll:
        epoll.register(server, select.EPOLLIN | select.EPOLLONESHOT)
        client.send(b"x")
        assert epoll.poll(1)
        client.send(b"y")
        assert not epoll.poll(0.05)
        epoll.modify(server, select.EPOLLIN | select.EPOLLONESHOT)
        assert epoll.poll(1)


@on_stack
def test_epoll_bookkeeping() -> None:
    import select

    client, server = pair()
    with select.epoll() as epoll:
        with raises(errno.ENOENT):
            epoll.modify(client, select.EPOLLIN)
        epoll.register(client, select.EPOLLIN)
        with raises(errno.EEXIST):
            epoll.register(client, select.EPOLLIN)
        server.send(b"x")
        assert epoll.poll(1)
        epoll.unregister(client)
        assert not epoll.poll(0)
        epoll.register(client, select.EPOLLIN)
        client.close()  # takes it out
        assert not epoll.poll(0)


@on_stack
def test_kernel_descriptors_do_not_starve() -> None:
    """A socket that is always ready, and a pipe."""
    import select

    client, server = pair()
    client.send(b"x")
    read_end, write_end = os.pipe()
    with select.epoll() as epoll:
        epoll.register(server, select.EPOLLIN)
        epoll.register(read_end, select.EPOLLIN)
        assert epoll.poll(1) == [(server.fileno(), select.EPOLLIN)]
        os.write(write_end, b"x")
        assert any(fd == read_end for _ in range(20) for fd, _ in epoll.poll(1))


@on_stack
def test_without_a_descriptor_left() -> None:
    """Who has used all still can wait for those that there are."""
    import resource
    import select

    one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    one.bind(("127.0.0.1", 0))
    sets, polled = select.epoll(), select.poll()
    sets.register(one, select.EPOLLIN)
    polled.register(one, select.POLLIN)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with raises(errno.EMFILE):
        while True:
            os.dup(0)
    assert sets.poll(0.02) == [] == polled.poll(20)
    other.sendto(b"x", one.getsockname())
    assert sets.poll(5) == [(one.fileno(), select.EPOLLIN)] == polled.poll(5000)
    with raises(errno.EMFILE):
        socket.socket()


@on_stack
def test_timeouts() -> None:
    import struct

    client, server = pair()
    for option, call in (
        (socket.SO_RCVTIMEO, lambda: server.recv(1)),
        (socket.SO_SNDTIMEO, lambda: server.send(b"x" * 1_000_000) and server.send(b"x")),
    ):
        server.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 0, 100_000))
        with takes(0.09, 1), raises(errno.EAGAIN):
            call()
    assert client


@on_stack
def test_signal_interrupts() -> None:
    import select
    import signal

    class Rang(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rang

    signal.signal(signal.SIGALRM, ring)
    client, server = pair()
    poll = select.poll()
    poll.register(server, select.POLLIN)
    epoll = select.epoll()
    epoll.register(server, select.EPOLLIN)
    waits = (
        lambda: server.recv(1),
        poll.poll,
        epoll.poll,
        lambda: select.select([server], [], []),
        listener()[0].accept,
    )
    for wait in waits:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            wait()
        except Rang:
            continue
        raise AssertionError(wait)
    assert client


@on_stack
def test_threads_wait_for_their_own() -> None:
    """Many threads block, each for its socket: each wakes when its data comes, and only then."""
    import threading

    pairs = [pair() for _ in range(12)]
    got: dict[int, bytes] = {}

    def wait(n: int) -> None:
        got[n] = pairs[n][1].recv(10)

    threads = [threading.Thread(target=wait, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for n in reversed(range(12)):
        pairs[n][0].send(b"%d" % n)
        threads[n].join(5)
        assert got.get(n) == b"%d" % n
        assert len(got) == 12 - n


@on_stack
def test_thread_adds_to_a_set_that_another_sleeps_on() -> None:
    import select
    import threading

    client, server = pair()
    epoll = select.epoll()
    found: list[tuple[int, int]] = []
    thread = threading.Thread(target=lambda: found.extend(epoll.poll(5)))
    thread.start()
    time.sleep(0.1)
    epoll.register(server, select.EPOLLIN)
    time.sleep(0.05)
    client.send(b"x")
    thread.join(5)
    assert found == [(server.fileno(), select.EPOLLIN)]


@on_stack
def test_shutdown_wakes_a_blocked_thread() -> None:
    import threading

    _, server = pair()
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(server.recv(1)))
    thread.start()
    time.sleep(0.05)
    server.shutdown(socket.SHUT_RD)
    thread.join(5)
    assert got == [b""]


@on_stack
def test_asyncio() -> None:
    import asyncio

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def client(port: int, data: bytes) -> None:
        reader, writer = await asyncio.open_connection(ADDRESS, port)
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(echo, "0.0.0.0", 0)
        port = server.sockets[0].getsockname()[1]
        await asyncio.gather(*(client(port, os.urandom(2000 * n)) for n in range(1, 40)))

    asyncio.run(main())
