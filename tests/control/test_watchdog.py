"""What the watchdog takes for a hang, and what not: with made-up pages and clock, then with real processes."""

import asyncio
import contextlib
import ctypes
import os
import signal
import struct
import subprocess
import time
from types import SimpleNamespace
from typing import Any

import pytest

from neatstack.control import watchdog
from neatstack.control.programs import COMMANDS_HEAD, COMMANDS_TAIL
from neatstack.control.recovery import Stage as Progress
from neatstack.control.slots import PROGRESS, SLEEP_SEQ, Slot
from neatstack.control.watchdog import Senses, Watchdog
from tests.control.stage import Client, Stage, staged
from tests.support.layout import STRUCTURES

MS = 1_000_000


class World:
    """One replica that does what the test says, and the watchdog that looks at it."""

    def __init__(self) -> None:
        self.now = 10**12
        self.used = 0  # ns of CPU time
        self.runnable = True
        self.commands = False
        self.hears = False  # it moves when its doorbell is rung, and sleeps again
        self.rung: list[int] = []  # when it was
        self.killed: list[str] = []
        self.queue, self.device = os.pipe()
        self.slot = Slot.create(0, self.queue, 4096)
        self.slot.stage, self.slot.incarnation, self.slot.pid = Progress.RUNNING, 1, 1
        self.polls = 0
        replicas: Any = SimpleNamespace(slots=[self.slot], kill=lambda slot, why: self.killed.append(why))
        programs: Any = [SimpleNamespace(has_commands=lambda number: self.commands)]
        senses = Senses(lambda pid: self.used, lambda pid: self.runnable)
        self.dog = Watchdog(replicas, programs, senses, lambda: self.now)

    def close(self) -> None:
        for descriptor in (self.queue, self.device, *self.slot.descriptors):
            os.close(descriptor)

    def writes(self, seq: int, progress: int) -> None:
        os.pwrite(self.slot.page, struct.pack("=IQ", seq, progress), 12)

    def frame(self) -> None:
        os.write(self.device, b"x")

    def passes(self, ms: int, used: int = 0, moves: bool = False) -> int:
        """So long, looked at as often as the watchdog wants; ms until the first kill, or all.

        `moves`: it does so all the time, and is awake.
        """
        start = self.now
        step = 0
        while self.now < start + ms * MS and not self.killed:
            wait = self.dog.look()
            with contextlib.suppress(BlockingIOError):
                assert os.eventfd_read(self.slot.doorbell) == 1
                self.rung.append(self.now)
                if self.hears:
                    self.writes(self.slot.words[SLEEP_SEQ] + 2, self.now)
            assert 0 < wait <= watchdog.PERIOD_ASLEEP
            self.now += wait
            self.used += used * wait // 100
            step += 1
            if moves:
                self.writes(2 * step, self.now)
        return (self.now - start) // MS


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    made.close()


def test_moving_and_sleeping_replicas_are_well(world: World) -> None:
    assert world.passes(5000, used=100, moves=True) and not world.killed
    world.writes(7, 5)
    assert world.passes(100_000) and not world.killed
    assert not world.rung


def test_awake_without_progress(world: World) -> None:
    world.writes(1, 5)
    world.passes(200)
    world.writes(2, 5)
    assert 100 <= world.passes(1000, used=100) <= 140
    assert world.killed == ["it made no progress for 100 ms"]


@pytest.mark.parametrize("what", ["frame", "commands"])
def test_asleep_with_work(world: World, what: str) -> None:
    """Stopped while it slept."""
    world.writes(1, 5)
    world.passes(200)
    if what == "frame":
        world.frame()
    else:
        world.commands = True
    world.runnable = False
    start = world.now
    assert 100 <= world.passes(1000) <= 150
    assert world.killed
    assert bool(world.rung) == (what == "commands")
    if world.rung:  # at once, and then it had its time
        assert world.rung[0] - start <= watchdog.PERIOD_ASLEEP
        assert world.now - world.rung[0] >= watchdog.HANG


def test_a_command_left_for_later_is_rung_for(world: World) -> None:
    """That it waits says nothing: the program may not have rung. Whoever moves when rung for is well."""
    world.writes(1, 5)
    world.commands, world.hears, world.runnable = True, True, False
    world.passes(5000)
    assert not world.killed
    assert len(world.rung) > 20
    world.hears = False
    last = world.rung[-1]
    world.passes(1000)
    assert world.killed == ["it made no progress for 100 ms"]
    assert world.now - next(at for at in world.rung if at > last) >= watchdog.HANG


def test_one_that_moves_just_in_time_after_the_ring(world: World) -> None:
    world.writes(1, 5)
    world.commands, world.runnable = True, False
    for seq in range(3, 43, 2):
        world.passes(90)
        assert world.rung
        world.rung.clear()
        world.writes(seq, world.now)
    assert not world.killed
    world.commands = False
    world.passes(5000)
    assert not world.killed


def test_the_doorbell_is_not_rung_without_need(world: World) -> None:
    world.commands = True
    world.passes(2000, moves=True)
    for seq in range(1001, 1041, 2):  # it sleeps, but has been awake since the last look
        world.writes(seq, world.now)
        world.passes(1)
    world.slot.stage = Progress.ADOPTING
    world.passes(2000)
    world.slot.stage, world.slot.killed = Progress.RUNNING, "it was told to"
    world.passes(2000)
    assert not world.rung and not world.killed


def test_work_that_was_taken_is_none(world: World) -> None:
    world.writes(1, 5)
    for _ in range(20):
        world.frame()
        world.passes(60)
        os.read(world.queue, 1)
        world.passes(60)
    assert not world.killed


def test_starved_of_cpu(world: World) -> None:
    """It would run, but gets little CPU time: not its fault, up to a second."""
    world.writes(2, 5)
    assert world.passes(900, used=2) and not world.killed
    world.writes(4, 6)
    assert world.passes(900, used=2) and not world.killed
    world.writes(6, 7)
    assert 1000 <= world.passes(2000) <= 1100
    assert world.killed


@pytest.mark.parametrize(("used", "runnable"), [(100, True), (45, True), (0, False)])
def test_stuck_in_a_loop_or_stopped(world: World, used: int, runnable: bool) -> None:
    world.writes(2, 5)
    world.runnable = runnable
    world.passes(500, used=used)
    assert world.killed


def test_a_gap_of_our_own_is_nobodys_fault(world: World) -> None:
    world.writes(2, 5)
    world.runnable = False
    world.passes(80)
    for _ in range(5):
        world.now += 400 * MS  # the machine was suspended, or we had no CPU
        world.dog.look()
        world.dog.look()
    assert not world.killed
    assert world.passes(1000) >= 70
    assert world.killed


def test_only_running_ones_are_judged(world: World) -> None:
    world.writes(2, 5)
    world.runnable = False
    for world.slot.stage in (Progress.STARTING, Progress.ADOPTING, None):
        world.passes(2000)
    world.slot.stage, world.slot.killed = Progress.RUNNING, "it was told to"
    world.passes(2000)
    assert not world.killed


def test_a_new_incarnation_is_looked_at_afresh(world: World) -> None:
    world.writes(2, 5)
    for _ in range(20):
        world.passes(90, used=100)
        world.slot.incarnation += 1
    assert not world.killed


def test_senses() -> None:
    assert watchdog.cpu_time(os.getpid()) > 0
    assert watchdog.is_runnable(os.getpid())
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as reader:
        end = time.monotonic() + 10
        while watchdog.is_runnable(reader.pid) and time.monotonic() < end:
            time.sleep(0.01)
        assert not watchdog.is_runnable(reader.pid)
    assert watchdog.cpu_time(2**22 - 1) == 0


@staged
async def test_real_hangs(stage: Stage) -> None:
    """One that loops, one that is stopped with a frame waiting, one with a command; and one that has nothing to do."""
    stage.behave(faults=True)
    client = Client(stage)
    await client.hello()
    dog = Watchdog(stage.replicas, stage.programs)
    dog.run()
    slot = stage.slots[0]
    await stage.replicas.fault(0, "hang", 0)
    await stage.serves(0, 2)
    assert stage.replicas.history[0].cause == "was killed: it made no progress for 100 ms"
    assert stage.replicas.history[0].how == "suspect"
    await asyncio.sleep(1.1)  # not twice in a second
    signal.pidfd_send_signal(slot.pidfd, signal.SIGSTOP)
    await asyncio.sleep(0.5)
    assert slot.incarnation == 2
    stage.queues[0][1].send(b"frame")
    await stage.serves(0, 3)
    stage.queues[0][0].recv(10)
    program = stage.programs.by_channel[client.channel]
    assert not program.has_commands(0)
    os.pwrite(program.memories[1], struct.pack("=I", 1), 128)
    signal.pidfd_send_signal(stage.slots[1].pidfd, signal.SIGSTOP)
    await stage.serves(1, 2)
    os.pwrite(program.memories[1], struct.pack("=I", 1), 256)
    assert [record.replica for record in stage.replicas.history] == [0, 0, 1]
    dog.stop()


@staged
async def test_a_real_ring(stage: Stage) -> None:
    """Programs have left commands for later: one replica hears the doorbell, and then one that does not."""
    client = Client(stage)
    await client.hello()
    program = stage.programs.by_channel[client.channel]
    slot, other = stage.slots[:2]
    dog = Watchdog(stage.replicas, stage.programs)
    dog.run()
    os.pwrite(program.memories[0], struct.pack("=I", 1), 4 * COMMANDS_HEAD)
    await stage.until(lambda: slot.words[SLEEP_SEQ] >= 11)
    assert os.eventfd_read(slot.doorbell) >= 5
    with pytest.raises(BlockingIOError):
        os.eventfd_read(other.doorbell)
    assert other.words[SLEEP_SEQ] == 1 and not stage.replicas.history
    stage.behave(deaf=True)
    await stage.until(lambda: slot.incarnation == 2)
    stage.behave()
    assert os.eventfd_read(slot.doorbell) >= 1
    await stage.until(lambda: slot.ready.is_set() and slot.words[SLEEP_SEQ] >= 11)
    assert [(record.replica, record.cause) for record in stage.replicas.history] == [
        (0, "was killed: it made no progress for 100 ms")
    ]
    dog.stop()


def test_the_layout_is_that_of_the_header() -> None:
    page = STRUCTURES["neat_replica_page"]
    assert (page.sleep_seq.offset, page.progress_ns.offset) == (4 * SLEEP_SEQ, 8 * PROGRESS)
    sizes = [ctypes.sizeof(STRUCTURES[f"neat_channel_{part}"]) for part in ("header", "program")]
    assert 4 * COMMANDS_HEAD == sizes[0] + STRUCTURES["neat_channel_program"].commands_head.offset
    assert 4 * COMMANDS_TAIL == sum(sizes) + STRUCTURES["neat_channel_replica"].commands_tail.offset
