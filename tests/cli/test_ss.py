"""What `neat ss` prints, of answers made by hand."""

from typing import Any

import pytest

from neatstack.cli import ss
from neatstack.control import rundir

LISTENERS = [
    {"address": "0.0.0.0", "port": 80, "backlog": 128, "programs": [{"program": "nginx", "pid": 7}]},
    {"address": "fd77::2", "port": 80, "backlog": 128, "programs": []},
]
LONG = "fd77:1111:2222:3333:4444:5555:6666:7777"


def connection(local: str, remote: str) -> dict[str, Any]:
    return {
        "state": "ESTABLISHED", "local_address": local, "local_port": 80, "remote_address": remote,
        "remote_port": 65535, "replica": 1, "ssthresh": 1 << 30, "mss": 1440,
    }  # fmt: skip


def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: dict[str, Any]) -> list[str]:
    monkeypatch.setattr(rundir, "find", lambda stack: "web")
    monkeypatch.setattr(rundir, "ask", lambda stack, message: answer)
    ss.ss(stack=None, as_json=False)
    return capsys.readouterr().out.splitlines()


def test_ports_follow_ipv6_addresses_in_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"listeners": LISTENERS, "connections": [connection(LONG, LONG), connection("10.77.0.2", "10.77.0.1")]}
    header, first, second, six, details, four, _ = printed(monkeypatch, capsys, answer)
    assert first.split()[3:] == ["0.0.0.0:80", "0.0.0.0:*", "all", "nginx(7)"]
    assert second.split()[3:] == ["[fd77::2]:80", "[::]:*", "all"]
    assert six.split()[3:] == [f"[{LONG}]:80", f"[{LONG}]:65535", "1"]
    assert details == "\t mss:1440"
    assert four.split()[3:5] == ["10.77.0.2:80", "10.77.0.1:65535"]
    ends = header.index("Peer:Port") + len("Peer:Port")
    assert {len(line[:ends].rstrip()) for line in (header, first, second, six, four)} == {ends}


def test_columns_are_narrow_without_long_addresses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    header, _ = printed(monkeypatch, capsys, {"listeners": LISTENERS[:1], "connections": []})
    assert header.index("Peer:Port") + len("Peer:Port") == 11 + 8 + 8 + 23 + 23


def test_udp_sockets_and_their_groups(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    user = {"program": "dnsmasq", "pid": 9}
    sockets = [
        {"address": "0.0.0.0", "port": 53, "groups": [], "programs": [user]},
        {"address": "0.0.0.0", "port": 5353, "groups": ["224.0.0.251", "239.1.1.1"], "programs": []},
    ]
    answer = {"listeners": [], "connections": [], "datagrams": sockets}
    _, first, second, groups = printed(monkeypatch, capsys, answer)
    assert first.split() == ["UNCONN", "0", "0", "0.0.0.0:53", "0.0.0.0:*", "all", "dnsmasq(9)"]
    assert second.split() == ["UNCONN", "0", "0", "0.0.0.0:5353", "0.0.0.0:*", "all"]
    assert groups == "\t group:224.0.0.251 group:239.1.1.1"
