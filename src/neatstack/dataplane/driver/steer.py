# distutils: libraries = bpf
"""The manager's handle on the steering program (steer.bpf.c): load it, attach it, write its maps.

The program's and the maps' descriptors are all that a restarted manager needs: `fds` gives them to the keeper,
`Steering.from_fds` takes them back, and neither the device nor a flow notices. Calls raise OSError with a clear text.

A bucket moves from one replica to another in steps (docs/architecture.md): it is marked, with the next owner beside the
one that it has, and while it is, the program pins new flows to the next; then it is the next one's. Both are read from
the kernel, so that a restarted manager knows what is under way.
"""

import os
import secrets
import socket
import struct
from array import array
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple

import cython
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.neatstack.dataplane.channel.address import Address, get_address, mapped
from cython.cimports.neatstack.dataplane.driver.bpf import (
    BPF_ANY,
    TUNSETSTEERINGEBPF,
    TestRun,
    bpf_map_delete_elem,
    bpf_map_get_next_key,
    bpf_map_lookup_elem,
    bpf_map_update_elem,
    bpf_object,
    bpf_object_close,
    bpf_object_find_map_fd,
    bpf_object_find_program,
    bpf_object_load,
    bpf_object_open,
    bpf_prog_test_run_opts,
    bpf_program_fd,
    libbpf_set_print,
)
from cython.cimports.neatstack.dataplane.driver.flowhash import bucket as bucket_of
from cython.cimports.neatstack.dataplane.driver.flowhash import flow_hash
from cython.cimports.neatstack.dataplane.driver.maps import (
    NEAT_STEER_BUCKETS,
    SteerConfig,
    SteerFlow,
    steer_entry,
    steer_moves,
    steer_next,
    steer_owner,
)
from cython.cimports.neatstack.dataplane.driver.membarrier import (
    MEMBARRIER_CMD_GLOBAL,
    SYS_membarrier,
    syscall,
    usleep,
)
from cython.cimports.posix.ioctl import ioctl

from neatstack.dataplane.driver.pins import Pins, count_by_replica, put_pins, read_pins, remove_pins

FIRST_PORT = cython.declare(uint32_t, 1024)  # of those that clients use
CLIENT_BE = cython.declare(uint32_t, 0x01004D0A)  # 10.77.0.1, 10.77.0.2 and port 80: any others only shift the hash
SERVER_BE = cython.declare(uint32_t, 0x02004D0A)
HTTP_BE = cython.declare(uint16_t, 0x5000)

MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 section 2.5.5.2
RECORD = struct.Struct("=16s16sHHB3x")  # struct neat_steer_flow
OBJECT = Path(__file__).with_name("steer.bpf.o")
DESCRIPTORS = ("program", "config", "table", "pins")


class Flow(NamedTuple):
    """A flow as its packets arrive here: the source is the peer. Ports in the host's byte order."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    protocol: int = socket.IPPROTO_TCP


def _fail(what: str, number: int) -> OSError:
    return OSError(number, f"{what}: {os.strerror(number)}")


@cython.cfunc
def _packed(address: str) -> Address:
    """An address as it lies in memory."""
    parsed = ip_address(address)
    value: bytes = parsed.packed if parsed.version == 6 else MAPPED + parsed.packed
    data: cython.p_char = value
    return get_address(cython.cast(cython.pointer[uint8_t], data))


def _address(value: bytes) -> str:
    """To be read by people."""
    address = IPv6Address(value)
    return str(address.ipv4_mapped or address)


@cython.cfunc
def _flow(flow) -> SteerFlow:
    key: SteerFlow
    memset(cython.address(key), 0, cython.sizeof(key))
    key.source_be = _packed(flow[0])
    key.source_port_be = socket.htons(flow[1])
    key.destination_be = _packed(flow[2])
    key.destination_port_be = socket.htons(flow[3])
    key.protocol = flow[4]
    return key


def flows_of(records: bytes) -> list[Flow]:
    """Flow records (see pins.py), to be read by people."""
    return [
        Flow(_address(source), socket.ntohs(source_port), _address(destination), socket.ntohs(port), protocol)
        for source, destination, source_port, port, protocol in RECORD.iter_unpack(records)
    ]


def record_of(flow: Flow) -> bytes:
    """The record of a flow."""
    key: SteerFlow = _flow(flow)
    return cython.cast(cython.p_char, cython.address(key))[: cython.sizeof(key)]


def bucket(keys: tuple[int, int, int], source: str, source_port: int, destination: str, destination_port: int) -> int:
    """The entry of the indirection table that a flow falls in."""
    key: uint64_t[3]
    key[0], key[1], key[2] = keys
    ports = socket.htons(source_port), socket.htons(destination_port)
    return bucket_of(flow_hash(key, _packed(source), _packed(destination), ports[0], ports[1]))


def even_table(replicas: list[int]) -> list[int]:
    """An indirection table that gives each of `replicas` the same share, neighbouring buckets to different ones."""
    return [replicas[i % len(replicas)] for i in range(NEAT_STEER_BUCKETS)]


@cython.final
@cython.cclass
class Steering:
    """The loaded program and its maps."""

    _program: cython.int
    _config: cython.int
    _table: cython.int
    _pins: cython.int

    def __cinit__(self, program: cython.int, config: cython.int, table: cython.int, pins: cython.int):
        self._program = program
        self._config = config
        self._table = table
        self._pins = pins

    @classmethod
    def load(cls, path=OBJECT):
        """Load the program into the kernel. Needs CAP_BPF (or root) and the object that the build compiled."""
        if not os.path.exists(path):
            raise FileNotFoundError(f"no steering program at {path}: build it (clang and libbpf-dev are needed)")
        libbpf_set_print(cython.NULL)  # errors are told by the exception, not on standard error
        name = os.fsencode(path)
        program: cython.pointer[bpf_object] = bpf_object_open(name)
        if not program:
            raise _fail(f"cannot read steering program {path}", errno)
        try:
            failed: cython.int = bpf_object_load(program)
            if failed:
                raise _fail("cannot load the steering program into the kernel", -failed)
            # the object closes its own descriptors
            return cls(
                os.dup(bpf_program_fd(bpf_object_find_program(program, b"neat_steer"))),
                os.dup(bpf_object_find_map_fd(program, b"neat_config")),
                os.dup(bpf_object_find_map_fd(program, b"neat_table")),
                os.dup(bpf_object_find_map_fd(program, b"neat_pins")),
            )
        finally:
            bpf_object_close(program)

    @classmethod
    def from_fds(cls, fds: dict[str, int]):
        """The same program and maps again, from descriptors that `fds` gave."""
        return cls(*(fds[name] for name in DESCRIPTORS))

    @property
    def fds(self) -> dict[str, int]:
        """The descriptors, which stay ours: what a restarted manager needs."""
        return {"program": self._program, "config": self._config, "table": self._table, "pins": self._pins}

    def close(self) -> None:
        """Close the descriptors. The program goes on as long as a device or another holder has it."""
        for fd in (self._program, self._config, self._table, self._pins):
            os.close(fd)

    def attach(self, tap: int) -> None:
        """Steer the device of this TAP queue (all its queues) by the program."""
        program: cython.int = self._program
        if ioctl(tap, TUNSETSTEERINGEBPF, cython.address(program)) < 0:
            raise _fail("the TAP does not take the steering program", errno)

    @cython.cfunc
    def _read(self) -> SteerConfig:
        config: SteerConfig
        zero: uint32_t = 0
        if bpf_map_lookup_elem(self._config, cython.address(zero), cython.address(config)) < 0:
            raise _fail("cannot read the steering configuration", errno)
        return config

    @cython.cfunc
    def _write(self, config: SteerConfig):
        zero: uint32_t = 0
        if bpf_map_update_elem(self._config, cython.address(zero), cython.address(config), BPF_ANY) < 0:
            raise _fail("cannot write the steering configuration", errno)

    def configure(self, keys: tuple[int, int, int], addresses: list[str], link_queue: int) -> None:
        """Set the hash keys, the stack's own addresses (at most eight) and the queue of link."""
        config: SteerConfig = self._read()
        config.hash_key[0], config.hash_key[1], config.hash_key[2] = keys
        config.own_count = len(addresses)
        for i, address in enumerate(addresses):
            config.own[cython.cast(cython.int, i)] = _packed(address)
        config.link_queue = link_queue
        self._write(config)

    def configuration(self) -> dict:
        """What `configure` set."""
        config: SteerConfig = self._read()
        keys = (config.hash_key[0], config.hash_key[1], config.hash_key[2])
        own = [
            _address(cython.cast(cython.p_char, cython.address(config.own[i]))[:16]) for i in range(config.own_count)
        ]
        return {"keys": keys, "addresses": own, "link_queue": config.link_queue}

    def set_key(self, keys: tuple[int, int, int]) -> None:
        """Change the hash keys alone. Live flows move, unless pinned: for a stack without connections."""
        config: SteerConfig = self._read()
        config.hash_key[0], config.hash_key[1], config.hash_key[2] = keys
        self._write(config)

    @cython.cfunc
    def _entry(self, index: uint32_t) -> uint32_t:
        value: uint32_t = 0
        if bpf_map_lookup_elem(self._table, cython.address(index), cython.address(value)) < 0:
            raise _fail("cannot read the indirection table", errno)
        return value

    @cython.cfunc
    def _set_entry(self, index: uint32_t, value: uint32_t):
        if bpf_map_update_elem(self._table, cython.address(index), cython.address(value), BPF_ANY) < 0:
            raise _fail("cannot write the indirection table", errno)

    def set_table(self, replicas: list[int]) -> None:
        """Set the indirection table: entry i is the replica of bucket i, and no bucket moves any more.

        Each entry changes atomically.
        """
        if len(replicas) != NEAT_STEER_BUCKETS:
            raise ValueError(f"an indirection table has {NEAT_STEER_BUCKETS} entries, not {len(replicas)}")
        for i, replica in enumerate(replicas):
            self._set_entry(i, replica)

    def table(self) -> list[int]:
        """The owner of each bucket, as the kernel has it."""
        return [steer_owner(self._entry(i)) for i in range(NEAT_STEER_BUCKETS)]

    # ---- buckets that move ----

    def mark_moving(self, to: dict[int, int]) -> None:
        """These buckets (bucket -> next replica) are about to move: from now on the program pins new flows to the next.

        Marking again changes the next replica.
        """
        self.look_at_pins(True)
        for bucket_, following in to.items():
            self._set_entry(bucket_, steer_entry(steer_owner(self._entry(bucket_)), following))

    def moving(self) -> dict[int, int]:
        """The buckets that move, and their next owners."""
        entries = [self._entry(i) for i in range(NEAT_STEER_BUCKETS)]
        return {i: steer_next(entry) for i, entry in enumerate(entries) if steer_moves(entry)}

    @staticmethod
    def synchronize() -> None:
        """Wait until every frame is in its queue that was decided by what the maps said before.

        The program runs in a read-side critical section of RCU, and membarrier() waits for all of those to end
        (some 10 ms). Where it is not allowed to, 50 ms are far longer than any of them. Without the GIL.
        """
        with cython.nogil:
            if syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) < 0:
                usleep(50_000)

    # ---- pins ----

    def pin(self, flow: Flow, replica: int) -> None:
        """Send this flow to `replica`, whatever its bucket says. Pins are looked at from the first one on."""
        self.look_at_pins(True)
        key: SteerFlow = _flow(flow)
        value: uint32_t = replica
        if bpf_map_update_elem(self._pins, cython.address(key), cython.address(value), BPF_ANY) < 0:
            raise _fail(f"cannot pin {flow}", errno)

    def unpin(self, flow: Flow) -> None:
        """Forget a pin; it is no error if there is none. After the last one pins are not looked at any more."""
        key: SteerFlow = _flow(flow)
        bpf_map_delete_elem(self._pins, cython.address(key))
        following: SteerFlow
        if bpf_map_get_next_key(self._pins, cython.NULL, cython.address(following)) < 0 and not self.moving():
            self.look_at_pins(False)

    def pins(self) -> dict[Flow, int]:
        """All pins, to be read by people. Those set or removed meanwhile may or may not be among them."""
        flows, replicas = read_pins(self._pins)
        return dict(zip(flows_of(flows), array("I", replicas), strict=True))

    def pin_flows(self, flows: bytes, replica: int) -> None:
        """`pin` for many, given as records (see pins.py). OSError ENOSPC: there is no room for all of them."""
        self.look_at_pins(True)
        put_pins(self._pins, flows, replica)

    def unpin_flows(self, flows: bytes) -> None:
        """Forget the pins of many, given as records. Whether pins are looked at stays as it is."""
        remove_pins(self._pins, flows)

    def pins_of(self) -> Pins:
        """All pins, as records and numbers."""
        return read_pins(self._pins)

    def count_pins(self) -> dict[int, int]:
        """How many pins each replica has."""
        return count_by_replica(read_pins(self._pins))

    def look_at_pins(self, look: bool) -> None:
        """Whether the program looks for pins. It must while there are any, and while a bucket moves."""
        config: SteerConfig = self._read()
        if config.pinned != look:
            config.pinned = look
            self._write(config)

    def decide(self, frame: bytes) -> int:
        """Run the program on a frame, which goes nowhere: the queue that it would be put in."""
        # Here the kernel takes an Ethernet header off before it runs the program; on a TAP the frame still has it.
        data = bytes(14) + frame
        run: TestRun
        memset(cython.address(run), 0, cython.sizeof(run))
        run.sz = cython.sizeof(run)
        run.data_in = cython.cast(cython.p_char, data)
        run.data_size_in = len(data)
        if bpf_prog_test_run_opts(self._program, cython.address(run)) < 0:
            raise _fail("cannot run the steering program", errno)
        return run.retval


def spread(keys: tuple[int, int, int], replicas: int, start: int, step: int, count: int = 64) -> list[int]:
    """How many of `count` flows, whose source ports go up by `step` from `start`, each of `replicas` gets."""
    key: uint64_t[3]
    key[0], key[1], key[2] = keys
    shares: uint32_t[NEAT_STEER_BUCKETS]
    memset(shares, 0, cython.sizeof(shares))
    first: uint32_t = start
    stride: uint32_t = step
    divisor: uint32_t = replicas
    i: uint32_t
    for i in range(cython.cast(uint32_t, count)):
        port: uint32_t = FIRST_PORT + (first - FIRST_PORT + i * stride) % (65536 - FIRST_PORT)
        port_be: uint16_t = cython.cast(uint16_t, (port >> 8) | (port << 8))
        shares[bucket_of(flow_hash(key, mapped(CLIENT_BE), mapped(SERVER_BE), port_be, HTTP_BE)) % divisor] += 1
    return [shares[i] for i in range(divisor)]


def choose_keys(replicas: int, attempts: int = 200) -> tuple[int, int, int]:
    """Random odd hash keys that divide a client's consecutive source ports evenly over the replicas.

    A client that opens its connections in one go takes source ports that follow each other, or every second one
    (Linux). From wherever they start, 64 of them shall divide within 10 % of an even share, or within one flow. For
    many replicas few keys do: the best of `attempts` draws is taken (a few milliseconds).
    """
    even = 64 / replicas
    slack = max(1.0, 0.1 * even)
    best, answer = 65.0, (1, 1, 1)
    for _ in range(attempts):
        keys = (secrets.randbits(64) | 1, secrets.randbits(64) | 1, secrets.randbits(64) | 1)
        worst = 0.0
        for start in range(FIRST_PORT, 65536, 251):
            shares = spread(keys, replicas, start, 1) + spread(keys, replicas, start, 2)
            worst = max(worst, max(shares) - even, even - min(shares))
            if worst >= best:
                break
        if worst < best:
            best, answer = worst, keys
        if best <= slack:
            break
    return answer
