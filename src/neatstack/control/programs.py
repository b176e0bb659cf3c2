"""The programs that use the stack: their channels, and what becomes of them when they die."""

import asyncio
import errno
import logging
import mmap
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from neatstack.control import pages
from neatstack.control.in_flight import IN_FLIGHT, InFlight, Passed
from neatstack.control.line import Answer, ReplicaError
from neatstack.control.lingering import Lingering, is_lingering
from neatstack.control.ports import Address, Binding, ListenOptions, Ports, Refused
from neatstack.control.replicas import Replicas, Told
from neatstack.control.store import Entry, Store

log = logging.getLogger("neat.programs")

MOST_CHANNELS = 255  # NEAT_MAX_CHANNELS, without NEAT_IN_FLIGHT
CLAIM_TIME = 30.0  # seconds that the child of a fork has to say who it is
COMMANDS_HEAD, COMMANDS_TAIL = 128 // 4, 256 // 4  # 32-bit words of a channel: entries put by the program, and taken
SHARE_OF_USER = MOST_CHANNELS // 2  # channels that one user other than root may have


@dataclass(frozen=True)
class Peer:
    """Who is on the other end of a connection, as the kernel says."""

    pid: int
    uid: int


@dataclass
class Program:
    """One process with the socket library, and its channels: one memfd for each replica slot."""

    channel: int
    token: int
    uid: int
    doorbell: int  # descriptors
    memories: list[int]
    pid: int = 0  # 0: forked, and not yet claimed
    pidfd: int = -1
    opening: bool = True  # the replicas have not all been told
    gone: bool = False
    expiry: asyncio.TimerHandle | None = field(default=None, repr=False)
    views: dict[int, memoryview] = field(default_factory=dict, repr=False)  # by slot: a channel's first page

    @property
    def name(self) -> str:
        """What ps would call it."""
        try:
            return Path(f"/proc/{self.pid}/comm").read_text().strip()
        except OSError:
            return ""

    def to_data(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("channel", "token", "uid", "pid", "opening")}

    @property
    def descriptors(self) -> list[int]:
        """In the order of `from_entry`; the pidfd only if there is one."""
        return [self.doorbell, *self.memories, *([self.pidfd] if self.pidfd >= 0 else [])]

    @classmethod
    def from_entry(cls, entry: Entry) -> "Program":
        doorbell, *rest = entry.descriptors
        pidfd = rest.pop() if entry.data["pid"] else -1
        return cls(**entry.data, doorbell=doorbell, memories=rest, pidfd=pidfd)

    def has_commands(self, slot: int) -> bool:
        """Does the program wait for replica `slot` to take its commands? A look at memory, mapped once."""
        view = self.views.get(slot)
        if view is None:
            memory = mmap.mmap(self.memories[slot], mmap.PAGESIZE, prot=mmap.PROT_READ)
            view = self.views[slot] = memoryview(memory).cast("I")
        return bool(view[COMMANDS_HEAD] != view[COMMANDS_TAIL])

    def unmap(self) -> None:
        """Nobody looks there any more."""
        self.views.clear()

    def told(self, slot: int, inherit: int | None) -> Told:
        """How replica `slot` is told of the channel."""
        message = {"op": "channel", "channel": self.channel, "inherit": inherit}
        return Told(message, (self.memories[slot], self.doorbell))


@dataclass(frozen=True)
class ChannelShape:
    """How large the channels are."""

    slots: int
    sockets: int
    receive_buffer: int
    send_buffer: int

    def create(self, channel: int) -> list[int]:
        """The memfds of a new channel, one for each slot."""
        from neatstack.dataplane.channel.create import create_channel

        shape = self.sockets, self.receive_buffer, self.send_buffer
        return [create_channel(slot, channel, *shape) for slot in range(self.slots)]


def listen_requests(binding: Binding) -> list[Told]:
    """What a replica is told of a listening binding: the listener, then who may accept."""
    address, port = str(binding.address), binding.port
    listen = {"op": "listen", "listener": binding.number, "address": address, "port": port, "backlog": binding.backlog}
    listen.update(asdict(binding.options))
    if binding.v6only:
        listen["v6only"] = True
    holders = sorted(binding.holders.keys() - {IN_FLIGHT})
    grants = ({"op": "grant", "listener": binding.number, "channel": channel} for channel in holders)
    return [Told(listen), *(Told(grant) for grant in grants)]


def bind_request(binding: Binding) -> Told:
    """What a replica is told of a UDP socket."""
    flags = 1 * binding.reuse_address | 2 * binding.reuse_port | 8 * binding.v6only  # enum neat_bind_flag
    where = {"address": str(binding.address), "port": binding.port, "flags": flags}
    who = {"channel": binding.channel, "cookie": binding.cookie, "holders": sorted(binding.holders)}
    return Told({"op": "bind", "binding": binding.number, **where, **who})


def groups_request(ports: Ports) -> Told:
    """What link is told of the groups that programs have joined."""
    return Told({"op": "groups", "groups": sorted(map(str, ports.groups()))})


class Programs:
    """All programs of the stack, and what they have bound.

    Every change is made in the tables, stored and sent to the replicas in one step without an await: so each replica
    learns of changes in the order in which they were made, and one that starts meanwhile learns the outcome.
    """

    def __init__(self, store: Store, replicas: Replicas, ports: Ports, shape: ChannelShape) -> None:
        self.store = store
        self.replicas = replicas
        self.ports = ports
        self.shape = shape
        self.by_channel: dict[int, Program] = {}
        self._last = -1  # the channel opened last
        self.lingering = Lingering(store, replicas)
        self.in_flight = InFlight(store, replicas, self._arrived_nowhere)
        self.on_groups: Callable[[], object] = lambda: None  # a group is joined or left: `ports.groups()`

    def __iter__(self) -> Iterator[Program]:
        return iter(list(self.by_channel.values()))

    def contents(self, slot: int) -> Iterable[Told]:
        """Everything that a new incarnation of `slot` has to know."""
        yield from self.lingering.contents(slot)
        for program in self:
            yield program.told(slot, None)
        for binding in self.ports:
            if binding.listening:
                yield from listen_requests(binding)
            elif binding.datagram:
                yield bind_request(binding)
                yield from (Told({"op": "join", "group": str(group)}) for group in binding.groups)

    def resume(self, channels: Iterable[Entry], passed: Iterable[Entry] = ()) -> None:
        """A restarted manager has found these in the keeper."""
        self.in_flight.resume(passed)
        for binding in self.ports:
            held = sum(one.binding == binding.number for one in self.in_flight)
            if held:
                binding.holders[IN_FLIGHT] = held
            elif IN_FLIGHT in binding.holders:
                self._release(IN_FLIGHT, binding, dead=True)
        programs = []
        for entry in channels:
            if is_lingering(entry):
                self.lingering.adopt(entry)
            else:
                programs.append(Program.from_entry(entry))
        for program in programs:
            self.by_channel[program.channel] = program
            self._last = max(self._last, program.channel)
        for program in programs:
            if program.opening:  # it has never had an answer, and will ask again
                self.forget(program)
            elif program.pid:
                self._watch(program)
            else:
                self._expect_claim(program)

    async def hello(self, peer: Peer) -> Program:
        """A new program. Raises Refused."""
        for former in [p for p in self if p.pid == peer.pid]:
            self.forget(former)  # exec() of a program that did not keep its token
        program = self._open(peer.uid)
        try:
            self._attend(program, peer)
            await self._announce(program, None)
        except BaseException:
            self.forget(program)
            raise
        return program

    async def fork(self, parent: Program) -> Program:
        """The channels of the child that `parent` is about to make. Raises Refused."""
        child = self._open(parent.uid)
        self._expect_claim(child)
        for binding in self.ports.inherit(parent.channel, child.channel):
            self._store_binding(binding)
        await self._announce(child, parent.channel)
        return child

    def claim(self, channel: int, token: int, peer: Peer) -> Program:
        """`peer` says that it is this program: a forked child, a new image, or the same after a manager's restart."""
        program = self.by_channel.get(channel)
        if program is None or not secrets.compare_digest(program.token.to_bytes(8, "big"), token.to_bytes(8, "big")):
            raise Refused(errno.EPERM)
        if program.pid == 0:
            self._attend(program, peer)
            self._store(program)
        elif program.pid != peer.pid:
            raise Refused(errno.EPERM)
        return program

    def abandon(self, parent: Program, channel: int, token: int) -> None:
        """The fork has failed: forget the child, which nobody has claimed."""
        child = self.by_channel.get(channel)
        if child is None or child.pid or child.token != token or child is parent:
            raise Refused(errno.EPERM)
        self.forget(child)

    async def bind(self, program: Program, address: Address, port: int, **options: Any) -> Binding:
        """Bind for the program, `options` as for Ports.bind(); a UDP socket in every replica. Raises Refused."""
        binding = self.ports.bind(program.channel, program.uid, address, port, **options)
        self._store_binding(binding)
        if binding.datagram:
            await self.replicas.answers(self.replicas.tell(bind_request(binding)))
        return binding

    async def listen(self, program: Program, number: int, backlog: int, options: ListenOptions) -> Binding:
        """Every replica accepts on the binding from now on. Raises Refused."""
        binding = self.ports.listen(program.channel, number, backlog, options)
        self._store_binding(binding)
        await self.replicas.answers(self.replicas.tell(*listen_requests(binding)))
        return binding

    async def join(self, program: Program, number: int, group: Address, *, leave: bool) -> None:
        """The UDP socket joins, or leaves, a group of hosts. Raises Refused."""
        change = self.ports.leave if leave else self.ports.join
        self._store_binding(change(program.channel, number, group))
        self.on_groups()
        await self.replicas.answers(self.replicas.tell(Told({"op": "leave" if leave else "join", "group": str(group)})))

    async def close(self, program: Program, number: int) -> None:
        """The program holds the binding no longer. Raises Refused."""
        told = self._release(program.channel, self.ports.held(program.channel, number))
        await self.replicas.answers(told)

    async def pass_on(
        self, program: Program, number: int, memory: int, replica: int, socket: int
    ) -> tuple[Passed, int]:
        """A socket of the program is about to be sent; the receiver's descriptor, to be closed. Raises Refused.

        `number`: its binding, or 0. A connection lives in slot `socket` of the channel `memory` with a `replica`.
        """
        memories: dict[int, int] = {}
        binding = self.ports.held(program.channel, number) if number else None
        if binding is not None and binding.datagram:
            memories = self._memories(binding.channel)
            memory, replica = binding.channel, -1
            if len(memories) < self.shape.slots:  # its program is dead, and some replica has not run since
                raise Refused(errno.EOPNOTSUPP)
        elif replica < self.shape.slots:
            memories = {slot: fd for slot, fd in self._memories(memory).items() if slot == replica}
            if not memories or socket >= self.shape.sockets:
                raise Refused(errno.EBADF)
        else:
            replica = -1
        passed, end = self.in_flight.add(program.uid, number, (memory, replica, socket), memories)
        try:
            if binding is not None:
                await self._hold(IN_FLIGHT, binding)
            if replica >= 0:
                await self.in_flight.share(passed, program.channel, IN_FLIGHT)
        except BaseException as error:
            os.close(end)
            raise Refused(errno.EBADF) if isinstance(error, ReplicaError) else error from None
        return passed, end

    async def receive(self, program: Program, number: int, token: int) -> Passed:
        """The program has received the socket, and holds it from now on. Raises Refused.

        With a connection it is given memory of whoever sent it, who must be the same user.
        """
        passed = self.in_flight.find(number, token)
        if passed.memories and passed.uid != program.uid:
            raise Refused(errno.EACCES)
        if passed.replica >= 0:
            await self.in_flight.share(passed, IN_FLIGHT, program.channel)
        if passed.binding and not program.gone:
            await self._hold(program.channel, self.ports.held(IN_FLIGHT, passed.binding))
        return passed

    async def _hold(self, channel: int, binding: Binding) -> None:
        """A program more holds the binding, or holds it once more."""
        binding.holders[channel] = binding.holders.get(channel, 0) + 1
        self._store_binding(binding)
        if binding.datagram:
            await self.replicas.answers(self.replicas.tell(bind_request(binding)))
        elif binding.listening and channel != IN_FLIGHT:
            grant = {"op": "grant", "listener": binding.number, "channel": channel}
            await self.replicas.answers(self.replicas.tell(Told(grant)))

    def _memories(self, channel: int) -> dict[int, int]:
        """By slot, those that are there."""
        program = self.by_channel.get(channel)
        if program is not None:
            return dict(enumerate(program.memories))
        lingering = self.lingering.by_number.get(channel)
        return lingering.memories if lingering is not None else {}

    def _arrived_nowhere(self, passed: Passed) -> None:
        """Nobody can receive it any more."""
        if passed.binding and IN_FLIGHT in self.ports.bindings[passed.binding].holders:
            self._release(IN_FLIGHT, self.ports.bindings[passed.binding])

    def forget(self, program: Program) -> None:
        """The program is gone: its connections are reset, its bindings released, its memory freed."""
        if program.gone:
            return
        program.gone = True
        loop = asyncio.get_running_loop()
        if program.expiry is not None:
            program.expiry.cancel()
        if program.pidfd >= 0:
            loop.remove_reader(program.pidfd)
        program.unmap()
        del self.by_channel[program.channel]
        for binding in self.ports.of(program.channel):
            self._release(program.channel, binding, dead=True)
        self.lingering.add(program.channel, program.doorbell, program.memories)
        if program.pidfd >= 0:
            os.close(program.pidfd)
        log.debug("channel %d (pid %d) is dropped", program.channel, program.pid)

    def _open(self, uid: int) -> Program:
        """A new channel that nobody has been told of yet."""
        if uid and sum(program.uid == uid for program in self) >= SHARE_OF_USER:
            raise Refused(errno.EDQUOT)
        numbers = ((self._last + step) % MOST_CHANNELS for step in range(1, MOST_CHANNELS + 1))
        channel = next((n for n in numbers if n not in self.by_channel and n not in self.lingering), None)
        if channel is None:
            channel = self.lingering.give_up()
        if channel is None:
            raise Refused(errno.ENOBUFS)
        self._last = channel
        token = secrets.randbits(64) or 1
        program = Program(channel, token, uid, pages.doorbell(), self.shape.create(channel))
        self.by_channel[channel] = program
        return program

    async def _announce(self, program: Program, inherit: int | None) -> None:
        """Store the program, tell the replicas, wait until all have mapped its channel."""
        self._store(program)
        told = []
        for slot in self.replicas.slots:
            told += self.replicas.tell_one(slot, program.told(slot.number, inherit))
        for binding in self.ports.of(program.channel):
            if binding.listening:
                told += self.replicas.tell(
                    Told({"op": "grant", "listener": binding.number, "channel": program.channel})
                )
        await self.replicas.answers(told)
        if program.gone:
            raise Refused(errno.ESRCH)
        program.opening = False
        self._store(program)

    def _attend(self, program: Program, peer: Peer) -> None:
        """The program's process is `peer`: watch it."""
        try:
            program.pidfd = os.pidfd_open(peer.pid)
        except OSError as error:
            raise Refused(error.errno or errno.ESRCH) from None
        program.pid, program.uid = peer.pid, peer.uid
        if program.expiry is not None:
            program.expiry.cancel()
            program.expiry = None
        self._watch(program)

    def _watch(self, program: Program) -> None:
        asyncio.get_running_loop().add_reader(program.pidfd, self.forget, program)

    def _expect_claim(self, program: Program) -> None:
        program.expiry = asyncio.get_running_loop().call_later(CLAIM_TIME, self.forget, program)

    def _release(self, channel: int, binding: Binding, *, dead: bool = False) -> list[Answer]:
        """A program gives up a binding; the last one takes it away."""
        self.ports.release(channel, binding.number, dead=dead)
        if channel in binding.holders:
            self._store_binding(binding)
            return []
        which = {"binding" if binding.datagram else "listener": binding.number}
        if binding.holders:
            request = {"op": "release" if binding.datagram else "revoke", **which, "channel": channel}
        else:
            request = {"op": "unbind" if binding.datagram else "unlisten", **which}
        # replicas first: a manager that dies in between finds the binding still stored, and releases it again
        granted = channel != IN_FLIGHT or binding.datagram or not binding.holders
        told = self.replicas.tell(Told(request)) if binding.told and granted else []
        if not binding.holders:
            told += self.replicas.tell(*(Told({"op": "leave", "group": str(group)}) for group in binding.groups))
            if binding.groups:
                self.on_groups()
        if binding.holders:
            self._store_binding(binding)
        else:
            self.store.drop(f"binding.{binding.number}")
        return told

    def _store(self, program: Program) -> None:
        self.store.put(f"channel.{program.channel}", program.to_data(), program.descriptors)

    def _store_binding(self, binding: Binding) -> None:
        self.store.put(f"binding.{binding.number}", binding.to_data())
