"""Replicas replaced on purpose: the old process stops after a finished batch, and a spare takes over its connections.

This is recovery without a fault. A new incarnation is a fresh process with an address space of its own, so that what
an attacker has learnt of the old one, and whatever has worn in it, is gone; or it runs other code.
"""

import asyncio
import logging
from typing import Any

from neatstack.control.change import Change
from neatstack.control.code import Code
from neatstack.control.errors import NeatError
from neatstack.control.recovery import Purpose, Recovery, Stage
from neatstack.control.replicas import ANSWER_TIME, Replicas
from neatstack.control.slots import Slot
from neatstack.control.spares import READY_TIME

log = logging.getLogger("neat.renewal")

REJUVENATION = Purpose("rejuvenation", "was rejuvenated")
REST = 0.1  # seconds; on a busy core the scheduler lets a spare wait that has just used much time to start
TRIAL_TIME = 3.0  # seconds for code that has not yet served to take over
LATE = "it did not stop when told, and was killed"


async def replace(replicas: Replicas, slot: Slot, purpose: Purpose, code: Code | None = None) -> Recovery:
    """Replace the slot's process once a spare is ready; returns when the new one serves. Raises NeatError.

    Should it die meanwhile, it has been replaced as well: the record says of what. With `code` the new one runs that;
    should that not be able to take over, what ran before does so again. Only for whoever has begun a change.
    """
    await _both_ready(replicas, slot, code)
    await asyncio.sleep(REST)
    incarnation = slot.incarnation
    if code is not None:
        slot.successor, slot.fallback = code, slot.code
    replaced = replicas.stop(slot, purpose)
    await asyncio.wait([replaced], timeout=ANSWER_TIME)
    if slot.incarnation == incarnation and slot.stage is Stage.RUNNING:
        replicas.kill(slot, LATE, pardoned=True)
    if slot.fallback is not None:
        await asyncio.wait([replaced], timeout=TRIAL_TIME)
        if slot.fallback is not None and slot.stage in (Stage.STARTING, Stage.ADOPTING):
            replicas.kill(slot, "it did not take over in time")
    await asyncio.wait([replaced], timeout=READY_TIME)
    if not replaced.done():
        raise NeatError(f"replica {slot.number} does not serve again yet; `neat status` and the log tell more")
    if code is not None and slot.code != code:
        raise NeatError(f"version {code.version} cannot serve replica {slot.number}: its process {slot.fate}")
    return replaced.result()


async def _both_ready(replicas: Replicas, slot: Slot, code: Code | None) -> None:
    """Wait until the slot serves and a spare waits. Raises NeatError."""
    while True:
        try:
            await asyncio.wait_for(slot.ready.wait(), READY_TIME)
        except TimeoutError:
            raise NeatError(f"replica {slot.number} does not serve; try again when it does") from None
        await replicas.spares.one_ready(READY_TIME, code)
        if slot.ready.is_set():  # else it has just died, and its successor may have taken the spare
            return


class Renewal:
    """Replaces all replicas, one after the other, by fresh processes."""

    def __init__(self, replicas: Replicas, change: Change) -> None:
        self.replicas = replicas
        self.change = change
        self._finishing: asyncio.Task[None] | None = None

    def resume(self) -> None:
        """A former manager has died: finish the replacement that it had begun."""
        for slot in self.replicas.slots:
            if slot.purpose is not None and slot.stage is Stage.RUNNING:
                purpose = REJUVENATION if slot.code == self.replicas.code else slot.purpose
                self._finishing = asyncio.create_task(self._finish(slot, purpose))

    async def _finish(self, slot: Slot, purpose: Purpose) -> None:
        """It may not have been told to stop, and it will be judged as if it had been."""
        try:
            with self.change.begin(f"the replacement of replica {slot.number}", moves=False):
                await _both_ready(self.replicas, slot, None)
                if slot.purpose is not None:  # else it had been told, and has been replaced
                    await replace(self.replicas, slot, purpose)
        except NeatError as error:
            log.error("the replacement of replica %d that a former manager has begun: %s", slot.number, error)

    async def rejuvenate(self) -> dict[str, Any]:
        """Replace every process that serves or drains by a fresh one. Raises NeatError."""
        numbers = sorted(self.replicas.active)
        with self.change.begin(f"rejuvenation of {counted(len(numbers))}", moves=False):
            replaced = [await replace(self.replicas, self.replicas.slots[number], REJUVENATION) for number in numbers]
        return {"replaced": [told(record) for record in replaced]}


def told(record: Recovery) -> dict[str, Any]:
    """What the command line is told of one replacement."""
    return {
        "replica": record.replica,
        "gap_ms": round((record.running_ns - record.died_ns) / 1e6, 3),
        "adopted": record.adopted,
        "lost": record.lost,
        "kind": record.kind,
        "cause": record.cause,
    }


def counted(number: int) -> str:
    return "1 replica" if number == 1 else f"{number} replicas"
