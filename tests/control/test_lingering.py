"""Channels of dead programs that replicas still need."""

import asyncio
import gc
import os
import signal
from pathlib import Path

import pytest

from neatstack.control import programs, recovery
from neatstack.control.line import Told
from neatstack.control.requests import Op
from tests.control.stage import Client, Stage, on_stage, staged


def say_freed(stage: Stage, slot: int, *channels: object) -> None:
    """The fake replica says so when it is told to."""
    stage.replicas.ask(stage.slots[slot], Told({"op": "page", "freed": channels}))


async def lingering(stage: Stage, in_use: bool = True) -> int:
    """A program has died while both replicas needed its memory; its channel."""
    client = Client(stage)
    await client.hello()
    stage.behave(in_use=[client.channel] if in_use else [])
    client.die()
    await stage.until(lambda: len(stage.told(0, "drop")) and len(stage.told(1, "drop")))
    await stage.until(lambda: stage.store.entries[f"channel.{client.channel}"].data.get("dropped"))
    return client.channel


@staged
async def test_kept_until_all_have_let_go(stage: Stage) -> None:
    assert all(slot.page_read_only >= 0 for slot in stage.slots)  # for good, once a program has come
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    channel = await lingering(stage)
    entry = stage.store.entries[f"channel.{channel}"]
    assert entry.data == {"lingering": True, "channel": channel, "slots": [0, 1], "dropped": True}
    assert len(entry.descriptors) == 3
    assert not stage.programs.by_channel
    say_freed(stage, 0, channel, 77, "x", None, {})
    await stage.until(lambda: stage.store.entries[f"channel.{channel}"].data["slots"] == [1])
    say_freed(stage, 0, channel)
    say_freed(stage, 1, channel)
    await stage.until(lambda: not stage.store.keys("channel."))
    stage.clients.pop().close()
    assert len(os.listdir("/proc/self/fd")) <= before


@staged
async def test_a_new_incarnation_is_told_that_the_program_is_gone(stage: Stage) -> None:
    channel = await lingering(stage)
    say_freed(stage, 1, channel)
    await stage.until(lambda: stage.store.entries[f"channel.{channel}"].data["slots"] == [0])
    for slot in stage.slots[:2]:
        signal.pidfd_send_signal(slot.pidfd, signal.SIGKILL)
    await stage.serves(0, 2)
    await stage.serves(1, 2)
    told = stage.told(0, "channel")[-1]
    assert (told["channel"], told["inherit"], told["gone"], told["fds"]) == (channel, None, True, 2)
    assert not any(m.get("gone") for m in stage.told(1, "channel"))
    say_freed(stage, 0, channel)
    await stage.until(lambda: not stage.store.keys("channel."))


@pytest.mark.parametrize("owes", [True, False])
def test_a_reset_frees_what_the_replica_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owes: bool) -> None:
    """It has the same memory, and may need the channel to tell the peers: it is told of it as any other."""
    monkeypatch.setattr(recovery, "AGAIN", 10**12)

    async def play(stage: Stage) -> None:
        channel = await lingering(stage)
        memories = [os.fstat(number).st_ino for number in stage.store.entries[f"channel.{channel}"].descriptors]
        stage.behave(owes=owes)
        for incarnation in (2, 3):
            signal.pidfd_send_signal(stage.slots[0].pidfd, signal.SIGSEGV)
            await stage.serves(0, incarnation)
        assert [m["how"] for m in stage.told(0, "adopt")] == ["fresh", "suspect", "reset"]
        told = [m for m in stage.told(0, "channel") if m["channel"] == channel]
        assert [(m.get("gone"), m["fds"]) for m in told] == [(None, 2), (True, 2), (True, 2)]
        if owes:
            await asyncio.sleep(0.1)
            entry = stage.store.entries[f"channel.{channel}"]
            assert entry.data == {"lingering": True, "channel": channel, "slots": [0, 1], "dropped": True}
            assert [os.fstat(number).st_ino for number in entry.descriptors] == memories
            say_freed(stage, 0, channel)
        await stage.until(lambda: stage.store.entries[f"channel.{channel}"].data["slots"] == [1])
        say_freed(stage, 1, channel)
        await stage.until(lambda: not stage.store.keys("channel."))

    on_stage(tmp_path, play)


def test_a_reset_when_the_drop_was_not_answered(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        client = Client(stage)
        await client.hello()
        stage.behave(in_use=[client.channel], owes=True)
        signal.pidfd_send_signal(stage.slots[0].pidfd, signal.SIGSTOP)
        client.die()
        await stage.until(lambda: stage.told(1, "drop"))
        assert stage.store.entries[f"channel.{client.channel}"].data["dropped"] is False
        signal.pidfd_send_signal(stage.slots[0].pidfd, signal.SIGKILL)
        await stage.serves(0, 2)
        assert stage.told(0, "adopt")[-1]["how"] == "reset"
        assert [m.get("gone") for m in stage.told(0, "channel")] == [None, True]
        entry = stage.store.entries[f"channel.{client.channel}"]
        assert (entry.data["slots"], entry.data["dropped"]) == ([0, 1], True)
        say_freed(stage, 0, client.channel)
        say_freed(stage, 1, client.channel)
        await stage.until(lambda: not stage.store.keys("channel."))

    on_stage(tmp_path, play, option="reset")


def test_new_memory_frees(tmp_path: Path) -> None:
    """The reset fails: what comes then is not told, for it has no connection, and nobody has to say anything."""

    async def play(stage: Stage) -> None:
        channel = await lingering(stage)
        stage.behave(**{"reset run": "crash", "owes": True})
        signal.pidfd_send_signal(stage.slots[0].pidfd, signal.SIGKILL)
        await stage.serves(0, 3)
        assert [m["how"] for m in stage.told(0, "adopt")] == ["fresh", "reset", "fresh"]
        assert [m.get("gone") for m in stage.told(0, "channel") if m["channel"] == channel] == [None, True]
        entry = stage.store.entries[f"channel.{channel}"]
        assert entry.data["slots"] == [1] and len(entry.descriptors) == 2
        say_freed(stage, 1, channel)
        await stage.until(lambda: not stage.store.keys("channel."))

    on_stage(tmp_path, play, option="reset")


@staged
async def test_over_managers(stage: Stage) -> None:
    channel = await lingering(stage)
    await stage.restart_manager()
    await asyncio.sleep(0.1)
    assert len(stage.told(0, "drop")) == 1  # it has answered for that
    say_freed(stage, 0, channel)
    await stage.until(lambda: stage.store.entries[f"channel.{channel}"].data["slots"] == [1])
    signal.pidfd_send_signal(stage.slots[1].pidfd, signal.SIGKILL)
    await stage.serves(1, 2)
    assert stage.told(1, "channel")[-1]["gone"] is True
    say_freed(stage, 1, channel)
    await stage.until(lambda: not stage.store.keys("channel."))


@staged
async def test_a_manager_dies_before_it_has_told_or_heard(stage: Stage) -> None:
    client = Client(stage)
    await client.hello()
    stage.behave(in_use=[client.channel])
    for slot in stage.slots[:2]:
        slot.line.request = lambda told: asyncio.get_running_loop().create_future()  # type: ignore
    stage.programs.forget(stage.programs.by_channel[client.channel])
    await stage.restart_manager()
    await stage.until(lambda: stage.told(0, "drop") and stage.told(1, "drop"))
    stage.behave()
    await stage.until(lambda: stage.store.entries[f"channel.{client.channel}"].data["dropped"])
    say_freed(stage, 0, client.channel)
    say_freed(stage, 1, client.channel)
    await stage.until(lambda: not stage.store.keys("channel."))


@staged
async def test_a_program_dies_while_a_replica_is_down(stage: Stage) -> None:
    """The next incarnation hears of both: the channel, and that its program is gone."""
    client = Client(stage)
    await client.hello()
    stage.behave(adopt="hang")
    signal.pidfd_send_signal(stage.slots[0].pidfd, signal.SIGKILL)
    await stage.until(lambda: stage.slots[0].incarnation == 2)
    client.die()
    await stage.until(lambda: stage.told(1, "drop"))
    stage.behave()
    signal.pidfd_send_signal(stage.slots[0].pidfd, signal.SIGKILL)
    await stage.serves(0, 3)
    assert [m.get("gone") for m in stage.told(0, "channel")] == [None, True]
    say_freed(stage, 0, client.channel)
    await stage.until(lambda: not stage.store.keys("channel."))


def test_numbers_are_not_used_again_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MOST_CHANNELS", 3)

    async def play(stage: Stage) -> None:
        stage.behave(in_use=[0, 1, 2])
        clients = [Client(stage) for _ in range(7)]
        for expected, client in enumerate(clients[:3]):
            assert (await client.hello())["channel"] == expected
        clients[1].die()
        clients[0].die()
        await stage.until(lambda: sum(e.data.get("dropped", False) for e in stage.store.entries.values()) == 2)
        oldest = next(iter(stage.programs.lingering.by_number))
        assert (await clients[3].hello())["channel"] == oldest  # all are taken: the oldest is given up
        assert stage.told(0, "channel")[-1]["channel"] == oldest
        other = next(iter(stage.programs.lingering.by_number))
        say_freed(stage, 0, other)
        say_freed(stage, 1, other)
        await stage.until(lambda: not stage.programs.lingering.by_number)
        assert (await clients[4].hello())["channel"] == other
        assert (await clients[5].ask(Op.HELLO))["error"]

    on_stage(tmp_path, play)


@pytest.mark.heavy
@staged
async def test_very_many_programs_leave_nothing(stage: Stage) -> None:
    """Half of them linger for a while."""
    from neatstack.control.programs import Peer

    gc.collect()  # other tests' descriptors
    before = len(os.listdir("/proc/self/fd"))
    peer = Peer(os.getpid(), 0)
    stage.behave(in_use=list(range(0, 256, 2)))
    for _ in range(10 * 256):  # ten in each place
        program = await stage.programs.hello(peer)
        program.has_commands(0)
        stage.programs.forget(program)
        if program.channel % 2 == 0:
            say_freed(stage, 0, program.channel)
            say_freed(stage, 1, program.channel)
    await stage.until(lambda: not stage.store.keys("channel."))
    assert not stage.programs.by_channel and not stage.programs.lingering.by_number
    assert len(os.listdir("/proc/self/fd")) == before
