"""Starting our own processes: a fresh, isolated Python interpreter that runs one module's main()."""

import contextlib
import ctypes
import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
KILL_TIME_MS = 5000
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # what ends a stack in order


def command(module: str, *arguments: str, python: str = sys.executable, parent: str | None = None) -> list[str]:
    """The command line that runs `module.main(arguments)`.

    `-I -S`: nothing from the environment, the working directory or site's start-up code; the path is this process's.
    With `parent`: the package in that directory, with the standard library of the interpreter `python`.
    """
    path = [entry for entry in sys.path if entry]
    where = f"sys.path[:] = {path!r}" if parent is None else f"sys.path.insert(0, {parent!r})"
    boot = f"import sys; {where}; from {module} import main; sys.exit(main(sys.argv[1:]))"
    return [python, "-I", "-S", "-c", boot, *arguments]


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


def exit_code(pidfd: int) -> int | None:
    """How an ended process ended: its exit status, or minus the signal's number; None if it runs or is not our child.

    It is left for `reap`, so that, should we die before we have acted on the answer, our successor can still learn it.
    """
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def reap(pidfd: int) -> None:
    """Nothing of an ended child shall be left; nothing is done if it is not our child."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def is_over(pidfd: int, wait_ms: int = 0) -> bool:
    """Has the process ended, with all its memory unmapped? Waits so many milliseconds for it."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(wait_ms))


def end(pidfd: int) -> None:
    """Kill the process and wait until it is gone. Raises TimeoutError."""
    if not is_over(pidfd):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not is_over(pidfd, KILL_TIME_MS):
            raise TimeoutError("a killed process does not end")
