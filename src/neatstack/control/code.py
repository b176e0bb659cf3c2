"""Installations of the package: which one replicas are started from, and what another one says when it is asked.

Another one is asked before it is given anything: its interpreter runs isolated, for a bounded time, and what it prints
is not believed but checked.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neatstack.control.errors import NeatError

PROBE_TIME = 10.0  # seconds
LONGEST = 1 << 16  # bytes of an answer
VERSION = re.compile(r"[\w.+!-]{1,64}", re.ASCII)
LARGEST_REGION = 1 << 40
PROBE = """
import json, sys
sys.path[:0] = {path!r}
try:
    from neatstack.dataplane.version import main
except ImportError as error:
    print(json.dumps({{"error": str(error)}}))
else:
    main()
"""


@dataclass(frozen=True)
class Code:
    """One installation, as it was when it was looked at."""

    version: str
    state: dict[str, Any]  # dataplane/version.py says what it means
    region_size: int  # bytes of this stack's regions
    python: str  # its interpreter
    parent: str  # the directory with the package
    prefix: str | None = None  # as it was named; None: the manager's own
    generation: int = 0  # goes up by one with each upgrade: files may change without changing their version

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Code":
        """What `to_data` says."""
        return cls(**data)

    def to_data(self) -> dict[str, Any]:
        """For the keeper."""
        return asdict(self)

    def takes_over_from(self, other: "Code") -> bool:
        """Can its replicas go on with what the other's leave?"""
        return self.state == other.state

    def speaks_as(self, other: "Code") -> bool:
        """Do programs and the manager not notice which of the two they deal with?"""
        return all(self.state.get(part) == other.state.get(part) for part in ("layout", "protocol"))


def own(max_connections: int) -> Code:
    """What this process runs."""
    from neatstack.dataplane.version import describe

    return _checked(describe(max_connections), sys.executable, None)


async def probe(prefix: str | None, max_connections: int) -> Code:
    """What is installed in `prefix`; None: the files that this process was started from, as they are now.

    Raises NeatError, which says what is wrong with it.
    """
    python, path = (sys.executable, _own_path()) if prefix is None else (_interpreter(prefix), [])
    where = prefix or "this installation"
    status, said = await _run([python, "-I", "-c", PROBE.format(path=path), str(max_connections)], where)
    try:
        answer = json.loads(said)
        if "error" in answer:
            raise NeatError(f"{where} has no neatstack that works ({_short(answer['error'])}); install it there first")
        return _checked(answer, python, prefix)
    except (ValueError, TypeError, KeyError):
        ended = f"exit status {status}" if status else "it answers in another way"
        raise NeatError(f"{python} runs no neatstack that can be asked ({ended}); check --to") from None


def _own_path() -> list[str]:
    from neatstack.dataplane.launch import PARENT

    return [PARENT]


def _interpreter(prefix: str) -> str:
    """The prefix's Python. Raises NeatError."""
    if not os.path.isdir(prefix):
        what = "is no directory" if os.path.exists(prefix) else "does not exist"
        raise NeatError(f"{prefix} {what}; name a virtual environment or installation prefix that has bin/python")
    for name in ("python", "python3"):
        path = os.path.join(prefix, "bin", name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise NeatError(f"{prefix} has no bin/python; name a virtual environment or installation prefix that has one")


async def _run(argv: list[str], where: str) -> tuple[int, bytes]:
    """Exit status and output of a program that may do anything. Raises NeatError."""
    output, its_end = os.pipe()  # not asyncio's PIPE: `wait` would wait until whoever has that has closed it
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=DEVNULL, stdout=its_end, stderr=DEVNULL, env={}, cwd="/", start_new_session=True
        )
    except OSError as error:
        os.close(output)
        raise NeatError(f"{argv[0]} cannot be run: {error.strerror}; check that installation") from None
    finally:
        os.close(its_end)
    try:
        async with asyncio.timeout(PROBE_TIME):
            said = await _read(output)
            if said is None:
                raise NeatError(f"{argv[0]} runs no neatstack that can be asked (it says too much); check --to")
            return await process.wait(), said
    except TimeoutError:
        late = f"{argv[0]} has not answered for {PROBE_TIME:g} s what version it has"
        raise NeatError(f"{late}; check what is installed in {where}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _read(pipe: int) -> bytes | None:
    """All of it; None: too much. Closes the pipe."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(pipe, "rb", 0))
    try:
        await reader.readexactly(LONGEST)
    except asyncio.IncompleteReadError as end:
        return end.partial
    finally:
        transport.close()
    return None


def _checked(answer: dict[str, Any], python: str, prefix: str | None) -> Code:
    """Raises ValueError, TypeError or KeyError for what is no description."""
    version, state, size, parent = (answer[name] for name in ("version", "state", "region_size", "parent"))
    if not VERSION.fullmatch(version) or type(size) is not int or not 0 < size <= LARGEST_REGION:
        raise ValueError
    if not isinstance(state, dict) or not {"layout", "protocol", "region", "sizes"} <= state.keys():
        raise ValueError
    if not Path(parent, "neatstack").is_dir():
        raise ValueError
    return Code(version, state, size, python, parent, prefix)


def _short(said: object) -> str:
    """What a stranger says, in a line."""
    return "".join(character if character.isprintable() else " " for character in str(said))[:200]
