"""One engine in virtual time, with scripted peers: a test is a script of segments.

    lab = Lab()
    c = lab.accepted(port=80)               # a connection that a peer opened and the program accepted
    c.sends(data=b"hello")                  # the peer sends
    c.expects("A", ack=6, at=0.001)         # and the stack answers, 1 ms later
    assert c.socket.recv() == b"hello"

Sequence numbers are relative to the connection: SYN is 0, the first byte is 1, in both directions. The peer's initial
sequence number lies just before 2^32, so that tests cross the wrap-around. Every frame that leaves the stack is parsed
and its checksums verified, whether the test looks at it or not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from neatstack.dataplane.engine import Engine
from neatstack.dataplane.tcp.tcb import State
from tests.support.datagrams import DatagramSocket
from tests.support.packet import (
    Datagram,
    Malformed,
    Segment,
    build,
    build_datagram,
    is_udp,
    mss,
    parse,
    parse_datagram,
    split,
    wscale,
)
from tests.support.program import Program, Socket

STACK, PEER, NETWORK = "10.0.0.2", "10.0.0.1", "10.0.0.0"
STACK_MAC, PEER_MAC = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
START = 1_000_000_000_000  # ns: the clock is CLOCK_MONOTONIC, which a test must not assume to start at 0
SECOND = 1_000_000_000
PEER_ISS = 0xFFFFFF00


class Lab:
    """An engine, one program on channel 1, and the wire's far end.

    Options are Engine's; `rings` is the size in bytes of the program's rings.
    """

    def __init__(self, *, rings: int = 65536, sockets: int = 64, mtu: int = 1500, **options: Any) -> None:
        options = {"address": STACK, "mac": STACK_MAC, "mtu": mtu, "max_tcbs": 256} | options
        self.engine = Engine(**options)
        self.mtu = mtu
        self.engine.now = START
        self.engine.neighbour(PEER, PEER_MAC)
        self.program = Program(
            self.engine, replica=options.get("replica", 0), sockets=sockets, rx_size=rings, tx_size=rings
        )
        self.left: list[Segment] = []  # what has left the stack and was not yet expected
        self.datagrams: list[Datagram] = []  # the same of UDP
        self.other_frames: list[bytes] = []  # to a group of hosts, fragments, and ICMP
        self.captured: list[Segment] | None = None  # everything that ever left, when a test wants it
        self._peer_ports = iter(range(40000, 60000))

    # ---- time ----

    @property
    def time(self) -> float:
        """Seconds since the lab began."""
        return (self.engine.now - START) / SECOND

    def run(self) -> None:
        self.engine.run()
        assert self.engine.damaged() == [], "a connection was changed without the journal's knowledge"
        self.collect(self.engine.output())

    def collect(self, frames: list[tuple[bytes, int]]) -> None:
        """Look at frames that an engine has sent."""
        for frame, gso_size in frames:
            if is_udp(frame) or frame[23] == 1:  # ICMP
                self._datagram(frame)
                continue
            if frame[:12] != PEER_MAC + STACK_MAC:
                raise Malformed(f"Ethernet addresses {frame[:12].hex()}")
            whole = parse(frame, at=self.time, mtu=None if gso_size else self.mtu)
            for segment in split(whole, gso_size):
                assert 40 + len(segment.options) + len(segment.payload) <= self.mtu, "larger than the MTU"
                self.left.append(segment)
                if self.captured is not None:
                    self.captured.append(segment)

    def _datagram(self, frame: bytes) -> None:
        if not is_udp(frame) or frame[20] & 0x3F or frame[21] or frame[:6] != PEER_MAC:
            self.other_frames.append(frame)
        else:
            self.datagrams.append(parse_datagram(frame, at=self.time, mtu=self.mtu))

    def until(self, seconds: float) -> None:
        """Let time go on until `seconds` after the lab's start, waking the engine whenever it asks for it."""
        end = START + round(seconds * SECOND)
        wakes = 0
        while (deadline := self.engine.next_deadline()) is not None and deadline <= end:
            self.engine.now = max(self.engine.now, deadline)
            self.run()
            wakes += 1
            assert wakes < 200_000, "the engine asks to be woken again and again"
        self.engine.now = max(self.engine.now, end)
        self.run()

    def wait(self, seconds: float) -> None:
        self.until(self.time + seconds)

    # ---- traffic ----

    def inject(self, segment: Segment, *, checked: bool = False) -> None:
        self.engine.input(build(segment, source_mac=PEER_MAC, destination_mac=STACK_MAC), checked)
        self.run()

    def inject_frame(self, frame: bytes, *, checked: bool = False) -> None:
        self.engine.input(frame, checked)
        self.run()

    def inject_datagram(self, payload: bytes, port: int, *, peer_port: int = 5000, **fields: Any) -> None:
        """The peer sends a datagram to the stack's `port`; `fields` are more of Datagram."""
        fields = {"source": PEER, "destination": STACK} | fields
        d = Datagram(payload=payload, source_port=peer_port, destination_port=port, **fields)
        self.engine.input(build_datagram(d, source_mac=PEER_MAC, destination_mac=STACK_MAC))
        self.run()

    def datagram_socket(self, port: int = 0, address: str = "0.0.0.0", **options: Any) -> DatagramSocket:
        """A UDP socket of the lab's program, bound (port 0: to one that is free)."""
        options.setdefault("program", self.program)
        made = DatagramSocket(port=port, address=address, **options)
        self.run()
        return made

    def drops(self, reason: str) -> int:
        """Frames dropped so far for this reason: the name in stack.pxd without DROP_, in lower case."""
        return self.engine.counters()[f"drop_{reason}"]

    # ---- connections ----

    def connection(self, port: int = 80, **options: Any) -> Connection:
        """A peer's end that has sent nothing yet."""
        return Connection(self, port, options.pop("peer_port", None) or next(self._peer_ports), **options)

    def listening(self, port: int = 80, **options: Any) -> int:
        number = self.program.listen(port, **options)
        self.run()
        return number

    def accepted(self, port: int = 80, *, listener: int | None = None, **options: Any) -> Connection:
        """The peer opened the connection; the program has accepted it."""
        c = self.connection(port, **options)
        c.listener = self.listening(port) if listener is None else listener
        c.sends("S", options=c.syn_options)
        c.expects("SA", seq=0, ack=1)
        c.sends("A", seq=1)
        c.socket = self.program.accept(c.listener)
        assert c.socket is not None, "no connection to accept"
        self.run()
        return c

    def connected(self, peer_port: int = 80, *, lines: dict[str, int] | None = None, **options: Any) -> Connection:
        """The program opened the connection."""
        c = self.connecting(peer_port, lines=lines, **options)
        c.expects("S", seq=0)
        c.sends("SA", seq=0, ack=1, options=c.syn_options)
        c.expects("A", seq=1, ack=1)
        return c

    def connecting(self, peer_port: int = 80, *, lines: dict[str, int] | None = None, **options: Any) -> Connection:
        """The program has called connect(); its SYN waits to be expected."""
        socket = self.program.connect(PEER, peer_port, **lines or {})
        self.run()
        syn = next(s for s in self.left if "S" in s.flags and s.destination_port == peer_port)
        c = Connection(self, syn.source_port, peer_port, **options)
        c.irs = syn.seq
        c.socket = socket
        return c


class Connection:
    """The peer's end of one connection, as a script writes it.

    `sends` and `expects` keep track of the usual next numbers, so a test names only what it is about.
    """

    socket: Socket
    listener: int

    def __init__(
        self,
        lab: Lab,
        port: int,
        peer_port: int,
        *,
        iss: int = PEER_ISS,
        window: int = 65535,
        mss: int | None = 1460,
        wscale: int | None = None,
        address: str = PEER,
    ) -> None:
        self.lab = lab
        self.port, self.peer_port, self.address = port, peer_port, address
        self.iss = iss
        self.irs: int | None = None
        self.window = window
        self.syn_options = (b"" if mss is None else _mss(mss)) + (b"" if wscale is None else b"\x01" + _wscale(wscale))
        self.nxt = 0  # the peer's next sequence number, relative
        self.heard = 0  # the next one that the peer expects of the stack, relative

    # ---- time ----

    def at(self, seconds: float) -> Connection:
        """Let the lab's clock go to `seconds` from its start."""
        self.lab.until(seconds)
        return self

    # ---- the peer's side ----

    def segment(
        self,
        flags: str = "A",
        *,
        data: bytes = b"",
        seq: int | None = None,
        ack: int | None = None,
        window: int | None = None,
        options: bytes = b"",
        urgent: int = 0,
        tos: int = 0,
    ) -> Segment:
        """What the peer would send; nothing is sent. `window` is the field as it stands on the wire."""
        seq = self.nxt if seq is None else seq
        ack = self.heard if ack is None else ack
        return Segment(
            source=self.address,
            destination=STACK,
            source_port=self.peer_port,
            destination_port=self.port,
            seq=self.iss + seq & 0xFFFFFFFF,
            ack=(self.irs or 0) + ack & 0xFFFFFFFF if "A" in flags else 0,
            flags=flags,
            window=self.window if window is None else window,
            payload=data,
            options=options,
            urgent=urgent,
            tos=tos,
        )

    def sends(self, flags: str = "A", **what: Any) -> None:
        """See `segment`. The next sequence number moves on when the segment reaches beyond it."""
        segment = self.segment(flags, **what)
        end = what["seq"] if what.get("seq") is not None else self.nxt
        if "R" not in flags:
            self.nxt = max(self.nxt, end + segment.length)
        self.lab.inject(segment)

    # ---- the stack's side ----

    def mine(self, segment: Segment) -> bool:
        return (segment.source_port, segment.destination_port, segment.destination) == (
            self.port,
            self.peer_port,
            self.address,
        )

    def receives(self) -> list[Segment]:
        """All that has come from the stack and was not expected yet, with relative numbers."""
        came = [s for s in self.lab.left if self.mine(s)]
        self.lab.left = [s for s in self.lab.left if not self.mine(s)]
        return [self._relative(s) for s in came]

    def _relative(self, segment: Segment) -> Segment:
        if "S" in segment.flags and self.irs is None:
            self.irs = segment.seq
        seq = signed(segment.seq - (self.irs or 0))
        ack = signed(segment.ack - self.iss) if "A" in segment.flags else 0
        if "R" not in segment.flags:
            self.heard = max(self.heard, seq + segment.length)
        return replace(segment, seq=seq, ack=ack, at=segment.at)

    def expects(
        self,
        flags: str | None = None,
        *,
        at: float | None = None,
        length: int | None = None,
        data: bytes | None = None,
        push: bool | None = None,
        **fields: Any,
    ) -> Segment:
        """Take the next segment of the stack and compare what is told.

        `flags` leaves PSH out of it (see `push`); `at` is seconds since the lab's start, right to 2 ms or 1 %; `length`
        counts payload bytes; `fields` are attributes of Segment, numbers relative. Time does not go on by itself.
        """
        for place, segment in enumerate(self.lab.left):
            if self.mine(segment):
                del self.lab.left[place]
                break
        else:
            raise AssertionError(f"the stack sent nothing (expected {flags} {fields})")
        segment = self._relative(segment)
        if flags is not None:
            assert segment.flags.replace("P", "") == flags, segment
        if push is not None:
            assert ("P" in segment.flags) == push, segment
        if at is not None:
            assert abs(segment.at - at) <= max(0.002, 0.01 * at), segment
        if length is not None:
            assert len(segment.payload) == length, segment
        if data is not None:
            assert segment.payload == data, segment
        for name, value in fields.items():
            assert getattr(segment, name) == value, (name, value, segment)
        return segment

    def expects_nothing(self) -> None:
        waiting = [self._relative(s) for s in self.lab.left if self.mine(s)]
        assert not waiting, f"the stack sent {waiting}"

    # ---- inside ----

    @property
    def tcb(self) -> dict[str, Any] | None:
        """The stack's TCB of this connection; None when there is none."""
        for found in self.lab.engine.connections():
            if (found["local_port"], found["remote_port"], found["remote_address"]) == (
                self.port,
                self.peer_port,
                self.address,
            ):
                return self.lab.engine.tcb(found["index"])
        return None

    @property
    def state(self) -> str:
        """Name of the state in tcb.pxd; "CLOSED" when there is no TCB."""
        tcb = self.tcb
        return "CLOSED" if tcb is None else State(tcb["state"]).name


def signed(difference: int) -> int:
    """A difference of sequence numbers, modulo 2^32, as the number nearest to 0."""
    return (difference + 0x80000000 & 0xFFFFFFFF) - 0x80000000


_mss, _wscale = mss, wscale
