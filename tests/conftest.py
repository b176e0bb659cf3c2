"""Fixtures for tests over real network interfaces, in namespaces of their own."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from neatstack.experiment.netns import Lab, Namespace, Process, Side, Stack

pytest_plugins = ["tests.fuzz.sanitized"]
PLACES = ("stack-kernel", "kernel-stack", "stack-stack")
# What is fast and says most about what is broken comes first.
FAST = ("source", "support", "dataplane", "client", "control", "cli", "observe", "dashboard", "fuzz", "crash")
ORDER = (*FAST, "stack", "peers", "programs", "experiment")
pytest.register_assert_rewrite(*(f"tests.{folder}" for folder in ORDER))  # also what helpers assert is told of
TIMEOUT, HEAVY_TIMEOUT = 300, 900  # seconds
_ports = itertools.count(2000)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's job in the background; what tests start inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> tuple[bool, bool, int]:
        folder = item.path.relative_to(item.config.rootpath / "tests").parts[0]
        place = ORDER.index(folder) if folder in ORDER else len(ORDER)
        return *(item.get_closest_marker(name) is not None for name in ("background", "heavy")), place

    items.sort(key=rank)  # stable: the order in a folder stays


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that hangs fails after a time, and what it has started is removed."""
    limit = HEAVY_TIMEOUT if item.get_closest_marker("heavy") else TIMEOUT

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"{item.nodeid} still runs after {limit} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(limit)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Pair:
    """A server's and a client's place, a free port, and the kernel's namespace to look from."""

    server: Side
    client: Side
    port: int
    host: Namespace

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def any(self) -> str:
        return every(self.address)

    @property
    def url(self) -> str:
        return f"http://{bracketed(self.address)}:{self.port}"

    def serve(self, *argv: object) -> Process:
        """Start a server and wait until it accepts on the pair's port."""
        process = self.server.spawn(*argv)
        self.host.wait_port(self.address, self.port, process=process)
        return process


def every(address: str) -> str:
    """All addresses of the family of this one, to be bound to."""
    return "::" if ":" in address else "0.0.0.0"


def bracketed(address: str) -> str:
    """An address as it stands before a port (RFC 3986 section 3.2.2)."""
    return f"[{address}]" if ":" in address else address


def also_over_ipv6(*places: str) -> pytest.MarkDecorator:
    """The `pair` of a test is also made over IPv6 in these of PLACES; the stack must have `Stack.address6`."""
    return pytest.mark.parametrize("pair", [*PLACES, *(f"{each} over IPv6" for each in places)], indirect=True)


def laboratory() -> Iterator[Lab]:
    if os.geteuid():
        pytest.skip("needs root: makes network namespaces and TAP interfaces")
    with Lab() as made:
        yield made


lab = pytest.fixture(scope="module", name="lab")(laboratory)


@pytest.fixture(scope="module")
def stack(lab: Lab) -> Stack:
    """A stack of two replicas, one for a module's tests."""
    return lab.stack(replicas=2)


@pytest.fixture
def port() -> int:
    return next(_ports)


@pytest.fixture(params=PLACES)
def pair(request: pytest.FixtureRequest, stack: Stack, port: int) -> Iterator[Pair]:
    """Server and client: on the stack or on the kernel. What the test started ends with the test."""
    places: dict[str, Side] = {"stack": stack.programs, "kernel": stack.host}
    words, _, over_ipv6 = request.param.partition(" over ")
    if over_ipv6:
        places = {"stack": stack.programs.at(stack.address6), "kernel": stack.host.at(stack.host_address6)}
    server, client = (places[word] for word in words.split("-"))
    with stack.lab.scope():
        yield Pair(server, client, port, stack.host)
