"""`neat capture` on a running stack: what it shows, what it does not disturb, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from neatstack.experiment.netns import Stack, neat
from tests.stack.test_isolation import settled
from tests.support.puppet import Puppet
from tests.support.trace import capturing, ended, fields


def talk(stack: Stack, port: int, connections: int = 1) -> None:
    """Connections from the kernel, one after the other: a word, its echo, and the end."""
    server, client = Puppet(stack.programs), Puppet(stack.host)
    listener = server.listen("0.0.0.0", port)
    serving = server.begin("serve_echo_once", listener.number, connections)
    assert client.call("connect_and_echo", stack.address, port, connections) == connections
    serving.result(10)


def test_replicas_and_link_are_interfaces(stack: Stack, port: int, tmp_path: Path) -> None:
    """Each packet once, at the replica whose it is, both ways, in the order of time; and ping at link."""
    path = tmp_path / "trace.pcapng"
    with stack.lab.scope(), capturing(stack, "-w", path) as process:
        talk(stack, port, 20)
        stack.host.run("ping", "-c", 3, "-i", 0.1, stack.address)
        time.sleep(0.1)
        _, said = ended(process)
    told = fields(
        path, "frame.time_epoch", "frame.interface_name", "tcp.stream", "frame.packet_flags_direction", "icmp.type"
    )
    assert [line[0] for line in told] == sorted(line[0] for line in told)
    assert len({line[0][-3:] for line in told}) > 10, "nanoseconds"
    interfaces: dict[str, set[str]] = {}
    for _, interface, stream, _, _ in told:
        if stream:
            interfaces.setdefault(stream, set()).add(interface)
    assert len(interfaces) == 20
    assert all(len(where) == 1 for where in interfaces.values()), "a connection has one replica"
    assert set.union(*interfaces.values()) == {"replica 0", "replica 1"}
    assert Counter((line[1], line[4]) for line in told if line[4]) == {("link", "8"): 3, ("link", "0"): 3}
    assert {line[3] for line in told} == {"0x00000001", "0x00000002"}
    assert f"neat: {len(told)} packets captured of {len(told)}\n" in said


def test_only_one_replica_and_only_a_filter(stack: Stack, port: int, tmp_path: Path) -> None:
    paths = tmp_path / "zero", tmp_path / "syn"
    with stack.lab.scope(), capturing(stack, "-w", paths[0], "--replica", 0) as zero:
        with capturing(stack, "-w", paths[1], "--snaplen", 60, f"tcp port {port} and tcp[tcpflags] == tcp-syn") as syn:
            talk(stack, port, 20)
            time.sleep(0.1)
            ended(zero, signal.SIGTERM)
            ended(syn)
    assert {name for (name,) in fields(paths[0], "frame.interface_name")} == {"replica 0"}
    told = fields(paths[1], "tcp.flags", "frame.cap_len", "frame.len")
    assert [line[:2] for line in told] == [["0x0002", "60"]] * 20 and int(told[0][2]) > 60
    both = fields(paths[0], "tcp.stream", only="tcp.flags.syn == 1 && tcp.flags.ack == 0")
    assert 0 < len(both) < 20


def test_it_goes_on_over_every_death(stack: Stack, port: int, tmp_path: Path) -> None:
    """Replicas, link and the manager are killed, and each connection is still there from SYN to FIN."""
    path = tmp_path / "trace.pcapng"
    with stack.lab.scope(), capturing(stack, "-w", path, f"tcp port {port} or icmp") as process:
        server, client = Puppet(stack.programs), Puppet(stack.host)
        listener = server.listen("0.0.0.0", port)
        ends = []
        for target in ("0", "manager", "link", "1"):
            far = client.connect(stack.address, port)
            near = listener.accept()
            far.sendall(b"before")
            assert near.recv(10) == b"before"
            stack.neat("kill", target)
            near.sendall(b"after")
            assert far.recv(10) == b"after"
            ends.append((far, near))
            wait_until_serving(stack)
        for far, near in ends:
            far.close()
            assert near.recv(1) == b""
            near.close()
        stack.host.run("ping", "-c", 1, stack.address)
        time.sleep(0.1)
        ended(process)
    flags = Counter((stream, flags) for stream, flags in fields(path, "tcp.stream", "tcp.flags", only="tcp"))
    for stream in map(str, range(4)):
        assert flags[stream, "0x0002"] == flags[stream, "0x0012"] == 1
    assert sum(count for (_, each), count in flags.items() if int(each, 16) & 1) >= 8
    assert len(fields(path, "icmp.type", only="icmp")) == 2


def wait_until_serving(stack: Stack) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            if all(replica["state"] == "running" for replica in stack.replicas()):
                return
        except RuntimeError:
            pass  # no manager at the moment
        assert time.monotonic() < end
        time.sleep(0.02)


def test_nothing_is_shared_but_to_be_read(stack: Stack, tmp_path: Path) -> None:
    """Each replica writes its own memory; who captures cannot write, and when it ends nobody keeps it."""
    with capturing(stack, "-w", tmp_path / "trace") as process:
        rights = [
            line.split()[1]
            for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()
            if "neat-capture" in line
        ]
        assert rights == ["r--s"] * (stack.status()["max_replicas"] + 1)
        assert settled(stack)["shared_by_replicas"] == []
        for number, replica in enumerate(stack.replicas()):
            mapped = [line.split()[-2] for line in maps(replica["pid"]) if "neat-capture" in line]
            assert [name.rpartition("-")[2] for name in mapped] == [str(number)]
        ended(process)
    end = time.monotonic() + 10
    while any("neat-capture" in line for replica in stack.replicas() for line in maps(replica["pid"])):
        assert time.monotonic() < end
        time.sleep(0.02)


def maps(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


def test_lines_to_read(stack: Stack, port: int) -> None:
    with stack.lab.scope(), capturing(stack, "--count", 3, f"tcp port {port}") as process:
        talk(stack, port)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    first, second, third = out.decode().splitlines()
    assert f"> {stack.address}.{port}: Flags [S], seq" in first and "In  IP" in first
    assert "Out IP" in second and "Flags [S.]" in second
    assert "ack 1, win" in third
    assert b"neat: 3 packets captured" in err


def test_seconds(stack: Stack) -> None:
    started = time.monotonic()
    stack.neat("capture", "--seconds", 0.5)
    assert 0.5 <= time.monotonic() - started < 5


@pytest.mark.parametrize("options", [["-w", "-"], []])
def test_nobody_reads_any_more(stack: Stack, options: list[str]) -> None:
    """The reader of the pipe, such as wireshark, ends: so does the capture, also when no packet comes."""
    with capturing(stack, *options) as process:
        assert process.stdout
        process.stdout.close()
        assert process.wait(5) == 0
        assert process.stderr and b"Traceback" not in process.stderr.read()


def test_into_a_pipe_at_once(stack: Stack, port: int) -> None:
    """wireshark shows packets when they come, not when some buffer is full."""
    with stack.lab.scope(), capturing(stack, "-w", "-", f"tcp port {port}") as process:
        assert process.stdout
        reader = subprocess.Popen(
            ["tshark", "-l", "-r", "-", "-c", "1"],
            stdin=process.stdout,
            stdout=subprocess.PIPE,
        )
        talk(stack, port)
        assert b"SYN" in reader.communicate(timeout=10)[0]


def test_refused(stack: Stack, tmp_path: Path) -> None:
    """What an earlier capture has written stays as it is."""
    earlier = tmp_path / "earlier"
    earlier.write_text("packets")
    for options, status, words in [
        (["--replica", 9, "-w", earlier], 2, ["no replica 9", "0, 1"]),
        (["tcp", "port"], 2, ["filter 'tcp port'", "syntax"]),
        (["-w", "/nonexistent/file"], 1, ["/nonexistent/file"]),
    ]:
        argv = neat("capture", "--stack", stack.name, *options)
        answer = subprocess.run(argv, env=stack.env, capture_output=True, text=True, timeout=20)
        assert (answer.returncode, answer.stderr.count("\n")) == (status, 1), answer.stderr
        assert all(word in answer.stderr for word in words), answer.stderr
    assert earlier.read_text() == "packets"
    with capturing(stack, "-w", "/dev/full") as process:
        assert process.wait(5) == 1
        assert process.stderr and b"cannot write /dev/full" in process.stderr.read()


def test_too_many(stack: Stack, tmp_path: Path) -> None:
    started = [
        subprocess.Popen(neat("capture", "-w", os.devnull), env=stack.env, stderr=subprocess.PIPE) for _ in range(4)
    ]
    try:
        for process in started:
            assert process.stderr and b"capturing" in process.stderr.readline()
        answer = subprocess.run(neat("capture"), env=stack.env, capture_output=True, text=True, timeout=20)
        assert answer.returncode == 1 and "4 captures are under way" in answer.stderr
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stderr.close()


def test_the_stack_ends(stack: Stack) -> None:
    """The last test: nothing serves afterwards."""
    with capturing(stack, "-w", os.devnull) as process:
        stack.neat("down")
        assert process.wait(5) == 0
