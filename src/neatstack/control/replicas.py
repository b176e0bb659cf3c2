"""The replicas: started, told, watched, and when one dies, its slot given to a spare.

A slot is for good: its queue, doorbell, page, link sockets, and mostly its region stay while incarnations come and go.
What a new incarnation must know (channels, listeners, grants) is not kept here: `contents` tells it, from the manager's
tables, so that a request that comes while a replica is down is not lost.

A death is answered first and put down some milliseconds later, so that on a busy core the books do not keep the replica
from serving: between the two stands the *claim*, a word of memory that the keeper holds, which says what process the
slot was last given to. Should the manager die there, its successor sees that the
claim is not the process stored, ends that process, and gives the slot to another spare: adopting may be repeated. The
dead process is reaped only when all is stored, so that the successor comes to the same decision.
"""

import asyncio
import contextlib
import functools
import logging
import mmap
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from neatstack.control import launch, messages, pages, recovery
from neatstack.control.code import Code
from neatstack.control.errors import NeatError
from neatstack.control.line import Answer, ControlLine, ReplicaError, ReplicaGone, Told, refusal
from neatstack.control.recovery import Ending, How, Purpose, Recovery, Stage
from neatstack.control.slots import Slot
from neatstack.control.spares import READY_TIME, Spares, Spawn
from neatstack.control.store import Entry, Store

log = logging.getLogger("neat.replicas")

ANSWER_TIME = 5.0  # seconds; a replica that takes longer to answer hangs, and is killed
FAILURES_AT_START = 3
RETIRING_POLL = 0.002  # seconds between two looks whether a process has ended
BOOKS_LATER = 0.01  # seconds from a death until it is put down
SUCCESSOR = "; its successor "  # in the cause of a recovery that took more than one process

__all__ = ["ReplicaError", "ReplicaGone", "Replicas", "Slot", "Told"]


class Replicas:
    """All slots of the stack."""

    def __init__(
        self,
        store: Store,
        slots: list[Slot],
        claims: int,
        code: Code,
        spawn: Spawn,
        contents: Callable[[int], Iterable[Told]],
        *,
        option: str = "adopt",
        spares: int = 1,
        secrets: dict[str, str] | None = None,
    ) -> None:
        self.store = store
        self.slots = slots
        self.option = option
        self.secrets = secrets or {}  # which all replicas have, and nobody else
        self.active: set[int] = set()  # the slots that shall have a process
        self.code = code  # what new incarnations run
        self.spares = Spares(store, code, spawn, spares, self._busy)
        self.history: deque[Recovery] = deque(maxlen=recovery.HISTORY)
        self.on_reset: Callable[[int], None] = lambda number: None  # a slot has new memory, without connections
        self.on_freed: Callable[[int, list[int]], None] = lambda number, channels: None
        self.on_recovered: Callable[[Recovery], None] = lambda record: None
        self._claims = memoryview(mmap.mmap(claims, mmap.PAGESIZE)).cast("i")
        self._contents = contents
        self._trouble = asyncio.Event()  # a replica dies again and again
        self._books: deque[Callable[[], None]] = deque()  # what is still to be put down, in this order
        self._unwritten: set[int] = set()  # the slots of whose processes there is something in the books
        self._rites: dict[int, list[Callable[[], None]]] = {}  # by slot: for the dead, once its slot is another's
        self.spares.before_start = self.do_books

    async def start(self, numbers: Iterable[int]) -> None:
        """Start these slots and wait until all serve. Raises NeatError when one does not."""
        chosen = [self.slots[number] for number in numbers]
        while any(slot.retiring for slot in chosen):  # its last process has not ended yet
            await asyncio.sleep(RETIRING_POLL)
        for slot in chosen:
            if os.fstat(slot.region).st_size != self.code.region_size:  # made for other code
                self._renew(slot)
        self.active |= {slot.number for slot in chosen}
        for slot in chosen:
            if os.fstat(slot.region).st_size != self.code.region_size:
                self._renew(slot)
            self._hand_over(slot, "fresh")
        self.do_books()
        ready = asyncio.gather(*(slot.ready.wait() for slot in chosen))
        self._trouble.clear()
        trouble = asyncio.create_task(self._trouble.wait())
        either: set[asyncio.Future[Any]] = {ready, trouble}
        await asyncio.wait(either, timeout=READY_TIME, return_when=asyncio.FIRST_COMPLETED)
        trouble.cancel()
        if not ready.done():
            ready.cancel()
            await asyncio.wait([ready])
            why = next((f": its process {slot.fate}" for slot in chosen if slot.fate), " in time")
            raise NeatError(f"a replica does not become ready{why}")

    # ---- after a manager's death ----

    def resume(self, entries: dict[str, Entry], active: Iterable[int]) -> None:
        """A restarted manager takes all processes over: those that serve do not notice."""
        self.active |= set(active)
        found = {key: entry for key, entry in entries.items() if key.startswith("spare.")}
        owners = {}  # of the slots, by pid
        for slot in self.slots:
            if process := entries.get(f"process.{slot.number}"):
                self._settle_claim(slot, process, found)
                owners[process.data["pid"]] = slot.number
        for key, entry in found.items():
            if entry.data["pid"] in owners or launch.is_over(entry.descriptors[0]):
                launch.reap(entry.descriptors[0])
                messages.close(entry.descriptors)
                self.store.drop(key)
            else:
                self.spares.adopt(int(key.partition(".")[2]), entry)
        for slot in self.slots:
            process = entries.get(f"process.{slot.number}")
            if process is not None:
                self._take_over(slot, process)
            elif slot.number in self.active:
                asyncio.get_running_loop().call_soon(self._try, slot, "fresh")  # when the tables are full
        self.spares.drop_others()
        self.spares.refill()

    def _settle_claim(self, slot: Slot, process: Entry, found: dict[str, Entry]) -> None:
        """End a process that the slot was given to without that being stored, and one that may know only a part."""
        claimed = self._claims[slot.number]
        if claimed != process.data["pid"]:
            process.data["incarnation"] += 1  # nobody shall take the next one for that one
            for entry in found.values():
                if entry.data["pid"] == claimed:
                    launch.end(entry.descriptors[0])
        if not process.data["running"] and not launch.is_over(process.descriptors[0]):
            process.data.update(killed="it was only half told", pardoned=True)
            launch.end(process.descriptors[0])

    def _take_over(self, slot: Slot, process: Entry) -> None:
        data = process.data
        pidfd, control = process.descriptors
        if not data["retiring"]:
            self.active.add(slot.number)
        slot.incarnation, slot.how = data["incarnation"], data["how"]
        slot.killed, slot.pardoned = data["killed"], data["pardoned"]
        slot.code, slot.version = Code.from_data(data["code"]), data["version"]
        slot.fallback = Code.from_data(data["fallback"]) if data["fallback"] else None
        slot.purpose = Purpose(**data["purpose"]) if data["purpose"] else None
        slot.served = True
        line = ControlLine(socket.socket(fileno=control), functools.partial(self._said, slot))
        self._attend(slot, data["pid"], pidfd, line, Stage.RUNNING if data["running"] else Stage.ADOPTING)
        if data["running"]:
            slot.ready.set()
        if data["retiring"]:
            self.retire(slot)

    # ---- telling them ----

    def tell(self, *requests: Told) -> list[Answer]:
        """Send to every replica at once, in this order; whose process is still to come learns it from `contents`."""
        return [answer for slot in self.slots for told in requests for answer in self.tell_one(slot, told)]

    def tell_one(self, slot: Slot, told: Told) -> list[Answer]:
        """As `tell`, to one replica. Nobody has to wait for a process that is only being started."""
        if slot.line is None:
            return []
        answer = slot.line.request(told)
        return [] if slot.stage is Stage.STARTING else [answer]

    def ask(self, slot: Slot, told: Told) -> Answer | None:
        """Send to the replica, in whatever stage; None if it has no process."""
        return slot.line.request(told) if slot.line is not None else None

    async def answers(self, told: list[Answer]) -> None:
        """Wait for the answers to `tell`. A replica that has died is no error; one that does not answer is killed.

        Raises ReplicaError when one refuses.
        """
        if not told:
            return
        _, late = await asyncio.wait(told, timeout=ANSWER_TIME)
        for slot in self.slots:
            if slot.stage is Stage.RUNNING and slot.line is not None and slot.line.waits_for(late):
                self.kill(slot, "it did not answer")
        for answer in told:
            if refused := refusal(answer):
                raise refused

    async def fault(self, number: int, kind: str, seed: int) -> dict[str, Any]:
        """Have a replica's process do itself harm; its answer. Raises NeatError."""
        slot = next((slot for slot in self.slots if slot.number == number), None)
        if slot is None or slot.stage is not Stage.RUNNING or slot.line is None:
            raise NeatError(f"replica {number} is not running; `neat status` lists those that are")
        answer = slot.line.request(Told({"op": "fault", "kind": kind, "seed": seed}))
        done, _ = await asyncio.wait([answer], timeout=ANSWER_TIME)
        if not done:
            raise NeatError(f"replica {number} does not answer")
        if refused := refusal(answer):
            raise NeatError(f"replica {number} refuses: {refused}")
        if answer.exception() is not None:
            raise NeatError(f"replica {number} has just died; try again")
        return answer.result()

    def kill(self, slot: Slot, why: str, *, pardoned: bool = False) -> None:
        """End the process; its death is noticed and the slot given to another. `why` is a clause.

        `pardoned`: it is for no fault of the process or its connections.
        """
        if slot.pidfd < 0 or slot.killed is not None:
            return
        log.warning("replica %d (pid %d) is killed: %s", slot.number, slot.pid, why)
        slot.killed, slot.pardoned = why, pardoned
        self.do_books()
        self._remember(slot)  # before it is dead, so that a new manager does not take it for a victim
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(slot.pidfd, signal.SIGKILL)

    def reset(self, slot: Slot, why: str) -> None:
        """Replace the process by one that resets every connection, so that peers and programs know."""
        slot.next_how = "reset"
        self.kill(slot, why)

    def retire(self, slot: Slot) -> None:
        """The slot is needed no more: end its process, and give its memory back."""
        self.active.discard(slot.number)
        self.do_books()
        if slot.line is None:
            self._forget(slot)
            return
        slot.retiring = True
        self._remember(slot)  # before it is told, so that a new manager does not replace it
        slot.line.request(Told({"op": "stop", "final": True}))
        asyncio.get_running_loop().call_later(ANSWER_TIME, self._check_retired, slot, slot.incarnation)

    def _check_retired(self, slot: Slot, incarnation: int) -> None:
        if slot.retiring and slot.incarnation == incarnation:
            self.kill(slot, "it did not stop")

    def use(self, code: Code) -> None:
        """Run this from now on; who serves goes on with what it runs."""
        self.code = self.spares.code = code
        self.store.put("code", code.to_data())
        self.spares.refill()

    def stop(self, slot: Slot, purpose: Purpose) -> asyncio.Future[Recovery]:
        """Have the process, which serves, finish its batch and exit: its connections go on with a spare.

        The future is done when the next incarnation serves.
        """
        assert slot.line is not None
        slot.purpose = purpose
        self.do_books()
        self._remember(slot)  # before it is told, so that a new manager comes to the same decision
        slot.replaced = asyncio.get_running_loop().create_future()
        slot.line.request(Told({"op": "stop"})).add_done_callback(functools.partial(_note_stop, slot, slot.incarnation))
        return slot.replaced

    # ---- a process's life ----

    def _busy(self) -> bool:
        """Is a replica taking over, with a spare that has long been started?"""
        return any(slot.stage in (Stage.STARTING, Stage.ADOPTING) for slot in self.slots)

    def _hand_over(self, slot: Slot, how: How) -> None:
        """Give the slot, which has no process, to a spare. Whatever can wait comes after the messages. OSError."""
        spare = self.spares.take(slot.successor or self._code_for(slot, how))
        line = spare.line
        slot.incarnation += 1
        slot.how = how
        self._claims[slot.number] = spare.pid
        try:
            adopted = line.request(slot.adopt_request(self.secrets))
            contents = [(told, line.request(told)) for told in self._contents(slot.number)]
            ran = line.request(Told({"op": "run"}))
        except BaseException:
            self.spares.discard(spare)  # nobody knows what it was told
            raise
        line.unasked = functools.partial(self._said, slot)
        self._attend(slot, spare.pid, spare.pidfd, line, Stage.ADOPTING if spare.ready else Stage.STARTING)
        slot.first = adopted, ran
        slot.killed, slot.pardoned, slot.purpose, slot.successor = None, False, None, None
        slot.code, slot.version = spare.code, spare.version
        self._unwritten.add(slot.number)
        self._books.append(functools.partial(self._remember, slot))
        self._books.append(functools.partial(self.spares.used, spare))
        self._books.extend(self._rites.pop(slot.number, ()))
        self._do_books_later()
        for answer in slot.first:
            answer.add_done_callback(functools.partial(self._answered, slot, slot.incarnation))
        for told, answer in contents:
            answer.add_done_callback(functools.partial(_log_refusal, slot.number, told))

    def _code_for(self, slot: Slot, how: How) -> Code:
        """What is to be used now, if it can take over what is there."""
        if how == "fresh" or slot.code is None or self.code.takes_over_from(slot.code):
            return self.code
        return slot.code

    def _attend(self, slot: Slot, pid: int, pidfd: int, line: ControlLine, stage: Stage) -> None:
        """The process serves the slot from now on, or will."""
        slot.pid, slot.pidfd, slot.line, slot.stage = pid, pidfd, line, stage
        loop = asyncio.get_running_loop()
        loop.add_reader(pidfd, self._died, slot)
        if stage is not Stage.RUNNING:
            loop.call_later(READY_TIME, self._check_ready, slot, slot.incarnation)

    def _said(self, slot: Slot, message: dict[str, Any]) -> None:
        """What a process says unasked."""
        if message.get("ready") and slot.stage is Stage.STARTING:
            slot.stage = Stage.ADOPTING
            slot.version = str(message.get("version", slot.version))
        freed = message.get("freed")
        if isinstance(freed, list):
            self.on_freed(slot.number, freed)

    def _check_ready(self, slot: Slot, incarnation: int) -> None:
        if slot.incarnation == incarnation and slot.stage in (Stage.STARTING, Stage.ADOPTING):
            self.kill(slot, "it did not become ready")

    def _answered(self, slot: Slot, incarnation: int, answer: Answer) -> None:
        """The answer to `adopt` or `run` is there."""
        if slot.incarnation != incarnation or slot.line is None:
            return
        if refused := refusal(answer):
            self.kill(slot, f"it cannot take over ({refused})")
        elif slot.has_taken_over:
            self._runs(slot)

    def _runs(self, slot: Slot) -> None:
        if slot.stage is Stage.RUNNING:
            return
        said = slot.first[-1].result()
        slot.stage = Stage.RUNNING
        slot.fallback = None
        record, slot.recovery = slot.recovery, None
        if record is not None:
            record.incarnation, record.how, record.running_ns = slot.incarnation, slot.how, time.monotonic_ns()
            record.adopted, record.lost, record.took_us = (int(said.get(k, 0)) for k in ("adopted", "lost", "took_us"))
            slot.recoveries += 1
            slot.last_recovery = record
            self.history.append(record)
            self._books.append(functools.partial(self.on_recovered, record))
            if slot.replaced is not None and not slot.replaced.done():
                slot.replaced.set_result(record)
        slot.served = True
        slot.ready.set()
        self._unwritten.add(slot.number)
        self._books.append(functools.partial(self._remember, slot))
        serves = "replica %d: incarnation %d serves (pid %d)", slot.number, slot.incarnation, slot.pid
        self._books.append(functools.partial(log.info, *serves))
        self._books.append(self.spares.refill)
        self._do_books_later()

    # ---- its death ----

    def _died(self, slot: Slot) -> None:
        """Decide, and give the slot to a spare; only then look after what is left of the dead."""
        died_ns = time.monotonic_ns()
        line, pidfd, stage = slot.line, slot.pidfd, slot.stage
        assert line is not None and stage is not None
        line.receive()  # its last words: it may have been further than we knew
        if slot.has_taken_over:
            self._runs(slot)
        if slot.number in self._unwritten:  # or our successor would judge the death of the one before
            self.do_books()
        stage = slot.stage or stage
        ending = Ending(self._exit_code(slot), slot.killed, slot.pardoned, slot.purpose)
        since_own = died_ns - slot.own_death_ns if slot.own_death_ns is not None else None
        how = slot.next_how or recovery.decide(ending, stage, slot.how, since_own, self.option)
        slot.next_how = None
        on_trial = slot.fallback is not None and stage is not Stage.RUNNING
        if on_trial:  # it cannot take over; what has served before can
            how, slot.successor, slot.fallback = slot.how, slot.fallback, None
        slot.failures = recovery.count_failures(slot.failures, ending, stage, since_own)
        slot.line, slot.pidfd, slot.stage = None, -1, None
        slot.first = ()
        slot.ready.clear()
        slot.fate = str(ending)
        if slot.retiring:
            self.do_books()
            self._retired(slot, pidfd, line)
            return
        self._begin_record(slot, ending, how, slot.quit_ns or died_ns)
        slot.quit_ns = None
        wait = recovery.delay(slot.failures)
        if slot.number in self.active and not wait:
            self._try(slot, how)
        loop = asyncio.get_running_loop()
        loop.remove_reader(pidfd)
        line.close()
        rites: list[Callable[[], None]] = [functools.partial(launch.reap, pidfd), functools.partial(os.close, pidfd)]
        if not (ending.outside or on_trial):
            slot.own_death_ns = died_ns
            rites.insert(0, functools.partial(self.remember_slot, slot))
        if slot.stage is None and slot.number in self.active:  # it has to wait: our successor would still judge it
            self._rites[slot.number] = rites
        else:
            self._books.extend(rites)
        said = "replica %d %s in stage %s: %s", slot.number, slot.fate, stage.value, how
        self._books.append(functools.partial(log.warning, *said))
        self._do_books_later()
        if slot.failures >= FAILURES_AT_START and not slot.served:
            self._trouble.set()
        if slot.number in self.active and wait:
            loop.call_later(wait, self._try, slot, how)

    def _retired(self, slot: Slot, pidfd: int, line: ControlLine) -> None:
        """It has ended as it should, or at least for good."""
        asyncio.get_running_loop().remove_reader(pidfd)
        line.close()
        launch.reap(pidfd)
        os.close(pidfd)
        self._forget(slot)

    def _forget(self, slot: Slot) -> None:
        """The slot has no process and needs none: what it has is what a slot has that never had one."""
        slot.retiring = slot.served = False
        slot.failures, slot.own_death_ns, slot.recovery = 0, None, None
        for rite in self._rites.pop(slot.number, ()):
            rite()
        self._renew(slot)
        self.store.drop(f"process.{slot.number}")
        log.info("replica %d is stopped", slot.number)

    def _exit_code(self, slot: Slot) -> int | None:
        code = launch.exit_code(slot.pidfd)
        return self.store.fate(slot.pid) if code is None else code  # it was a former manager's child

    @staticmethod
    def _begin_record(slot: Slot, ending: Ending, how: How, died_ns: int) -> None:
        """One for each time that the slot stops serving, however many processes it takes to serve again."""
        if not slot.served:
            return
        if slot.recovery is None:
            kind = ending.purpose.kind if ending.purpose is not None and ending.intended else "crash"
            slot.recovery = Recovery(slot.number, slot.incarnation + 1, slot.fate, how, died_ns, kind=kind)
        else:
            first = slot.recovery.cause.partition(SUCCESSOR)[0]
            slot.recovery.cause = f"{first}{SUCCESSOR}{slot.fate}"

    def _try(self, slot: Slot, how: How) -> None:
        """Give the slot to a spare, now or as soon as it is possible."""
        if slot.number not in self.active or slot.stage is not None:
            return
        try:
            if how == "fresh":
                self._renew(slot)
            self._hand_over(slot, how)
        except OSError as error:
            log.error("replica %d cannot be started: %s", slot.number, error)
            slot.failures += 1
            wait = max(recovery.delay(slot.failures), recovery.BACKOFF_LEAST)
            asyncio.get_running_loop().call_later(wait, self._try, slot, how)

    def _renew(self, slot: Slot) -> None:
        """New memory. It is stored before anybody is given it: a new manager may find it untouched, but finds it."""
        region = pages.memory(f"region-{slot.number}", self.code.region_size)
        os.close(slot.region)
        slot.region = region
        self.remember_slot(slot)
        self.on_reset(slot.number)

    # ---- the keeper ----

    def _do_books_later(self) -> None:
        asyncio.get_running_loop().call_later(BOOKS_LATER, self.do_books)

    def do_books(self) -> None:
        """Put down what has happened, so that another manager would find it."""
        while self._books:
            self._books.popleft()()
        self._unwritten.clear()

    def remember_slot(self, slot: Slot) -> None:
        """Store what stays of the slot."""
        self.store.put(f"slot.{slot.number}", slot.to_data(), slot.descriptors)

    def _remember(self, slot: Slot) -> None:
        if slot.line is None:  # it has died meanwhile
            return
        data = {
            "process": True,
            "pid": slot.pid,
            "incarnation": slot.incarnation,
            "how": slot.how,
            "running": slot.stage is Stage.RUNNING,
            "killed": slot.killed,
            "pardoned": slot.pardoned,
            "retiring": slot.retiring,
            "code": slot.code.to_data() if slot.code is not None else None,
            "fallback": slot.fallback.to_data() if slot.fallback is not None else None,
            "version": slot.version,
            "purpose": asdict(slot.purpose) if slot.purpose is not None else None,
        }
        self.store.put(f"process.{slot.number}", data, [slot.pidfd, slot.line.sock.fileno()])


def _note_stop(slot: Slot, incarnation: int, answer: Answer) -> None:
    """It has finished its last batch: nobody serves from now on."""
    if slot.incarnation == incarnation and answer.exception() is None:
        slot.quit_ns = time.monotonic_ns()


def _log_refusal(number: int, told: Told, answer: Answer) -> None:
    if refused := refusal(answer):
        log.error("replica %d refuses %s: %s", number, told.message, refused)
