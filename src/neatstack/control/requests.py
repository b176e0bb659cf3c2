"""manager.sock: what programs ask, as binary structures of layout.h over SOCK_SEQPACKET, one reply each.

Whatever comes is hostile until checked: anybody may connect (servers run as any user). A program that asks without
reading its replies, or opens connection upon connection, is cut off; nobody else waits for it.
"""

import asyncio
import errno
import logging
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address

from neatstack.control import messages, pages
from neatstack.control.ports import Address, ListenOptions, Refused
from neatstack.control.programs import Peer, Program, Programs
from neatstack.control.replicas import ReplicaError

log = logging.getLogger("neat.requests")

REQUEST = struct.Struct("=4IQ16s2sHIHBBIBBHI32s4B4x")  # struct neat_request
REPLY = struct.Struct("=4IQ16s2s2xI16x")  # struct neat_reply
CREDENTIALS = struct.Struct("=3i")  # struct ucred
MOST_CONNECTIONS = 1024
MOST_OF_PROCESS = 16  # connections
ACCEPT_AT_ONCE = 32


class Op(IntEnum):
    """enum neat_request_op"""

    HELLO = 1
    FORK = 2
    CLAIM = 3
    ABANDON = 4
    BIND = 5
    LISTEN = 6
    CLOSE = 7
    JOIN = 8
    LEAVE = 9
    PASS = 10
    RECEIVE = 11


class BindFlag(IntFlag):
    """enum neat_bind_flag"""

    REUSEADDR = 1
    REUSEPORT = 2
    DATAGRAM = 4
    V6ONLY = 8


@dataclass(frozen=True)
class Request:
    """struct neat_request, its magic and size checked."""

    op: int
    channel: int
    binding: int
    token: int
    address: Address
    port: int
    flags: int
    backlog: int
    options: ListenOptions = ListenOptions()
    place: tuple[int, int, int] = 0, 0, 0  # replica, memory, socket

    @classmethod
    def parse(cls, data: bytes) -> "Request":
        """Raises Refused for what is not a request."""
        if len(data) != REQUEST.size:
            raise Refused(errno.EINVAL)
        *fields, keys, key_count, save_syn, least_ttl, least_hops = REQUEST.unpack(data)
        magic, op, channel, binding, token, address, port, flags, backlog, *options = fields
        wanted = [*options[:-3], save_syn, least_ttl, least_hops, keys[: 16 * key_count].hex()]
        if magic != pages.MAGIC:
            raise Refused(errno.EINVAL)
        return cls(
            op,
            channel,
            binding,
            token,
            pages.narrow(address),
            int.from_bytes(port, "big"),
            flags,
            backlog,
            ListenOptions(*wanted),
            tuple(options[-3:]),
        )


@dataclass
class Reply:
    """struct neat_reply and the descriptors that go with it."""

    error: int = 0
    channel: int = 0
    binding: int = 0
    token: int = 0
    address: Address = IPv4Address(0)
    port: int = 0
    replicas: int = 0
    descriptors: tuple[int, ...] = ()
    given: tuple[int, ...] = ()  # further ones, which are closed once they are sent

    def pack(self) -> bytes:
        return REPLY.pack(
            pages.MAGIC,
            self.error,
            self.channel,
            self.binding,
            self.token,
            pages.wide(self.address),
            self.port.to_bytes(2, "big"),
            self.replicas,
        )


class Connection:
    """One connection of a program: a request, its reply, the next request."""

    def __init__(self, server: "RequestServer", sock: socket.socket, peer: Peer) -> None:
        self.server = server
        self.sock = sock
        self.peer = peer
        self.program: Program | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    def close(self) -> None:
        self._loop.remove_reader(self.sock)
        self.sock.close()
        self.server.closed(self)

    def _readable(self) -> None:
        try:
            data = self.sock.recv(REQUEST.size + 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._loop.remove_reader(self.sock)  # until this one is answered
        self._task = asyncio.ensure_future(self._serve(data))

    async def _serve(self, data: bytes) -> None:
        try:
            reply = await self._handle(Request.parse(data))
        except Refused as refused:
            reply = Reply(error=refused.errno)
        except ReplicaError as error:
            log.error("a replica refuses: %s", error)
            reply = Reply(error=errno.ENOBUFS)
        except Exception:
            log.exception("request of pid %d failed", self.peer.pid)
            reply = Reply(error=errno.EIO)
        try:
            socket.send_fds(self.sock, [reply.pack()], reply.descriptors + reply.given)
        except OSError:  # gone, or it does not read its replies
            self.close()
            return
        finally:
            messages.close(list(reply.given))
        self._loop.add_reader(self.sock, self._readable)

    async def _handle(self, request: Request) -> Reply:
        programs = self.server.programs
        match request.op:
            case Op.HELLO if self.program is None:
                self.program = await programs.hello(self.peer)
                return self.server.welcome(self.program)
            case Op.CLAIM if self.program is None:
                self.program = programs.claim(request.channel, request.token, self.peer)
                return self.server.describe(self.program)
        program = self._authentic(request)
        match request.op:
            case Op.FORK:
                return self.server.welcome_child(await programs.fork(program))
            case Op.ABANDON:
                programs.abandon(program, request.channel, request.token)
                return Reply()
            case Op.BIND:
                binding = await programs.bind(
                    program,
                    request.address,
                    request.port,
                    reuse_address=bool(request.flags & BindFlag.REUSEADDR),
                    reuse_port=bool(request.flags & BindFlag.REUSEPORT),
                    datagram=bool(request.flags & BindFlag.DATAGRAM),
                    v6only=bool(request.flags & BindFlag.V6ONLY),
                    cookie=request.binding,
                )
                return Reply(binding=binding.number, address=binding.address, port=binding.port)
            case Op.LISTEN:
                backlog = min(max(request.backlog, 1), self.server.backlog_most)
                binding = await programs.listen(program, request.binding, backlog, request.options)
                return Reply(binding=binding.number, address=binding.address, port=binding.port)
            case Op.CLOSE:
                await programs.close(program, request.binding)
                return Reply()
            case Op.JOIN | Op.LEAVE:
                await programs.join(program, request.binding, request.address, leave=request.op == Op.LEAVE)
                return Reply()
            case Op.PASS:
                replica, memory, place = request.place
                passed, end = await programs.pass_on(program, request.binding, memory, replica, place)
                return Reply(binding=passed.number, token=passed.token, descriptors=(passed.end,), given=(end,))
            case Op.RECEIVE:
                passed = await programs.receive(program, request.binding, request.token)
                return Reply(channel=passed.memory, descriptors=tuple(passed.memories.values()))
        raise Refused(errno.EINVAL)

    def _authentic(self, request: Request) -> Program:
        """The program of this connection, if the request speaks for it. ABANDON and RECEIVE name something else."""
        program = self.program
        if program is None or program.gone:
            raise Refused(errno.EPERM)
        itself = (request.channel, request.token) == (program.channel, program.token)
        if not itself and request.op not in (Op.ABANDON, Op.RECEIVE):
            raise Refused(errno.EPERM)
        return program


class RequestServer:
    """Accepts programs on manager.sock."""

    def __init__(self, listener: socket.socket, programs: Programs, stack_page: int, backlog_most: int) -> None:
        self.programs = programs
        self.backlog_most = backlog_most
        self._stack_page = pages.read_only(stack_page)
        self._listener = listener
        self._connections: Counter[int] = Counter()  # by pid
        listener.setblocking(False)
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log.error("cannot accept a program: %s", error)
                return
            sock.setblocking(False)
            pid, uid, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
            if pid <= 0 or self._connections[pid] >= MOST_OF_PROCESS or self._connections.total() >= MOST_CONNECTIONS:
                sock.close()
                continue
            self._connections[pid] += 1
            Connection(self, sock, Peer(pid, uid))

    def closed(self, connection: Connection) -> None:
        """A connection is no more."""
        pid = connection.peer.pid
        self._connections[pid] -= 1
        if not self._connections[pid]:
            del self._connections[pid]

    def describe(self, program: Program) -> Reply:
        """Who the program is."""
        return Reply(channel=program.channel, token=program.token, replicas=len(program.memories))

    def welcome(self, program: Program) -> Reply:
        """The answer to HELLO, with everything that a program maps. What is not the program's to write is read-only."""
        slots = self.programs.replicas.slots
        reply = self.describe(program)
        descriptors = [self._stack_page, program.doorbell]
        for slot, memory in zip(slots, program.memories, strict=True):
            descriptors += [memory, slot.page_read_only, slot.doorbell]
        reply.descriptors = tuple(descriptors)
        return reply

    def welcome_child(self, child: Program) -> Reply:
        """The answer to FORK."""
        reply = self.describe(child)
        reply.descriptors = (child.doorbell, *child.memories)
        return reply
