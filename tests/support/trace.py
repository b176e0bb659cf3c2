"""`neat capture` at work, and what tshark makes of its traces: the fields of packets, and complaints about them."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from neatstack.experiment.netns import Stack, neat

# tshark leaves checksums alone, since captures of the kernel's see them before the device has completed them
CHECKS = ("tcp.check_checksum:TRUE", "ip.check_checksum:TRUE", "udp.check_checksum:TRUE")
# the bytes that tests send are of no protocol, whatever the port makes tshark believe
ONLY = ("-d", "tcp.port==1-65535,data")
BETWEEN = "|"  # several values of one field
CHAT = 0x200000  # severity of what is worth no complaint
WHOLE = 1 << 32
# what it says where a window is used up, and opens again
WINDOW_ENDS = (
    "TCP window specified by the receiver is now completely full",
    "TCP Zero Window",
    "TCP window update",
    "TCP keep-alive segment",
    "ACK to a TCP keep-alive segment",
    "ACK to a TCP Zero Window Probe",
)
INBOUND = "0x00000001"
# Linux writes it where no device sums for it (skb_checksum_help); the sum is the same (RFC 1624 section 3)
ALL_ONES = "TCP Checksum 0xffff instead of 0x0000"


@contextmanager
def capturing(stack: Stack, *options: object) -> Iterator[subprocess.Popen[bytes]]:
    """`neat capture OPTIONS` once it captures."""
    argv = neat("capture", "--stack", stack.name, *options)
    with subprocess.Popen(argv, env=stack.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            if "-w" in options:
                assert process.stderr and b"capturing" in process.stderr.readline()
            else:
                time.sleep(1.0)
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> tuple[str, str]:
    """Both outputs of a process that ends in order."""
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0, err
    return out.decode(errors="replace"), err.decode()


def read(path: Path, *options: str) -> list[str]:
    """The lines that tshark prints of a trace."""
    argv = ["tshark", *ONLY, "-r", str(path), *options]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def fields(path: Path, *names: str, only: str = "", options: Iterable[str] = ()) -> list[list[str]]:
    """These fields of each packet; `only`: of those that match a display filter. `options` are tshark's preferences."""
    argv = ["-T", "fields", "-E", f"aggregator={BETWEEN}"]
    argv += ["-Y", only] if only else []
    argv += [word for name in names for word in ("-e", name)]
    argv += [word for option in options for word in ("-o", option)]
    return [line.split("\t") for line in read(path, *argv)]


def complaints(path: Path, accepted: Iterable[str] = ()) -> list[str]:
    """Whatever tshark's expert remarks on a trace, but for chat and remarks that begin with one of `accepted`."""
    named = "frame.packet_flags_direction", "frame.number", "frame.interface_name", "_ws.col.Info"
    remarks = "_ws.expert.severity", "_ws.expert.message"
    found = []
    for way, number, interface, info, *told in fields(path, *named, *remarks, only="_ws.expert", options=CHECKS):
        habits = (*accepted, ALL_ONES) if way == INBOUND else tuple(accepted)
        for severity, message in zip(*(each.split(BETWEEN) for each in told), strict=True):
            if int(severity) > CHAT and not message.startswith(habits):
                found.append(f"{number} ({interface}): {message}: {info}")
    return found


def window_violations(path: Path) -> list[str]:
    """Segments with more than a probe's byte beyond what their receiver has ever offered, as far as the trace tells.

    Both ends' packets are in it in the order in which the stack had them: it can only have known what came before.
    """
    named = (
        "tcp.stream",
        "ip.src",
        "tcp.srcport",
        "tcp.seq_raw",
        "tcp.len",
        "tcp.ack_raw",
        "tcp.window_size",
        "tcp.flags",
    )
    edges: dict[tuple[str, str, str], int] = {}  # of the window that a sender may fill
    ends: dict[str, set[tuple[str, str]]] = defaultdict(set)
    found = []
    for stream, source, port, seq, length, ack, window, flags in fields(path, *named, only="tcp"):
        ends[stream].add((source, port))
        bits = int(flags, 16)
        if bits & 4:
            continue
        own, last = (stream, source, port), int(seq) + int(length)
        if own in edges and int(length) > 1 and 0 < (last - edges[own]) % WHOLE < WHOLE // 2:
            found.append(f"stream {stream} from {source}: {(last - edges[own]) % WHOLE} bytes beyond the window")
        for other in ends[stream] - {(source, port)}:
            if bits & 16:
                key, edge = (stream, *other), (int(ack) + int(window)) % WHOLE
                if key not in edges or (edge - edges[key]) % WHOLE < WHOLE // 2:
                    edges[key] = edge
    return found


def check_trace(path: Path, accepted: Iterable[str] = ()) -> None:
    """Nobody complains of a trace, but for what is accepted; else the failure tells all of it, and what came before."""
    found = complaints(path, accepted)
    if found:
        number = int(found[0].split()[0])
        found += ["around the first:", *read(path, "-Y", f"frame.number in {{{max(number - 20, 1)}..{number + 5}}}")]
    found += window_violations(path)
    if found:
        raise AssertionError("\n".join([*found, f"trace: {path}"]))
