"""Mutated and random frames at the device, against connections in every state.

Runs in rounds. A round opens connections, brings them into different states, sends frames at them, and then looks
whether a connection that was left alone still works. Everything comes from a seed.
"""

from __future__ import annotations

import argparse
import random
import struct

from tests.support.lab import PEER, PEER_MAC, STACK, STACK_MAC, Connection, Lab
from tests.support.packet import build, checksum, parse

BATCH = 64
ROUND = 4096  # frames
VICTIMS = 12  # connections that are attacked, in each round


class Storm:
    """frames(): send so many. `sent` counts them; `refused` those that no stack may take."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lab = Lab(max_tcbs=512, sockets=256, rings=16384)
        self.listener = self.lab.listening(80, post=32, backlog=64)
        self.canary = self.lab.accepted(80, listener=self.listener, peer_port=39999)
        self.sent = 0
        self.refused = 0

    def frames(self, count: int) -> None:
        while count > 0:
            victims = [self.victim() for _ in range(VICTIMS)]
            for _ in range(min(count, ROUND) // BATCH):
                self.batch(victims)
            count -= ROUND
            self.settle()

    # ---- the connections ----

    def victim(self) -> Connection:
        """A connection in some state, with or without data in flight and holes in what it has received."""
        lab, chance = self.lab, self.random
        c = lab.connection(80, peer_port=chance.randrange(1024, 39000), iss=chance.getrandbits(32))
        c.sends("S", options=c.syn_options if chance.random() < 0.9 else chance.randbytes(chance.randrange(41)))
        came = c.receives()
        if not any("S" in s.flags for s in came) or chance.random() < 0.1:
            return c
        c.sends("A", seq=1)
        c.socket = lab.program.accept(self.listener)
        if c.socket is None:
            return c
        if chance.random() < 0.5:
            c.socket.send(chance.randbytes(chance.randrange(1, 16384)))
        if chance.random() < 0.3:
            c.sends(seq=1 + chance.randrange(1, 5000), data=chance.randbytes(100))
        if chance.random() < 0.3:
            c.sends("FA", seq=1)
        if chance.random() < 0.3:
            c.socket.shutdown()
        elif chance.random() < 0.3:
            c.socket.close()
        lab.run()
        c.receives()
        return c

    def settle(self) -> None:
        """Let time pass, free what programs have, and see the canary sing."""
        lab = self.lab
        self.discard()
        lab.wait(self.random.choice([0.05, 1.1, 5, 70]))
        for socket in lab.program.sockets:
            if socket is not self.canary.socket and socket.answered and socket.state >= 3 and not socket.closed:
                if socket not in lab.program.posted[self.listener]:
                    socket.recv()
                    socket.close()
        while (socket := lab.program.accept(self.listener)) is not None:
            socket.close()
            lab.run()
        lab.program.events()
        self.discard()
        word = self.random.randbytes(8)
        self.canary.sends(data=word)
        assert self.canary.socket.recv() == word, "the connection that was left alone does not receive"
        self.canary.socket.send(word)
        lab.run()
        assert word in b"".join(s.payload for s in self.canary.receives()), "... does not send"
        self.canary.sends(ack=self.canary.heard)
        lab.wait(65 if self.random.random() < 0.2 else 0)
        self.discard()

    def discard(self) -> None:
        """Leave aside what was sent to the victims."""
        self.lab.run()
        self.lab.left = [s for s in self.lab.left if self.canary.mine(s)]

    # ---- the frames ----

    def batch(self, victims: list[Connection]) -> None:
        """One batch of each kind; whatever cannot be valid must be dropped, and each drop counted."""
        engine = self.lab.engine
        kind = self.random.random()
        before = self.counted()
        for _ in range(BATCH):
            c = victims[self.random.randrange(len(victims))]
            if kind < 0.7:
                engine.input(self.forged(c), True)
            elif kind < 0.8:
                engine.input(self.damaged(c), False)
            elif kind < 0.9:
                engine.input(self.strange(c), self.random.random() < 0.5)
            else:
                engine.input(self.random.randbytes(self.random.randrange(200)), self.random.random() < 0.5)
        self.sent += BATCH
        engine.run()
        frames = engine.output()
        if frames:
            frame, gso_size = self.random.choice(frames)
            if frame[23] == 6:  # and no ICMP error
                parse(frame, mtu=None if gso_size else 1500)
        after = self.counted()
        assert after[0] - before[0] == BATCH, "every frame is counted"
        dropped = after[1] - before[1]
        if 0.7 <= kind < 0.8 or kind >= 0.9:
            self.refused += BATCH
            assert dropped == BATCH, f"{BATCH - dropped} impossible frames were taken, or not counted"

    def counted(self) -> tuple[int, int]:
        counters = self.lab.engine.counters()
        return counters["packets_in"], sum(value for name, value in counters.items() if name.startswith("drop_"))

    def forged(self, c: Connection) -> bytes:
        """A segment of this flow, well-formed down to TCP: near the window, any flags, options and payload."""
        chance = self.random
        bits = chance.getrandbits(64)
        near = (0, 0, 0, 1, bits & 0xFF, bits & 0xFFFF, -(bits & 0xFFF), bits & 0xFFFFFFFF)
        seq = c.iss + c.nxt + near[bits >> 8 & 7]
        ack = (c.irs or 0) + c.heard - near[bits >> 11 & 7]
        flags = (0x10, 0x10, 0x10, 0x18, 0x18, 0x11, bits >> 16 & 0xFF, bits >> 16 & 0x1F | 0x10)[bits >> 24 & 7]
        options = chance.randbytes(4 * (bits >> 32 & 7)) if bits >> 40 & 3 == 0 else b""
        payload = chance.randbytes(bits >> 48 & 0x7FF) if bits >> 42 & 1 else b""
        words = bits >> 60 if bits >> 44 & 63 == 0 else 5 + len(options) // 4
        tcp = struct.pack(
            "!HHIIBBHHH",
            c.peer_port,
            c.port,
            seq & 0xFFFFFFFF,
            ack & 0xFFFFFFFF,
            words << 4,
            flags,
            bits >> 26 & 0xFFFF,
            0,
            bits & 0xFFFF,
        )
        return packet(len(tcp) + len(options) + len(payload)) + tcp + options + payload

    def damaged(self, c: Connection) -> bytes:
        """A good segment with one byte changed that matters: a destination address, or anything from the type on."""
        frame = bytearray(self.good(c))
        place = self.random.choice((self.random.randrange(6), self.random.randrange(12, len(frame))))
        frame[place] ^= self.random.randrange(1, 256)
        return bytes(frame)

    def strange(self, c: Connection) -> bytes:
        """A good segment cut, stretched, or with several bytes changed, its IP checksum made right again."""
        frame = bytearray(self.good(c))
        for _ in range(self.random.randrange(4)):
            frame[self.random.randrange(len(frame))] = self.random.getrandbits(8)
        frame[24:26] = b"\0\0"
        frame[24:26] = struct.pack("!H", checksum(bytes(frame[14:34])))
        if self.random.random() < 0.3:
            return bytes(frame[: self.random.randrange(len(frame))])
        return bytes(frame) + self.random.randbytes(self.random.randrange(20))

    def good(self, c: Connection) -> bytes:
        return build(
            c.segment("PA", data=self.random.randbytes(self.random.randrange(64))),
            source_mac=PEER_MAC,
            destination_mac=STACK_MAC,
        )


def _headers() -> tuple[bytes, bytes, int]:
    """Ethernet, the IPv4 addresses, and the sum of a header but for its length."""
    addresses = bytes(map(int, PEER.split("."))) + bytes(map(int, STACK.split(".")))
    fixed = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0x4000, 64, 6, 0) + addresses
    return STACK_MAC + PEER_MAC + b"\x08\x00", addresses, int.from_bytes(fixed, "big") % 0xFFFF


_ETHERNET, _ADDRESSES, _SUM = _headers()


def packet(length: int) -> bytes:
    """Headers in front of `length` bytes of TCP from the peer."""
    total = 20 + length
    return _ETHERNET + struct.pack("!BBHHHBBH", 0x45, 0, total, 0, 0x4000, 64, 6, -(_SUM + total) % 0xFFFF) + _ADDRESSES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="frames")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    storm = Storm(options.seed)
    storm.frames(options.count)
    drops = {k: v for k, v in storm.lab.engine.counters().items() if k.startswith("drop_") and v}
    print(f"{storm.sent} frames, {storm.refused} of them impossible; dropped: {drops}")


if __name__ == "__main__":
    main()
