"""Replicas replaced on purpose: who decides what, also when something else happens meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from neatstack.control import renewal
from neatstack.control.change import Change
from neatstack.control.errors import NeatError
from neatstack.control.recovery import Ending, Purpose, Stage, decide
from neatstack.control.renewal import REJUVENATION, Renewal, replace
from neatstack.control.upgrade import Upgrade
from tests.control import stage as scenery
from tests.control.stage import CODE, check_one_process_each, kill, on_stage, settled

NEW = dataclasses.replace(CODE, version="2.0", generation=1)
UPGRADE = Purpose("upgrade", "was upgraded to 2.0")
Play = Callable[[scenery.Stage], Awaitable[None]]


def renewing(stage: scenery.Stage) -> Renewal:
    return Renewal(stage.replicas, Change())


@pytest.mark.parametrize(("code", "killed", "pardoned", "how"), [
    (0, None, False, "adopt"),
    (1, None, False, "adopt"),
    (None, None, False, "adopt"),
    (-signal.SIGKILL, None, False, "adopt"),
    (-signal.SIGKILL, renewal.LATE, True, "adopt"),
    (-signal.SIGSEGV, None, False, "suspect"),  # a crash is a crash, whatever was about to happen
    (-signal.SIGKILL, "it made no progress for 100 ms", False, "suspect"),
])  # fmt: skip
def test_decision(code: int | None, killed: str | None, pardoned: bool, how: str) -> None:
    ending = Ending(code, killed, pardoned, REJUVENATION)
    assert decide(ending, Stage.RUNNING, "adopt", 0, "adopt") == ("reset" if how == "suspect" else how)
    assert decide(ending, Stage.RUNNING, "adopt", None, "adopt") == how
    assert decide(ending, Stage.RUNNING, "fresh", None, "reset") == ("reset" if how == "suspect" else how)
    assert ending.intended == (how == "adopt")
    assert str(ending).startswith("was rejuvenated") == (how == "adopt")


@pytest.mark.parametrize(("option", "spares", "status"), [
    ("adopt", 1, 0), ("adopt", 0, 0), ("reset", 1, 0), ("adopt", 2, 7),
])  # fmt: skip
def test_all_are_replaced_and_everything_is_taken_over(tmp_path: Path, option: str, spares: int, status: int) -> None:
    """Whatever the option for deaths is, with and without spares, and whatever the old one exits with."""

    async def play(stage: scenery.Stage) -> None:
        stage.behave(status=status)
        before = [slot.pid for slot in stage.slots[:2]]
        answer = await renewing(stage).rejuvenate()
        assert [each["replica"] for each in answer["replaced"]] == [0, 1]
        for each in answer["replaced"]:
            assert (each["adopted"], each["lost"], each["kind"], each["cause"]) == (
                3, 1, "rejuvenation", "was rejuvenated",
            )  # fmt: skip
            assert 0 < each["gap_ms"] < 5000
        for number in (0, 1):
            assert stage.told(number, "adopt")[-1]["how"] == "adopt"
            assert stage.slots[number].pid != before[number] and stage.slots[number].purpose is None
            record = stage.slots[number].last_recovery
            assert record is not None and record.kind == "rejuvenation" and stage.slots[number].own_death_ns is None
        await settled(stage)
        check_one_process_each(stage)

    on_stage(tmp_path, play, option=option, spares=spares)


def test_what_is_to_be_decided_is_stored_before_it_is_told(tmp_path: Path) -> None:
    async def play(stage: scenery.Stage) -> None:
        stage.behave(stop="slow")
        stage.replicas.stop(stage.slots[0], REJUVENATION)
        stored = stage.store.entries["process.0"].data
        assert stored["purpose"] == {"kind": "rejuvenation", "why": "was rejuvenated"} and stored["running"]
        await stage.serves(0, 2)
        await stage.put_down()
        assert stage.store.entries["process.0"].data["purpose"] is None

    on_stage(tmp_path, play)


def test_one_that_does_not_stop_is_killed_and_innocent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: scenery.Stage) -> None:
        monkeypatch.setattr(renewal, "ANSWER_TIME", 0.3)
        stage.behave(stop="hang")
        record = await replace(stage.replicas, stage.slots[0], REJUVENATION)
        assert (record.how, record.kind) == ("adopt", "rejuvenation")
        assert record.cause == f"was rejuvenated; {renewal.LATE}"

    on_stage(tmp_path, play, option="reset")


def test_one_that_crashes_instead_is_judged_as_ever(tmp_path: Path) -> None:
    async def play(stage: scenery.Stage) -> None:
        stage.behave(stop="crash")
        record = await replace(stage.replicas, stage.slots[0], REJUVENATION)
        assert (record.how, record.kind, record.cause) == ("suspect", "crash", "was killed by SIGABRT")

    on_stage(tmp_path, play)


def test_the_successor_dies_while_it_takes_over(tmp_path: Path) -> None:
    async def play(stage: scenery.Stage) -> None:
        stage.behave(run="slow")
        replaced = asyncio.create_task(replace(stage.replicas, stage.slots[0], REJUVENATION))
        await stage.until(lambda: stage.slots[0].stage is Stage.ADOPTING)
        kill(stage.slots[0])
        record = await replaced
        assert (record.how, record.kind) == ("adopt", "rejuvenation")
        assert record.cause == "was rejuvenated; its successor was killed by SIGKILL"

    on_stage(tmp_path, play)


def test_another_dies_meanwhile_and_takes_the_spare(tmp_path: Path) -> None:
    async def play(stage: scenery.Stage) -> None:
        stage.behave(stop="slow")
        replaced = asyncio.create_task(replace(stage.replicas, stage.slots[0], REJUVENATION))
        await stage.until(lambda: stage.slots[0].purpose is not None)
        kill(stage.slots[1])
        assert (await replaced).how == "adopt"
        await settled(stage)
        check_one_process_each(stage)
        assert {slot.incarnation for slot in stage.slots[:2]} == {2}

    on_stage(tmp_path, play)


def test_it_waits_for_the_next_spare(tmp_path: Path) -> None:
    async def play(stage: scenery.Stage) -> None:
        for spare in stage.replicas.spares.waiting:
            signal.pidfd_send_signal(spare.pidfd, signal.SIGKILL)
        await stage.until(lambda: not stage.spare_pids)
        await replace(stage.replicas, stage.slots[0], REJUVENATION)
        assert stage.slots[0].incarnation == 2

    on_stage(tmp_path, play)


def test_no_spare_becomes_ready(tmp_path: Path) -> None:
    """Then nobody is told to stop."""

    async def play(stage: scenery.Stage) -> None:
        stage.behave(ready="crash")
        pids = [slot.pid for slot in stage.slots]
        with pytest.raises(NeatError, match="no process of version 1.0 becomes ready"):
            await renewing(stage).rejuvenate()
        assert [slot.pid for slot in stage.slots] == pids and stage.told(0, "stop") == []
        stage.behave()

    on_stage(tmp_path, play, spares=0)


def test_one_change_at_a_time(tmp_path: Path) -> None:
    async def play(stage: scenery.Stage) -> None:
        renewal = renewing(stage)
        first = asyncio.create_task(renewal.rejuvenate())
        await stage.until(lambda: renewal.change.under_way)
        with pytest.raises(NeatError, match="rejuvenation of 2 replicas is under way; try again when it is done"):
            await renewal.rejuvenate()
        await first
        assert renewal.change.under_way is None
        assert [len(stage.told(number, "stop")) for number in (0, 1)] == [1, 1]

    on_stage(tmp_path, play)


# ---- the manager dies ----


@pytest.mark.parametrize("late", [False, True])
def test_a_manager_dies_when_it_has_told_the_old_one_to_stop(tmp_path: Path, late: bool) -> None:
    """The next one finds it still there, or gone, and decides the same."""

    async def play(stage: scenery.Stage) -> None:
        stage.behave(stop="slow")
        old = stage.slots[0].pid
        stage.replicas.stop(stage.slots[0], REJUVENATION)
        stage.kill_manager()
        if late:
            await stage.until(lambda: scenery.is_zombie(old))
        stage.start_manager()
        again = renewing(stage)
        again.resume()
        await stage.until(lambda: stage.slots[0].last_recovery)
        record = stage.slots[0].last_recovery
        assert record is not None and (record.how, record.cause) == ("adopt", "was rejuvenated")
        await stage.until(lambda: again.change.under_way is None)
        await settled(stage)
        assert stage.slots[0].incarnation == 2
        check_one_process_each(stage)

    on_stage(tmp_path, play, option="reset")


def test_a_manager_dies_before_it_has_told_the_old_one(tmp_path: Path) -> None:
    async def play(stage: scenery.Stage) -> None:
        slot = stage.slots[0]
        slot.purpose = REJUVENATION
        stage.replicas._remember(slot)
        await stage.restart_manager()
        assert stage.slots[0].purpose == REJUVENATION
        renewing(stage).resume()
        await stage.serves(0, 2)
        assert stage.told(0, "adopt")[-1]["how"] == "adopt"

    on_stage(tmp_path, play, option="reset")


def test_a_manager_dies_while_the_new_one_takes_over(tmp_path: Path) -> None:
    async def play(stage: scenery.Stage) -> None:
        stage.behave(run="slow")
        stage.replicas.stop(stage.slots[0], REJUVENATION)
        await stage.until(lambda: stage.slots[0].stage is Stage.ADOPTING)
        await stage.restart_manager()
        stage.behave()
        await stage.until(lambda: stage.slots[0].ready.is_set())
        await settled(stage)
        assert all(told["how"] == "adopt" for told in stage.told(0, "adopt")[1:])
        check_one_process_each(stage)

    on_stage(tmp_path, play, option="reset")


# ---- other code ----


def upgrading(stage: scenery.Stage, monkeypatch: pytest.MonkeyPatch, new: Any = NEW, mover: Any = None) -> Upgrade:
    """To `new`, whatever prefix is named."""

    async def probe(prefix: str | None, connections: int) -> Any:
        return dataclasses.replace(new, prefix=prefix, generation=0)

    monkeypatch.setattr("neatstack.control.upgrade.probe", probe)
    return Upgrade(stage.replicas, Change(), mover, CODE, 64, lambda: stage.store.writes.append("left"))


def versions(stage: scenery.Stage) -> list[str]:
    return [slot.version for slot in stage.slots[:2]]


@pytest.mark.parametrize("spares", [0, 1, 2])
def test_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spares: int) -> None:
    """All replicas and spares run the new version, also after a crash and under another manager."""

    async def play(stage: scenery.Stage) -> None:
        answer = await upgrading(stage, monkeypatch).to("/opt/new", False, None)
        assert answer["version"] == "2.0" and [each["replica"] for each in answer["replaced"]] == [0, 1]
        assert answer["replaced"][0]["cause"] == "was upgraded to 2.0" and answer["replaced"][0]["kind"] == "upgrade"
        await settled(stage)
        assert versions(stage) == ["2.0", "2.0"]
        assert all(spare.version == "2.0" for spare in stage.replicas.spares.waiting)
        check_one_process_each(stage)
        stored = stage.store.entries["code"].data
        assert (stored["version"], stored["prefix"], stored["generation"]) == ("2.0", "/opt/new", 1)
        assert stage.store.entries["process.0"].data["version"] == "2.0"
        kill(stage.slots[0])
        await stage.serves(0, 3)
        assert versions(stage) == ["2.0", "2.0"]
        stage.code = type(CODE).from_data(stored)
        await stage.restart_manager()
        stage.replicas.spares.wanted = spares
        kill(stage.slots[1])
        await stage.serves(1, 3)
        assert versions(stage) == ["2.0", "2.0"]

    on_stage(tmp_path, play, spares=spares)


def test_an_upgrade_that_does_not_become_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: scenery.Stage) -> None:
        stage.behave(**{"2.0 ready": "crash"})
        with pytest.raises(NeatError, match="no process of version 2.0 becomes ready.* run 1.0, and no connection"):
            await upgrading(stage, monkeypatch).to("/opt/new", False, None)
        assert stage.told(0, "stop") == [] and versions(stage) == ["1.0", "1.0"]
        await settled(stage)
        check_one_process_each(stage)

    on_stage(tmp_path, play)


@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("step", ["adopt", "run"])
@pytest.mark.parametrize("failure", ["error", "crash", "hang"])
def test_an_upgrade_that_cannot_take_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: str, spares: int
) -> None:
    """The old version takes over again: nothing is reset."""

    async def play(stage: scenery.Stage) -> None:
        monkeypatch.setattr(renewal, "ANSWER_TIME", 1.5)
        monkeypatch.setattr(renewal, "TRIAL_TIME", 0.5)
        stage.behave(**{f"2.0 {step}": failure})
        with pytest.raises(NeatError, match="2.0 cannot serve replica 0: .*; all replicas run 1.0, and no conn"):
            await upgrading(stage, monkeypatch).to("/opt/new", False, None)
        assert [told["how"] for told in stage.told(0, "adopt")] == ["fresh", "adopt", "adopt"]
        assert stage.told(1, "stop") == [] and versions(stage) == ["1.0", "1.0"]
        assert stage.slots[0].own_death_ns is None
        assert stage.replicas.code == CODE
        await settled(stage)
        check_one_process_each(stage)

    on_stage(tmp_path, play, spares=spares)


def test_an_upgrade_that_fails_later_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: scenery.Stage) -> None:
        new = dataclasses.replace(NEW, parent="/opt/new")
        upgrade = asyncio.create_task(upgrading(stage, monkeypatch, new).to("/opt/new", False, None))
        await stage.until(lambda: stage.slots[0].version == "2.0" and stage.slots[0].ready.is_set())
        stage.behave(**{"2.0 adopt": "error"})
        with pytest.raises(NeatError, match="cannot serve replica 1: .*told to refuse.*; all replicas run 1.0"):
            await upgrade
        assert versions(stage) == ["1.0", "1.0"]
        assert [told["how"] for n in (0, 1) for told in stage.told(n, "adopt")] == 2 * ["fresh", "adopt", "adopt"]
        stage.behave()
        await settled(stage)
        check_one_process_each(stage)

    on_stage(tmp_path, play)


@pytest.mark.parametrize("told", [False, True])
def test_a_manager_dies_while_new_code_is_on_trial(tmp_path: Path, told: bool) -> None:
    """The next one goes back to the old code, stored or not."""

    async def play(stage: scenery.Stage) -> None:
        stage.behave(**{"2.0 run": "hang"})
        replaced = asyncio.create_task(replace(stage.replicas, stage.slots[0], UPGRADE, NEW))
        await stage.until(lambda: stage.slots[0].code == NEW)
        if told:
            await stage.put_down()
            assert stage.store.entries["process.0"].data["fallback"]["version"] == "1.0"
        replaced.cancel()
        await stage.restart_manager()
        await stage.until(lambda: stage.slots[0].ready.is_set())
        assert versions(stage) == ["1.0", "1.0"]
        assert {told["how"] for told in stage.told(0, "adopt")[1:]} == {"adopt"}

    on_stage(tmp_path, play)


def different(**state: Any) -> Any:
    return dataclasses.replace(NEW, state={**CODE.state, **state})


@pytest.mark.parametrize(("state", "words"), [
    ({"region": 3}, "state regions are of version 3, those of this stack 2.*neat upgrade --to /opt/new --drain"),
    ({"sizes": {"Tcb": 400}}, "the size of Tcb is another.*--drain"),
    ({"layout": 3}, "shares memory with programs in another way.*start its programs again on a new one"),
    ({"protocol": 9}, "on a new one"),
])  # fmt: skip
def test_what_cannot_be_taken_over_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, Any], words: str
) -> None:
    async def play(stage: scenery.Stage) -> None:
        with pytest.raises(NeatError, match=f"version 2.0 .*{words}"):
            await upgrading(stage, monkeypatch, different(**state)).to("/opt/new", False, None)
        assert stage.told(0, "stop") == [] and stage.replicas.code == CODE

    on_stage(tmp_path, play)


class FakeMover:
    """What scaling does, without buckets."""

    def __init__(self, stage: scenery.Stage, fails: bool = False) -> None:
        self.stage, self.fails = stage, fails
        self.active, self.draining = [0], [1]
        self.asked: tuple[list[int], float | None] | None = None

    async def move_to(self, slots: Any, deadline: float | None = None) -> None:
        self.asked = list(slots), deadline
        if self.fails:
            raise NeatError("buckets cannot move")
        await self.stage.replicas.start(slots)
        self.draining, self.active = self.active, list(slots)


def test_draining_to_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New slots have memory of the new size; what drains is still served by the old version when it dies."""

    async def play(stage: scenery.Stage) -> None:
        new = dataclasses.replace(different(region=3), region_size=8192)
        mover = FakeMover(stage)
        monkeypatch.setattr("neatstack.control.upgrade.LOOK_EVERY", 0.02)
        upgrade = upgrading(stage, monkeypatch, new, mover)
        answer = await upgrade.to("/opt/new", True, 5.0)
        assert answer == {"version": "2.0", "replaced": [], "draining": [0]}
        with pytest.raises(NeatError, match="older version than 2.0 still drain"), upgrade.change.begin("scaling"):
            pass
        assert mover.asked == ([2], 5.0)
        assert stage.slots[2].version == "2.0"
        assert scenery.os.fstat(stage.slots[2].region).st_size == 8192
        kill(stage.slots[0])
        await stage.serves(0, 2)
        assert stage.slots[0].version == "1.0" and stage.told(0, "adopt")[-1]["how"] == "adopt"
        kill(stage.slots[2])
        await stage.serves(2, 2)
        assert stage.slots[2].version == "2.0" and "manager" not in stage.store.entries
        stage.replicas.active = {2}  # the others have drained
        await stage.until(lambda: "left" in stage.store.writes)
        entry = stage.store.entries["manager"]
        assert entry.data == {"python": new.python, "parent": new.parent}
        entry.data.clear()  # managers of that version do not live
        upgrade.resume(entry)
        assert stage.store.writes.count("left") == 1
        with pytest.raises(NeatError, match="cannot manage this stack"), upgrade.change.begin("scaling"):
            pass
        with upgrade.change.begin("rejuvenation", moves=False):
            pass

    on_stage(tmp_path, play)


def test_draining_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: scenery.Stage) -> None:
        mover = FakeMover(stage, fails=True)
        with pytest.raises(NeatError, match="buckets cannot move"):
            await upgrading(stage, monkeypatch, different(region=3), mover).to("/opt/new", True, None)
        assert stage.replicas.code == CODE
        stage.replicas.active = {0, 1, 2}
        with pytest.raises(NeatError, match="needs as many free slots, and there are 0.*neat scale"):
            await upgrading(stage, monkeypatch, different(region=3), mover).to("/opt/new", True, None)

    on_stage(tmp_path, play)


def test_a_request_that_makes_no_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: scenery.Stage) -> None:
        upgrade = upgrading(stage, monkeypatch)
        for request in ({"to": 5}, {"drain": "yes"}, {"drain": True, "deadline": -1}, {"deadline": 5}):
            with pytest.raises(NeatError):
                await upgrade.asked(request)
        assert stage.told(0, "stop") == []

    on_stage(tmp_path, play)
