"""What the fuzzer drives: functions that take an input's bytes, and fail when something does that must not.

An input is a sequence of records of 16 bytes, each a deed: a segment with these fields, a wait, a call of the program.
So mutations change what happens, and do not have to guess checksums. After each deed that runs the engine no TCB is
damaged (Lab.run); at the end everything can be closed, and nothing is left.

    python -m tests.fuzz.targets TARGET FILE...        runs files, such as crashes, in the ordinary build
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path

from neatstack.dataplane.channel.region import region_size
from neatstack.dataplane.driver.capture_memory import HEADER_SIZE, LEAST_RING, CaptureReader, CaptureWriter
from neatstack.dataplane.engine import Engine
from neatstack.observe.capture.text import Describer
from tests.support.datagrams import DatagramSocket
from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, Connection, Lab
from tests.support.layout import neat
from tests.support.packet import NOP, SACK_PERMITTED, build_ip, checksum, flag_text, option
from tests.support.program import Program, Socket, address_be

RECORD = 16
MOST = 64  # records of one input
TCBS = 32
MANNERS = ("adopt",) * 6 + ("suspect", "reset")
WAITS = (0.0, 0.001, 0.041, 0.25, 1.0, 3.0, 70.0, 130.0)  # seconds
FLAGS = ("A", "A", "PA", "FA", "SA", "S", "RA", "R")
STAMPS = option(8, struct.pack("!II", 1, 0))
OPENINGS = (  # options of the peer's SYN, in place of the plain ones
    None,
    SACK_PERMITTED + NOP + option(3, b"\x07") + STAMPS,
    option(2, struct.pack("!H", 88)) + STAMPS,
    SACK_PERMITTED,
)
IP6 = struct.Struct("!IHBB16s16s")
OURS6 = IPv6Address("fd00::2").packed
SOURCES6 = [IPv6Address(text).packed for text in ("fd00::1", "fe80::1", "::1", "ff02::1")]
FAR = 4000.0  # seconds after which every connection that nobody holds has ended


def records(data: bytes) -> Iterator[bytes]:
    for at in range(0, min(len(data), MOST * RECORD), RECORD):
        yield data[at : at + RECORD].ljust(RECORD, b"\0")


def end(lab: Lab, *programs: Program) -> None:
    """Everything is closed, and all is free again."""
    engine = lab.engine
    for listener in engine.listeners():
        engine.unlisten(listener["number"])
    for program in programs or (lab.program,):
        engine.drop_channel(program.channel)
    run(lab)
    lab.left.clear()
    wait(lab, FAR)
    counters = engine.counters()
    assert counters["connections"] == 0, engine.connections()
    assert engine.reap() is not None
    assert engine.channels() == []


def run(lab: Lab) -> None:
    """As Lab.run(), without a look at what leaves: answers to arbitrary packets may be of any protocol."""
    lab.engine.run()
    assert lab.engine.damaged() == []
    for frame, _ in lab.engine.output():
        assert frame[6:12] == STACK_MAC
        assert frame[12:14] != b"\x08\x00" or checksum(frame[14 : 14 + (frame[14] & 15) * 4]) == 0


def wait(lab: Lab, seconds: float) -> None:
    stop, wakes = lab.engine.now + round(seconds * 1e9), 0
    while (deadline := lab.engine.next_deadline()) is not None and deadline <= stop:
        lab.engine.now = max(lab.engine.now, deadline)
        run(lab)
        wakes += 1
        assert wakes < 20_000, "the engine asks to be woken again and again"
    lab.engine.now = stop
    run(lab)


# ---- a live connection ----


def frames(data: bytes) -> None:
    """Segments around the window of a connection, between calls of the program and waits."""
    region = mmap.mmap(-1, region_size(TCBS))
    lab = Lab(max_tcbs=TCBS, sockets=16, rings=4096, region=region)
    first = data[0] if data else 0
    c = lab.connection(80, iss=0xFFFFFF00 if first & 4 else 1000)
    if OPENINGS[first & 3]:
        c.syn_options = OPENINGS[first & 3]
    if first & 8:
        c = _connected(lab, c)
    else:
        _accepted(lab, c)
    for record in records(data[1:]):
        if record[0] & 15 == 14 and record[1] & 1:
            _next_incarnation(lab, region, MANNERS[record[2] % 8])
        else:
            _deed(lab, c, record)
        for segment in c.receives():
            assert len(segment.payload) <= 4096
    end(lab)


def _next_incarnation(lab: Lab, region: mmap.mmap, how: str) -> None:
    """Another engine takes over what this one has left, as the manager would have it."""
    old = lab.engine
    lab.engine = engine = Engine(address=STACK, mac=STACK_MAC, max_tcbs=TCBS, region=region, keep=True, incarnation=2)
    engine.now = old.now
    engine.neighbour(PEER, PEER_MAC)
    lab.program.engine = engine
    engine.add_channel(lab.program.channel, lab.program.memory)
    for each in old.listeners():
        engine.listen(each["number"], each["address"], each["port"], each["backlog"])
        engine.grant(each["number"], lab.program.channel)
    engine.adopt(how)
    lab.run()


def _accepted(lab: Lab, c: Connection) -> None:
    listener = lab.listening(80, post=4, backlog=8)
    c.sends("S", options=c.syn_options)
    c.expects("SA")
    c.sends("A", seq=1, options=usual(c))
    socket = lab.program.accept(listener)
    assert socket is not None
    c.socket = socket
    lab.run()


def _connected(lab: Lab, like: Connection) -> Connection:
    c = lab.connecting(80, iss=like.iss)
    c.expects("S")
    c.sends("SA", ack=1, options=like.syn_options)
    c.receives()
    return c


def _deed(lab: Lab, c: Connection, record: bytes) -> None:
    kind, socket = record[0] & 15, c.socket
    (amount,) = struct.unpack_from("<H", record, 2)
    if kind < 8:
        _segment(c, record, kind)
    elif kind == 8:
        lab.wait(WAITS[record[1] & 7])
    elif kind == 9 and not socket.closed:
        socket.send(bytes(amount % 5000))
        lab.run()
    elif kind == 10 and not socket.closed:
        socket.recv(amount % 5000)
        lab.run()
    elif kind == 11 and not socket.closed:
        socket.set_flags((socket.flags & neat.FLAG_TAKEN) | (amount & 0xFFFF & ~neat.FLAG_TAKEN))
        lab.run()
    elif kind == 12 and not socket.closed:
        if record[1] & 3:
            socket.shutdown(record[1] & 3)
        elif record[1] & 4:
            socket.abort()
        else:
            socket.close()
        lab.run()
    elif kind == 13 and not socket.closed:
        names = [name for name, _ in type(socket.mine)._fields_ if name in TUNABLE]
        socket.set(**{names[record[1] % len(names)]: amount})
        lab.run()
    elif kind == 14:
        c.heard = max(0, c.heard - amount % 3)
    elif kind == 15:
        c.window = amount


TUNABLE = ("rcvbuf", "sndbuf", "mss", "tos", "ttl", "keepidle", "keepintvl", "keepcnt", "user_timeout")


def _segment(c: Connection, record: bytes, kind: int) -> None:
    """kind, flags, offset of the sequence number, of the acknowledgment, window, length, options."""
    way, seq, ack, window, length, chosen = struct.unpack_from("<xBhhHHB", record)
    if way & 0x40:
        seq *= 997
    if way & 0x80:
        ack *= 997
    flags = FLAGS[kind] if way & 0x20 == 0 else flag_text(record[11])
    c.sends(
        flags,
        seq=c.nxt + seq,
        ack=c.heard + ack,
        window=window if way & 1 else c.window,
        data=bytes(length % 3000) if way & 2 else b"",
        options=_options(c, chosen, record[11:]),
        urgent=window if way & 4 else 0,
    )


def _options(c: Connection, chosen: int, rest: bytes) -> bytes:
    match chosen & 7:
        case 1:
            return STAMPS
        case 2:
            return option(8, rest[:4] + bytes(4))
        case 3:  # blocks at the stack's own data
            edges = [(c.irs or 0) + c.heard + 100 * each - 12800 & 0xFFFFFFFF for each in rest[:4]]
            return option(5, struct.pack("!4I", *edges))
        case 4:
            return (rest * 8)[: min(40, chosen >> 3 << 1)]
        case 5:
            return rest
        case 6:
            return option(5, struct.pack("!2I", c.nxt + 10 & 0xFFFFFFFF, c.nxt & 0xFFFFFFFF)) + STAMPS
        case 7:
            return b""
    return usual(c)


def usual(c: Connection) -> bytes:
    """What each of the peer's segments has, once timestamps were agreed on (RFC 7323 section 3.2)."""
    return STAMPS if STAMPS in c.syn_options else b""


# ---- many that begin ----


def handshakes(data: bytes) -> None:
    """SYNs with any options, and the segments after them, at a listener that is under pressure: SYN cookies."""
    lab = Lab(max_tcbs=16, sockets=16, rings=4096)
    listener = lab.listening(80, post=2, backlog=1 + (data[0] & 3 if data else 0))
    peers = [lab.connection(80, peer_port=1000 + n, iss=n << 24) for n in range(8)]
    for record in records(data[1:]):
        kind, which = record[0] & 7, record[0] >> 3 & 7
        c = peers[which]
        if kind < 3:
            c.irs, c.nxt, c.heard = None, 0, 0
            options = record[4:16] * 3
            c.sends("S", seq=0, options=options[: record[1] % 10 * 4], window=record[2] << 8 | record[3])
        elif kind < 5:
            seq, ack, length = struct.unpack_from("<bbB", record, 1)
            flags = FLAGS[record[4] & 7] if kind == 3 else "A"
            c.sends(
                flags, seq=1 + seq, ack=c.heard + ack, data=bytes(length), options=record[6:16][: record[5] % 3 * 4]
            )
        elif kind == 5:
            lab.wait(WAITS[record[1] & 7])
        elif kind == 6:
            socket = lab.program.accept(listener)
            if socket is not None:
                if record[1] & 1:
                    socket.send(bytes(record[2]))
                    lab.run()
                socket.close()
            lab.run()
        else:  # a flood
            for n in range(record[1] % 12):
                flood = lab.connection(80, peer_port=5000 + n, iss=record[2] << 16)
                flood.sends("S", options=flood.syn_options)
        for each in peers:
            each.receives()
        lab.left.clear()
    end(lab)


# ---- whatever comes ----

ETHERTYPES = (b"\x08\x00", b"\x08\x00", b"\x08\x00", b"\x86\xdd", b"\x08\x06")


def packets(data: bytes) -> None:
    """Packets as they are, each behind a byte that says how, and a length; the IPv4 header's checksum is made right."""
    lab = Lab(max_tcbs=16, sockets=16, rings=4096)
    lab.accepted(80)
    DatagramSocket(lab.program, 53)
    run(lab)
    at = 0
    for _ in range(MOST):
        if at + 2 > len(data):
            break
        how, length = data[at], data[at + 1]
        packet = bytearray(data[at + 2 : at + 2 + length])
        at += 2 + length
        if how & 8 and len(packet) >= 20:
            packet += bytes(how * 16)
        if how & 16 == 0 and len(packet) >= 20 and packet[0] >> 4 == 4:
            header = max(20, (packet[0] & 15) * 4)
            packet[10:12] = b"\0\0"
            packet[10:12] = struct.pack("!H", checksum(bytes(packet[:header])))
        frame = STACK_MAC + PEER_MAC + ETHERTYPES[how % len(ETHERTYPES)] + bytes(packet)
        lab.engine.input(frame, how & 32 == 0)
        if how & 64:
            wait(lab, WAITS[how & 7])
        elif how & 128 == 0:
            run(lab)
    end(lab)


def fragments(data: bytes) -> None:
    """Fragments of a few datagrams, from a few sources; then nothing waits, and a whole one still arrives."""
    lab = Lab(max_tcbs=16, sockets=16, rings=1 << 17)
    socket = DatagramSocket(lab.program, 53)
    run(lab)
    for at in range(0, min(len(data), 4 * MOST * RECORD), 8):
        kind, number, place, length, fill = struct.unpack("<BBHHH", data[at : at + 8].ljust(8, b"\0"))
        if kind & 15 == 15:
            wait(lab, WAITS[number & 7])
            continue
        head = (b"\x30\x39\0\x35" + struct.pack("!HH", length, 0))[: 8 if kind & 1 else 0]
        payload = (head + bytes([fill & 3]) * (length % 3000))[: 8 * (length % 375) + (length >> 13)]
        packet = build_ip(
            payload,
            source=f"10.0.{kind >> 6}.9",
            destination=STACK,
            protocol=(17, 17, 6, 1)[kind >> 4 & 3],
            tos=fill >> 14,
            fragment=place if kind & 2 else place & 0x203F,
            options=b"\1" * (4 * (fill >> 8 & 15)) if kind & 4 else b"",
            identification=number & 7 if kind & 8 else number,
        )
        lab.engine.input(STACK_MAC + PEER_MAC + b"\x08\0" + packet)
        run(lab)
        socket.recv_all()
    wait(lab, FAR)
    assert lab.engine.next_deadline() is None
    lab.inject_datagram(b"still here", 53)
    assert socket.recv_all() == [b"still here"]
    end(lab)


def packets6(data: bytes) -> None:
    """Packets over IPv6 that are right in all but what a record says: headers in a chain, fragments, errors that quote;
    then nothing waits, and both families still arrive."""
    lab = Lab(max_tcbs=16, sockets=16, rings=1 << 14, addresses=["fd00::2/64", "fe80::2/64"])
    lab.engine.neighbour("fd00::1", PEER_MAC)
    lab.program.listen(80, post=4, address="::")
    socket = DatagramSocket(lab.program, 53, "::")
    run(lab)
    for record in records(data):
        if record[0] & 7 == 7:
            wait(lab, WAITS[record[1] & 7])
            continue
        lab.engine.input(STACK_MAC + PEER_MAC + b"\x86\xdd" + _packet6(record), record[1] & 16 == 0)
        run(lab)
        socket.recv_all()
    wait(lab, FAR)
    lab.engine.input(STACK_MAC + PEER_MAC + b"\x86\xdd" + _datagram6(b"over IPv6"))
    run(lab)
    lab.inject_datagram(b"over IPv4", 53)
    assert socket.recv_all() == [b"over IPv6", b"over IPv4"]
    end(lab)


def _packet6(record: bytes) -> bytes:
    """What a record says: its kind, its chain of headers, its place among fragments and its length."""
    kind, chain, place, number, length, fill = record[0], record[1], *struct.unpack_from("<HBHB", record, 2)
    source = SOURCES6[kind >> 6]
    if kind & 7 < 3:
        body = struct.pack("!4H", 4000, 53, 8 + (length & 0xFFF), 0) + bytes([fill]) * (length & 0xFFF)
        following, at = 17, 6
    elif kind & 7 < 5:
        body = struct.pack("!HHIIBBHHH", 4000 + (fill & 3), 80, length, 0, (5 + (fill >> 4 & 3)) << 4, fill, 99, 0, 0)
        body, following, at = body + record[8:16] + bytes(length & 63), 6, 16
    else:
        quoted = IP6.pack(6 << 28, length & 0xFFF, (6, 17, 44, 58)[fill & 3], 64, OURS6, SOURCES6[fill >> 6])
        body = bytes((fill >> 2 & 7, place & 7, 0, 0)) + record[8:12] + quoted + struct.pack("!HHI", 80, 4000, length)
        following, at = 58, 2
    pseudo = source + OURS6 + struct.pack("!II", len(body), following)
    total = checksum(pseudo + body) or 0xFFFF
    body = body[:at] + (total if chain & 32 == 0 else fill).to_bytes(2, "big") + body[at + 2 :]
    if chain & 8:
        start = (place & 0xFFF8) % (len(body) + 8)
        body = body[start : start + 8 * (1 + (fill & 63))] if chain & 64 else body
        body, following = bytes((following, 0)) + struct.pack("!HI", start | place & 7, number & 3) + body, 44
    for bit, header in ((4, 60), (2, 43), (1, 0)):
        if chain & bit:
            body, following = bytes((following, 0)) + record[10:16] + body, header
    stated = len(body) if chain & 128 == 0 else length
    return IP6.pack(6 << 28 | fill << 20, stated & 0xFFFF, following, number, source, OURS6) + body


def _datagram6(payload: bytes) -> bytes:
    body = struct.pack("!4H", 4000, 53, 8 + len(payload), 0) + payload
    total = checksum(SOURCES6[0] + OURS6 + struct.pack("!II", len(body), 17) + body) or 0xFFFF
    body = body[:6] + total.to_bytes(2, "big") + body[8:]
    return IP6.pack(6 << 28, len(body), 17, 64, SOURCES6[0], OURS6) + body


# ---- programs ----


def commands(data: bytes) -> None:
    """A program writes anything into its channel; another one's connection goes on all the same."""
    lab = Lab(max_tcbs=32, sockets=16, rings=4096)
    honest = lab.accepted(80)
    bad = Program(lab.engine, 2, sockets=8, rx_size=4096, tx_size=4096)
    number = bad.listen(90, backlog=4, post=2)
    udp = DatagramSocket(bad, 99)
    lab.run()
    peers: list[Connection] = []
    for record in records(data):
        _hostile(lab, bad, number, peers, record)
    for word in (b"still", b"here"):
        honest.sends(data=word)
        assert honest.socket.recv() == word
        honest.socket.send(word)
        run_and_keep(lab, honest)
        honest.sends(ack=honest.heard)
    assert honest.socket.unacknowledged == 0
    lab.engine.unbind(udp.number)
    end(lab, lab.program, bad)


def run_and_keep(lab: Lab, c: Connection) -> None:
    lab.run()
    assert any(segment.payload for segment in c.receives())


def _hostile(lab: Lab, bad: Program, number: int, peers: list[Connection], record: bytes) -> None:
    kind, which, at, value = struct.unpack_from("<BBHI", record)
    socket = bad.sockets[which % len(bad.sockets)]
    match kind % 8:
        case 0 | 1:  # any field of the lines of a socket, the program's more often
            lines = socket.mine if kind & 0x38 else socket.replica
            _write(lines, at, value)
            _enter(bad, neat.OP_LOOK, socket.number, bad.channel)
        case 2:
            _write((bad.lines, bad.replica, bad.lines)[which % 3], at, value)
        case 3:
            _enter(bad, at & 3, value & 0xFF if kind & 8 else value, which & 3)
        case 4:
            size = len(bad.memory)
            place = (at << 4 | which & 15) % (size - 8)
            if place >= 128:
                bad.memory[place : place + 8] = record[8:16]
        case 5:
            lab.engine.run()
            assert lab.engine.damaged() == []
            lab.engine.output()
            wait(lab, WAITS[which & 3])
        case 6:
            c = lab.connection(90)
            c.sends("S", options=c.syn_options)
            c.receives()
            c.sends("A", seq=1, data=bytes(at % 1000))
            c.receives()
            peers.append(c)
        case 7:
            _open(bad, socket, number, record)


def _write(lines: object, at: int, value: int) -> None:
    name, kind = type(lines)._fields_[at % len(type(lines)._fields_)]
    current = getattr(lines, name)
    if isinstance(current, int):
        setattr(lines, name, value & (1 << 8 * getattr(type(lines), name).size) - 1)


def _enter(bad: Program, op: int, socket: int, channel: int) -> None:
    """An entry where the replica will look, whatever the cursors say."""
    head = bad.lines.commands_head
    slot = bad.command_ring[head % len(bad.command_ring)]
    slot.op, slot.socket, slot.channel = op, socket & 0xFFFFFFFF, channel
    bad.lines.commands_head = (head + 1) & 0xFFFFFFFF


def _open(bad: Program, socket: Socket, number: int, record: bytes) -> None:
    """Take a slot as a program does, with some fields as the record has them."""
    kinds = [value for name, value in vars(neat).items() if name.startswith("ROLE_")]
    mine = socket.mine
    generation = mine.generation
    mine.listener = number
    mine.remote_be, mine.remote_port_be = address_be("10.0.0.1"), 0x5000
    _write(mine, record[8], int.from_bytes(record[9:13], "little"))
    mine.role, mine.generation = kinds[record[2] % len(kinds)], (generation + 1) & 0xFFFFFFFF
    _enter(bad, neat.OP_LOOK, socket.number, bad.channel)


# ---- captures ----


def captures(data: bytes) -> None:
    """Memory that a replica may have written, as `neat capture` reads it, and as the next incarnation takes it over."""
    memory = mmap.mmap(-1, HEADER_SIZE + LEAST_RING)
    writer, reader, describer = CaptureWriter(memory), CaptureReader(memory), Describer()
    for n in range(20):
        writer.put(data[: 60 * n], True, n)
    at = 0
    while at + 4 <= len(data):
        where, length = struct.unpack_from("<HB", data, at)
        piece = data[at + 4 : at + 4 + length]
        place = where % 64 if data[at + 3] & 1 else HEADER_SIZE + where
        memory[place : place + len(piece)] = piece
        at += 4 + length
    for _ in range(3):
        for _, _, frame in reader.read():
            assert describer.describe(frame).isprintable()
    writer = CaptureWriter(memory)
    for n in range(300):
        writer.put(bytes(1000), False, n)
        if n % 50 == 0:
            reader.read()
            CaptureReader(memory).read()


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (frames, handshakes, packets, packets6, fragments, commands, captures)
}


def target(name: str) -> Callable[[bytes], None]:
    """Raises KeyError with the names there are."""
    if name not in TARGETS:
        raise KeyError(f"no target {name!r}; there are: {', '.join(TARGETS)}")
    return TARGETS[name]


def main(name: str, *files: str) -> None:
    for file in files:
        target(name)(Path(file).read_bytes())
        print(f"{file}: passed")


if __name__ == "__main__":
    main(*sys.argv[1:])
