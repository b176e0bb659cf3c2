"""`neat capture`: the packets of a running stack, as they cross its device, for wireshark or to read."""

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Annotated

import typer

from neatstack.control import rundir
from neatstack.control.errors import NeatError

if TYPE_CHECKING:
    from neatstack.observe.capture.filter import Filter
    from neatstack.observe.capture.session import Packet, Session, Source

EXAMPLES = (
    "Examples: [bold]neat capture tcp port 80[/] · [bold]neat capture -w - | wireshark -k -i -[/] · "
    "[bold]neat capture -w trace.pcapng --replica 1 --seconds 10[/]"
)
SNAPLEN = 262144  # bytes, as tcpdump
LOOK_EVERY = 10  # ms
ALIVE_EVERY = 1.0  # seconds between two looks whether the stack is there
LARGEST_BUFFER = 1024  # MiB


def capture(
    filter_words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILTER]...", help="Only packets that it matches, see pcap-filter(7).", show_default=False
        ),
    ] = None,
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    replica: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Only this replica's packets; may be repeated.", show_default="all, and link"),
    ] = None,
    write: Annotated[
        str | None,
        typer.Option(
            "-w",
            "--write",
            metavar="FILE",
            help="Write pcapng; -: to a pipe.",
            show_default="a line for each",
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(metavar="N", help="End after N packets.", show_default=False)] = None,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="End after so long.", show_default=False)] = None,
    snaplen: Annotated[int, typer.Option(metavar="BYTES", help="Keep so much of each packet.")] = SNAPLEN,
    buffer: Annotated[int, typer.Option(metavar="MIB", help="Memory of each replica for packets not yet read.")] = 8,
) -> None:
    """Capture packets while the stack runs, to a file, to wireshark, or a line each. Ctrl-C ends it."""
    _check(replica, count, seconds, snaplen, buffer)
    text = " ".join(filter_words or [])
    name = rundir.find(stack)
    chosen = _filter(text)
    ending = _Ending()
    from neatstack.observe.capture.session import Session

    session = Session(name, 1 << (buffer * 1048576 - 1).bit_length(), replica or None)
    sink = _open(write, snaplen, text)  # a file that is there is not touched by a capture that is refused
    if write is not None:
        print(f"neat: capturing on stack {name}; Ctrl-C ends it", file=sys.stderr)
    try:
        sink.begin(session)
        _run(session, chosen, sink, ending, count, seconds)
        sink.end(session)
    except BrokenPipeError:
        sink.abandon()
    except OSError as error:
        raise NeatError(f"cannot write {sink.name}: {error.strerror}") from None
    _summarize(session)


def _check(replica: list[int] | None, count: int | None, seconds: float | None, snaplen: int, buffer: int) -> None:
    """Raises NeatError."""
    if replica and min(replica) < 0:
        raise NeatError(f"--replica {min(replica)} is no number of a replica; `neat status` lists them", status=2)
    if count is not None and count < 1:
        raise NeatError(f"--count {count}: give a whole number from 1 on", status=2)
    if seconds is not None and not 0 < seconds < 1e9:
        raise NeatError(f"--seconds {seconds:g}: give a time above 0", status=2)
    if not 1 <= snaplen <= SNAPLEN:
        raise NeatError(f"--snaplen {snaplen}: give bytes from 1 to {SNAPLEN}", status=2)
    if not 1 <= buffer <= LARGEST_BUFFER:
        raise NeatError(f"--buffer {buffer}: give MiB from 1 to {LARGEST_BUFFER}", status=2)


def _filter(text: str) -> "Filter | None":
    if not text.strip():
        return None
    from neatstack.observe.capture.filter import Filter

    return Filter(text)


class _Ending:
    """Ctrl-C, SIGTERM and a terminal that is closed end the capture in order; the second time, at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Lines:
    """A line for each packet on standard output."""

    name = "standard output"

    def __init__(self) -> None:
        from neatstack.observe.capture.text import Describer

        self.describer = Describer()
        self.file: IO[str] = sys.stdout

    def begin(self, session: "Session") -> None:
        """Lines need no preparation."""

    def put(self, packet: "Packet") -> None:
        from neatstack.observe.capture.text import clock

        where = "link" if packet.source.replica is None else str(packet.source.replica)
        way = "Out" if packet.outgoing else "In "
        self.file.write(f"{clock(packet.at)} {where:<4} {way} {self.describer.describe(packet.data)}\n")

    def end(self, session: "Session") -> None:
        """All is said."""

    def flush(self) -> None:
        self.file.flush()

    def abandon(self) -> None:
        """Nobody reads any more: nor shall the interpreter's end try to write."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class File(Lines):
    """A pcapng file, or pipe."""

    def __init__(self, file: IO[bytes], name: str, snaplen: int, text: str) -> None:
        from neatstack.observe.capture.pcapng import Writer

        self.output, self.name = file, name
        self.writer = Writer(file, snaplen, text)
        self.interfaces: dict[Source, int] = {}

    def begin(self, session: "Session") -> None:
        """Interfaces of those that are there; a replica that starts later gets its own with its first packet."""
        for source in session.sources:
            if source.replica is None or source.replica in session.active:
                self._interface(source)
        self.flush()

    def _interface(self, source: "Source") -> int:
        if source not in self.interfaces:
            self.interfaces[source] = self.writer.interface(source.name, f"NEaT {source.name}")
        return self.interfaces[source]

    def put(self, packet: "Packet") -> None:
        self.writer.packet(self._interface(packet.source), packet.at, packet.data, packet.outgoing)

    def end(self, session: "Session") -> None:
        """The counts of each interface."""
        now = time.time_ns()
        for source, number in self.interfaces.items():
            counts = source.received + source.missing, source.missing, source.accepted, source.kept
            self.writer.statistics(number, session.started, now, *counts)
        self.output.close()

    def flush(self) -> None:
        self.output.flush()

    @property
    def descriptor(self) -> int:
        return self.output.fileno()

    def abandon(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.output.fileno())


def _open(write: str | None, snaplen: int, text: str) -> Lines:
    """Raises NeatError."""
    if write is None:
        return Lines()
    if write == "-":
        if sys.stdout.isatty():
            raise NeatError("pcapng is nothing for a terminal; use a pipe, a file, or leave -w away", status=2)
        return File(sys.stdout.buffer, "standard output", snaplen, text)
    try:
        return File(Path(write).open("wb"), write, snaplen, text)
    except OSError as error:
        raise NeatError(f"cannot write {write}: {error.strerror}") from None


def _run(
    session: "Session", chosen: "Filter | None", sink: Lines, ending: _Ending, count: int | None, seconds: float | None
) -> None:
    """Until the time is over, enough packets have come, or nobody wants more."""
    matches: Callable[[bytes], bool] = (lambda data: True) if chosen is None else chosen.matches
    descriptor = sink.output.fileno() if isinstance(sink, File) else sys.stdout.fileno()
    closed = select.poll()
    closed.register(descriptor, 0)  # tells only that the other end of a pipe is gone
    end = None if seconds is None else time.monotonic() + seconds
    alive_at, left, last = time.monotonic() + ALIVE_EVERY, count, False
    while not last:
        now = time.monotonic()
        last = ending.asked or (end is not None and now >= end)
        if now >= alive_at:
            last, alive_at = last or session.over(), now + ALIVE_EVERY
        packets = session.take(final=last)
        for packet in packets:
            if not matches(packet.data):
                continue
            packet.source.accepted += 1
            sink.put(packet)
            packet.source.kept += 1
            if left is not None:
                left -= 1
                if not left:
                    sink.flush()
                    return
        if packets:
            sink.flush()
        elif any(event & (select.POLLERR | select.POLLHUP) for _, event in closed.poll(0 if last else LOOK_EVERY)):
            raise BrokenPipeError


def _summarize(session: "Session") -> None:
    """As tcpdump does, on standard error."""
    kept = sum(source.kept for source in session.sources)
    received = sum(source.received for source in session.sources)
    missing = sum(source.missing for source in session.sources)
    more = f", {missing} missed: a larger --buffer helps" if missing else ""
    print(f"neat: {kept} packets captured of {received}{more}", file=sys.stderr)
