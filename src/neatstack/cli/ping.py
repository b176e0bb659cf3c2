"""`neat ping`: ICMP echo from a stack's own address, as the system's ping does from the kernel's."""

import math
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import FrameType
from typing import Annotated, Any

import typer

from neatstack.control import rundir
from neatstack.control.errors import NeatError

EXAMPLES = "Examples: [bold]neat ping 10.77.0.1[/] · [bold]neat ping example.org --count 3 --interval 0.2[/]"
CODES = {0: "network", 1: "host", 2: "protocol", 3: "port"}  # of ICMP destination unreachable
LONGEST = 60.0  # seconds to wait for a reply
Address = IPv4Address | IPv6Address
CODES6 = {0: "network", 1: "administratively", 3: "address", 4: "port"}  # of ICMPv6
HEADERS = {4: 28, 6: 48}  # bytes of IP and ICMP


@dataclass
class Tally:
    """What has come of it so far."""

    name: str
    began: float = field(default_factory=time.monotonic)
    sent: int = 0
    errors: int = 0
    times: list[float] = field(default_factory=list)  # ms

    def show(self) -> None:
        """The last lines, as ping's."""
        lost = 100 - 100 * len(self.times) / self.sent if self.sent else 0
        errors = f", +{self.errors} errors" if self.errors else ""
        took = (time.monotonic() - self.began) * 1000
        print(f"\n--- {self.name} ping statistics ---")
        print(
            f"{self.sent} packets transmitted, {len(self.times)} received{errors}, {lost:.3g}% packet loss, "
            f"time {took:.0f}ms"
        )
        if self.times:
            mean = sum(self.times) / len(self.times)
            deviation = math.sqrt(max(0.0, sum(each * each for each in self.times) / len(self.times) - mean * mean))
            shown = "/".join(f"{each:.3f}" for each in (min(self.times), mean, max(self.times), deviation))
            print(f"rtt min/avg/max/mdev = {shown} ms")


def ping(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="An address, or a name.")],
    stack: Annotated[str | None, typer.Option(metavar="NAME", help="Which stack.", show_default="the only one")] = None,
    count: Annotated[
        int | None, typer.Option("-c", "--count", metavar="N", help="End after N.", show_default=False)
    ] = None,
    interval: Annotated[
        float, typer.Option("-i", "--interval", metavar="S", help="Seconds from one to the next.")
    ] = 1.0,
    size: Annotated[int, typer.Option("-s", "--size", metavar="BYTES", help="Of payload.")] = 56,
    timeout: Annotated[
        float, typer.Option("-W", "--timeout", metavar="S", help="Seconds to wait for each reply.")
    ] = 2.0,
) -> None:
    """Send ICMP echo requests from the stack, and say what comes back. Ctrl-C ends it."""
    _check(count, interval, size, timeout)
    name = rundir.find(stack)
    target = _resolve(address)
    tally = Tally(address)
    ending = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        ending = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    own = _own(rundir.ask(name, {"op": "status"}), target)
    whole = size + HEADERS[target.version]
    print(f"PING {address} ({target}) from {own} stack {name}: {size}({whole}) bytes of data.", flush=True)
    try:
        while count is None or tally.sent < count:
            due = time.monotonic() + interval
            _one(name, target, tally, size, timeout)
            if count is None or tally.sent < count:
                time.sleep(max(0.0, due - time.monotonic()))
    except KeyboardInterrupt:
        pass
    tally.show()
    if not tally.times:
        sys.exit(1)


def _check(count: int | None, interval: float, size: int, timeout: float) -> None:
    """Raises NeatError."""
    if count is not None and count < 1:
        raise NeatError(f"--count {count}: give a whole number from 1 on", status=2)
    if not 0.01 <= interval <= 86400:
        raise NeatError(f"--interval {interval:g}: give seconds from 0.01 to 86400", status=2)
    if not 0 <= size <= 65507:
        raise NeatError(f"--size {size}: give bytes from 0 to 65507", status=2)
    if not 0 < timeout <= LONGEST:
        raise NeatError(f"--timeout {timeout:g}: give seconds up to {LONGEST:g}", status=2)


def _own(status: dict[str, Any], target: Address) -> str:
    """The stack's address that the requests come from, as far as it is known here."""
    own = [str(each).partition("/")[0] for each in [status["address"], *status.get("addresses", ())]]
    fit = [ip_address(each) for each in own if ip_address(each).version == target.version]
    same = [each for each in fit if each.is_link_local == target.is_link_local]
    return str(next(iter(same or fit), "?"))


def _resolve(text: str) -> Address:
    """The address that is meant. Raises NeatError."""
    try:
        found = socket.getaddrinfo(text, None, 0, socket.SOCK_RAW)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "not a name"
        raise NeatError(f"{text}: {why}; give an address, or another name", status=2) from None
    # a name of both families is meant as IPv4, which every stack speaks
    first = min(found, key=lambda each: each[0] != socket.AF_INET)
    return ip_address(str(first[4][0]).partition("%")[0])


def _one(stack: str, target: Address, tally: Tally, size: int, timeout: float) -> None:
    """One request and what comes of it, in a line."""
    number = tally.sent + 1
    request = {"op": "ping", "address": str(target), "size": size, "sequence": number, "timeout": timeout}
    answer = rundir.ask(stack, request, timeout + rundir.CONTROL_TIMEOUT)
    tally.sent = number
    if answer["outcome"] == "reply":
        took = answer["rtt_ns"] / 1e6
        tally.times.append(took)
        print(
            f"{answer['bytes']} bytes from {target}: icmp_seq={number} ttl={answer['ttl']} time={took:.3g} ms",
            flush=True,
        )
        return
    if answer["outcome"] != "timeout":
        tally.errors += 1
    print(_failure(answer, number), flush=True)


def _failure(answer: dict[str, Any], number: int) -> str:
    match answer["outcome"]:
        case "unreachable":
            codes = CODES6 if ":" in answer["from"] else CODES
            what = codes.get(answer["code"], f"(code {answer['code']})")
            return f"From {answer['from']} icmp_seq={number} destination {what} unreachable"
        case "time exceeded":
            return f"From {answer['from']} icmp_seq={number} time to live exceeded"
        case "no route":
            return f"icmp_seq={number} no route: no network or route of the stack leads there, and it has no gateway"
        case "damaged":
            return f"icmp_seq={number} the reply's payload was not the request's"
        case "link":
            return f"icmp_seq={number} link was being replaced"
    return f"no answer for icmp_seq={number}"
