"""Another version of the data plane, while connections go on: replicas that run it take over from those that do not.

The installation is asked first (code.py). What it cannot take over is refused, and nothing has changed then. Each
replica is replaced as in a rejuvenation; should the new version not be able to take over after all, the old one does so
again, and the upgrade ends there.

State regions are read by the manager too, which moves buckets and sees when a replica has drained. While replicas drain
whose regions are others than those of the new ones it can read only the old ones, so that no bucket may move; when the
last has ended, it makes way for the new version's manager.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Collection
from typing import Any, Protocol

from neatstack.control.change import Change
from neatstack.control.code import Code, probe
from neatstack.control.errors import NeatError
from neatstack.control.recovery import Purpose
from neatstack.control.renewal import counted, replace, told
from neatstack.control.replicas import Replicas
from neatstack.control.slots import Slot
from neatstack.control.spares import READY_TIME
from neatstack.control.store import Entry

log = logging.getLogger("neat.upgrade")

LOOK_EVERY = 0.5  # seconds between two looks whether the last one has drained


class Mover(Protocol):
    """What draining needs of scaling."""

    @property
    def active(self) -> list[int]:
        """The slots that take new connections."""

    @property
    def draining(self) -> list[int]: ...

    async def move_to(self, slots: Collection[int], deadline: float | None = None) -> None:
        """Make exactly these slots active, whose processes are started; the others drain. Raises NeatError."""


class Upgrade:
    """From the version that runs to another one."""

    def __init__(
        self,
        replicas: Replicas,
        change: Change,
        mover: Mover | None,
        own: Code,
        max_connections: int,
        leave: Callable[[], None],
    ) -> None:
        self.replicas = replicas
        self.change = change
        self.own = own  # what this manager runs
        self.max_connections = max_connections
        self.mover = mover
        self._leave = leave  # ends this manager, so that the keeper starts another
        self._timer: asyncio.TimerHandle | None = None
        self._given_up = False  # the new version's manager does not live

    def resume(self, entry: Entry | None) -> None:
        """A former manager has died, perhaps while replicas drained. `entry` is what is stored as `manager`."""
        self._given_up = entry is not None and not entry.data
        self._look()

    async def asked(self, request: dict[str, Any]) -> dict[str, Any]:
        """As a request on control.sock asks for: `to`, `drain` and `deadline`. Raises NeatError."""
        prefix, drain, deadline = request.get("to"), request.get("drain", False), request.get("deadline")
        if not (prefix is None or isinstance(prefix, str)) or not isinstance(drain, bool):
            raise NeatError("an upgrade is asked for with a path (`to`) and with `drain`, true or false")
        if not (deadline is None or (type(deadline) in (int, float) and deadline >= 0)):
            raise NeatError(f"the deadline {deadline!r} is no number of seconds")
        return await self.to(prefix, drain, deadline)

    async def to(self, prefix: str | None, drain: bool, deadline: float | None) -> dict[str, Any]:
        """Run what is installed in `prefix` (None: where the manager is from). Raises NeatError.

        `drain`: in new replicas, while the old ones keep their connections, for at most `deadline` seconds.
        """
        if deadline is not None and not drain:
            raise NeatError("a deadline is for draining; give --drain too")
        with self.change.begin("an upgrade", moves=drain):
            new = await probe(prefix, self.max_connections)
            new = dataclasses.replace(new, generation=self.replicas.code.generation + 1)
            self._check(new, drain)
            log.info("upgrading to version %s in %s", new.version, new.parent)
            replaced = [] if drain else await self._take_over(new)
            more = {"draining": await self._drain(new, deadline)} if drain else {}
        return {"version": new.version, "replaced": replaced, **more}

    def _check(self, new: Code, drain: bool) -> None:
        """Can it be used at all? Raises NeatError."""
        for old in [self.replicas.code, *(slot.code for slot in self._serving() if slot.code is not None)]:
            if new.takes_over_from(old):
                continue
            if not new.speaks_as(old):
                what = f"version {new.version} shares memory with programs in another way than {old.version}"
                raise NeatError(f"{what}; end this stack, and start its programs again on a new one")
            if not drain:
                what = f"version {new.version} cannot take over the connections of {old.version}"
                how = f"neat upgrade --to {new.prefix or 'PREFIX'} --drain"
                apart = "" if new.prefix else ", installed in a prefix of its own,"
                raise NeatError(f"{what} ({differences(old, new)}); `{how}`{apart} lets those end first")

    def _serving(self) -> list[Slot]:
        return [slot for slot in self.replicas.slots if slot.number in self.replicas.active]

    # ---- by adoption ----

    async def _take_over(self, new: Code) -> list[dict[str, Any]]:
        """One replica after the other."""
        old = self.replicas.code
        purpose = Purpose("upgrade", f"was upgraded to {new.version}")
        replaced = []
        try:
            for slot in self._serving():
                if slot.code != new:  # it may have died meanwhile, and run it already
                    replaced.append(told(await replace(self.replicas, slot, purpose, new)))
                    self.replicas.use(new)  # also after a crash, and by another manager; old spares still wait
        except NeatError as error:
            raise NeatError(f"{error}; {await self._go_back(old, new)}") from None
        self.replicas.spares.drop_others()
        return replaced

    async def _go_back(self, old: Code, new: Code) -> str:
        """Run what ran before, as far as that is still there; tells how far."""
        self.replicas.use(old)
        purpose = Purpose("upgrade", f"went back to {old.version}")
        upgraded = [slot for slot in self._serving() if slot.code == new]
        if upgraded and (old.python, old.parent) == (new.python, new.parent):
            which = ", ".join(str(slot.number) for slot in upgraded)
            return f"replica {which} runs it all the same, for its files are in the place of those of {old.version}"
        try:
            for slot in upgraded:
                await replace(self.replicas, slot, purpose, old)
        except NeatError as error:
            log.error("cannot go back: %s", error)
            return f"going back to {old.version} has failed too; `neat status` shows who runs what"
        self.replicas.spares.drop_others()
        return f"all replicas run {old.version}, and no connection was lost"

    # ---- by draining ----

    async def _drain(self, new: Code, deadline: float | None) -> list[int]:
        """Have new connections served by the new version, in slots that are free; the slots that drain."""
        if self.mover is None:
            raise NeatError("this stack cannot drain replicas")
        old, before = self.replicas.code, self.mover.active
        free = [slot.number for slot in self.replicas.slots if slot.number not in self.replicas.active]
        if len(free) < len(before):
            what = f"draining {counted(len(before))} needs as many free slots, and there are {len(free)}"
            raise NeatError(f"{what}; `neat scale` down first, or start the stack with more --max-replicas")
        await self.replicas.spares.one_ready(READY_TIME, new)
        self.replicas.use(new)
        try:
            await self.mover.move_to(free[: len(before)], deadline)
        except NeatError:
            self.replicas.use(old)
            self.replicas.spares.drop_others()
            raise
        self.replicas.spares.drop_others()
        self._given_up = False
        self._look()
        return self.mover.draining

    def _look(self) -> None:
        """Can this manager read all regions? If not any more any of them, it is another's turn."""
        if self._timer is not None:
            self._timer.cancel()
        others = [slot for slot in self._serving() if slot.code and not slot.code.takes_over_from(self.own)]
        if not others:
            self.change.barred = None
            return
        version = self.replicas.code.version
        if self._given_up:
            self.change.barred = f"version {version} cannot manage this stack, as its log tells; start a new one"
            return
        self.change.barred = f"replicas of an older version than {version} still drain; try again when they have ended"
        if len(others) == len(self._serving()) and self.change.under_way is None:
            log.warning("the last replica has drained: version %s takes over the management too", version)
            self.replicas.do_books()
            code = self.replicas.code
            self.replicas.store.put("manager", {"python": code.python, "parent": code.parent})
            self._leave()
            return
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)


def differences(old: Code, new: Code) -> str:
    """Why one cannot take over from the other."""
    if old.state["region"] != new.state["region"]:
        return f"its state regions are of version {new.state['region']}, those of this stack {old.state['region']}"
    before, after = old.state["sizes"], new.state["sizes"]
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return f"the size of {', '.join(names)} is another" if names else "its structures are others"
