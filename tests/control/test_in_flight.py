"""Sockets in flight: who may pass and receive them, how long they are held, and that nothing of them is left."""

import errno
import os
import socket
from typing import Any

import pytest

from neatstack.control import in_flight
from neatstack.control.requests import BindFlag, Op
from tests.control.stage import Client, Stage, kill, staged

NOWHERE = 16, 0, 0  # NEAT_MAX_REPLICAS: no connection


async def two(stage: Stage) -> tuple[Client, Client]:
    clients = Client(stage), Client(stage)
    for client in clients:
        await client.hello()
    return clients


async def passed(client: Client, binding: int = 0, place: tuple[int, int, int] = NOWHERE) -> dict[str, Any]:
    reply = await client.ask(Op.PASS, binding=binding, place=place)
    assert reply["error"] == 0
    reply["fill"], reply["end"] = map(socket.socket, [-1] * 2, [-1] * 2, [-1] * 2, reply["descriptors"])
    return reply


def slots(stage: Stage, slot: int, op: str) -> list[tuple[int, ...]]:
    return [tuple(m[key] for key in ("channel", "socket", "holder", "other") if key in m) for m in stage.told(slot, op)]


@staged
async def test_a_connection_is_held_until_its_descriptor_is_closed(stage: Stage) -> None:
    one, other = await two(stage)
    before = len(os.listdir("/proc/self/fd"))
    sent = await passed(one, place=(1, one.channel, 7))
    assert slots(stage, 1, "hold") == [(one.channel, 7, one.channel, 255)]
    sent["fill"].send(b"description")
    sent["fill"].close()
    assert sent["end"].recv(100, socket.MSG_PEEK) == b"description"
    got = await other.ask(Op.RECEIVE, binding=sent["binding"], token=sent["token"])
    assert (got["error"], got["channel"], len(got["descriptors"])) == (0, one.channel, 1)
    memory = one.descriptors[2 + 3 * 1]
    assert os.fstat(got["descriptors"][0]).st_ino == os.fstat(memory).st_ino
    assert slots(stage, 1, "hold")[1:] == [(one.channel, 7, 255, other.channel)]
    os.close(got["descriptors"][0])
    twin = os.dup(sent["end"].fileno())
    sent["end"].close()
    again = await other.ask(Op.RECEIVE, binding=sent["binding"], token=sent["token"])
    assert again["error"] == 0 and not stage.told(1, "let_go")
    os.close(again["descriptors"][0])
    os.close(twin)
    await stage.until(lambda: not stage.store.keys("passed."))
    assert slots(stage, 1, "let_go") == [(one.channel, 7)] and not slots(stage, 0, "hold")
    refused = await other.ask(Op.RECEIVE, binding=sent["binding"], token=sent["token"])
    assert refused["error"] == errno.EPERM
    assert len(os.listdir("/proc/self/fd")) == before


@staged
async def test_a_socket_that_is_sent_twice_is_let_go_once(stage: Stage) -> None:
    one, _ = await two(stage)
    first, second = [await passed(one, place=(0, one.channel, 3)) for _ in range(2)]
    first["end"].close()
    await stage.until(lambda: len(stage.store.keys("passed.")) == 1)
    assert not stage.told(0, "let_go")
    second["end"].close()
    await stage.until(lambda: not stage.store.keys("passed."))
    assert slots(stage, 0, "let_go") == [(one.channel, 3)]


@staged
async def test_a_listener_lives_in_a_message(stage: Stage) -> None:
    one, other = await two(stage)
    binding = await one.listen(80)
    sent = await passed(one, binding)
    assert (await one.ask(Op.CLOSE, binding=binding))["error"] == 0
    assert [m["channel"] for m in stage.told(0, "revoke")] == [one.channel]
    await stage.put_down()
    kill(stage.slots[0])
    await stage.serves(0, 2)
    assert [m["channel"] for m in stage.told(0, "grant")] == [one.channel]  # to nobody now
    got = await other.ask(Op.RECEIVE, binding=sent["binding"], token=sent["token"])
    assert got["error"] == 0 and not got["descriptors"]
    assert [m["channel"] for m in stage.told(0, "grant")] == [one.channel, other.channel]
    sent["end"].close()
    await stage.until(lambda: not stage.store.keys("passed."))
    assert not stage.told(0, "unlisten")
    unread = await passed(other, binding)
    assert (await other.ask(Op.CLOSE, binding=binding))["error"] == 0
    unread["end"].close()
    await stage.until(lambda: not stage.store.keys("binding."))
    assert [m["listener"] for m in stage.told(0, "unlisten")] == [binding]


@staged
async def test_a_udp_socket_comes_with_all_its_memory(stage: Stage) -> None:
    one, other = await two(stage)
    bound = await one.ask(Op.BIND, port=53, binding=77, flags=BindFlag.DATAGRAM)
    sent = await passed(one, bound["binding"])
    one.die()
    await stage.until(lambda: stage.told(0, "release"))
    assert stage.told(0, "bind")[-1]["holders"] == [one.channel, 255]
    got = await other.ask(Op.RECEIVE, binding=sent["binding"], token=sent["token"])
    assert (got["error"], got["channel"], len(got["descriptors"])) == (0, one.channel, 3)
    for fd in got["descriptors"]:
        os.close(fd)
    assert stage.told(1, "bind")[-1]["holders"] == [other.channel, 255]
    again = await other.ask(Op.PASS, binding=bound["binding"], place=NOWHERE)
    assert again["error"] == errno.EOPNOTSUPP  # a slot that has never run has let go of the memory
    sent["end"].close()
    await stage.until(lambda: not stage.store.keys("passed."))
    other.die()
    await stage.until(lambda: not stage.store.keys("binding."))


@staged
async def test_who_may_not_is_refused(stage: Stage) -> None:
    one, other = await two(stage)
    binding = await one.listen(80)
    stage.behave(strict=[one.channel, 255])
    before = len(os.listdir("/proc/self/fd"))
    for client, number, place in (
        (other, binding, NOWHERE), (other, 99, NOWHERE), (other, 0, (0, one.channel, 1)), (one, 0, (0, 200, 1)),
        (one, 0, (0, one.channel, 64)), (one, 0, (0, 65535, 0)),
    ):  # fmt: skip
        assert (await client.ask(Op.PASS, binding=number, place=place))["error"] == errno.EBADF
    await stage.until(lambda: not stage.store.keys("passed."))
    assert len(os.listdir("/proc/self/fd")) == before
    sent = await passed(one, place=(0, one.channel, 1))
    for number, token in ((sent["binding"], sent["token"] ^ 1), (sent["binding"] + 1, sent["token"]), (0, 0)):
        assert (await other.ask(Op.RECEIVE, binding=number, token=token))["error"] == errno.EPERM
    stage.programs.by_channel[other.channel].uid = 1234  # another user is given no memory,
    assert (await other.ask(Op.RECEIVE, binding=sent["binding"], token=sent["token"]))["error"] == errno.EACCES
    listener = await passed(one, binding)  # which a listener does without
    got = await other.ask(Op.RECEIVE, binding=listener["binding"], token=listener["token"])
    assert got["error"] == 0


@staged
async def test_there_are_bounds(stage: Stage) -> None:
    one, _ = await two(stage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_flight, "MOST", 3)
        patch.setattr(in_flight, "SHARE_OF_USER", 2)
        stage.programs.by_channel[one.channel].uid = 1234
        sent = [await passed(one) for _ in range(2)]
        assert (await one.ask(Op.PASS, place=NOWHERE))["error"] == errno.ETOOMANYREFS
        stage.programs.by_channel[one.channel].uid = 0
        sent.append(await passed(one))
        assert (await one.ask(Op.PASS, place=NOWHERE))["error"] == errno.ETOOMANYREFS
    for each in sent:
        each["end"].close()
    await stage.until(lambda: not stage.store.keys("passed."))


@staged
async def test_the_manager_dies_meanwhile(stage: Stage) -> None:
    one, other = await two(stage)
    binding = await one.listen(80)
    kept, lost = await passed(one, binding), await passed(one, binding)
    connection = await passed(one, place=(0, one.channel, 1))
    assert (await one.ask(Op.CLOSE, binding=binding))["error"] == 0
    stage.kill_manager()
    lost["end"].close()
    connection["end"].close()
    stage.start_manager()
    await stage.until(lambda: stage.store.keys("passed.") == [f"passed.{kept['binding']}"])
    assert slots(stage, 0, "let_go") == [(one.channel, 1)] and not stage.told(0, "unlisten")
    other.reconnect()
    assert (await other.ask(Op.CLAIM))["error"] == 0
    assert (await other.ask(Op.RECEIVE, binding=kept["binding"], token=kept["token"]))["error"] == 0
    kept["end"].close()
    await stage.until(lambda: not stage.store.keys("passed."))
    assert (await other.ask(Op.CLOSE, binding=binding))["error"] == 0
    assert stage.store.keys("binding.") == []


@staged
async def test_the_replica_dies_meanwhile(stage: Stage) -> None:
    """Its successor is told what it could not be told itself."""
    one, _ = await two(stage)
    sent = await passed(one, place=(0, one.channel, 1))
    await stage.put_down()
    stage.behave(run="slow")
    kill(stage.slots[0])
    sent["end"].close()
    await stage.until(lambda: not stage.store.keys("passed."))
    await stage.serves(0, 2)
    assert slots(stage, 0, "let_go")[-1] == (one.channel, 1)
