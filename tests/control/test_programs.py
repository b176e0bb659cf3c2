"""Programs: what they are given, what they may ask, and that nothing of them is left."""

import asyncio
import errno
import gc
import mmap
import os
from pathlib import Path

import pytest

from neatstack.control import programs, replicas, requests
from neatstack.control.requests import REQUEST, BindFlag, Op
from tests.control.stage import NO_OPTIONS, Client, Stage, kill, on_stage, staged


@staged
async def test_hello_gives_memory_and_tells_replicas(stage: Stage) -> None:
    client = Client(stage)
    reply = await client.hello()
    assert reply["replicas"] == 3
    assert len(reply["descriptors"]) == 2 + 3 * 3
    page, doorbell, *rest = reply["descriptors"]
    for read_only in (page, *rest[1::3]):
        with pytest.raises(PermissionError):
            mmap.mmap(read_only, 0)
    for memory in rest[0::3]:
        mmap.mmap(memory, 0).close()
        with pytest.raises(PermissionError):
            os.ftruncate(memory, 0)
    for slot in (0, 1):
        assert [(m["channel"], m["inherit"]) for m in stage.told(slot, "channel")] == [(client.channel, None)]
    assert stage.store.keys("channel.") == [f"channel.{client.channel}"]


@staged
async def test_death_releases_everything(stage: Stage) -> None:
    first, second = Client(stage), Client(stage)
    await first.hello()
    await second.hello()
    binding = await first.listen(80)
    assert (await second.ask(Op.BIND, port=80))["error"] == errno.EADDRINUSE
    before = len(os.listdir("/proc/self/fd"))
    first.die()
    await stage.until(lambda: stage.store.keys("channel.") == [f"channel.{second.channel}"])
    assert stage.store.keys("binding.") == []
    assert [m["listener"] for m in stage.told(0, "unlisten")] == [binding]
    assert [m["channel"] for m in stage.told(1, "drop")] == [first.channel]
    assert len(os.listdir("/proc/self/fd")) < before
    await second.listen(80)


@staged
async def test_programs_that_come_and_go_leave_nothing(stage: Stage) -> None:
    descriptors = []
    gc.collect()  # what other tests have left open
    for _ in range(20):
        client = Client(stage)
        await client.hello()
        await client.listen(8080)
        client.close()
        stage.clients.remove(client)
        await stage.until(lambda: not stage.store.keys("channel."))
        descriptors.append(len(os.listdir("/proc/self/fd")))
    assert descriptors == descriptors[:1] * 20
    assert not stage.programs.by_channel


@staged
async def test_fork_shares_listeners(stage: Stage) -> None:
    parent, child = Client(stage), Client(stage)
    await parent.hello()
    binding = await parent.listen(80)
    reply = await parent.ask(Op.FORK)
    assert len(reply["descriptors"]) == 1 + 3
    assert stage.told(0, "channel")[-1]["inherit"] == parent.channel
    grants = {m["channel"] for m in stage.told(0, "grant") if m["listener"] == binding}
    assert grants == {parent.channel, reply["channel"]}
    claimed = await child.ask(Op.CLAIM, channel=reply["channel"], token=reply["token"])
    assert claimed["error"] == 0
    parent.die()
    await stage.until(lambda: stage.told(0, "drop"))
    assert stage.store.keys("binding.") == [f"binding.{binding}"]
    child.die()
    await stage.until(lambda: not stage.store.keys("binding."))


@staged
async def test_claims_need_the_token_and_the_process(stage: Stage) -> None:
    parent, stranger = Client(stage), Client(stage)
    await parent.hello()
    child = await parent.ask(Op.FORK)
    for channel, token in ((child["channel"], child["token"] ^ 1), (99, child["token"]), (5000, 0)):
        assert (await stranger.ask(Op.CLAIM, channel=channel, token=token))["error"] == errno.EPERM
    assert (await stranger.ask(Op.CLAIM, channel=parent.channel, token=parent.token))["error"] == errno.EPERM
    parent.reconnect()  # as a new image does after exec()
    assert (await parent.ask(Op.CLAIM))["error"] == 0
    assert (await parent.ask(Op.BIND, port=80))["error"] == 0


@staged
async def test_abandoned_and_unclaimed_children(stage: Stage) -> None:
    parent = Client(stage)
    await parent.hello()
    child = await parent.ask(Op.FORK)
    assert (await parent.ask(Op.ABANDON))["error"] == errno.EPERM
    abandoned = await parent.ask(Op.ABANDON, channel=child["channel"], token=child["token"])
    assert abandoned["error"] == 0
    await stage.until(lambda: len(stage.store.keys("channel.")) == 1)
    stage.programs.forget(stage.programs.by_channel[(await parent.ask(Op.FORK))["channel"]])
    await stage.until(lambda: len(stage.store.keys("channel.")) == 1)


def test_children_that_never_claim_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "CLAIM_TIME", 0.2)

    async def play(stage: Stage) -> None:
        parent = Client(stage)
        await parent.hello()
        await parent.ask(Op.FORK)
        assert len(stage.store.keys("channel.")) == 2
        await stage.until(lambda: len(stage.store.keys("channel.")) == 1)

    on_stage(tmp_path, play)


@staged
async def test_nonsense_is_refused(stage: Stage) -> None:
    client = Client(stage)
    for op in (
        Op.FORK,
        Op.ABANDON,
        Op.BIND,
        Op.LISTEN,
        Op.CLOSE,
        Op.JOIN,
        Op.LEAVE,
        Op.PASS,
        Op.RECEIVE,
        0,
        12,
        2**32 - 1,
    ):
        assert (await client.ask(op))["error"] == errno.EPERM
    await client.hello()
    good = REQUEST.pack(0x5441454E, Op.BIND, client.channel, 0, client.token, bytes(16), b"\0\x50", 0, 0, *NO_OPTIONS)
    for data in (good[:-1], good + b"x", b"x", b"\0" * 64, b"x" * 5000):
        (_, error, *_), _ = await client.raw(data)
        assert error == errno.EINVAL
    assert (await client.ask(Op.BIND, token=client.token ^ 1))["error"] == errno.EPERM
    assert (await client.ask(Op.BIND, channel=client.channel + 1))["error"] == errno.EPERM
    for op in (0, 12, Op.HELLO, Op.CLAIM):
        assert (await client.ask(op))["error"] == errno.EINVAL
    assert (await client.ask(Op.LISTEN, binding=77))["error"] == errno.EBADF
    assert (await client.ask(Op.BIND, address="10.1.1.1"))["error"] == errno.EADDRNOTAVAIL


@staged
async def test_who_does_not_read_is_cut_off_and_hinders_nobody(stage: Stage) -> None:
    flood, other = Client(stage), Client(stage)
    await flood.hello()
    request = REQUEST.pack(0x5441454E, Op.BIND, flood.channel, 0, 0, bytes(16), b"\0\x50", 0, 0, *NO_OPTIONS)
    with pytest.raises(ConnectionError):
        for _ in range(100_000):
            try:
                flood.connection.send(request)
            except BlockingIOError:
                await asyncio.sleep(0)
    await other.hello()


def test_connections_of_a_process_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST_OF_PROCESS", 2)

    async def play(stage: Stage) -> None:
        client = Client(stage)
        await client.hello()
        kept = [client.connection]
        for _ in range(2):
            client.meeting.send(b"x")
            client.connection = client._take()
            kept.append(client.connection)
        with pytest.raises(OSError):
            await client.ask(Op.CLAIM)
        client.connection = kept[0]
        assert (await client.ask(Op.BIND, port=80))["error"] == 0
        kept[1].close()
        kept[2].close()

    on_stage(tmp_path, play)


@staged
async def test_reuse_port_and_port_zero(stage: Stage) -> None:
    one, two = Client(stage), Client(stage)
    await one.hello()
    await two.hello()
    await one.listen(80, flags=BindFlag.REUSEPORT)
    await two.listen(80, flags=BindFlag.REUSEPORT)
    assert (await one.ask(Op.BIND))["port"] >= 32768


@staged
async def test_second_hello_of_a_process_replaces_the_first(stage: Stage) -> None:
    client = Client(stage)
    await client.hello()
    await client.listen(80)
    client.reconnect()
    await client.hello()
    await client.listen(80)
    await stage.until(lambda: len(stage.store.keys("channel.")) == 1)


def test_a_replica_that_does_not_answer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "ANSWER_TIME", 0.3)

    async def play(stage: Stage) -> None:
        client, other = Client(stage), Client(stage)
        await client.hello()
        bound = await client.ask(Op.BIND, port=80)
        bindings = stage.programs.ports.bindings
        bindings[666] = bindings.pop(bound["binding"])
        bindings[666].number = 666
        listening = asyncio.create_task(client.ask(Op.LISTEN, binding=666, backlog=5))
        await asyncio.sleep(0.05)
        await asyncio.wait_for(other.hello(), 10)  # nobody else waits for it
        assert (await listening)["error"] == 0
        await stage.until(lambda: [slot.incarnation for slot in stage.slots] == [2, 2, 0])

    on_stage(tmp_path, play)


@staged
async def test_a_new_manager_finds_everything(stage: Stage) -> None:
    one, two = Client(stage), Client(stage)
    await one.hello()
    await two.hello()
    binding = await one.listen(80)
    child = await one.ask(Op.FORK)
    pids = [slot.pid for slot in stage.slots]
    logs = [stage.log(slot).read_text() for slot in (0, 1)]
    await stage.restart_manager()
    assert [slot.pid for slot in stage.slots] == pids
    assert [stage.log(slot).read_text() for slot in (0, 1)] == logs  # nobody was disturbed
    one.reconnect()
    two.reconnect()
    assert (await one.ask(Op.CLAIM))["error"] == 0
    assert (await two.ask(Op.CLAIM))["error"] == 0
    assert (await two.ask(Op.BIND, port=80))["error"] == errno.EADDRINUSE
    assert (await one.ask(Op.CLOSE, binding=binding))["error"] == 0
    assert stage.told(0, "revoke")[-1]["channel"] == one.channel
    assert (await one.ask(Op.ABANDON, channel=child["channel"], token=child["token"]))["error"] == 0
    two.die()
    await stage.until(lambda: {m["channel"] for m in stage.told(0, "drop")} == {two.channel, child["channel"]})


@staged
async def test_a_program_that_died_without_a_manager(stage: Stage) -> None:
    client = Client(stage)
    await client.hello()
    await client.listen(80)
    client.process.kill()
    await stage.restart_manager()
    await stage.until(lambda: not stage.store.keys("channel.") and not stage.store.keys("binding."))


# ---- UDP ----


@staged
async def test_a_udp_socket_is_told_to_every_replica(stage: Stage) -> None:
    client, other = Client(stage), Client(stage)
    for each in (client, other):
        await each.hello()
    reply = await client.ask(Op.BIND, port=53, binding=77, flags=BindFlag.DATAGRAM | BindFlag.REUSEADDR)
    assert reply["error"] == 0
    for slot in (0, 1):
        [told] = stage.told(slot, "bind")
        told.pop("id"), told.pop("fds")
        assert told == {
            "op": "bind", "binding": reply["binding"], "address": "0.0.0.0", "port": 53, "flags": 1,
            "channel": client.channel, "cookie": 77, "holders": [client.channel],
        }  # fmt: skip
    assert (await other.ask(Op.CLOSE, binding=reply["binding"]))["error"] == errno.EBADF
    child = await client.ask(Op.FORK)
    assert (await client.ask(Op.CLOSE, binding=reply["binding"]))["error"] == 0
    assert [(m["binding"], m["channel"]) for m in stage.told(1, "release")] == [(reply["binding"], client.channel)]
    assert (await client.ask(Op.ABANDON, channel=child["channel"], token=child["token"]))["error"] == 0
    await stage.until(lambda: stage.told(0, "unbind") and stage.told(1, "unbind"))
    assert [m["binding"] for m in stage.told(0, "unbind")] == [reply["binding"]]


@staged
async def test_who_comes_later_is_told_of_udp_sockets_too(stage: Stage) -> None:
    client = Client(stage)
    await client.hello()
    bound = await client.ask(Op.BIND, port=53, binding=3, flags=BindFlag.DATAGRAM)
    assert (await client.ask(Op.JOIN, binding=bound["binding"], address="239.1.2.3"))["error"] == 0
    assert (await client.ask(Op.LEAVE, binding=bound["binding"], address="239.9.9.9"))["error"] == errno.EADDRNOTAVAIL
    await stage.put_down()
    kill(stage.slots[0])
    await stage.serves(0, 2)
    assert [m["group"] for m in stage.told(0, "join")] == ["239.1.2.3"] * 2
    assert [m["binding"] for m in stage.told(0, "bind")] == [bound["binding"]] * 2
    await stage.restart_manager()
    kill(stage.slots[1])
    await stage.serves(1, 2)
    assert [m["cookie"] for m in stage.told(1, "bind")] == [3, 3]
