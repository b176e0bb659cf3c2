"""`neat kill`: harm done to a process of the stack on purpose, to see that the stack gets over it.

SIGKILL is always allowed: whoever may end the stack can send it anyway. All else is only for a stack that was started
for it.
"""

import functools
import os
import secrets
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neatstack.control.errors import NeatError
from neatstack.control.replicas import ReplicaError, ReplicaGone

if TYPE_CHECKING:
    from neatstack.control.manager import Manager

SIGNALS = {"kill": signal.SIGKILL, "segv": signal.SIGSEGV, "abort": signal.SIGABRT}
FAULTS = (*SIGNALS, "hang", "flip")
SEEDS = 1 << 64
OTHERS = ("manager", "link")


@dataclass(frozen=True)
class Harm:
    """What is answered; and what is left to do when the answer has been sent, because it ends the one who sends it."""

    answer: dict[str, Any]
    afterwards: Callable[[], None] | None = None


async def kill(manager: "Manager", target: Any, fault: Any, seed: Any) -> Harm:
    """Do `fault` to `target`, the number of a replica in text, or `manager` or `link`.

    `seed` says what is hit (None: chance does). The answer's `at_ns` is CLOCK_MONOTONIC just before. Raises NeatError.
    """
    _check(manager, target, fault, seed)
    if target == "manager":
        end = functools.partial(os.kill, os.getpid(), SIGNALS[fault])
        return Harm({"ok": True, "target": target, "pid": os.getpid(), "at_ns": time.monotonic_ns()}, end)
    if target == "link":
        return Harm(_send(manager.link.pid, manager.link.pidfd, SIGNALS[fault], target))
    slot = manager.replicas.slots[int(target)]
    if fault == "kill":
        return Harm(_send(slot.pid, slot.pidfd, signal.SIGKILL, target))
    if slot.state != "running":
        raise NeatError(f"{_called(target)} is not running but {slot.state}; try again")
    seed = secrets.randbits(32) if seed is None else seed
    answer = {"ok": True, "target": target, "pid": slot.pid, "at_ns": time.monotonic_ns(), "seed": seed}
    try:
        said = await manager.replicas.fault(slot.number, fault, seed)
    except ReplicaGone:
        raise NeatError(f"{_called(target)} has just died; try again") from None
    except ReplicaError as error:
        raise NeatError(f"{_called(target)} refuses: {error}") from None
    return Harm(answer | ({"what": said["what"]} if "what" in said else {}))


def _check(manager: "Manager", target: Any, fault: Any, seed: Any) -> None:
    """Is this a request that can be carried out? Raises NeatError."""
    replicas = [str(number) for number in sorted(manager.replicas.active)]
    if fault not in FAULTS:
        raise NeatError(f"no fault {fault}; there are: {', '.join(FAULTS)}")
    if target not in (*replicas, *OTHERS):
        raise NeatError(f"no replica {target}; there are: {', '.join((*replicas, *OTHERS))}")
    if target in OTHERS and fault not in SIGNALS:
        raise NeatError(f"{fault} is only for replicas; {target} takes {', '.join(SIGNALS)}")
    if fault != "kill" and not manager.settings.allow_faults:
        raise NeatError(f"this stack allows no {fault}; start it with `neat up --allow-faults`")
    if seed is not None and not (type(seed) is int and 0 <= seed < SEEDS):
        raise NeatError("the seed is no whole number from 0 to 2**64 - 1; choose one")


def _send(pid: int, pidfd: int, number: signal.Signals, target: str) -> dict[str, Any]:
    """Signal the process."""
    at_ns = time.monotonic_ns()
    try:
        if pidfd < 0:
            raise ProcessLookupError
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        raise NeatError(f"{_called(target)} is not running; it is being replaced, try again") from None
    return {"ok": True, "target": target, "pid": pid, "at_ns": at_ns}


def _called(target: str) -> str:
    return target if target in OTHERS else f"replica {target}"
