"""More replicas or fewer, while connections go on: buckets move, and flows stay with the replica that has them.

A bucket moves from one replica to another in steps, of which each may be repeated, so that a manager's death in the
middle does no harm (docs/architecture.md, Elasticity). What is true in the meantime stands in the kernel's maps and on
the stack page, which the keeper holds; nothing else needs to be remembered.

A replica without buckets *drains*: it keeps the flows that are pinned to it, and is stopped when the last one
has ended.
"""

import asyncio
import contextlib
import logging
import mmap
import sys
import time
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from neatstack.control import regions, steering
from neatstack.control.change import Change
from neatstack.control.errors import NeatError
from neatstack.control.events import Events
from neatstack.control.line import Told, refusal
from neatstack.control.pages import MOST_REPLICAS, TABLE_MOVED, TABLE_MOVING, StackPage
from neatstack.control.replicas import ANSWER_TIME, Replicas
from neatstack.control.slots import Slot
from neatstack.control.spares import READY_TIME
from neatstack.control.store import Entry, Store

if TYPE_CHECKING:
    from neatstack.dataplane.driver.steer import Steering

log = logging.getLogger("neat.scaling")

FLOW = 40  # bytes of a record: struct neat_steer_flow
KEY = "scaling"
LOOK_EVERY, LOOK_SELDOM = 0.25, 2.0  # seconds between two looks at pins, while they change and while they do not
PINS_PER_SECOND = 50_000  # that may be looked at: many are looked at less often
SETTLE_TIME = 10.0  # seconds for a replica to take in what was in its queue, also if it has to be replaced meanwhile


def no_room(slots: int, wanted: int) -> str:
    """Why there cannot be so many replicas."""
    return f"this stack has room for {slots} replicas; start it with --max-replicas {wanted} (at most {MOST_REPLICAS})"


class Scaling:
    """Who takes new connections, and what becomes of those who do not any more."""

    def __init__(
        self,
        store: Store,
        page: StackPage,
        page_view: mmap.mmap,
        steering: "Steering",
        replicas: Replicas,
        change: Change,
        events: Events,
    ) -> None:
        self.store = store
        self.page = page
        self._page_view = page_view
        self.steering = steering
        self.replicas = replicas
        self.change = change
        self.events = events
        self.pins: dict[int, int] = {}  # of each slot, when last looked at
        self.wrong_replica = 0  # packets of a live flow that came to a replica that does not have it
        self._strays: dict[int, tuple[int, int]] = {}  # by slot: incarnation, strays that have been looked at
        self._away: dict[int, bytes] = {}  # by slot: flows pinned to it that it did not have at the last look
        self._deadlines: dict[int, float] = {}  # by draining slot: monotonic seconds
        self._overdue: set[int] = set()  # draining slots whose connections were reset
        self._pinning = asyncio.Lock()  # whoever changes pins because of what it has read of flows and owners
        self._watching: asyncio.Task[None] | None = None

    # ---- what is ----

    @property
    def active(self) -> list[int]:
        """The slots that take new connections."""
        return [slot.number for slot in self.replicas.slots if self.page.active >> slot.number & 1]

    @property
    def draining(self) -> list[int]:
        """The slots that only have what is left."""
        return sorted(self.replicas.active.difference(self.active))

    # ---- what is asked for ----

    async def scale(self, wanted: int, deadline: float | None = None) -> dict[str, Any]:
        """Have `wanted` active replicas; what is left on the others is reset after `deadline` seconds.

        Returns when the buckets have moved; the others drain after that. Raises NeatError.
        """
        most = len(self.replicas.slots)
        if wanted < 1:
            raise NeatError(f"{wanted} replicas cannot serve anybody; `neat down` ends a stack")
        if wanted > most:
            raise NeatError(no_room(most, wanted))
        began, before = time.monotonic(), self.active
        with self.change.begin(f"scaling from {len(before)} to {wanted} replicas"):
            # those that drain still have a process
            others = sorted(set(range(most)).difference(before), key=lambda n: (n not in self.replicas.active, n))
            await self._make_active((before + others)[:wanted], deadline)
        took = (time.monotonic() - began) * 1000
        if wanted != len(before):
            text = f"from {len(before)} to {wanted} replicas in {took:.0f} ms"
            self.events.add("scale_up" if wanted > len(before) else "scale_down", text)
            log.info("scaled %s", text)
        return {"from": len(before), "to": wanted, "draining": self.draining, "took_ms": round(took, 3)}

    async def move_to(self, slots: Collection[int], deadline: float | None = None) -> None:
        """Make exactly these slots active; the others drain. For whoever has begun a change. Raises NeatError."""
        await self._make_active(sorted(slots), deadline)

    async def _make_active(self, slots: list[int], deadline: float | None) -> None:
        self._overdue.difference_update(slots)
        self._deadlines = {n: at for n, at in self._deadlines.items() if n not in slots}
        leaving = set(self.active).difference(slots)
        try:
            for number in slots:
                if number not in self.replicas.active:
                    await self._start(number)
            if staying := set(self.active).intersection(slots):
                self._set_active(staying)  # nobody opens connections from those that leave, from now on
                await self._settle(leaving)
            await self._move(steering.rebalance(self.steering.table(), slots))
        finally:
            self._set_active(self.steering.table())
            if deadline is not None:
                self._deadlines.update(dict.fromkeys(self.draining, time.monotonic() + deadline))
            self._remember()
            self._watch()
        for number in sorted(leaving):
            log.info("replica %d drains", number)

    async def _start(self, number: int) -> None:
        """A process for the slot. It is started with little priority, so that those who serve do not notice."""
        await self.replicas.spares.one_ready(READY_TIME)
        try:
            await self.replicas.start([number])
        except NeatError:
            self.replicas.retire(self.replicas.slots[number])
            raise

    def _set_active(self, slots: Iterable[int]) -> None:
        self.page.active = sum(1 << number for number in set(slots))
        self.page.write(self._page_view)

    # ---- moving buckets ----

    async def _move(self, moves: dict[int, int]) -> None:
        """Give each bucket to its new owner. Raises NeatError when that cannot be: then all is as it was."""
        if not moves:
            return
        async with self._pinning:
            await self._move_in_steps(moves)
        await self._count_strays()

    async def _move_in_steps(self, moves: dict[int, int]) -> None:
        owners = self.steering.table()
        sources: dict[int, list[int]] = {}
        for bucket in moves:
            sources.setdefault(owners[bucket], []).append(bucket)
        try:
            self.steering.look_at_pins(True)
            await self._pin(sources)  # most of them, while nothing is urgent
            self._set_page(dict.fromkeys(moves, TABLE_MOVING))
            self.steering.mark_moving(moves)
            await asyncio.to_thread(self.steering.synchronize)
            await self._settle(sources)
            self._set_page({bucket: TABLE_MOVED | new for bucket, new in moves.items()})
            await self._settle(sources)
            await self._pin(sources)  # those that were born meanwhile
        except (NeatError, OSError) as error:
            self._set_owners(owners)
            raise error if isinstance(error, NeatError) else NeatError(f"buckets cannot move: {error}") from None
        self._set_owners([moves.get(bucket, owner) for bucket, owner in enumerate(owners)])
        self.pins = await asyncio.to_thread(self.steering.count_pins)

    def _set_page(self, entries: dict[int, int]) -> None:
        for bucket, entry in entries.items():
            self.page.table[bucket] = entry
        self.page.write(self._page_view)

    def _set_owners(self, owners: list[int]) -> None:
        """No bucket is in motion."""
        self.steering.set_table(owners)
        self._set_page(dict(enumerate(owners)))

    async def _pin(self, sources: dict[int, list[int]]) -> None:
        """Pin the flows that these slots have in these buckets. OSError: there is no room for so many pins."""
        for number, buckets in sources.items():
            with regions.open_region(self.replicas.slots[number]) as region:
                await asyncio.to_thread(self._pin_flows, region, number, buckets)

    def _pin_flows(self, region: regions.Region, number: int, buckets: list[int]) -> None:
        self.steering.pin_flows(region.live_flows(self.page.keys, buckets), number)

    async def _settle(self, numbers: Iterable[int]) -> None:
        """Wait until these replicas have taken in all that is in their queues now. Raises NeatError."""
        slots = [self.replicas.slots[number] for number in numbers if number in self.replicas.active]
        await asyncio.gather(*map(self._settle_one, slots))

    async def _settle_one(self, slot: Slot) -> None:
        end = time.monotonic() + SETTLE_TIME
        while (left := end - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(slot.ready.wait(), left)
            except TimeoutError:
                break
            answer = self.replicas.ask(slot, Told({"op": "settle"}))
            if answer is None:
                await asyncio.sleep(LOOK_EVERY)
                continue
            done, _ = await asyncio.wait([answer], timeout=ANSWER_TIME)
            if not done:
                self.replicas.kill(slot, "it did not answer")
            elif refused := refusal(answer):
                raise NeatError(f"replica {slot.number} refuses: {refused}")
            elif answer.exception() is None and answer.result().get("settled"):
                return  # else there was too much to do, or its successor is to be asked
        raise NeatError(f"replica {slot.number} does not serve; try again when it does")

    # ---- afterwards: pins, and replicas that drain ----

    def _watch(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._look_after())

    async def _look_after(self) -> None:
        """As long as there are pins or draining replicas."""
        wait = LOOK_EVERY
        while True:
            before = self.pins
            await asyncio.sleep(max(wait, sum(before.values()) / PINS_PER_SECOND))
            try:
                await self._sweep()
                wait = min(2 * wait, LOOK_SELDOM) if self.pins == before else LOOK_EVERY
                if self.change.under_way is None:
                    self._drain()
                    if not self.pins and not self.draining:
                        return
            except Exception:
                log.exception("looking after pins has failed")

    async def _sweep(self) -> None:
        """Remove pins that do nothing: to their bucket's owner, or of a flow that has ended."""
        async with self._pinning:
            with contextlib.ExitStack() as stack:
                opened = {slot.number: stack.enter_context(regions.open_region(slot)) for slot in self.replicas.slots}
                await asyncio.to_thread(self._remove_pins, opened, self.steering.table())
            self.pins = self.steering.count_pins()
            if not self.pins:
                self.steering.look_at_pins(False)
        await self._count_strays()

    def _remove_pins(self, opened: dict[int, regions.Region], owners: list[int]) -> None:
        """In a thread. A flow must be away at two looks: one that is just being replaced may be overlooked once."""
        from neatstack.dataplane.driver.pins import Pins, dead_pins, redundant_pins

        pins = self.steering.pins_of()
        for number, region in opened.items():
            live = region.live_flows(self.page.keys)
            away = self._away.get(number, b"")
            numbers = number.to_bytes(4, sys.byteorder) * (len(away) // regions.FLOW)
            self.steering.unpin_flows(dead_pins(Pins(away, numbers), number, live))
            self.steering.unpin_flows(redundant_pins(pins, number, self.page.keys, owners))
            self._away[number] = dead_pins(pins, number, live)

    async def _count_strays(self) -> None:
        """Did a segment come to a replica that does not know its connection, while another one does?"""
        for slot in self.replicas.slots:
            if slot.number not in self.replicas.active:
                continue
            with regions.open_region(slot) as region:
                total, flows = region.strays()
            incarnation, seen = self._strays.get(slot.number, (slot.incarnation, total))
            self._strays[slot.number] = slot.incarnation, total
            if incarnation != slot.incarnation or total <= seen:
                continue
            latest = flows[-FLOW * min(total - seen, len(flows) // FLOW) :]
            for other in self.replicas.slots:
                if other is not slot and other.number in self.replicas.active:
                    with regions.open_region(other) as region:
                        self.wrong_replica += await asyncio.to_thread(region.count_owned, latest)

    def _drain(self) -> None:
        now = time.monotonic()
        for number in self.draining:
            slot = self.replicas.slots[number]
            if not slot.ready.is_set():
                continue
            late = now >= self._deadlines.get(number, now + 1)
            with regions.open_region(slot) as region:
                left, live = region.in_use()
            if (live == 0 if late else left == 0) and not self.pins.get(number):
                self.replicas.retire(slot)
                self._overdue.discard(number)
                self._deadlines.pop(number, None)
                self._remember()
                self.events.add("drained", f"replica {number} has drained and is stopped", replica=number)
            elif late and live and number not in self._overdue:
                self._overdue.add(number)
                text = f"{live} connections are left on replica {number} at its deadline, and are reset"
                log.warning(text)
                self.events.add("deadline", text, replica=number)
                self.replicas.reset(slot, "its time to drain is over")

    # ---- the keeper ----

    def _remember(self) -> None:
        self.store.put(KEY, {"deadlines": {str(number): at for number, at in self._deadlines.items()}})

    def resume(self, entry: Entry | None) -> None:
        """A former manager has died: finish what it had begun."""
        if entry is not None:
            self._deadlines = {int(number): at for number, at in entry.data["deadlines"].items()}
        owners, moves = self.steering.table(), self.steering.moving()
        for bucket, owner in enumerate(owners):
            if bucket not in moves:
                self.page.table[bucket] = owner
        self._set_active(owners)
        self._watching = asyncio.create_task(self._resume_move(moves))

    async def _resume_move(self, moves: dict[int, int]) -> None:
        if moves:
            try:
                with self.change.begin("a scaling that a former manager has begun"):
                    await self._move(moves)
            except NeatError as error:
                log.error("what a former manager has begun cannot be finished: %s", error)
            self._set_active(self.steering.table())
        await self._sweep()
        await self._look_after()
