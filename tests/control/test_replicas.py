"""Replicas die and spares take their slots; managers die in the middle of it."""

import asyncio
import errno
import gc
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neatstack.control import launch, recovery, replicas, spares
from neatstack.control.code import Code
from neatstack.control.errors import NeatError
from neatstack.control.line import Told
from neatstack.control.slots import Slot
from tests.control.stage import Client, Stage, check_one_process_each, inode, is_zombie, kill, on_stage, settled, staged

# ---- spares ----


@staged
async def test_a_spare_takes_over_a_killed_replica(stage: Stage) -> None:
    client = Client(stage)
    await client.hello()
    binding = await client.listen(80)
    slot, (spare,) = stage.slots[0], stage.spare_pids
    region = inode(slot.region)
    kill(slot)
    await stage.serves(0, 2)
    assert slot.pid == spare
    first, second = stage.told(0, "adopt")
    assert (first["how"], second["how"]) == ("fresh", "adopt")
    assert (second["incarnation"], second["region"], second["fds"]) == (2, region, 5)
    log = [json.loads(line) for line in stage.log(0).read_text().splitlines()]
    assert [m["op"] for m in log[-5:]] == ["adopt", "channel", "listen", "grant", "run"]
    assert log[-4]["channel"] == client.channel and log[-4]["fds"] == 2
    assert log[-3]["listener"] == log[-2]["listener"] == binding
    (record,) = stage.replicas.history
    assert (record.replica, record.incarnation, record.cause, record.how) == (0, 2, "was killed by SIGKILL", "adopt")
    assert (record.adopted, record.lost, record.took_us) == (3, 1, 77)
    assert 0 < record.died_ns < record.running_ns
    assert slot.last_recovery is record and slot.recoveries == 1
    await settled(stage)
    assert spare not in stage.spare_pids
    check_one_process_each(stage)
    assert len(stage.told(1, "adopt")) == 1


def test_messages_leave_before_anything_is_put_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored, reaped, or logged; and that comes later, not only after them."""

    async def play(stage: Stage) -> None:
        slot, line = stage.slots[0], stage.replicas.spares.waiting[0].line
        order: list[str] = []
        request, put, drop, reap = line.request, stage.store.put, stage.store.drop, launch.reap

        def watched(told: Told) -> Any:
            order.append(told.message["op"])
            if told.message["op"] == "run":
                asyncio.get_running_loop().call_soon(order.append, "later")
            return request(told)

        def noted(word: str, step: Callable[..., None], *arguments: Any) -> None:
            order.append(word)
            step(*arguments)

        line.request = watched  # type: ignore[method-assign]
        stage.store.put = lambda key, *rest: noted(key, put, key, *rest)  # type: ignore[method-assign]
        stage.store.drop = lambda key: noted(f"no {key}", drop, key)  # type: ignore[method-assign]
        monkeypatch.setattr(launch, "reap", lambda pidfd: noted("reap", reap, pidfd))
        monkeypatch.setattr(replicas.log, "warning", lambda *_: order.append("log"))
        kill(slot, signal.SIGSEGV)
        await stage.serves(0, 2)
        await stage.put_down()
        assert order[:8] == ["adopt", "run", "later", "process.0", "no spare.0", "slot.0", "reap", "log"]

    on_stage(tmp_path, play)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_spares_are_kept_and_replaced(tmp_path: Path, number: int) -> None:
    async def play(stage: Stage) -> None:
        assert len(stage.spare_pids) == number
        for _ in range(2):
            former = list(stage.replicas.spares.waiting)
            for spare in former:
                signal.pidfd_send_signal(spare.pidfd, signal.SIGKILL)
            await stage.until(lambda former=former: not set(former) & set(stage.replicas.spares.waiting))
            await settled(stage)
        for n, incarnation in ((0, 2), (1, 2), (0, 3)):
            kill(stage.slots[n])
            await stage.serves(n, incarnation)
        await settled(stage)
        assert len(stage.store.keys("spare.")) == number
        assert [m["how"] for m in stage.told(0, "adopt")] == ["fresh", "adopt", "adopt"]
        check_one_process_each(stage)

    on_stage(tmp_path, play, spares=number)


@staged
async def test_all_die_at_once(stage: Stage) -> None:
    for _ in range(3):
        incarnations = [slot.incarnation for slot in stage.slots[:2]]
        for slot in stage.slots[:2]:
            kill(slot)
        for spare in stage.replicas.spares.waiting:
            signal.pidfd_send_signal(spare.pidfd, signal.SIGKILL)
        for n in (0, 1):
            reached = incarnations[n] + 1
            await stage.until(lambda n=n, reached=reached: stage.slots[n].incarnation >= reached)
        await settled(stage)
    assert {m["how"] for n in (0, 1) for m in stage.told(n, "adopt")[1:]} == {"adopt"}
    check_one_process_each(stage)


@staged
async def test_no_descriptor_is_left_of_the_dead(stage: Stage) -> None:
    counts, earlier = [], zombies()  # which other tests have left
    for incarnation in range(2, 8):
        kill(stage.slots[0], signal.SIGKILL if incarnation & 1 else signal.SIGSEGV)  # adopts, suspects and resets
        await stage.serves(0, incarnation)
        await settled(stage)
        gc.collect()  # other tests' descriptors
        counts.append(len(os.listdir("/proc/self/fd")))
    assert len(set(counts)) == 1
    await stage.until(lambda: zombies() <= earlier)


def zombies() -> set[int]:
    """Children of this process that have ended and are not waited for."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in children if is_zombie(int(pid))}


def test_spares_that_die_at_once_are_held_back(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        started = 0
        spawn = stage.replicas.spares._spawn

        def counted(code: Code) -> Any:
            nonlocal started
            started += 1
            return spawn(code)

        stage.replicas.spares._spawn = counted
        stage.behave(ready="crash")
        for spare in stage.replicas.spares.waiting:
            signal.pidfd_send_signal(spare.pidfd, signal.SIGKILL)
        await asyncio.sleep(1)
        assert 2 <= started < 10
        stage.behave()
        await settled(stage)

    on_stage(tmp_path, play)


# ---- starts ----


@pytest.mark.parametrize("step", ["ready", "adopt"])
def test_a_start_that_fails_is_told(tmp_path: Path, step: str) -> None:
    async def run() -> None:
        stage = Stage(tmp_path)
        stage.behave(**{step: "crash"})
        with pytest.raises(NeatError, match="a replica does not become ready: its process was killed by SIGABRT"):
            await stage.replicas.start([0, 1])
        stage.close()
        await asyncio.sleep(0.1)

    asyncio.run(run())


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        spawn, left = stage.replicas.spares._spawn, 3

        def failing(code: Code) -> Any:
            nonlocal left
            left -= 1
            if left >= 0:
                raise OSError(errno.EAGAIN, "fork")
            return spawn(code)

        stage.replicas.spares._spawn = failing
        kill(stage.slots[0])
        await stage.serves(0, 2)
        assert left < 0
        assert stage.told(0, "adopt")[-1]["how"] == "adopt"

    on_stage(tmp_path, play, spares=0)


@staged
async def test_what_changes_meanwhile_is_told_too(stage: Stage) -> None:
    client, other = Client(stage), Client(stage)
    await client.hello()
    stage.behave(adopt="slow")
    kill(stage.slots[0])
    await stage.until(lambda: stage.slots[0].incarnation == 2)
    binding = await client.listen(80)  # during the recovery, or after it
    await other.hello()
    await stage.serves(0, 2)
    await stage.until(lambda: stage.told(0, "channel")[-1]["channel"] == other.channel)
    assert stage.told(0, "listen")[-1]["listener"] == binding
    assert {m["channel"] for m in stage.told(0, "channel")} == {client.channel, other.channel}


# ---- faults ----


@staged
async def test_faults(stage: Stage) -> None:
    with pytest.raises(NeatError, match="replica 0 refuses: not started with allow_faults"):
        await stage.replicas.fault(0, "flip", 1)
    for number in (2, 3, -1):
        with pytest.raises(NeatError, match="is not running"):
            await stage.replicas.fault(number, "flip", 1)
    stage.behave(faults=True)
    assert (await stage.replicas.fault(0, "flip", 7))["what"] == "region: tcb 1"
    assert stage.told(0, "fault")[-1]["seed"] == 7
    await stage.replicas.fault(0, "segv", 0)
    await stage.serves(0, 2)
    assert (stage.replicas.history[0].cause, stage.replicas.history[0].how) == ("was killed by SIGSEGV", "suspect")


# ---- managers die ----


def never(_: Slot) -> None:
    """Nothing happens meanwhile."""


@pytest.mark.parametrize(
    ("meanwhile", "how"),
    [(never, None), (kill, "adopt"), (lambda slot: kill(slot, signal.SIGSEGV), "suspect")],
)
def test_a_new_manager_finds_all(tmp_path: Path, meanwhile: Callable[[Slot], None], how: str | None) -> None:
    async def play(stage: Stage) -> None:
        pids, spare = [slot.pid for slot in stage.slots], stage.spare_pids
        dead = os.dup(stage.slots[0].pidfd)
        stage.kill_manager()
        slot = Slot(0, 0, 0, 0, 0, 0, 0, pidfd=dead)
        meanwhile(slot)
        if how:
            await stage.until(lambda: launch.is_over(dead))
        os.close(dead)
        stage.start_manager()
        if how:
            await stage.serves(0, 2)
            assert stage.told(0, "adopt")[-1]["how"] == how
            assert stage.slots[0].pid == spare[0]
        else:
            assert [slot.pid for slot in stage.slots] == pids
        await settled(stage)
        assert stage.slots[1].pid == pids[1]
        check_one_process_each(stage)

    on_stage(tmp_path, play)


class Stop(BaseException):
    """The manager dies here."""


def die_at(stage: Stage, key: str, before: bool) -> None:
    """The manager dies when it is about to store something under `key`, or has just done so."""
    put = stage.store.put

    def dying(stored: str, *rest: Any) -> None:
        if stored != key:
            put(stored, *rest)
            return
        stage.store.put = put  # type: ignore[method-assign]
        if not before:
            put(stored, *rest)
        raise Stop

    stage.store.put = dying  # type: ignore[method-assign]


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("hows", "key"), [(["adopt"], "process.0"), (["suspect"], "slot.0"),
                      (["suspect", "reset"], "slot.0"), (["suspect", "reset"], "process.0"),
                      (["suspect", "reset", "fresh"], "slot.0"), (["suspect", "reset", "fresh"], "process.0")],
)  # fmt: skip
def test_a_manager_dies_in_the_middle_of_a_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hows: list[str], key: str, before: bool
) -> None:
    """Of the last of these; `key`: what it stores then. The next manager decides the same."""
    monkeypatch.setattr(recovery, "AGAIN", 10**12)

    async def play(stage: Stage) -> None:
        died = asyncio.Event()

        slot = stage.slots[0]
        incarnation, number = len(hows), signal.SIGKILL if hows == ["adopt"] else signal.SIGSEGV
        if incarnation > 1:
            kill(slot, signal.SIGSEGV)
            await stage.serves(0, 2)
            await settled(stage)
        if incarnation > 2:  # a reset that is about to fail
            stage.behave(**{"reset run": "hang"})
            kill(slot, signal.SIGSEGV)
            await stage.until(lambda: slot.incarnation == 3 and len(stage.told(0, "run")) == 3)
            await stage.put_down()
            slot.failures = 0  # answered at once
        former = slot.pid
        die_at(stage, key, before)
        loop, pidfd = asyncio.get_running_loop(), slot.pidfd

        def handle(_: Any, context: dict[str, Any]) -> None:
            if not isinstance(context.get("exception"), Stop):
                loop.default_exception_handler(context)
                return
            loop.remove_reader(pidfd)
            stage.kill_manager()
            died.set()

        loop.set_exception_handler(handle)  # wherever it stores: in a reader or in a timer
        kill(slot, number)
        await asyncio.wait_for(died.wait(), 10)
        await asyncio.sleep(0.05)  # the spare may serve by now, and nobody knows
        stage.start_manager()
        slot = stage.slots[0]
        await stage.until(lambda: slot.ready.is_set() and slot.incarnation > incarnation)
        await settled(stage)
        check_one_process_each(stage)
        assert slot.pid != former
        told = stage.told(0, "adopt")
        assert [m["incarnation"] for m in told] == sorted({m["incarnation"] for m in told})
        assert inode(slot.region) == told[-1]["region"] == inode(stage.store.entries["slot.0"].descriptors[0])
        tried = [m["how"] for m in told[1:]]  # the last one perhaps by both managers
        assert tried in (hows, [*hows, hows[-1]])
        regions = [m["region"] for m in told if m["how"] == "fresh"]
        assert len(set(regions)) == len(regions) and {m["region"] for m in told} == set(regions)

    on_stage(tmp_path, play)


@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize(
    ("signals", "hows"),
    [([signal.SIGKILL], ["adopt"]), ([signal.SIGSEGV], ["suspect"]), ([signal.SIGKILL] * 2, ["adopt"] * 2),
     ([signal.SIGSEGV] * 2, ["suspect", "reset"]), ([signal.SIGSEGV, signal.SIGKILL], ["suspect", "adopt"]),
     ([signal.SIGKILL, signal.SIGSEGV], ["adopt", "suspect"])],
)  # fmt: skip
def test_a_manager_dies_before_it_puts_a_death_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, signals: list[signal.Signals], hows: list[str]
) -> None:
    """The last of these: the process that serves is ended, and the same decided."""
    monkeypatch.setattr(recovery, "AGAIN", 10**12)

    async def play(stage: Stage) -> None:
        monkeypatch.setattr(replicas, "BOOKS_LATER", 100)
        monkeypatch.setattr(stage.replicas.spares, "refill", lambda *_: None)  # it would put down too
        if stage.replicas.spares._timer is not None:
            stage.replicas.spares._timer.cancel()
        for n, sent in enumerate(signals):
            kill(stage.slots[0], sent)
            await stage.serves(0, 2 + n)
        unknown = stage.slots[0].pid
        assert stage.store.entries["process.0"].data["pid"] != unknown
        assert stage.replicas._books
        stage.kill_manager()
        monkeypatch.setattr(replicas, "BOOKS_LATER", 0.01)
        stage.start_manager()
        await stage.serves(0, 2 + len(signals))
        await settled(stage)
        assert stage.slots[0].pid != unknown
        assert [m["how"] for m in stage.told(0, "adopt")] == ["fresh", *hows, hows[-1]]
        assert len({m["region"] for m in stage.told(0, "adopt")}) == 1
        check_one_process_each(stage)

    on_stage(tmp_path, play, spares=number)


@pytest.mark.parametrize("number", [0, 3])
def test_a_reset_that_fails_before_it_is_put_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """New memory is never stored for a process that had the old one: the next manager would have it adopted."""

    async def play(stage: Stage) -> None:
        monkeypatch.setattr(replicas, "BOOKS_LATER", 100)
        monkeypatch.setattr(stage.replicas.spares, "refill", lambda *_: None)  # it would put down too
        stage.behave(**{"reset run": "crash", "fresh run": "hang"})
        kill(stage.slots[0])
        await stage.until(lambda: stage.slots[0].incarnation == 3 and len(stage.told(0, "run")) == 3)
        stage.kill_manager()
        monkeypatch.setattr(replicas, "BOOKS_LATER", 0.01)
        stage.behave()
        stage.start_manager()
        await stage.serves(0, 4)
        await settled(stage)
        told = stage.told(0, "adopt")
        assert [m["how"] for m in told] == ["fresh", "reset", "fresh", "fresh"]
        assert len({m["region"] for m in told}) == 3
        check_one_process_each(stage)

    on_stage(tmp_path, play, spares=number, option="reset")


@pytest.mark.parametrize(("sent", "how"), [(signal.SIGKILL, "adopt"), (signal.SIGSEGV, "suspect")])
def test_a_manager_dies_while_no_process_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, how: str
) -> None:
    """The next one still learns how the replica ended, and does not take that for a death after another."""

    def failing(code: Code) -> Any:
        raise OSError(errno.EAGAIN, "fork")

    async def play(stage: Stage) -> None:
        monkeypatch.setattr(stage.replicas.spares, "_spawn", failing)
        kill(stage.slots[0], sent)
        await stage.until(lambda: stage.slots[0].failures >= 2)
        await stage.put_down()
        stage.kill_manager()
        stage.start_manager()
        await stage.serves(0, 2)
        await settled(stage)
        assert [m["how"] for m in stage.told(0, "adopt")] == ["fresh", how]
        check_one_process_each(stage)

    on_stage(tmp_path, play, spares=0)


@pytest.mark.parametrize(("option", "how"), [("adopt", "suspect"), ("reset", "reset")])
def test_a_manager_dies_while_a_spare_adopts(tmp_path: Path, option: str, how: str) -> None:
    """Nobody knows what it was told: it is ended, and another one adopts, or resets."""

    async def play(stage: Stage) -> None:
        slot = stage.slots[0]
        stage.behave(run="hang")
        kill(slot, signal.SIGSEGV)
        await stage.until(lambda: slot.incarnation == 2 and len(stage.told(0, "run")) == 2)
        await stage.put_down()
        half = slot.pid
        stage.behave()
        await stage.restart_manager()
        await stage.serves(0, 3)
        assert stage.slots[0].pid != half
        assert [m["how"] for m in stage.told(0, "adopt")] == ["fresh", how, how]
        assert len({m["region"] for m in stage.told(0, "adopt")}) == 1
        await settled(stage)
        check_one_process_each(stage)

    on_stage(tmp_path, play, option=option)


@staged
async def test_the_keeper_knows_how_orphans_ended(stage: Stage, monkeypatch: Any = None) -> None:
    slot = stage.slots[0]
    stage.kill_manager()
    pid, dead = slot.pid, stage.store.entries["process.0"].descriptors[0]
    signal.pidfd_send_signal(dead, signal.SIGKILL)
    await stage.until(lambda: launch.is_over(dead))
    launch.reap(dead)  # as the keeper does
    stage.store.fates[pid] = -signal.SIGKILL
    stage.start_manager()
    await stage.serves(0, 2)
    assert stage.told(0, "adopt")[-1]["how"] == "adopt"
    assert stage.replicas.history[0].cause == "was killed by SIGKILL"


@staged
async def test_a_hanging_one_is_guilty_for_the_next_manager_too(stage: Stage) -> None:
    dead = stage.store.entries["process.0"].descriptors[0]
    loop = asyncio.get_running_loop()
    stage.replicas.kill(stage.slots[0], "it made no progress for 100 ms")
    dead = stage.store.entries["process.0"].descriptors[0]
    loop.remove_reader(stage.slots[0].pidfd)
    stage.kill_manager()
    await stage.until(lambda: launch.is_over(dead))
    stage.start_manager()
    await stage.serves(0, 2)
    assert stage.told(0, "adopt")[-1]["how"] == "suspect"


@staged
async def test_spares_survive_managers(stage: Stage) -> None:
    spare = stage.spare_pids
    await stage.restart_manager()
    assert stage.spare_pids == spare
    stage.kill_manager()
    os.kill(spare[0], signal.SIGKILL)
    await stage.until(lambda: launch.is_over(stage.store.entries["spare.0"].descriptors[0]))
    stage.start_manager()
    await settled(stage)
    assert stage.spare_pids != spare
    check_one_process_each(stage)


def test_ready_time_of_spares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: Stage) -> None:
        monkeypatch.setattr(spares, "READY_TIME", 0.2)
        stage.behave(ready="hang")
        kill(stage.slots[0])
        await stage.serves(0, 2)
        await stage.until(lambda: stage.replicas.spares._failures >= 2)
        stage.behave()
        monkeypatch.setattr(spares, "READY_TIME", 20)
        await settled(stage)

    on_stage(tmp_path, play)


# ---- stopped, and started again ----


def test_a_slot_that_is_just_being_stopped_is_started_when_its_process_has_ended(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        slot, region = stage.slots[1], inode(stage.slots[1].region)
        for _ in range(3):
            old = slot.pid
            stage.replicas.retire(slot)
            assert slot.retiring
            await stage.replicas.start([1])
            assert slot.ready.is_set() and not slot.retiring and slot.pid != old
            await settled(stage)
            check_one_process_each(stage)
        assert [told["how"] for told in stage.told(1, "adopt")] == ["fresh"] * 4
        assert inode(slot.region) != region
        kill(slot)
        await stage.serves(1, 5)

    on_stage(tmp_path, play)


def test_a_process_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: Stage) -> None:
        monkeypatch.setattr(replicas, "ANSWER_TIME", 0.1)
        slot = stage.slots[1]
        os.kill(slot.pid, signal.SIGSTOP)
        stage.replicas.retire(slot)
        await stage.until(lambda: not slot.retiring)
        assert slot.stage is None and 1 not in stage.replicas.active
        assert "process.1" not in stage.store.entries

    on_stage(tmp_path, play)
