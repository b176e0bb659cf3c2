"""Initial sequence numbers (RFC 6528) and local ports (RFC 6056; and the return flow must hash to its own replica)."""

import ctypes
import itertools
import random
import socket
import struct

import pytest

from neatstack.dataplane.engine import Engine
from tests.support.lab import PEER, STACK, STACK_MAC, START, Lab
from tests.support.layout import StackPage, neat
from tests.support.packet import address
from tests.support.program import Program


def isn(lab: Lab, peer_port: int) -> int:
    """The ISN that a SYN from this port is answered with; the half-open connection is reset again."""
    c = lab.connection(80, peer_port=peer_port)
    c.sends("S")
    c.expects("SA")
    c.sends("R", seq=1)
    return c.irs


@pytest.mark.rfc("9293:MUST-8", "6528:3a")
def test_numbers_of_one_flow_grow_with_time():
    """RFC 9293 section 3.4.1: a clock of about 4 us."""
    lab = Lab()
    lab.listening()
    first = isn(lab, 5000)
    lab.wait(1)
    second = isn(lab, 5000)
    grown = (second - first) & 0xFFFFFFFF
    assert 200_000 < grown < 64_000_000


@pytest.mark.rfc("9293:SHLD-1", "6528:3a")
def test_numbers_of_different_flows_are_unrelated():
    lab = Lab()
    lab.listening()
    numbers = [isn(lab, 5000 + n) for n in range(200)]
    differences = {(b - a) & 0xFFFFFFFF for a, b in itertools.pairwise(numbers)}
    assert len(differences) == 199
    assert max(n >> 28 for n in numbers) > min(n >> 28 for n in numbers) + 8, "they spread over the whole space"


@pytest.mark.rfc("9293:MUST-9", "6528:3b", "6528:4")
def test_two_stacks_number_differently():
    """The secret is random."""
    first, second = Lab(), Lab()
    for lab in (first, second):
        lab.listening()
    assert isn(first, 5000) != isn(second, 5000)


def local_ports(lab: Lab, count: int) -> list[int]:
    for _ in range(count):
        lab.program.connect(PEER, 80)
    lab.run()
    return [s.source_port for s in lab.left if s.flags == "S"]


@pytest.mark.rfc("6056:3.2", "6056:3.3")
def test_local_ports_are_unpredictable_and_ephemeral():
    """RFC 6056 section 3.3; Linux's range."""
    ports = local_ports(Lab(sockets=64), 50)
    assert len(set(ports)) == 50
    assert all(1024 <= port <= 65535 for port in ports)
    assert sorted(ports) != ports
    assert local_ports(Lab(), 10) != local_ports(Lab(), 10)


def flow_hash(key: tuple[int, int, int], source: str, destination: str, source_port: int, destination_port: int) -> int:
    """flowhash.h again, in other words."""
    numbers = struct.unpack("!I", address(source)) + struct.unpack("!I", address(destination))
    total = key[0] * numbers[0] + key[1] * numbers[1] + key[2] * (source_port + (destination_port << 16))
    return (total >> 32) & 0xFFFFFFFF


def v4(text: str) -> int:
    return int.from_bytes(socket.inet_aton(text), "little")


def stack_page(replicas: int, seed: int) -> tuple[bytearray, tuple[int, int, int], list[int]]:
    chance = random.Random(seed)
    page = bytearray(4096)
    lines = StackPage.from_buffer(page)
    key = tuple(chance.getrandbits(64) | 1 for _ in range(3))
    table = [chance.randrange(replicas) for _ in range(neat.BUCKETS)]
    lines.magic, lines.version = neat.MAGIC, neat.LAYOUT_VERSION
    lines.address_be, lines.netmask_be = v4(STACK), v4("255.255.255.0")
    lines.ttl = lines.hop_limit = 64
    lines.mtu, lines.replicas, lines.active = 1500, replicas, (1 << replicas) - 1
    lines.tcp_backlog_max = 4096
    ctypes.memmove(lines.mac, STACK_MAC, 6)
    for n in range(3):
        lines.hash_key[n] = key[n]
    for n in range(neat.BUCKETS):
        lines.table[n] = table[n]
    return page, key, table


@pytest.mark.parametrize("replica", [0, 1, 3])
def test_the_return_flow_of_a_chosen_port_is_our_own(replica):
    page, key, table = stack_page(4, replica)
    engine = Engine(address=STACK, mac=STACK_MAC, replica=replica, stack_page=page)
    engine.now = START
    engine.neighbour(PEER, bytes(6))
    program = Program(engine, replica=replica)
    for _ in range(50):
        program.connect(PEER, 443)
    engine.run()
    frames = engine.output()
    assert len(frames) == 50
    for frame, _ in frames:
        source_port = struct.unpack_from("!H", frame, 34)[0]
        assert table[flow_hash(key, PEER, STACK, 443, source_port) >> 24] == replica
