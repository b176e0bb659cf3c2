"""A laboratory: network namespaces, links, stacks and processes that are made together and end together.

    with Lab() as lab:
        stack = lab.stack(replicas=2)
        stack.programs.spawn("lighttpd", "-D", "-f", conf)    # on the stack
        stack.host.run("curl", f"http://{stack.address}/")    # on the kernel, at the other end of the TAP interface

Everything is removed when the block is left, also by an exception, Ctrl-C, SIGTERM or SIGHUP. Needs root.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from neatstack.control import rundir
from neatstack.control.errors import NeatError

CLONE_NEWNET = 0x40000000
SOURCE = Path(__file__).resolve().parents[2]  # the directory that contains the package, installed or in a checkout
LIBC = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def environment(source: Path = SOURCE, **extra: str) -> dict[str, str]:
    """The environment of every process: the package in `source`, by default this very one; and where servers are."""
    path = os.environ.get("PATH", "")
    python = ":".join(filter(None, [str(source), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PATH": f"{path}:/usr/local/sbin:/usr/sbin:/sbin", "PYTHONPATH": python, **extra}


class Process:
    """A process in a session of its own. Its standard output and error go to the file `log`."""

    def __init__(self, argv: Sequence[str], log: Path, env: dict[str, str], pass_fds: Sequence[int] = ()):
        self.argv, self.log = list(argv), log
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env=env, start_new_session=True, pass_fds=pass_fds,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def running(self) -> bool:
        return self.popen.poll() is None

    def wait(self, timeout: float) -> int:
        """The exit status. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        return self.popen.wait(timeout)

    def stop(self, grace: float = 3.0) -> None:
        """SIGTERM to the session, SIGKILL `grace` seconds later. Does nothing twice."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(grace)


class Side:
    """Where a program runs. `prefix` is the command that puts it there."""

    def __init__(self, lab: Lab, label: str, address: str, prefix: Sequence[str], env: dict[str, str]):
        self.lab, self.label, self.address, self.prefix, self.env = lab, label, address, list(prefix), env

    def at(self, address: str) -> Self:
        """The same place by another of its addresses."""
        made = copy.copy(self)
        made.address = address
        return made

    def argv(self, *argv: object, cpu: int | str | None = None) -> list[str]:
        pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
        return [*pin, *self.prefix, *map(str, argv)]

    def run(
        self, *argv: object, timeout: float = 30, check: bool = True, stdin: bytes = b"", cpu: int | str | None = None
    ) -> str:
        """Run to the end; the standard output. A failure or `timeout` seconds: LabError with all that was printed."""
        return run(self.argv(*argv, cpu=cpu), timeout, check, stdin, self.env)

    def spawn(self, *argv: object, cpu: int | str | None = None, pass_fds: Sequence[int] = ()) -> Process:
        """Start and return at once; ended with the lab."""
        return self.lab.spawn(self.argv(*argv, cpu=cpu), self.env, pass_fds)


class Namespace(Side):
    """A network namespace, and its kernel's stack as a place to run programs."""

    def __init__(self, lab: Lab, name: str):
        super().__init__(lab, "kernel", "", ["ip", "netns", "exec", name], environment())
        self.name = name

    def ip(self, *argv: object) -> str:
        return run(["ip", "-n", self.name, *map(str, argv)])

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in the namespace; sockets made here stay in it."""
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.name}") as there:
            enter(there.fileno())
            try:
                yield
            finally:
                enter(before.fileno())

    def open_socket(self, address: str = "") -> socket.socket:
        """A stream socket of the family of `address`."""
        with self.entered():
            return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)

    def connect(self, address: str, port: int, timeout: float = 5.0) -> socket.socket:
        made = self.open_socket(address)
        try:
            made.settimeout(timeout)
            made.connect((address, port))
        except BaseException:
            made.close()
            raise
        return made

    def wait_port(self, address: str, port: int, timeout: float = 10.0, process: Process | None = None) -> None:
        """Wait until something accepts there; LabError with what `process` printed when it does not."""
        end = time.monotonic() + timeout
        while True:
            try:
                self.connect(address, port, timeout=1.0).close()
                return
            except OSError as error:
                gone = process is not None and not process.running()
                if gone or time.monotonic() > end:
                    said = f"\n{process.argv}: {process.output}" if process else ""
                    raise LabError(f"nothing accepts at {address}:{port}: {error}{said}") from None
            time.sleep(0.02)


class Stack:
    """A running stack, alone in its NEAT_RUN_DIR.

    `host` is the kernel at the other end of its TAP interface, `programs` is the stack: places to run programs.
    `source` is the directory with the build that it and its programs use.
    """

    address, host_address, device = "10.77.0.2", "10.77.0.1", "neat0"
    address6, host_address6 = "fd77::2", "fd77::1"  # of a stack that is given the first by --address

    def __init__(
        self, lab: Lab, replicas: int, config: str, cpu: int | str | None, options: Sequence[object], source: Path
    ):
        number = next(_numbers)
        self.lab, self.name = lab, f"lab{number}"
        self.run_dir = lab.directory / f"run{number}"
        self.run_dir.mkdir()
        self.env = environment(source, NEAT_RUN_DIR=str(self.run_dir))
        self.host = lab.namespace("host")
        self.host.address = self.host_address
        empty = lab.namespace("programs")  # what does not go to the stack gets nowhere
        inside = ["ip", "netns", "exec", empty.name]
        self.programs = Side(lab, "stack", self.address, [*inside, *neat("run", "--stack", self.name, "--")], self.env)
        up = [*neat("up", "--name", self.name, "--detach", "--netns", self.host.name, "--replicas", replicas)]
        up += ["--address", f"{self.address}/24", "--host-address", f"{self.host_address}/24"]
        up += ["--device", f"tap:{self.device}", *map(str, options)]
        if config:
            file = lab.directory / f"stack{number}.toml"
            file.write_text(config)
            up += ["--config", str(file)]
        pin = [] if cpu is None else ["taskset", "-c", str(cpu)]
        lab.cleanup.callback(self.stop)
        run([*pin, *up], 20, env=self.env)

    def neat(self, *argv: object, timeout: float = 20) -> str:
        return run(neat(*argv), timeout, env=self.env)

    def status(self) -> dict[str, Any]:
        """As `neat status --json`, without the time that a process takes to start."""
        try:
            return rundir.ask(str(self.run_dir / self.name), {"op": "status"}, 20)  # whatever our NEAT_RUN_DIR is
        except NeatError as error:
            raise LabError(str(error)) from None

    def replicas(self) -> list[dict[str, Any]]:
        return self.status()["replicas"]

    def pids(self) -> list[int]:
        """The keeper and its descendants: all processes of the stack."""
        return descendants(self.keeper())

    def keeper(self) -> int:
        return int((self.run_dir / self.name / "keeper.pid").read_text())

    def stop(self) -> None:
        """End the stack; if it does not end by itself, end its keeper, which everything else ends with."""
        try:
            keeper = self.keeper()
        except (OSError, ValueError):
            return
        with contextlib.suppress(LabError):
            self.neat("down", timeout=10)
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGKILL)


class Lab:
    """Owns namespaces, processes and a directory for files; removes them in the reverse order."""

    def __init__(self) -> None:
        self.cleanup = contextlib.ExitStack()

    def __enter__(self) -> Lab:
        self.directory = Path(tempfile.mkdtemp(prefix="neat-lab-"))
        self.directory.chmod(0o755)  # servers that give up root read their files here
        self.cleanup.callback(shutil.rmtree, self.directory, ignore_errors=True)
        with contextlib.suppress(ValueError):  # not the main thread: no signal to care for
            for number in (signal.SIGTERM, signal.SIGHUP):
                if (before := signal.getsignal(number)) != signal.SIG_IGN:  # as nohup has it
                    signal.signal(number, terminated)
                    self.cleanup.callback(signal.signal, number, before)
        return self

    def __exit__(self, *error: object) -> None:
        self.cleanup.close()

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """What is made inside the block ends with it."""
        outer, self.cleanup = self.cleanup, contextlib.ExitStack()
        try:
            yield
        finally:
            inner, self.cleanup = self.cleanup, outer
            inner.close()

    def namespace(self, label: str) -> Namespace:
        """A new namespace with its loopback interface up."""
        name = f"neat-{os.getpid()}-{next(_numbers)}-{label}"
        run(["ip", "netns", "add", name])
        self.cleanup.callback(run, ["ip", "netns", "delete", name], check=False)
        made = Namespace(self, name)
        made.ip("link", "set", "lo", "up")
        return made

    def veth(self, one: Namespace, address: str, other: Namespace, other_address: str) -> None:
        """Join two namespaces by a link; both ends are called `veth0`. Addresses as 10.0.0.1/24."""
        run(["ip", "link", "add", "veth0", "netns", one.name, "type", "veth", "peer", "veth0", "netns", other.name])
        for side, own in ((one, address), (other, other_address)):
            side.address = own.partition("/")[0]
            side.ip("address", "add", own, "dev", "veth0")
            side.ip("link", "set", "veth0", "up")

    def stack(
        self,
        replicas: int = 2,
        config: str = "",
        cpu: int | str | None = None,
        options: Sequence[object] = (),
        source: Path = SOURCE,
    ) -> Stack:
        """Start a stack; `config` is TOML, `cpu` the one core for all its processes, `options` more for `neat up`."""
        return Stack(self, replicas, config, cpu, options, source)

    def spawn(self, argv: Sequence[str], env: dict[str, str] | None = None, pass_fds: Sequence[int] = ()) -> Process:
        process = Process(argv, self.directory / f"log{next(_numbers)}", env or environment(), pass_fds)
        self.cleanup.callback(process.stop)
        return process


class LabError(RuntimeError):
    """A command failed or took too long, or a server did not come up."""


def descendants(pid: int) -> list[int]:
    """A process, its children, theirs, and so on."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def neat(*argv: object) -> list[str]:
    return [sys.executable, "-c", "from neatstack.cli import main; main()", *map(str, argv)]


def run(
    argv: Sequence[str], timeout: float = 30, check: bool = True, stdin: bytes = b"", env: dict[str, str] | None = None
) -> str:
    """Run a command in a session of its own, which is killed after `timeout` seconds; its standard output."""
    with subprocess.Popen(
        list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=env or environment(), start_new_session=True,
    ) as process:  # fmt: skip
        late = False
        try:
            out, err = process.communicate(stdin, timeout)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            out, err = process.communicate()
            late = True
    if late or (check and process.returncode):
        what = f"still running after {timeout} s" if late else f"exit status {process.returncode}"
        text = (out + err).decode(errors="replace")
        raise LabError(f"{' '.join(argv)}: {what}\n{text}")
    return out.decode(errors="replace")


def enter(descriptor: int) -> None:
    if LIBC.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")


def terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
