"""How a replica is started: plain code, for the manager and for tests."""

import json
import os
import sys
from pathlib import Path

PARENT = str(Path(__file__).resolve().parents[2])
BOOT = "import sys; sys.path.insert(0, {!r}); from neatstack.dataplane.replica import main; main(sys.argv[1])"
ENVIRONMENT = ("ASAN_OPTIONS", "UBSAN_OPTIONS", "LD_PRELOAD")  # a sanitised build needs its library loaded first


def replica_command(config: dict, python: str = sys.executable, parent: str = PARENT) -> list[str]:
    """The command line of a replica (docs/architecture.md lists the keys of `config`).

    It runs the package in the directory `parent` by the interpreter `python`; by default what we run.
    """
    return [python, "-I", "-S", "-c", BOOT.format(parent), json.dumps(config)]


def spawn_replica(
    config: dict, fds: dict[str, int], uid: int, gid: int, python: str = sys.executable, parent: str = PARENT
) -> tuple[int, int]:
    """Start a replica as a child of ours; its process id, and a descriptor of the process (pidfd).

    `fds` are the descriptors that it gets, by their key in its configuration; ours stay open. It is executed as we are,
    so that it can load the package from wherever that lies, and as its first act, before it looks at anything of
    somebody else, becomes user `uid` and group `gid` in an empty network namespace.
    """
    argv = replica_command({**config, **fds, "uid": uid, "gid": gid}, python, parent)
    actions: list[tuple] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    # a descriptor duplicated onto itself is no longer close-on-exec
    actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in sorted(set(fds.values()))]
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    pid = os.posix_spawn(argv[0], argv, environment, file_actions=actions)
    return pid, os.pidfd_open(pid)
