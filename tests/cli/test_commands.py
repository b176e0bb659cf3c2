"""The command line: help for everything, and one line with a non-zero status for whatever goes wrong."""

import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from neatstack.cli import doctor
from neatstack.control import rundir
from neatstack.control.errors import NeatError

SOURCE = Path(__file__).parents[2] / "src"
NEAT = [sys.executable, "-c", "from neatstack.cli import main; main()"]
COMMANDS = (
    *("up", "run", "status", "ss", "kill", "scale", "rejuvenate", "upgrade", "down", "doctor"),
    *("top", "metrics", "dashboard", "capture", "ping"),
)
Neat = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def neat(tmp_path: Path) -> Neat:
    """Run `neat ARG...` with a run directory of its own."""
    directory = tmp_path / "run"
    directory.mkdir()
    environment = {**os.environ, "NEAT_RUN_DIR": str(directory), "PYTHONPATH": str(SOURCE), "COLUMNS": "200"}

    def run(*arguments: object, prefix: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*prefix, *NEAT, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=30, cwd="/"
        )

    return run


def assert_one_line(answer: "subprocess.CompletedProcess[str]", status: int, *words: str) -> None:
    assert answer.returncode == status, answer.stderr
    assert answer.stderr.startswith("neat: ")
    assert answer.stderr.count("\n") == 1 and answer.stderr.endswith("\n")
    for word in words:
        assert word in answer.stderr


def test_help_for_everything(neat: Neat) -> None:
    answer = neat("--help")
    assert answer.returncode == 0
    assert all(command in answer.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_with_examples(neat: Neat, command: str) -> None:
    answer = neat(command, "--help")
    assert answer.returncode == 0
    assert f"neat {command}" in answer.stdout.split("Example")[1]


def test_interrupted_while_it_starts() -> None:
    """The module that is imported first sends what Ctrl-C sends."""
    interrupt = "import sys, signal; sys.addaudithook(lambda event, _: event == 'import' and signal.raise_signal(2))"
    answer = subprocess.run(
        [sys.executable, "-c", f"from neatstack.cli import main; {interrupt}; main()", "status"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (answer.returncode, answer.stderr) == (130, "")


@pytest.mark.parametrize("arguments", [("metrics", "--grafana"), ("--help",), ("status", "--json")])
def test_output_on_a_full_disk(neat: Neat, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    full = ("sh", "-c", 'exec "$@" > /dev/full', "sh")
    with answering(tmp_path / "run", {}):
        assert_one_line(neat(*arguments, prefix=full), 1, "No space left")


def test_light_start() -> None:
    """What takes long to import is imported by the command that needs it."""
    script = "import sys, neatstack.cli.app; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(SOURCE)}, capture_output=True, text=True
    ).stdout.split()
    assert not {"pydantic", "pyroute2", "asyncio", "rich.table", "textual", "prometheus_client"} & set(loaded)
    assert not {"pydantic", "pyroute2", "asyncio", "rich.table", "textual", "starlette", "uvicorn"} & set(loaded)
    strange = {"pydantic", "pyroute2", "asyncio", "rich.table", "textual", "prometheus_client", "starlette", "uvicorn"}
    assert not strange & set(loaded)


@pytest.mark.parametrize(("arguments", "words"), [
    (("bogus",), ("bogus", "--help")),
    (("up", "--bogus"), ("--bogus", "--help")),
    (("run",), ("PROGRAM",)),
    (("kill",), ("REPLICA",)),
    (("kill", "0", "--seed", "x"), ("seed",)),
    (("up", "--replicas", "17"), ("replicas", "16")),
    (("up", "--replicas", "3", "--max-replicas", "2"), ("replicas", "max_replicas")),
    (("up", "--recovery", "hope"), ("recovery", "adopt", "reset")),
    (("up", "--spares", "9"), ("spares", "8")),
    (("up", "--mtu", "575"), ("mtu", "576")),
    (("up", "--address", "10.0.0.1"), ("address", "/24")),
    (("metrics", "--listen", "9177"), ("listen", "127.0.0.1:9177")),
    (("metrics", "--listen", "example.org:80"), ("listen", "example.org:80")),
    (("top", "--interval", "0"), ("interval", "0.1", "60")),
    (("up", "--rejuvenate-every", "soon"), ("rejuvenate_every", "10m")),
    (("rejuvenate", "--every", "soon", "--stack", "web"), ("--every", "10m")),
    (("capture", "--count", "0"), ("--count",)),
    (("capture", "--seconds", "-1"), ("--seconds",)),
    (("ping", "10.0.0.1", "--count", "0"), ("--count",)),
    (("ping", "10.0.0.1", "--interval", "0"), ("--interval",)),
    (("ping", "10.0.0.1", "--size", "-1"), ("--size",)),
    (("ping", "10.0.0.1", "--timeout", "0"), ("--timeout",)),
    (("ping",), ("ADDRESS", "`neat ping --help`")),
    (("rejuvenate", "--every", "0.1s"), ("--every", "1 second")),
    (("rejuvenate", "--every", "10m", "--jitter", "2"), ("--jitter", "0.2")),
    (("rejuvenate", "--jitter", "0.2"), ("--every",)),
    (("rejuvenate", "--off", "--every", "10m"), ("--off",)),
    (("upgrade", "--deadline", "10m"), ("--drain",)),
    (("upgrade", "--drain", "--deadline", "x"), ("--deadline", "10m")),
    (("up", "--config", "/nonexistent.toml"), ("/nonexistent.toml", "--config")),
])  # fmt: skip
def test_bad_usage(neat: Neat, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line(neat(*arguments), 2, *words)


def test_no_command(neat: Neat) -> None:
    """The help is the answer."""
    answer = neat()
    assert (answer.returncode, answer.stderr) == (2, "") and "rejuvenate" in answer.stdout


@pytest.mark.parametrize("command", ["status", "ss", "rejuvenate", "upgrade", "top", "metrics", "down"])
def test_no_such_stack(neat: Neat, command: str) -> None:
    assert_one_line(neat(command), 1, "neat up")
    assert_one_line(neat(command, "--stack", "web"), 1, "web", "neat up")


def test_no_stack_to_kill(neat: Neat) -> None:
    assert_one_line(neat("kill", "0"), 1, "neat up")
    assert_one_line(neat("kill", "manager", "--stack", "web"), 1, "web", "neat up")


@contextlib.contextmanager
def answering(run_directory: Path, answer: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """A stack called `web` that gives every request this answer; the requests."""
    asked: list[dict[str, Any]] = []
    (run_directory / "web").mkdir()
    with (run_directory / "web/keeper.pid").open("w") as lock, socket.socket(socket.AF_UNIX) as listener:
        fcntl.flock(lock, fcntl.LOCK_EX)
        listener.bind(str(run_directory / "web/control.sock"))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as sock, sock.makefile("rwb") as stream:
                        asked.append(json.loads(stream.readline()))
                        stream.write(json.dumps(answer).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(("arguments", "request_", "more", "line"), [
    (("0",), ("0", "kill", None), {}, "killed replica 0 (pid 123)"),
    (("manager",), ("manager", "kill", None), {}, "killed manager (pid 123)"),
    (("link", "--fault", "abort"), ("link", "abort", None), {}, "link (pid 123): sent SIGABRT"),
    (
        ("3", "--fault", "segv", "--stack", "web"),
        ("3", "segv", None),
        {"seed": 9},
        "replica 3 (pid 123): segv when its next connection is in hand",
    ),
    (
        ("0", "--fault", "flip", "--seed", "5"),
        ("0", "flip", 5),
        {"what": "region: tcb 12, byte 40, bit 3"},
        "replica 0 (pid 123): flipped region: tcb 12, byte 40, bit 3",
    ),
])  # fmt: skip
def test_kill_says_what_it_has_done(
    neat: Neat, tmp_path: Path, arguments: tuple[str, ...], request_: tuple[Any, ...], more: dict[str, Any], line: str
) -> None:
    answer = {"ok": True, "target": request_[0], "pid": 123, "at_ns": 1, **more}
    with answering(tmp_path / "run", answer) as asked:
        assert neat("kill", *arguments).stdout == line + "\n"
        assert json.loads(neat("kill", *arguments, "--json").stdout) == answer
    assert asked == [dict(zip(("op", "target", "fault", "seed"), ("kill", *request_), strict=True))] * 2


REPLACED = {
    "replica": 1, "gap_ms": 2.34, "adopted": 12, "lost": 0, "kind": "rejuvenation", "cause": "was rejuvenated",
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "request_", "more", "lines"), [
    (
        ("rejuvenate",),
        {"op": "rejuvenate"},
        {"replaced": [REPLACED, {**REPLACED, "replica": 2, "lost": 1}]},
        "replica 1 was rejuvenated: 12 connections kept, a gap of 2.3 ms\n"
        "replica 2 was rejuvenated: 12 connections kept, 1 reset, a gap of 2.3 ms\n",
    ),
    (
        ("rejuvenate", "--every", "10m", "--jitter", "0.2"),
        {"op": "rejuvenate", "every": 600, "jitter": 0.2},
        {"rejuvenation": {"every": 600, "jitter": 0.2, "next_in": 655.4}},
        "rejuvenation: every 10m ± 20%, next in 655 s\n",
    ),
    (("rejuvenate", "--off"), {"op": "rejuvenate", "every": 0}, {"rejuvenation": None}, "rejuvenation: off\n"),
    (
        ("upgrade", "--to", "opt"),
        {"op": "upgrade", "to": "/opt", "drain": False, "deadline": None},
        {"version": "0.2.0", "replaced": [{**REPLACED, "cause": "was upgraded to 0.2.0"}]},
        "replica 1 was upgraded to 0.2.0: 12 connections kept, a gap of 2.3 ms\nversion 0.2.0 serves\n",
    ),
    (
        ("upgrade", "--drain", "--deadline", "1m"),
        {"op": "upgrade", "to": None, "drain": True, "deadline": 60},
        {"version": "0.2.0", "replaced": [], "draining": [0, 1]},
        "version 0.2.0 serves; draining: 0, 1\n",
    ),
])  # fmt: skip
def test_renewal_says_what_has_been_done(
    neat: Neat, tmp_path: Path, arguments: tuple[str, ...], request_: dict[str, Any], more: dict[str, Any], lines: str
) -> None:
    with answering(tmp_path / "run", {"ok": True, **more}) as asked:
        assert neat(*arguments).stdout == lines
        assert json.loads(neat(*arguments, "--json").stdout) == {"ok": True, **more}
    assert asked == [request_] * 2


def test_kill_refused(neat: Neat, tmp_path: Path) -> None:
    with answering(tmp_path / "run", {"error": "no replica 7; there are: 0, manager, link"}):
        assert_one_line(neat("kill", "7"), 1, "no replica 7; there are: 0, manager, link")


def test_no_terminal(neat: Neat, tmp_path: Path) -> None:
    with answering(tmp_path / "run", {}):
        assert_one_line(neat("top", "--stack", "web"), 1, "terminal", "neat status")


def test_a_port_in_use(neat: Neat, tmp_path: Path) -> None:
    with answering(tmp_path / "run", {}), socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert_one_line(neat("metrics", "--listen", f"127.0.0.1:{port}"), 1, port, "in use", "--listen")


def test_metrics_once(neat: Neat, tmp_path: Path) -> None:
    """The page is whole also when the stack does not answer, but then the exit status tells it."""
    with answering(tmp_path / "run", {"error": "cannot"}):
        answer = neat("metrics", "--once")
    assert_one_line(answer, 1, "cannot")
    assert "\nneat_up 0.0\n" in answer.stdout
    assert json.loads(neat("metrics", "--grafana").stdout)["title"] == "NEaT stack"


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_no_such_namespace(neat: Neat, detach: list[str]) -> None:
    assert_one_line(neat("up", "--netns", "no-such-namespace", *detach), 1, "no-such-namespace", "ip netns add")


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_no_right_to_open_a_tap(neat: Neat, detach: list[str], tmp_path: Path) -> None:
    answer = neat("up", *detach, prefix=["setpriv", "--bounding-set", "-net_admin"])
    assert_one_line(answer, 1, "neat0", "root", "neat doctor")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(("machine", "line", "words"), [
    ("x86_64", "flags\t\t: fpu sse4_1 sse4_2 avx", None),
    ("x86_64", "flags\t\t: fpu sse4_1 xsse4_2", "no sse4_2"),
    ("aarch64", "Features\t: fp asimd crc32", None),
    ("aarch64", "Features\t: fp asimd", "no crc32"),
    ("x86_64", "", "no sse4_2"),
    ("riscv64", "isa : rv64imafdc", "x86-64 or AArch64"),
])  # fmt: skip
def test_doctor_looks_at_the_processor(tmp_path: Path, machine: str, line: str, words: str | None) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n{line}\n")
    problem = doctor._processor(machine, tmp_path / "cpuinfo")
    assert problem is None if words is None else words in str(problem)


def test_programs_that_cannot_run(neat: Neat, tmp_path: Path) -> None:
    plain, static, script = tmp_path / "plain", tmp_path / "static", tmp_path / "script"
    plain.write_text("no program")
    static.write_bytes(without_interpreter(Path(sys.executable).resolve().read_bytes()))
    script.write_text(f"#!{static}\n")
    static.chmod(0o755)
    script.chmod(0o755)
    assert_one_line(neat("run", "--", "no-such-program"), 127, "no-such-program")
    assert_one_line(neat("run", "--", tmp_path / "none"), 127, "none")
    assert_one_line(neat("run", "--", plain), 126, "plain", "permissions")
    assert_one_line(neat("run", "--", tmp_path), 126)
    assert_one_line(neat("run", "--", static), 126, "static", "dynamic")
    assert_one_line(neat("run", "--", script), 126, "script", "static", "dynamic")


def without_interpreter(elf: bytes) -> bytes:
    """The program as if linked statically: its PT_INTERP header is gone."""
    (table,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    patched = bytearray(elf)
    for at in range(table, table + size * count, size):
        if struct.unpack_from("<I", elf, at)[0] == 3:
            struct.pack_into("<I", patched, at, 0)
    return bytes(patched)


class TestRunDirectory:
    """Who has a stack's directory."""

    @pytest.fixture(autouse=True)
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NEAT_RUN_DIR", str(tmp_path))

    def test_one_owner(self) -> None:
        lock = rundir.claim("web")
        assert rundir.running() == ["web"]
        with pytest.raises(NeatError, match="web is already running.*neat down"):
            rundir.claim("web")
        os.close(lock)
        assert rundir.running() == []

    def test_what_a_killed_stack_left_is_cleaned_up(self) -> None:
        os.close(rundir.claim("web"))
        (rundir.directory("web") / "manager.sock").touch()
        (rundir.directory("web") / "more").mkdir()
        assert rundir.running() == []
        lock = rundir.claim("web")
        assert [entry.name for entry in rundir.directory("web").iterdir()] == ["keeper.pid"]
        os.close(lock)

    def test_which_stack_is_meant(self) -> None:
        with pytest.raises(NeatError, match="no stack is running"):
            rundir.find(None)
        locks = [rundir.claim("web")]
        assert rundir.find(None) == rundir.find("web") == "web"
        with pytest.raises(NeatError, match="no stack db is running; there is: web"):
            rundir.find("db")
        locks.append(rundir.claim("db"))
        with pytest.raises(NeatError, match="db, web; name one"):
            rundir.find(None)
        locks.append(rundir.claim("default"))
        assert rundir.find(None) == "default"
        for lock in locks:
            os.close(lock)

    def test_nobody_answers(self) -> None:
        lock = rundir.claim("web")
        with pytest.raises(NeatError, match="web does not answer"):
            rundir.ask("web", {"op": "status"})
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(rundir.directory("web") / "control.sock"))
            with pytest.raises(NeatError, match="web does not answer"):
                rundir.ask("web", json.loads("{}"))
        os.close(lock)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["either a number of replicas, or --auto, or --no-auto"]),
        (["2", "--auto"], ["either a number of replicas"]),
        (["2", "--min", "1"], ["--min and --max go with --auto"]),
        (["--no-auto", "--max", "3"], ["--min and --max go with --auto"]),
        (["--auto", "--deadline", "3"], ["--deadline goes with a number"]),
        (["many"], ["valid integer"]),
        (["2", "--deadline", "soon"], ["--deadline", "10m"]),
    ],
)
def test_scale_that_cannot_be_meant(neat: Neat, arguments: list[str], words: list[str]) -> None:
    assert_one_line(neat("scale", *arguments), 2, *words)
