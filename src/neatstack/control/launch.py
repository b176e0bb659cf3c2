"""Starting our own processes: a fresh, isolated Python interpreter that runs one module's main()."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module.main(arguments)`.

    `-I -S`: nothing from the environment, the working directory or site's start-up code; the path is this process's.
    """
    path = [entry for entry in sys.path if entry]
    boot = f"import sys; sys.path[:] = {path!r}; from {module} import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-I", "-S", "-c", boot, *arguments]


def _prctl(option: int, argument: "int | bytes") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def set_name(name: str) -> None:
    """The name that ps and top show; at most 15 characters."""
    _prctl(PR_SET_NAME, name.encode())


def become_subreaper() -> None:
    """Orphans among our descendants become our children."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Receive the signal when the parent dies."""
    _prctl(PR_SET_PDEATHSIG, number)


def fate(pidfd: int) -> str:
    """How a process ended, which only its parent can learn: not a manager that was restarted since."""
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return "has ended"
    if ended is None:
        return "has ended"
    if ended.si_code == os.CLD_EXITED:
        return f"has exited with status {ended.si_status}"
    return f"was killed by {signal.Signals(ended.si_status).name}"
