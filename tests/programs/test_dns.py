"""dig and dnsmasq, over UDP and TCP: short answers, and one that is too long for a datagram."""

from __future__ import annotations

from tests.conftest import Pair, also_over_ipv6

TEXT = "x" * 250
SHORT = {"A": "192.0.2.7", "AAAA": "2001:db8::7"}


def serve(pair: Pair, *more: str) -> None:
    records = [f"--txt-record=long.test,{TEXT},{TEXT},{TEXT},{TEXT}"]
    records += [f"--address=/short.test/{address}" for address in SHORT.values()]
    options = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", *records]
    pair.serve("dnsmasq", f"--port={pair.port}", *options, *more)


def dig(pair: Pair, *what: str) -> str:
    return pair.client.run(
        "dig", f"@{pair.address}", "-p", pair.port, "+tries=1", "+timeout=3", "+short", *what
    ).strip()


@also_over_ipv6("stack-kernel", "kernel-stack")
def test_over_udp(pair: Pair) -> None:
    """The server is bound to any address, and answers from the one that was asked."""
    serve(pair)
    assert {kind: dig(pair, "short.test", kind) for kind in SHORT} == SHORT
    assert dig(pair, "-b", pair.client.address, "short.test") == SHORT["A"]
    assert dig(pair, "long.test", "TXT", "+bufsize=4000").count(TEXT) == 4


@also_over_ipv6("stack-kernel", "stack-stack")
def test_over_tcp(pair: Pair) -> None:
    """A process of its own answers each connection.

    The server is bound to its address: else it looks for an interface that has it, and those of a stack are unseen.
    """
    serve(pair, "--bind-interfaces", f"--listen-address={pair.address}")
    assert {kind: dig(pair, "+tcp", "short.test", kind) for kind in SHORT} == SHORT
    assert dig(pair, "long.test", "TXT", "+noedns").count(TEXT) == 4  # truncated, and asked for again over TCP
