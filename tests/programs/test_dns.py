"""dig and dnsmasq: an answer of one datagram, and one that is too long for it."""

from __future__ import annotations

import pytest

from tests.conftest import Pair

TEXT = "x" * 250


@pytest.fixture
def server(pair: Pair) -> Pair:
    records = [f"--txt-record=long.test,{TEXT},{TEXT},{TEXT},{TEXT}", "--address=/short.test/192.0.2.7"]
    options = ["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", *records]
    pair.serve("dnsmasq", f"--port={pair.port}", *options)
    return pair


def dig(pair: Pair, *what: str) -> str:
    return pair.client.run(
        "dig", f"@{pair.address}", "-p", pair.port, "+tries=1", "+timeout=3", "+short", *what
    ).strip()


def test_dns(server: Pair) -> None:
    assert dig(server, "short.test") == "192.0.2.7"
    assert dig(server, "-b", server.client.address, "short.test") == "192.0.2.7"
    assert dig(server, "long.test", "TXT", "+bufsize=4000").count(TEXT) == 4
    if (
        server.server.label == "kernel"
    ):  # on a stack dnsmasq finds no interface with the address, and closes TCP connections
        assert dig(server, "long.test", "TXT", "+noedns").count(TEXT) == 4  # truncated, and asked for again over TCP
