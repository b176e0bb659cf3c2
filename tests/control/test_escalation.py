"""Replicas die again and again: what the next incarnation is told to do, and in what memory."""

import json
import signal
from pathlib import Path

import pytest

from neatstack.control import recovery
from neatstack.control import replicas as replicas_module
from neatstack.control.recovery import Stage as Progress
from tests.control.stage import Client, Stage, check_one_process_each, inode, kill, on_stage, settled


def watch_renewals(stage: Stage) -> list[int]:
    """The slots that get new memory from now on."""
    renewed: list[int] = []
    stage.replicas.on_reset = renewed.append
    return renewed


def test_dying_of_itself_again_resets_the_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same memory, for what is there is needed to tell the peers."""
    monkeypatch.setattr(recovery, "AGAIN", 10**12)

    async def play(stage: Stage) -> None:
        slot, renewed = stage.slots[0], watch_renewals(stage)
        region = inode(slot.region)
        hows = ["suspect", "reset", "reset", "adopt"]
        for n, number in enumerate((signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGKILL)):
            kill(slot, number)
            await stage.serves(0, 2 + n)
            assert stage.told(0, "adopt")[-1]["how"] == hows[n]
            assert inode(stage.store.entries["slot.0"].descriptors[0]) == inode(slot.region) == region
        assert {m["region"] for m in stage.told(0, "adopt")} == {region} and not renewed
        assert [record.how for record in stage.replicas.history] == hows
        assert [(record.adopted, record.lost) for record in stage.replicas.history] == [(3, 1), (0, 4), (0, 4), (3, 1)]

    on_stage(tmp_path, play)


def test_the_option_to_reset(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        client, renewed = Client(stage), watch_renewals(stage)
        await client.hello()
        await client.listen(80)
        for incarnation, number in ((2, signal.SIGKILL), (3, signal.SIGSEGV), (4, signal.SIGTERM)):
            kill(stage.slots[0], number)
            await stage.serves(0, incarnation)
        assert [m["how"] for m in stage.told(0, "adopt")] == ["fresh", *["reset"] * 3]
        assert len({m["region"] for m in stage.told(0, "adopt")}) == 1 and not renewed
        log = [json.loads(line)["op"] for line in stage.log(0).read_text().splitlines()]
        assert log[-15:] == ["adopt", "channel", "listen", "grant", "run"] * 3
        assert [record.how for record in stage.replicas.history] == ["reset"] * 3

    on_stage(tmp_path, play, option="reset")


@pytest.mark.parametrize("step", ["adopt", "run"])
@pytest.mark.parametrize("failure", ["error", "crash"])
@pytest.mark.parametrize("broken", [("adopt",), ("adopt", "reset"), ("reset",)])
def test_an_adoption_that_fails_escalates(tmp_path: Path, step: str, failure: str, broken: tuple[str, ...]) -> None:
    """To a reset, and to new memory when that fails too. `broken`: what fails."""
    option, hows = broken[0], ["fresh", *broken, "fresh" if "reset" in broken else "reset"]

    async def play(stage: Stage) -> None:
        slot, renewed = stage.slots[0], watch_renewals(stage)
        region = inode(slot.region)
        stage.behave(**{f"{how} {step}": failure for how in broken})
        kill(slot)
        await stage.serves(0, len(hows))
        told = stage.told(0, "adopt")
        assert [m["how"] for m in told] == hows
        assert [m["region"] == region for m in told] == [True] * len(broken) + [True, hows[-1] == "reset"]
        assert renewed == ([0] if hows[-1] == "fresh" else [])
        assert inode(stage.store.entries["slot.0"].descriptors[0]) == inode(slot.region) == told[-1]["region"]
        (record,) = stage.replicas.history
        assert record.how == hows[-1] and record.incarnation == slot.incarnation
        assert (record.adopted, record.lost) == ((0, 4) if hows[-1] == "reset" else (0, 0))
        assert record.cause.startswith("was killed by SIGKILL; its successor was killed")
        await settled(stage)
        check_one_process_each(stage)

    on_stage(tmp_path, play, option=option)


@pytest.mark.parametrize("step", ["adopt", "run"])
@pytest.mark.parametrize("how", ["reset", "fresh"])
def test_killed_while_it_resets(tmp_path: Path, step: str, how: str) -> None:
    """That is repeated too; and new memory is new each time."""
    before = ["fresh"] if how == "reset" else ["fresh", "reset"]

    async def play(stage: Stage) -> None:
        slot, renewed = stage.slots[0], watch_renewals(stage)
        stage.behave(**{"reset adopt": "crash"} if how == "fresh" else {}, **{f"{how} {step}": "hang"})
        kill(slot)
        for incarnation in (len(before) + 1, len(before) + 2):
            await stage.until(lambda i=incarnation: len(stage.told(0, "adopt")) == i == slot.incarnation)
            await stage.until(lambda: json.loads(stage.log(0).read_text().splitlines()[-1])["op"] == step)
            kill(slot)
        stage.behave()
        await stage.serves(0, len(before) + 3)
        told = stage.told(0, "adopt")
        assert [m["how"] for m in told] == before + [how] * 3
        assert len({m["region"] for m in told}) == (1 if how == "reset" else 4)
        assert renewed == ([] if how == "reset" else [0] * 3)
        await settled(stage)
        check_one_process_each(stage)

    on_stage(tmp_path, play, option="reset")


def test_dying_before_it_is_ready_does_not_escalate(tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        slot, renewed = stage.slots[0], watch_renewals(stage)
        stage.behave(ready="crash")
        kill(slot)
        await stage.until(lambda: slot.incarnation >= 4)
        stage.behave()
        await stage.until(slot.ready.is_set)
        assert [m["how"] for m in stage.told(0, "adopt")] == ["fresh", "reset"]
        assert len({m["region"] for m in stage.told(0, "adopt")}) == 1 and not renewed

    on_stage(tmp_path, play, option="reset", spares=0)


@pytest.mark.parametrize("step", ["ready", "adopt", "run"])
def test_killed_while_it_adopts(tmp_path: Path, step: str) -> None:
    """Adopting is repeated, in the same way, as often as it takes."""

    async def play(stage: Stage) -> None:
        slot = stage.slots[0]
        stage.behave(**{step: "hang"})
        kill(slot, signal.SIGSEGV)
        stages = (Progress.STARTING,) if step == "ready" else (Progress.ADOPTING,)
        for incarnation in (2, 3):
            if step == "ready" and incarnation == 2:
                await stage.serves(0, 2)  # the spare that was there
                kill(slot)
            else:
                await stage.until(lambda i=incarnation: slot.incarnation == i and slot.stage in stages)
                if step != "ready":
                    await stage.until(lambda i=incarnation: len(stage.told(0, "adopt")) == i)
                kill(slot)
            await stage.until(lambda i=incarnation: slot.incarnation == i + 1)
        stage.behave()
        if step == "ready":
            await stage.until(lambda: slot.stage is Progress.STARTING)
            kill(slot)
        await stage.until(lambda: slot.stage in stages or slot.ready.is_set())
        await stage.until(slot.ready.is_set)
        hows = [m["how"] for m in stage.told(0, "adopt")]
        assert hows == (["fresh", "suspect", "adopt"] if step == "ready" else ["fresh", *["suspect"] * 3])
        assert len({m["region"] for m in stage.told(0, "adopt")}) == 1
        await settled(stage)
        check_one_process_each(stage)

    on_stage(tmp_path, play)


def test_one_that_does_not_become_ready_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: Stage) -> None:
        monkeypatch.setattr(replicas_module, "READY_TIME", 0.3)
        stage.behave(**{"adopt adopt": "hang"})
        kill(stage.slots[0])
        await stage.serves(0, 3)
        assert "did not become ready" in stage.replicas.history[0].cause
        assert stage.replicas.history[0].how == "reset"

    on_stage(tmp_path, play)
