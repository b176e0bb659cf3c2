"""Scaling by itself: looks at the replicas twice a second, and does what the governor decides."""

import asyncio
import logging
import time
from typing import Any

from neatstack.control.activity import Activity
from neatstack.control.errors import NeatError
from neatstack.control.governor import PERIOD, Decision, Governor, Sample
from neatstack.control.scaling import Scaling, no_room
from neatstack.control.store import Entry, Store

log = logging.getLogger("neat.autoscale")

KEY = "autoscale"


class Autoscale:
    """On or off; if on, between which numbers of replicas."""

    def __init__(self, store: Store, scaling: Scaling, activity: Activity) -> None:
        self.store = store
        self.scaling = scaling
        self.activity = activity
        self._governor: Governor | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def bounds(self) -> dict[str, int] | None:
        """For status; None: off."""
        return {"min": self._governor.least, "max": self._governor.most} if self._governor else None

    def start(self, least: int, most: int) -> None:
        """Follow the load from now on. Raises NeatError."""
        room = len(self.scaling.replicas.slots)
        if not 1 <= least <= most:
            raise NeatError(f"from {least} to {most} replicas is no range; choose 1 <= min <= max")
        if most > room:
            raise NeatError(no_room(room, most))
        self.stop()
        self._governor = Governor(least, most)
        self.store.put(KEY, {"min": least, "max": most})
        self._task = asyncio.create_task(self._run(self._governor))
        log.info("follows the load, with %d to %d replicas", least, most)

    def stop(self) -> bool:
        """Leave the number as it is. Was it on?"""
        was_on = self._governor is not None
        if self._task is not None:
            self._task.cancel()
        self._task = self._governor = None
        if was_on:
            self.store.drop(KEY)
            log.info("does not follow the load any more")
        return was_on

    def resume(self, entry: Entry | None) -> None:
        """A former manager has died."""
        if entry is not None:
            self.start(entry.data["min"], entry.data["max"])

    async def _run(self, governor: Governor) -> None:
        dropped = self.activity.queue_drops
        while True:
            await asyncio.sleep(PERIOD)
            active = self.scaling.active
            shares = [share for number in active if (share := self.activity.recent(number)) is not None]
            drops = self.activity.queue_drops
            if shares and self.scaling.change.under_way is None:
                sample = Sample(time.monotonic(), sum(shares) / len(shares), max(0, drops - dropped))
                if decision := governor.decide(sample, len(active)):
                    await self._do(decision, len(active))
                    governor.forget()
            dropped = drops

    async def _do(self, decision: Decision, active: int) -> None:
        text = f"{active} -> {decision.replicas} replicas: {decision.reason}"
        log.info(text)
        self.scaling.events.add("autoscale", text)
        try:
            await self.scaling.scale(decision.replicas)
        except NeatError as error:
            log.warning("%s; not done: %s", text, error)
        except Exception:
            log.exception("%s; not done", text)


def told(autoscale: Autoscale, request: dict[str, Any]) -> dict[str, Any]:
    """A request of the command line. Raises NeatError."""
    if request.get("off"):
        return {"ok": True, "was_on": autoscale.stop()}
    least, most = request.get("min"), request.get("max")
    if type(least) is not int or type(most) is not int:
        raise NeatError("min and max are whole numbers of replicas")
    autoscale.start(least, most)
    return {"ok": True, **(autoscale.bounds or {})}
