"""The stack and the kernel with an emulated link between them, and a trace of what crosses it.

stack ── TAP ── host (forwards) ── near ══ link ══ far: the kernel
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from neatstack.experiment.link import Shape
from neatstack.experiment.netns import Lab, Stack
from neatstack.experiment.path import FAR, FAR6, Route
from tests.peers.endings import LINGER_RESET
from tests.peers.switches import Peers, counted, switched
from tests.support.puppet import Puppet, Remote, digest
from tests.support.trace import WINDOW_ENDS, capturing, check_trace, ended, fields

SIDES = "stack", "kernel"
DELAY = 10.0  # ms one way
MSS = 1448
ports = itertools.count(7000)
ACCEPTED = (
    "This frame is a (suspected)",
    "This frame initiates the connection closing",
    "This frame undergoes the connection closing",
    "Previous segment(s) not captured",
    "ACKed segment that wasn't captured",
    "Duplicate ACK",
    "D-SACK Sequence",
    *WINDOW_ENDS,
)


@dataclass
class Seen:
    """What has happened in a block: by the link, by both ends, and in the trace."""

    to_kernel: dict[str, int] = field(default_factory=dict)
    to_stack: dict[str, int] = field(default_factory=dict)
    kernel: dict[str, int] = field(default_factory=dict)
    stack: dict[str, int] = field(default_factory=dict)
    trace: Path = Path()

    def sent(self) -> dict[str, list[float]]:
        """When (s) the stack has sent text, for each sequence number."""
        times: dict[str, list[float]] = {}
        for at, sequence in fields(
            self.trace, "frame.time_relative", "tcp.seq", only=f"tcp.len > 0 && ip.dst == {FAR}"
        ):
            times.setdefault(sequence, []).append(float(at))
        return times

    def again(self) -> list[float]:
        """Seconds from the first to the last time that the stack has sent text, of what it has sent more than once."""
        return [times[-1] - times[0] for times in self.sent().values() if len(times) > 1]


class Rough:
    """The stack and the kernel, with a link between them that can be made anew."""

    def __init__(self, lab: Lab, directory: Path, options: Sequence[object] = ()) -> None:
        self.route = Route(lab, Shape(), options=options)
        self.route.end_link()
        self.directory, self.numbers = directory, itertools.count()
        self.pairs: list[tuple[Remote, Remote]] = []
        ours, kernels = Puppet(self.route.stack.programs), Puppet(self.route.far)
        self.peers = {
            "IPv4": Peers(ours, kernels, Stack.address, FAR),
            "IPv6": Peers(ours, kernels, Stack.address6, FAR6),  # if the stack was given it, and the route speaks it
        }

    @contextmanager
    def link(self, shape: Shape, settings: dict[str, object] | None = None, traced: bool = True) -> Iterator[Seen]:
        """A link of this shape, and a trace of what crosses it, which must be as it should."""
        seen = Seen(trace=self.directory / f"{next(self.numbers)}.pcapng")
        self.route.start_link(shape)
        before = counted(self.route.far)
        with switched(self.route.far, settings or {}):
            if traced:
                with capturing(self.route.stack, "-w", seen.trace, "--buffer", 64, "tcp") as process:
                    yield seen
                    time.sleep(3 * DELAY / 1000)
                    _, said = ended(process)
                assert "missed" not in said
                check_trace(seen.trace, ACCEPTED)
            else:
                yield seen
        self.forget()
        seen.to_kernel, seen.to_stack = self.route.end_link()
        seen.kernel = {name: value - before.get(name, 0) for name, value in counted(self.route.far).items()}

    def counters(self) -> dict[str, int]:
        return self.route.stack.replicas()[0]["counters"]

    def pair(self, connects: str = "stack", family: str = "IPv4") -> tuple[Remote, Remote]:
        """A connection that ends with the block: the stack's end and the kernel's."""
        self.pairs.append(self.peers[family].connected(connects, next(ports)))
        return self.pairs[-1]

    def connected(self, sender: str, connects: str = "stack", family: str = "IPv4") -> tuple[Remote, Remote]:
        """A connection: the end that sends, and the one that receives."""
        ours, kernels = self.pair(connects, family)
        return (ours, kernels) if sender == "stack" else (kernels, ours)

    def forget(self) -> None:
        """What has been lost last is not sent again later."""
        for end in itertools.chain.from_iterable(self.pairs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            end.close()
        self.pairs.clear()


def transfer(sender: Remote, receiver: Remote, length: int) -> None:
    sending = sender.begin("send_stream", 5, length)
    assert receiver.receive_stream(length) == (length, digest(5, length))
    assert sending.result(5) == length
