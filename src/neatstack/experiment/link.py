"""A link with a delay, a rate, a queue and damage by chance, emulated between two interfaces of a network namespace.

    python -m neatstack.experiment.link ONE OTHER '{"delay_ms": 50, ...}'

Frames that come in at one interface leave at the other, the same both ways. Prints `ready`, and at SIGTERM what has
passed, as JSON, so that what the link did can be checked against what it was told to do. The neighbours' segmentation
and checksum offloads must be off (`plain`): a frame here is what would be on a wire.

It can mark packets, too, as a router with explicit congestion notification does (RFC 3168): those that may be marked.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import json
import random
import select
import signal
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass

from neatstack.experiment.frames import sum_header

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING = 263, 6, 23
SO_RCVBUFFORCE = 33
BUFFER = 16 << 20  # bytes that may wait for this process: a burst while it does not run
AT_ONCE = 64  # frames of one direction, before the other is looked at
LONGEST_FRAME = 1 << 16
ETHERNET, IPV4, IPV6 = 14, b"\x08\x00", b"\x86\xdd"  # bytes of its header, and what they end with
CE = 3  # both bits of the field: congestion; one of them: it may be marked (RFC 3168 section 5)
TEXT = 200  # bytes of a frame that has text in it: no mere SYN or ACK
SIOCETHTOOL = 0x8946
OFFLOADS = {"checksum": 0x17, "scatter": 0x19, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}  # ETHTOOL_S…
SECOND = 1_000_000_000  # ns


@dataclass(frozen=True)
class Shape:
    """What each direction does to frames."""

    delay_ms: float = 0.0  # one way
    loss: float = 0.0  # share of the frames that are lost, each by itself
    rate_mbit: float = 0.0  # 10⁶ bits a second; 0: no limit
    queue_bytes: int = 0  # that may wait for the link; what comes on top is dropped. 0: no limit
    duplicate: float = 0.0  # share of the frames that come twice
    reorder: float = 0.0  # share of the frames that take `reorder_ms` longer
    reorder_ms: float = 2.0
    corrupt: float = 0.0  # share of the frames of which one bit is changed: of those that have checksums, IPv4
    lose: tuple[int, ...] = ()  # which of the frames with text are lost, from 0
    marking: float = 0.0  # share of the frames that are marked, if they may be
    mark: tuple[int, ...] = ()  # which of the frames with text are
    mark_bytes: int = 0  # that wait for the link, from which on all are; 0: never
    hold: int | None = None  # with which of the frames with text the link stands still, for `hold_ms`
    hold_ms: float = 0.0
    seed: int = 0


@dataclass
class Passed:
    """What one direction has seen."""

    frames: int = 0
    bytes: int = 0
    lost: int = 0  # by chance, or as told
    dropped: int = 0  # by a full queue
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    marked: int = 0
    overrun: int = 0  # by this process, which was too slow: no part of the emulation
    late_ns: int = 0  # how late the latest frame left
    late_total_ns: int = 0


class Direction:
    """Frames from one interface to the other."""

    def __init__(self, source: socket.socket, target: socket.socket, shape: Shape, seed: int) -> None:
        self.source, self.target, self.shape = source, target, shape
        self.delay = round(shape.delay_ms * 1_000_000)
        self.ns_per_byte = 8_000 / shape.rate_mbit if shape.rate_mbit else 0.0
        self.most_ns = shape.queue_bytes * self.ns_per_byte if shape.queue_bytes else float("inf")
        self.mark_ns = shape.mark_bytes * self.ns_per_byte if shape.mark_bytes else float("inf")
        self.random = random.Random(seed)
        self.chance = self.random.random
        self.free_at = 0.0  # ns: when the link has sent all that waits
        self.under_way: deque[tuple[float, bytes]] = deque()
        self.late: deque[tuple[float, bytes]] = deque()  # what others may overtake
        self.rough = bool(
            shape.duplicate or shape.reorder or shape.corrupt or shape.lose or shape.mark or shape.hold is not None
        )
        self.texts = 0
        self.passed = Passed()

    def take(self) -> None:
        """Read what has come in, and decide about each frame."""
        for _ in range(AT_ONCE):
            try:
                frame = self.source.recv(LONGEST_FRAME)
            except BlockingIOError:
                return
            self.frame(frame, time.monotonic_ns())

    def frame(self, frame: bytes, now: int) -> None:
        """Put a frame that came at `now` (ns) on its way, or lose it."""
        passed = self.passed
        passed.frames += 1
        passed.bytes += len(frame)
        begin = max(self.free_at, now)
        takes = len(frame) * self.ns_per_byte
        if begin + takes - now > self.most_ns:
            passed.dropped += 1
            return
        self.free_at = begin + takes
        if self.shape.loss and self.chance() < self.shape.loss:
            passed.lost += 1
            return
        if self.free_at - now > self.mark_ns or (self.shape.marking and self.chance() < self.shape.marking):
            frame = self.marked(frame)
        if self.rough:
            self.damage(frame)
        else:
            self.under_way.append((self.free_at + self.delay, frame))

    def damage(self, frame: bytes) -> None:
        """Do what befalls this frame, and put what is left of it on its way."""
        shape, passed = self.shape, self.passed
        if len(frame) >= TEXT:
            number, self.texts = self.texts, self.texts + 1
            if number in shape.lose:
                passed.lost += 1
                return
            if number in shape.mark:
                frame = self.marked(frame)
            if number == shape.hold:
                self.free_at += shape.hold_ms * 1_000_000
        if self.chance() < shape.corrupt and frame[ETHERNET - 2 : ETHERNET] == IPV4:
            passed.corrupted += 1
            bit = self.random.randrange(8 * ETHERNET, 8 * len(frame))
            frame = frame[: bit // 8] + bytes([frame[bit // 8] ^ 1 << bit % 8]) + frame[bit // 8 + 1 :]
        at = self.free_at + self.delay
        if self.chance() < shape.duplicate:
            passed.duplicated += 1
            self.under_way.append((at, frame))
        if self.chance() < shape.reorder:
            passed.reordered += 1
            self.late.append((at + shape.reorder_ms * 1_000_000, frame))
        else:
            self.under_way.append((at, frame))

    def marked(self, frame: bytes) -> bytes:
        """The frame with a mark, or as it is if its packet may have none."""
        made = congested(frame)
        self.passed.marked += made != frame
        return made

    def give(self) -> float:
        """Send what is due; when (ns) the next frame is."""
        passed = self.passed
        while self.under_way or self.late:
            first = self.under_way
            if self.late and (not first or self.late[0][0] < first[0][0]):
                first = self.late
            at = first[0][0]
            late = time.monotonic_ns() - at
            if late < 0:
                return at
            try:
                self.target.send(first.popleft()[1])
            except (BlockingIOError, OSError):
                passed.overrun += 1
            passed.late_total_ns += int(late)
            passed.late_ns = max(passed.late_ns, int(late))
        return float("inf")

    def outcome(self) -> dict[str, int]:
        """What has passed; the kernel is asked what it could not keep for us."""
        _, dropped = struct.unpack("II", self.source.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self.passed.overrun += dropped
        return asdict(self.passed)


def congested(frame: bytes) -> bytes:
    """The frame with the packet's field CE, if it says that this may be done."""
    shift = {IPV4: 0, IPV6: 4}.get(frame[ETHERNET - 2 : ETHERNET])  # where the field is in the packet's second byte
    if shift is None or frame[ETHERNET + 1] >> shift & CE in (0, CE):
        return frame
    made = bytearray(frame)
    made[ETHERNET + 1] |= CE << shift
    if shift == 0:
        sum_header(made)
    return bytes(made)


def open_interface(name: str) -> socket.socket:
    """All frames that come in there, and a way to send some."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    made.bind((name, ETH_P_ALL))
    made.setblocking(False)
    return made


def plain(name: str) -> None:
    """Turn off the offloads of an interface of this namespace: it sends whole frames of at most its MTU."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for command in OFFLOADS.values():
            value = ctypes.create_string_buffer(struct.pack("II", command, 0), 8)
            request = struct.pack("16sP16x", name.encode(), ctypes.addressof(value))
            fcntl.ioctl(asking, SIOCETHTOOL, request)


def run(one: socket.socket, other: socket.socket, shape: Shape) -> list[dict[str, int]]:
    """Emulate until SIGTERM; what has passed in both directions."""
    there, back = Direction(one, other, shape, shape.seed * 2), Direction(other, one, shape, shape.seed * 2 + 1)
    directions = {one: there, other: back}
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    gc.disable()
    print("ready", flush=True)
    while not ended:
        soonest = min(there.give(), back.give())
        wait = min(max((soonest - time.monotonic_ns()) / SECOND, 0.0), 0.1)
        ready, _, _ = select.select([one, other], [], [], wait)
        for each in ready:
            directions[each].take()
    return [there.outcome(), back.outcome()]


def main() -> None:
    one, other, shape = sys.argv[1:]
    print(json.dumps(run(open_interface(one), open_interface(other), Shape(**json.loads(shape)))), flush=True)


if __name__ == "__main__":
    main()
