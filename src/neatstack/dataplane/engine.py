"""One replica's stack, put together: the Python face that replica.py and tests drive it by."""

import mmap
import os

import cython
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.libc.errno import EBUSY, EINVAL
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.neatstack.dataplane.adopt import ADOPT_ALL, ADOPT_NOTHING, ADOPT_SUSPECT, Manner, Order, adopt_as
from cython.cimports.neatstack.dataplane.batch import deadline, rounds
from cython.cimports.neatstack.dataplane.channel.address import Address, same, v4
from cython.cimports.neatstack.dataplane.channel.address_text import add_addresses, address_of
from cython.cimports.neatstack.dataplane.channel.channel import (
    attach,
    deactivate,
    destroy_channels,
    release_memory,
)
from cython.cimports.neatstack.dataplane.channel.hold import destroy_holds, init_holds
from cython.cimports.neatstack.dataplane.channel.layout import (
    NEAT_FASTOPEN_CLIENT,
    NEAT_FASTOPEN_SERVER,
    NEAT_LAYOUT_VERSION,
    NEAT_MAGIC,
    ReplicaPage,
    StackPage,
)
from cython.cimports.neatstack.dataplane.channel.region import map_region
from cython.cimports.neatstack.dataplane.death import guarded
from cython.cimports.neatstack.dataplane.driver.capture import capture_attach
from cython.cimports.neatstack.dataplane.driver.device import Device
from cython.cimports.neatstack.dataplane.driver.fault import FaultyDevice, fault_close, fault_device, is_faulty
from cython.cimports.neatstack.dataplane.driver.loopback import (
    destroy_loopback,
    init_loopback,
)
from cython.cimports.neatstack.dataplane.driver.memory import (
    Stored,
    memory_close,
    memory_device,
    memory_put,
    memory_take,
    memory_untaken,
)
from cython.cimports.neatstack.dataplane.inspect import connections_of, counters_of, listeners_of
from cython.cimports.neatstack.dataplane.ip.output import neighbour_place
from cython.cimports.neatstack.dataplane.ip.path import recall_paths
from cython.cimports.neatstack.dataplane.ip.reassembly import destroy_reassembly, init_reassembly
from cython.cimports.neatstack.dataplane.journal import (
    STRIKE_COUNT,
    STRIKE_JUMP,
    checksum_of_tcb,
    checksum_of_view,
    commit,
)
from cython.cimports.neatstack.dataplane.socket import programs
from cython.cimports.neatstack.dataplane.socket.accept import destroy_queues, init_queues
from cython.cimports.neatstack.dataplane.socket.datagrams import (
    bind_datagrams,
    hold_datagrams,
    release_datagrams,
    unbind_datagrams,
)
from cython.cimports.neatstack.dataplane.stack import (
    CAPTURES,
    MAX_CHANNELS,
    NEIGHBOURS,
    Board,
    FastKeys,
    Neighbour,
    Reassembly,
    Stack,
    View,
)
from cython.cimports.neatstack.dataplane.tcp import table, timers
from cython.cimports.neatstack.dataplane.tcp.fastopen import keys_from
from cython.cimports.neatstack.dataplane.tcp.listen import listen
from cython.cimports.neatstack.dataplane.udp.endpoint import (
    destroy_datagrams,
    init_datagrams,
    join_group,
    leave_group,
)

from neatstack.dataplane.channel.region import region_size
from neatstack.dataplane.journal import Point

# How the next incarnation takes over: all of it; all but the connection in hand, for the last one broke; or only to
# reset every connection, so that nobody waits for a timeout. `fresh` is for memory that cannot be taken over.
MANNERS = {
    "fresh": int(ADOPT_ALL), "adopt": int(ADOPT_ALL), "suspect": int(ADOPT_SUSPECT), "reset": int(ADOPT_NOTHING),
}  # fmt: skip

# ---- building ----


@cython.cfunc
def check(result: cython.int, what: object) -> object:
    """Negative errno becomes an exception: ValueError where the caller was wrong, else OSError."""
    if result >= 0:
        return
    if result == -EINVAL or result == -EBUSY:
        raise ValueError(f"{what}: {os.strerror(-result)}")
    raise OSError(-result, f"{what}: {os.strerror(-result)}")


@cython.cfunc
def pointer_to(buffer: object, least: uint64_t, writable: cython.bint) -> cython.p_void:
    """Where a buffer's bytes lie.

    The caller keeps a memoryview of it, so that they stay there. ValueError: too small.
    """
    view: cython.Py_buffer
    PyObject_GetBuffer(buffer, cython.address(view), PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
    at: cython.p_void = view.buf
    length: uint64_t = view.len
    PyBuffer_Release(cython.address(view))
    if length < least:
        raise ValueError(f"a buffer of {length} bytes where {least} are needed")
    return at


@cython.cfunc
def new_stack_page(address: str, prefix: int, gateway: object, mac: bytes, mtu: int) -> object:
    """A stack page of a stack with one replica."""
    memory: object = bytearray(cython.sizeof(StackPage))
    page: cython.pointer[StackPage] = cython.cast(cython.pointer[StackPage], pointer_to(memory, 0, True))
    octets: cython.p_char = mac
    page.magic = NEAT_MAGIC
    page.version = NEAT_LAYOUT_VERSION
    page.address_be = v4(address_of(address))
    page.netmask_be = int.from_bytes(((0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF).to_bytes(4, "big"), "little")
    page.gateway_be = v4(address_of(gateway)) if gateway else 0
    page.mtu = mtu
    page.replicas = 1
    page.active = 1
    page.tcp_backlog_max = 4096
    memcpy(page.mac, octets, 6)
    page.hash_key[0] = page.hash_key[1] = page.hash_key[2] = 1
    return memory


class Died(Exception):
    """The incarnation has come to an end in the middle of its work, as a test wanted it."""


@cython.final
@cython.cclass
class Engine:
    """A replica's stack.

    `addresses`: more of the stack, each with its prefix. `ecn`, `receive_shift`, `without`, `fastopen`, `ttl`,
    `hop_limit`, `icmp_errors`: see StackPage.

    `region`, `stack_page`, `replica_page` and `neighbours` are buffers laid out as stack.pxd and layout.h say; what is
    not given is made, for one replica with the given address. `device` is "memory" (see input() and output()), or None:
    the caller sets the device up before the first batch. `faults` is a dict of fault probabilities with a `seed`, see
    driver/fault.py. `secret`: 16 bytes, the same for all replicas of the stack: cookies and timestamps, which may come
    back to another replica. `fastopen_keys`: up to two of 16 bytes, else one is made of the secret.
    """

    def __cinit__(
        self,
        *,
        address: str = "10.0.0.2",
        prefix: int = 24,
        gateway: object = None,
        addresses: object = (),
        gateway6: object = None,
        mac: bytes = b"\x02\x00\x00\x00\x00\x02",
        mtu: int = 1500,
        ecn: int = 0,
        receive_shift: int = 0,
        without: int = 0,
        fastopen: int = NEAT_FASTOPEN_CLIENT | NEAT_FASTOPEN_SERVER,
        ttl: int = 64,
        hop_limit: int = 64,
        icmp_errors: int = 200,
        replica: int = 0,
        incarnation: int = 1,
        max_tcbs: int = 4096,
        region: object = None,
        keep: bool = False,
        stack_page: object = None,
        replica_page: object = None,
        neighbours: object = None,
        device: object = "memory",
        faults: object = None,
        secret: bytes = b"",
        fastopen_keys: bytes = b"",
    ):
        self.kept = {}
        self.s = cython.cast(cython.pointer[Stack], calloc(1, cython.sizeof(Stack)))
        if self.s == cython.NULL:
            raise MemoryError
        s: cython.pointer[Stack] = self.s
        s.replica = replica
        if secret:
            s.secret[0] = int.from_bytes(secret[:8], "little")
            s.secret[1] = int.from_bytes(secret[8:16], "little")
        s.fast_keys = keys_from(fastopen_keys, len(fastopen_keys))
        if stack_page is None:
            stack_page = new_stack_page(address, prefix, gateway, mac, mtu)
            made: cython.pointer[StackPage] = cython.cast(cython.pointer[StackPage], pointer_to(stack_page, 0, True))
            made.ecn = ecn
            made.receive_shift = receive_shift
            made.without = without
            made.fastopen = fastopen
            made.ttl = ttl
            made.hop_limit = hop_limit
            made.icmp_errors = icmp_errors
            add_addresses(made, [f"{address}/{prefix}", *addresses], gateway6)
        if replica_page is None:
            replica_page = bytearray(cython.sizeof(ReplicaPage))
        if neighbours is None:
            neighbours = bytearray(NEIGHBOURS * cython.sizeof(Neighbour))
        if region is None:
            region = mmap.mmap(-1, region_size(max_tcbs))
        s.page = cython.cast(
            cython.pointer[StackPage], self.keep("stack_page", stack_page, cython.sizeof(StackPage), False)
        )
        s.neighbours = cython.cast(
            cython.pointer[Neighbour], self.keep("neighbours", neighbours, NEIGHBOURS * cython.sizeof(Neighbour), False)
        )
        s.replica_page = cython.cast(
            cython.pointer[ReplicaPage], self.keep("replica_page", replica_page, cython.sizeof(ReplicaPage), True)
        )
        self.map(region, max_tcbs, incarnation, keep)
        if device == "memory":
            check(memory_device(cython.address(s.device)), "memory device")
            self.in_memory = True
        if faults:
            self.add_faults(**faults)

    def keep(self, name: object, buffer: object, least: uint64_t, writable: cython.bint) -> cython.p_void:
        at: cython.p_void = pointer_to(buffer, least, writable)
        self.kept[name] = memoryview(buffer)
        return at

    def map(self, region: object, max_tcbs: uint32_t, incarnation: uint32_t, keep: cython.bint) -> object:
        """The region, and the private structures beside it. Large arrays are left to be touched when they are used."""
        s: cython.pointer[Stack] = self.s
        memory: cython.p_void = self.keep("region", region, 0, True)
        check(map_region(s, memory, self.kept["region"].nbytes, max_tcbs, keep), "state region")
        s.region.replica = s.replica
        s.page_generation = s.page.generation
        s.region.incarnation = incarnation
        s.replica_page.magic = NEAT_MAGIC
        s.replica_page.version = NEAT_LAYOUT_VERSION
        s.replica_page.incarnation = incarnation
        recall_paths(s)
        s.views = cython.cast(cython.pointer[View], calloc(max_tcbs, cython.sizeof(View)))
        s.dirty = cython.cast(cython.pointer[uint32_t], calloc(max_tcbs, cython.sizeof(uint32_t)))
        s.boards = cython.cast(cython.pointer[Board], calloc(max_tcbs, cython.sizeof(Board)))
        if s.views == cython.NULL or s.dirty == cython.NULL or s.boards == cython.NULL:
            raise MemoryError
        check(init_holds(s), "hold buffers")
        check(init_queues(s), "listeners")
        check(init_loopback(s), "loopback")
        check(init_datagrams(s), "UDP sockets")
        check(table.init(s), "connection table")
        s.reassembly = cython.cast(cython.pointer[Reassembly], calloc(1, cython.sizeof(Reassembly)))
        if s.reassembly == cython.NULL:
            raise MemoryError
        check(init_reassembly(s.reassembly, s.counters, s.flows_key[0], s.flows_key[1]), "reassembly")
        s.fragments_id = cython.cast(uint16_t, s.flows_key[2])  # the last incarnation's are still on their way

    def __dealloc__(self):
        s: cython.pointer[Stack] = self.s
        if s == cython.NULL:
            return
        if is_faulty(cython.address(s.device)):
            fault_close(cython.address(s.device))
        if self.in_memory:
            memory_close(cython.address(s.device))
        table.destroy(s)
        destroy_loopback(s)
        destroy_datagrams(s)
        if s.reassembly != cython.NULL:
            destroy_reassembly(s.reassembly)
            free(s.reassembly)
        destroy_queues(s)
        destroy_holds(s)
        destroy_channels(s)
        free(s.views)
        free(s.boards)
        free(s.dirty)
        free(s)

    def add_faults(
        self, seed: int = 0, drop: float = 0.0, duplicate: float = 0.0, reorder: float = 0.0, corrupt: float = 0.0
    ) -> None:
        """Put a bad link before the device.

        Probabilities for each frame in each direction. ValueError: not probabilities.
        """
        check(fault_device(cython.address(self.s.device), seed, drop, duplicate, reorder, corrupt), "faults")

    # ---- time and traffic ----

    @property
    def now(self) -> int:
        """The stack's clock, ns. Set it before each batch; it must not go back once there are connections."""
        return self.s.now

    @now.setter
    def now(self, ns: int) -> None:
        self.s.now = ns
        if not self.s.wheel_count:
            timers.init(self.s)

    def input(self, frame: bytes, checked: bool = False, gso_size: int = 0) -> None:
        """A frame arrives at the memory device. `checked`: its transport checksum is known to be good.

        `gso_size`: payload bytes of each of the segments that it was put together from; 0: it is one.
        """
        octets: cython.p_char = frame
        check(
            memory_put(self.memory(), cython.cast(cython.pointer[uint8_t], octets), len(frame), checked, gso_size),
            "memory device",
        )

    def output(self) -> list[tuple[bytes, int]]:
        """Frames sent since the last call, with complete checksums, and the size each would be cut to (0: not)."""
        sent: list = []
        frame: Stored
        while memory_take(self.memory(), cython.address(frame)):
            sent.append((cython.cast(cython.p_char, frame.data)[: frame.length], frame.gso_size))
            free(frame.data)
        return sent

    def untaken(self) -> list[bytes]:
        """Frames that wait in the device's queue: taken out, for the next incarnation."""
        waiting: list = []
        frame: Stored
        while memory_untaken(self.memory(), cython.address(frame)):
            waiting.append(cython.cast(cython.p_char, frame.data)[: frame.length])
            free(frame.data)
        return waiting

    def memory(self) -> cython.pointer[Device]:
        """The memory device, behind whatever wraps it."""
        if not self.in_memory:
            raise ValueError("the engine has no memory device")
        if is_faulty(cython.address(self.s.device)):
            return cython.address(cython.cast(cython.pointer[FaultyDevice], self.s.device.self).device)
        return cython.address(self.s.device)

    def run(self) -> None:
        """Receive and run batches until nothing is left to do at this moment. Died: as `die_at` wanted it."""
        died: cython.int
        with cython.nogil:
            died = guarded(rounds, self.s, cython.address(self.s.trap_jump))
        if died:
            raise Died

    def next_deadline(self) -> int | None:
        """ns when a timer is due."""
        at: uint64_t = deadline(self.s)
        return at if at else None

    def neighbour(self, address: str, mac: bytes) -> None:
        """Put a neighbour into the table that the engine has made."""
        be: Address = address_of(address)
        octets: cython.p_char = mac
        at: uint32_t = neighbour_place(be)
        table_: cython.pointer[Neighbour] = cython.cast(cython.pointer[Neighbour], self.s.neighbours)
        while table_[at].state and not same(table_[at].address_be, be):
            at = (at + 1) % NEIGHBOURS
        table_[at].address_be = be
        table_[at].state = 2
        memcpy(table_[at].mac, octets, 6)

    # ---- what the manager asks ----

    def add_channel(
        self, number: int, memory: object, doorbell: int = -1, inherit: int | None = None, gone: bool = False
    ) -> None:
        """Take up a program's channel; with `inherit`, it holds all that the program of that channel holds.

        `memory` is kept until the program is dropped and nothing uses it any more. `gone`: it is dropped already, and
        connections of the last incarnation may use it. ValueError: not a channel of this replica and number, or the
        number is a living program's.
        """
        self.s.listeners_guard = 0
        s: cython.pointer[Stack] = self.s
        if 0 <= number < MAX_CHANNELS and s.channels[number].memory != cython.NULL and s.channels[number].gone:
            programs.evict(s, number)
            self.forget(number)
        at: cython.p_void = pointer_to(memory, 0, True)
        view: object = memoryview(memory)
        check(attach(s, number, at, view.nbytes, doorbell), f"channel {number}")
        self.kept[number] = view
        if gone:
            deactivate(s, number)
        if inherit is not None:
            programs.inherit_all(s, number, inherit)
            commit(s)

    def drop_channel(self, number: int) -> bool:
        """The program is dead. True: connections still use its memory. ValueError: no such channel."""
        self.s.listeners_guard = 0
        check(programs.drop(self.s, number), f"channel {number}")
        commit(self.s)
        return self.s.channels[number].bound != 0

    def adopt(self, how: str = "adopt") -> dict[str, int]:
        """Go on where the last incarnation has stopped, once all channels, listeners and grants are told.

        `how`: a key of MANNERS. How many connections were `kept`, how many `lost`. Died: as for run().
        """
        t: Order
        died: cython.int
        t.s = self.s
        t.manner = cython.cast(Manner, MANNERS[how])
        with cython.nogil:
            died = guarded(adopt_as, cython.address(t), cython.address(self.s.trap_jump))
        if died:
            raise Died
        check(t.failed, "adoption")
        return t.result

    def reap(self) -> list[int]:
        """Let go of the memory of dead programs' channels that nothing uses any more; their numbers."""
        s: cython.pointer[Stack] = self.s
        freed: list = []
        number: cython.int
        if s.unused:
            s.unused = 0
            for number in range(MAX_CHANNELS):
                if s.channels[number].gone and not s.channels[number].bound:
                    self.forget(number)
                    freed.append(number)
        return freed

    def forget(self, number: uint32_t) -> object:
        release_memory(self.s, number)
        self.kept.pop(number).release()

    def channels(self) -> list[int]:
        """Numbers of the channels whose memory is in use."""
        return [number for number in range(MAX_CHANNELS) if self.s.channels[number].memory != cython.NULL]

    def listen(
        self, number: int, address: str, port: int, backlog: int, *, mss: int = 0, defer: int = 0,
        syn_retries: int = 0, fastopen: int = 0, v6only: bool = False, congestion: int = 0, save_syn: int = 0,
        least_ttl: int = 0, least_hops: int = 0, fastopen_keys: bytes = b"",
    ) -> None:  # fmt: skip
        """Accept connections, or change backlog and options. OSError: no room, or the address is taken."""
        self.s.listeners_guard = 0
        be: Address = address_of(address)
        port_be: uint16_t = int.from_bytes(port.to_bytes(2, "big"), "little")
        keys: FastKeys = keys_from(fastopen_keys, len(fastopen_keys))
        failed = listen(
            self.s, number, be, port_be, backlog, mss, defer, syn_retries, fastopen, v6only, congestion,
            save_syn, least_ttl, least_hops, keys,
        )  # fmt: skip
        check(failed, f"listener {number}")

    def unlisten(self, number: int) -> None:
        """Stop, and reset what no program has taken. ValueError: no such listener."""
        self.s.listeners_guard = 0
        check(programs.end_listener(self.s, number), f"listener {number}")
        commit(self.s)

    def grant(self, number: int, channel: int) -> None:
        """The program may take the listener's connections. ValueError: no such listener or channel."""
        self.s.listeners_guard = 0
        check(programs.grant(self.s, number, channel), f"listener {number}, channel {channel}")

    def revoke(self, number: int, channel: int) -> None:
        """The program may no longer take the listener's connections. ValueError: no such listener or channel."""
        self.s.listeners_guard = 0
        check(programs.revoke(self.s, number, channel), f"listener {number}, channel {channel}")
        commit(self.s)

    def hold(self, channel: int, socket: int, holder: int, other: int) -> None:
        """The `other` holds what `holder` holds: a connection in a slot of `channel`. ValueError: it does not."""
        check(programs.hold(self.s, channel, socket, holder, other), f"channel {channel}, socket {socket}")
        commit(self.s)

    def let_go(self, channel: int, socket: int) -> None:
        """It is on its way to nobody any more. ValueError: no such channel."""
        check(programs.end_flight(self.s, channel, socket), f"channel {channel}, socket {socket}")
        commit(self.s)

    # ---- captures ----

    def add_capture(self, number: int, memory: object) -> None:
        """Write every packet into `memory`, see driver/capture.pxd. ValueError: it is no such; OSError: too many."""
        k: cython.int
        at: cython.p_void = pointer_to(memory, 0, True)
        self.drop_capture(number)
        for k in range(CAPTURES):
            if self.s.captures[k].header == cython.NULL:
                check(capture_attach(cython.address(self.s.captures[k]), at, memoryview(memory).nbytes), "capture")
                self.s.captures[k].number = number
                self.s.capture_count += 1
                self.kept[f"capture {number}"] = memoryview(memory)
                return
        raise OSError(28, f"{CAPTURES} captures are under way")

    def drop_capture(self, number: int) -> None:
        """Nobody looks any more. What is not under way needs no end."""
        k: cython.int
        for k in range(CAPTURES):
            if self.s.captures[k].header != cython.NULL and self.s.captures[k].number == cython.cast(uint32_t, number):
                memset(cython.address(self.s.captures[k]), 0, cython.sizeof(self.s.captures[k]))
                self.s.capture_count -= 1
                self.kept.pop(f"capture {number}").release()

    def bind(
        self, number: int, channel: int, cookie: int, address: str, port: int, flags: int = 0, holders: object = ()
    ) -> None:
        """There is a UDP socket. `flags`: NEAT_BIND_...; `holders`: channels of programs that hold it too."""
        port_be = int.from_bytes(port.to_bytes(2, "big"), "little")
        check(bind_datagrams(self.s, number, channel, cookie, address_of(address), port_be, flags), f"socket {number}")
        for holder in holders:
            check(hold_datagrams(self.s, number, holder), f"socket {number}, channel {holder}")

    def join(self, group: str) -> None:
        """One more UDP socket has joined a group of hosts. OSError: too many groups."""
        check(join_group(self.s, address_of(group)), f"group {group}")

    def leave(self, group: str) -> None:
        """One less is in it."""
        leave_group(self.s, address_of(group))

    def release(self, number: int, channel: int) -> None:
        """A program holds the UDP socket no longer, others do. ValueError: no such socket or channel."""
        check(release_datagrams(self.s, number, channel), f"socket {number}, channel {channel}")

    def unbind(self, number: int) -> None:
        """Nobody holds the UDP socket any more. ValueError: no such socket."""
        check(unbind_datagrams(self.s, number), f"socket {number}")

    # ---- faults on demand ----

    def die_at(self, where: str | None, after: int = 0) -> None:
        """Let run() or adopt() die having passed a point (of enum Point, without POINT_, in lower case) `after` times.

        None: only count, see `hits`.
        """
        self.s.trap = STRIKE_COUNT if where is None else STRIKE_JUMP
        self.s.trap_point = 0 if where is None else int(Point[f"POINT_{where.upper()}"])
        self.s.trap_after = after
        memset(self.s.hits, 0, cython.sizeof(self.s.hits))

    def arm(self, kind: int, where: str, after: int) -> None:
        """Let the process end in the way `kind` (enum Strike) when it has passed a point `after` times."""
        self.die_at(where, after)
        self.s.trap = kind

    def hits(self) -> dict[str, int]:
        """How often each point was passed since die_at()."""
        return {each.name.removeprefix("POINT_").lower(): self.s.hits[int(each)] for each in Point if each}

    def damaged(self) -> list[int]:
        """Connections whose checksums are not right: something has changed them without a touch()."""
        s: cython.pointer[Stack] = self.s
        found: list = []
        i: uint32_t
        for i in range(1, s.tcbs_used):
            if s.tcbs[i].state and (
                s.tcbs[i].checksum != checksum_of_tcb(cython.address(s.tcbs[i]))
                or s.views[i].checksum != checksum_of_view(cython.address(s.views[i]))
            ):
                found.append(i)
        return found

    # ---- looking in ----

    def counters(self) -> dict[str, int]:
        """All counters; frames dropped are under drop_REASON."""
        return counters_of(self.s.counters)

    def connections(self) -> list[dict[str, object]]:
        """Every TCB in use, see inspect.py."""
        return connections_of(self.s.region, self.s.tcbs, self.s.max_tcbs)

    def listeners(self) -> list[dict[str, object]]:
        """Every listener, see inspect.py."""
        return listeners_of(self.s.listeners)

    def tcb(self, index: int) -> dict[str, object]:
        """All of one TCB, as tcb.pxd names it. IndexError: there is none of that index."""
        if not 0 < index < self.s.max_tcbs:
            raise IndexError(index)
        return self.s.tcbs[index]
