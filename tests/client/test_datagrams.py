"""UDP sockets of the library: each script runs on the kernel and on a mirror stack, and must find the same."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import inspect
import os
import select
import socket
import struct
import subprocess
import sys
import termios
import textwrap
import threading
import time
from collections.abc import Callable

from tests.client.inside import forked, raises, succeeded, takes
from tests.client.inside_datagrams import (
    IP_MTU,
    IP_PKTINFO,
    IP_RECVERR,
    IP_RECVTTL,
    SO_TIMESTAMPNS,
    UDP_GRO,
    UDP_SEGMENT,
    sockets,
    vector,
)
from tests.client.mirror import Mirror
from tests.client.script import PRELUDE, SECONDS, on_stack

HERE = "from tests.client.inside_datagrams import *\n"


def on_both(body: Callable[[], None]) -> Callable[[Mirror], None]:
    """The function is executed by a program on the kernel's stack, then by one on a mirror stack."""
    source = textwrap.dedent(inspect.getsource(body)).removeprefix("@on_both\n")
    code = f"{PRELUDE}{HERE}{source}\n{body.__name__}()\n"

    def test(mirror: Mirror) -> None:
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
        assert run.returncode == 0, f"on the kernel: {run.stderr}"
        with mirror.spawn(sys.executable, "-c", code) as process:
            try:
                _, told = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"still runs after {SECONDS} s: {process.communicate()[1]}") from None
            assert process.returncode == 0, told
            assert mirror.datagrams.bound == {} or process.wait() == 0

    test.__doc__ = body.__doc__
    return test


@on_both
def test_names_and_data():
    a, b = sockets()
    assert b.getsockname() == ("0.0.0.0", 0)
    assert b.sendto(b"hello", a.getsockname()) == 5
    assert b.getsockname()[0] == "0.0.0.0" and b.getsockname()[1]
    data, source = a.recvfrom(100)
    assert (data, source) == (b"hello", ("127.0.0.1", b.getsockname()[1]))
    assert a.sendto(b"", source) == 0
    assert b.recvfrom(100) == (b"", a.getsockname())
    with raises(errno.EDESTADDRREQ):
        b.send(b"x")
    with raises(errno.ENOTCONN):
        b.getpeername()
    with raises(errno.EINVAL):
        a.bind(("127.0.0.1", 0))
    with raises(errno.EOPNOTSUPP):
        a.listen()
    with raises(errno.EADDRNOTAVAIL):
        sockets(1, 0)[0].bind(("192.0.2.1", 0))


@on_both
def test_connected():
    a, b, c = sockets(3, 3)
    b.connect(a.getsockname())
    assert b.getpeername() == a.getsockname()
    assert b.send(b"one") == 3
    assert a.recv(10) == b"one"
    c.sendto(b"stranger", b.getsockname())
    a.sendto(b"friend", b.getsockname())
    assert b.recv(10) == b"friend"
    b.sendto(b"elsewhere", c.getsockname())
    assert c.recvfrom(20) == (b"elsewhere", b.getsockname())
    b.connect(c.getsockname())
    b.send(b"two")
    assert c.recv(10) == b"two"
    fresh = sockets(1, 0)[0]
    fresh.connect(a.getsockname())
    assert fresh.getsockname()[0] == "127.0.0.1" and fresh.getsockname()[1]


@on_both
def test_dissolving():

    a, b, c = sockets(3, 2)
    libc = ctypes.CDLL(None, use_errno=True)
    for one in (b, c):
        one.connect(a.getsockname())
        assert libc.connect(one.fileno(), bytes(16), 16) == 0
        with raises(errno.ENOTCONN):
            one.getpeername()
    assert b.getsockname() == ("127.0.0.1", 0) and c.getsockname() == ("0.0.0.0", 0)
    d = sockets(1, 0)[0]
    d.bind(("127.0.0.1", 39641))
    d.connect(a.getsockname())
    assert libc.connect(d.fileno(), bytes(16), 16) == 0
    assert d.getsockname()[1] == 39641
    b.sendto(b"bound again", a.getsockname())
    assert a.recvfrom(20) == (b"bound again", b.getsockname())
    a.sendto(b"x", b.getsockname())
    assert b.recv(10) == b"x"
    c.sendto(b"y", a.getsockname())
    assert a.recv(10) == b"y"


@on_both
def test_truncation_and_peeking():
    a, b = sockets()
    for _ in range(4):
        b.sendto(b"0123456789", a.getsockname())
    assert a.recv(4, socket.MSG_PEEK) == b"0123"
    assert a.recv_into(bytearray(4), 4, socket.MSG_PEEK | socket.MSG_TRUNC) == 10
    assert a.recvmsg(4)[0::2][:2] == (b"0123", socket.MSG_TRUNC)
    assert a.recv_into(bytearray(4), 4, socket.MSG_TRUNC) == 10
    data, _, flags, source = a.recvmsg(100)
    assert (data, flags, source[0]) == (b"0123456789", 0, "127.0.0.1")
    assert a.recvmsg_into([bytearray(3), bytearray(100)], 0, socket.MSG_WAITALL)[0] == 10
    a.setblocking(False)
    with raises(errno.EAGAIN):
        a.recv(10, socket.MSG_DONTWAIT)


@on_both
def test_sizes():
    a, b = sockets()
    for size in (1, 1472, 1473, 9000):
        b.sendto(bytes(size), a.getsockname())
        assert a.recv(70000) == bytes(size)
    with raises(errno.EMSGSIZE):
        b.sendto(bytes(65508), a.getsockname())
    assert b.sendmsg([b"in ", b"three ", b"pieces"], [], 0, a.getsockname()) == 15
    assert a.recv(100) == b"in three pieces"


@on_both
def test_waiting():
    a, b = sockets()
    poll = select.poll()
    poll.register(a, select.POLLIN | select.POLLOUT)
    assert poll.poll(0) == [(a.fileno(), select.POLLOUT)]
    threading.Timer(0.1, b.sendto, (b"x", a.getsockname())).start()
    with takes(0.05, 2):
        assert select.select([a], [], [], 3)[0] == [a]
    assert poll.poll(0) == [(a.fileno(), select.POLLIN | select.POLLOUT)]
    assert a.recv(10) == b"x"
    threading.Timer(0.1, b.sendto, (b"y", a.getsockname())).start()
    with takes(0.05, 2):
        assert a.recv(10) == b"y"
    a.settimeout(None)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 100000))
    with takes(0.05, 2), raises(errno.EAGAIN):
        a.recv(10)


@on_both
def test_epoll():
    for extra in (0, select.EPOLLET):
        a, b = sockets()
        epoll = select.epoll()
        epoll.register(a, select.EPOLLIN | extra)
        assert epoll.poll(0) == []
        for _ in range(2):
            b.sendto(b"x", a.getsockname())
            assert epoll.poll(2) == [(a.fileno(), select.EPOLLIN)]
        assert epoll.poll(0) == ([] if extra else [(a.fileno(), select.EPOLLIN)])
        assert a.recv(10) == a.recv(10) == b"x"
        assert epoll.poll(0) == []


@on_both
def test_ancillary_data():
    a, b = sockets()
    for option in (IP_PKTINFO, socket.IP_RECVTOS, IP_RECVTTL):
        a.setsockopt(socket.IPPROTO_IP, option, 1)
        assert a.getsockopt(socket.IPPROTO_IP, option) == 1
    b.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x20)
    b.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
    b.sendto(b"x", a.getsockname())
    data, found, flags, _ = a.recvmsg(10, 200)
    assert [(level, kind) for level, kind, _ in found] == [
        (socket.IPPROTO_IP, kind) for kind in (IP_PKTINFO, socket.IP_TTL, socket.IP_TOS)
    ]
    info, ttl, tos = [value for _, _, value in found]
    assert info == struct.pack("i4s4s", 1, *[socket.inet_aton("127.0.0.1")] * 2), info
    assert (ttl, tos, flags) == (struct.pack("i", 33), b"\x20", 0)
    b.sendmsg(
        [b"y"], [(0, socket.IP_TTL, struct.pack("i", 9)), (0, socket.IP_TOS, struct.pack("i", 4))], 0, a.getsockname()
    )
    _, found, _, _ = a.recvmsg(10, 200)
    assert [value for _, _, value in found][1:] == [struct.pack("i", 9), b"\x04"]
    b.sendto(b"z", a.getsockname())
    assert a.recvmsg(10, socket.CMSG_SPACE(12))[2] == socket.MSG_CTRUNC
    long, short = struct.pack("i", 9) + bytes(4), b"\x09"
    for level, kind, value in (
        (0, socket.IP_TTL, struct.pack("i", 0)), (0, socket.IP_TTL, short), (0, socket.IP_TTL, long),
        (0, socket.IP_TOS, long), (0, IP_PKTINFO, bytes(16)), (socket.SOL_SOCKET, 61, bytes(8)),
    ):  # fmt: skip
        with raises(errno.EINVAL):
            b.sendmsg([b"y"], [(level, kind, value)], 0, a.getsockname())
    b.sendmsg([b"short"], [(0, socket.IP_TOS, b"\x08")], 0, a.getsockname())
    assert a.recvmsg(10, 200)[1][2][2] == b"\x08"


@on_both
def test_the_source_address_by_message():
    a, b = sockets(2, 1)
    b.bind(("0.0.0.0", 0))
    info = struct.pack("i4s4s", 0, socket.inet_aton("127.0.0.7"), bytes(4))
    b.sendmsg([b"x"], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, a.getsockname())
    assert a.recvfrom(10) == (b"x", ("127.0.0.7", b.getsockname()[1]))
    with raises(errno.ENETUNREACH):
        b.sendmsg([b"x"], [(0, IP_PKTINFO, struct.pack("i4s4s", 0, b"\x0a\4\3\2", bytes(4)))], 0, a.getsockname())
    six = struct.pack("16si", socket.inet_pton(socket.AF_INET6, "::ffff:10.4.3.2"), 0)
    b.sendmsg([b"y"], [(socket.IPPROTO_IPV6, 50, six)], 0, a.getsockname())  # it says nothing to a socket of IPv4
    assert a.recv(10) == b"y"


@on_both
def test_timestamps():
    for option, form, unit in (
        (29, "ll", 1e6),
        (SO_TIMESTAMPNS, "ll", 1e9),
    ):
        a, b = sockets()
        a.setsockopt(socket.SOL_SOCKET, option, 1)
        time.sleep(0.2)  # the kernel begins to take the time of arrival only some milliseconds later
        b.sendto(b"x", a.getsockname())
        time.sleep(0.05)
        _, [(level, kind, value)], _, _ = a.recvmsg(10, 100)
        seconds, rest = struct.unpack(form, value)
        assert (level, kind) == (socket.SOL_SOCKET, option)
        assert 0.04 < time.time() - (seconds + rest / unit) < 1


@on_both
def test_segments_and_coalescing():
    a, b = sockets()
    data = bytes(k & 255 for k in range(2500))
    b.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
    b.sendto(data, a.getsockname())
    assert [len(a.recv(5000)) for _ in range(3)] == [1000, 1000, 500]
    b.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
    b.sendmsg([data], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", 1250))], 0, a.getsockname())
    assert [len(a.recv(5000)) for _ in range(2)] == [1250, 1250]
    a.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    b.sendmsg([data], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", 1000))], 0, a.getsockname())
    time.sleep(0.1)
    got, found, _, _ = a.recvmsg(5000, 100)
    assert got == data and found == [(socket.IPPROTO_UDP, UDP_GRO, struct.pack("i", 1000))]
    with raises(errno.EINVAL):
        b.sendmsg([data], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", 1))], 0, a.getsockname())
    b.sendmsg([b"whole"], [(socket.IPPROTO_UDP, UDP_SEGMENT, b"\xff\xff")], 0, a.getsockname())
    assert a.recv(5000) == b"whole"


@on_both
def test_many_messages():

    libc = ctypes.CDLL(None, use_errno=True)

    a, b = sockets()
    b.connect(a.getsockname())

    messages = vector([b"a", b"", b"ccc"])
    assert libc.sendmmsg(b.fileno(), messages, 3, 0) == 3
    assert [m.len for m in messages] == [1, 0, 3]
    time.sleep(0.1)
    messages = vector([bytes(10)] * 5)
    assert libc.recvmmsg(a.fileno(), messages, 5, 0x10000, None) == 3
    assert [m.len for m in messages[:3]] == [1, 0, 3] and messages[0].hdr.flags == 0


@on_both
def test_options():
    a = sockets(1)[0]
    get = a.getsockopt
    assert get(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_DGRAM
    assert get(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_UDP
    assert get(socket.SOL_SOCKET, socket.SO_RCVBUF) == 212992
    a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10000)
    assert get(socket.SOL_SOCKET, socket.SO_RCVBUF) == 20000
    assert (
        get(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 1 and get(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP) == 1
    )
    with raises(errno.ENOPROTOOPT):
        a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with raises(errno.ENOTCONN):
        get(socket.IPPROTO_IP, IP_MTU)
    with raises(errno.EACCES):
        a.sendto(b"x", ("255.255.255.255", 9))

    b = sockets(1)[0]
    b.sendto(b"four", a.getsockname())
    b.sendto(b"seven77", a.getsockname())
    select.select([a], [], [], 2)
    assert struct.unpack("i", fcntl.ioctl(a, termios.FIONREAD, bytes(4)))[0] == 4
    a.recv(10)


@on_both
def test_shutdown():
    a, b = sockets(2, 2)
    with raises(errno.ENOTCONN):
        sockets(1)[0].shutdown(socket.SHUT_RDWR)
    a.connect(b.getsockname())
    a.shutdown(socket.SHUT_WR)
    with raises(errno.EPIPE):
        a.send(b"x")
    a.shutdown(socket.SHUT_RD)
    a.settimeout(None)
    assert a.recv(10) == b""
    with raises(errno.EAGAIN):
        a.recv(10, socket.MSG_DONTWAIT)
    assert select.select([a], [], [], 1)[0] == [a]


@on_both
def test_sharing_a_port():
    a = sockets(1)[0]
    with raises(errno.EADDRINUSE):
        sockets(1, 0)[0].bind(a.getsockname())
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        c, d = sockets(2, 0)
        for one in (c, d):
            one.setsockopt(socket.SOL_SOCKET, option, 1)
        c.bind(("127.0.0.1", 0))
        d.bind(c.getsockname())
    a.close()
    sockets(1, 0)[0].bind(("127.0.0.1", 0))


@on_both
def test_fork():
    a, b = sockets()

    def child():
        data, source = a.recvfrom(10)
        a.sendto(data.upper(), source)

    for _ in range(2):
        pid = forked(child)
        b.sendto(b"abc", a.getsockname())
        assert b.recv(10) == b"ABC"
        assert succeeded(pid)
    b.sendto(b"still there", a.getsockname())
    assert a.recv(20) == b"still there"


@on_both
def test_exec():

    a, b = sockets()
    b.sendto(b"before", a.getsockname())
    time.sleep(0.1)
    a.set_inheritable(True)
    script = (
        "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); print(s.type, s.recvfrom(20)[0]); "
        "print(s.recv(20)); s.sendto(b'from the image', ('127.0.0.1', int(sys.argv[2])))"
    )
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        os.execv(sys.executable, [sys.executable, "-c", script, str(a.fileno()), str(b.getsockname()[1])])
    b.sendto(b"after", a.getsockname())
    assert b.recv(100) == b"from the image"
    assert os.read(read, 100) == b"2 b'before'\nb'after'\n"
    assert succeeded(pid)


@on_both
def test_asyncio():

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, source):
            self.transport.sendto(data, source)

    class Count(asyncio.DatagramProtocol):
        def __init__(self):
            self.got, self.all = [], asyncio.get_running_loop().create_future()

        def datagram_received(self, data, source):
            self.got.append(data)
            if len(self.got) == 100:
                self.all.set_result(None)

    async def main():
        loop = asyncio.get_running_loop()
        server, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
        client, counted = await loop.create_datagram_endpoint(Count, remote_addr=server.get_extra_info("sockname"))
        for number in range(100):
            client.sendto(b"%d" % number)
        await asyncio.wait_for(counted.all, 5)
        assert sorted(map(int, counted.got)) == list(range(100))
        client.close(), server.close()

    asyncio.run(main())


@on_both
def test_refused():
    """What a closed port means to a connected socket, and to one that wants to know everything."""
    closed, a = sockets(2, 2)
    where = closed.getsockname()
    closed.close()
    a.sendto(b"x", where)
    time.sleep(0.1)
    a.sendto(b"not connected: not told", where)
    a.connect(where)
    poll = select.poll()
    poll.register(a, select.POLLIN)
    a.send(b"x")
    assert poll.poll(2000)[0][1] & select.POLLERR
    with raises(errno.ECONNREFUSED):
        a.send(b"x")
    assert poll.poll(0) == []
    a.send(b"x")
    with raises(errno.ECONNREFUSED):
        a.recv(10)
    a.send(b"x")
    poll.poll(2000)
    assert a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
    assert a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


@on_both
def test_the_error_queue():
    closed, a, b = sockets(3, 3)
    where = closed.getsockname()
    closed.close()
    a.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    a.setblocking(False)
    b.sendto(b"before", a.getsockname())
    a.sendto(b"lost", where)
    time.sleep(0.1)
    b.sendto(b"after", a.getsockname())
    poll = select.poll()
    poll.register(a, select.POLLIN)
    assert poll.poll(2000)[0][1] & select.POLLERR
    data, [(level, kind, told)], flags, source = a.recvmsg(100, 200, socket.MSG_ERRQUEUE)
    assert (data, level, kind, flags, source) == (b"lost", 0, IP_RECVERR, socket.MSG_ERRQUEUE, where)
    assert struct.unpack_from("IBBB", told) == (errno.ECONNREFUSED, 2, 3, 3)
    assert told[20:24] == socket.inet_aton("127.0.0.1")
    with raises(errno.EAGAIN):
        a.recvmsg(100, 200, socket.MSG_ERRQUEUE)
    time.sleep(0.1)
    got = []
    for _ in range(5):
        try:
            got.append(a.recv(100))
        except OSError as error:
            got.append(error.errno)
    assert b"before" in got and b"after" in got and errno.EAGAIN in got
    assert poll.poll(0) == []
    a.sendto(b"again", where)
    time.sleep(0.1)
    with raises(errno.ECONNREFUSED):
        a.recv(100)
    with raises(errno.EAGAIN):
        a.recv(100)
    assert a.recvmsg(3, 200, socket.MSG_ERRQUEUE)[0::2][:2] == (b"aga", socket.MSG_ERRQUEUE | socket.MSG_TRUNC)


@on_both
def test_membership():
    """Before and after bind(); what may not be."""
    for bound in (0, 1):
        a = sockets(1, bound)[0]
        join = lambda group, option=socket.IP_ADD_MEMBERSHIP: a.setsockopt(  # noqa: B023, E731
            socket.IPPROTO_IP, option, socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
        )
        join("239.1.2.3")
        with raises(errno.EADDRINUSE):
            join("239.1.2.3")
        with raises(errno.EINVAL):
            join("10.1.2.3")
        with raises(errno.EADDRNOTAVAIL):
            join("239.1.2.4", socket.IP_DROP_MEMBERSHIP)
        if not bound:
            a.bind(("127.0.0.1", 0))
        join("239.1.2.3", socket.IP_DROP_MEMBERSHIP)
        join("239.1.2.3")
        with raises(errno.EINVAL):
            a.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, bytes(4))


@on_stack
def test_a_full_ring():
    """Of the stack alone: the kernel sends at once. A sender that may not wait is refused, one that waits is woken."""
    a, b = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    a.bind(("127.0.0.1", 0))
    a.setblocking(False)
    b.connect(a.getsockname())
    for _ in range(500):
        b.send(bytes(1000))
    got = 0
    time.sleep(0.2)
    try:
        while a.recv(2000):
            got += 1
    except BlockingIOError:
        pass
    assert 10 < got <= 500
