"""The directories of running stacks: /run/neat/NAME, and who owns them.

A stack's keeper holds a lock on keeper.pid for as long as it lives, whatever ends it, so a directory without a locked
keeper.pid is what a killed stack has left behind.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

from neatstack.control.errors import NeatError
from neatstack.control.settings import DEFAULT_NAME

CONTROL_TIMEOUT = 30.0  # seconds
MOST_DESCRIPTORS = 64  # with one answer
CHANGE_TIMEOUT = 900.0  # for what replaces or starts processes, one after the other


def root() -> Path:
    """Where the stacks' directories are; NEAT_RUN_DIR puts them elsewhere."""
    return Path(os.environ.get("NEAT_RUN_DIR") or "/run/neat")


def directory(name: str) -> Path:
    return root() / name


def claim(name: str) -> int:
    """Make the directory of a new stack and lock it; returns the descriptor that holds the lock.

    What a killed stack of that name has left is removed. Raises NeatError when one is running, or no right.
    """
    place = directory(name)
    try:
        root().mkdir(mode=0o755, parents=True, exist_ok=True)
        while True:
            place.mkdir(mode=0o755, exist_ok=True)
            descriptor = os.open(place / "keeper.pid", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not _lock(descriptor):
                os.close(descriptor)
                remedy = f"choose another --name, or end it with `neat down --stack {name}`"
                raise NeatError(f"stack {name} is already running; {remedy}")
            if _is_current(descriptor, place / "keeper.pid"):
                break
            os.close(descriptor)  # its owner has just removed it
    except FileNotFoundError:
        return claim(name)  # removed between two steps
    except PermissionError:
        raise NeatError(f"no right to write {root()}; run as root, or set NEAT_RUN_DIR") from None
    except OSError as error:
        raise NeatError(f"cannot use {place}: {error.strerror}; set NEAT_RUN_DIR to another directory") from None
    for left in place.iterdir():
        if left.name != "keeper.pid":
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return descriptor


def running() -> list[str]:
    """The names of the stacks that run."""
    try:
        names = sorted(entry.name for entry in root().iterdir())
    except OSError:
        return []
    return [name for name in names if is_running(name)]


def is_running(name: str) -> bool:
    """Does somebody hold the lock?"""
    try:
        descriptor = os.open(directory(name) / "keeper.pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def find(name: str | None) -> str:
    """The stack that a command means: `name`, else the only one that runs, else `default`. Raises NeatError."""
    if name is not None:
        if not is_running(name):
            others = ", ".join(running())
            remedy = f"there is: {others}" if others else "start it with `neat up`"
            raise NeatError(f"no stack {name} is running; {remedy}")
        return name
    names = running()
    if not names:
        raise NeatError("no stack is running; start one with `neat up`")
    if len(names) > 1 and DEFAULT_NAME not in names:
        raise NeatError(f"which stack? Several are running: {', '.join(names)}; name one with --stack")
    return names[0] if len(names) == 1 else DEFAULT_NAME


def ask(name: str, request: dict[str, Any], timeout: float = CONTROL_TIMEOUT) -> dict[str, Any]:
    """One request to the manager of stack `name`, and its answer within `timeout` seconds. Raises NeatError."""
    answer, descriptors = ask_for_descriptors(name, request, timeout)
    for descriptor in descriptors:
        os.close(descriptor)
    return answer


def ask_for_descriptors(
    name: str, request: dict[str, Any], timeout: float = CONTROL_TIMEOUT
) -> tuple[dict[str, Any], list[int]]:
    """As `ask`, with the descriptors that come with the answer, which are the caller's. Raises NeatError."""
    line = b""
    descriptors: list[int] = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(str(directory(name) / "control.sock"))
            sock.sendall(json.dumps(request).encode() + b"\n")
            while not line.endswith(b"\n"):
                data, more, _, _ = socket.recv_fds(sock, 1 << 20, MOST_DESCRIPTORS)
                descriptors += more
                if not data:
                    break
                line += data
    except PermissionError:
        raise NeatError(f"no right to control stack {name}; run as the user who started it, or as root") from None
    except OSError as error:
        raise NeatError(f"stack {name} does not answer ({error.strerror or error}); try again") from None
    if not line:
        raise NeatError(f"stack {name} has closed the connection without an answer; try again")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise NeatError(str(answer["error"]))
    return answer, descriptors


def keeper_pid(name: str) -> int | None:
    """The process id of the stack's keeper."""
    with contextlib.suppress(OSError, ValueError):
        return int((directory(name) / "keeper.pid").read_text())
    return None


def _lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_current(descriptor: int, path: Path) -> bool:
    """Is `descriptor` still the file at `path`?"""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
