"""TCP_INFO of both ends of a connection, of which the kernel has one: what one has sent the other has received."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from neatstack.experiment.netns import Namespace
from tests.conftest import Pair
from tests.peers.conftest import Ends
from tests.support.puppet import Remote, digest
from tests.support.tcp_info import tcp_info

LENGTH = 3_000_000
OPEN = 0


def at_rest(one: Remote, other: Remote) -> tuple[SimpleNamespace, SimpleNamespace]:
    """What both say once nothing is on its way and no acknowledgment is owed any more."""
    told = tcp_info(one), tcp_info(other)
    for _ in range(200):
        time.sleep(0.05)
        again = tcp_info(one), tcp_info(other)
        counts = [(end.segs_in, end.segs_out, end.unacked) for end in (*told, *again)]
        if counts[:2] == counts[2:] and not again[0].unacked and not again[1].unacked:
            return again
        told = again
    raise AssertionError(f"no rest: {told}")


def agree(sender: SimpleNamespace, receiver: SimpleNamespace) -> None:
    """What holds in one direction, when nothing was lost or sent again."""
    assert sender.bytes_sent - sender.bytes_retrans == receiver.bytes_received
    assert sender.bytes_acked in (sender.bytes_sent, sender.bytes_sent + 1), "and the SYN, of who has connected"
    assert sender.data_segs_out == receiver.data_segs_in
    assert sender.delivered == sender.data_segs_out + 1
    assert sender.wscales & 15 == receiver.wscales >> 4
    assert sender.snd_mss <= receiver.advmss
    assert (sender.ca_state, sender.retransmits, sender.sacked, sender.lost, sender.retrans) == (OPEN, 0, 0, 0, 0)
    assert 0 < sender.min_rtt <= sender.rtt < 1_000_000 and sender.rto > 0
    assert sender.delivery_rate > 0
    assert sender.busy_time >= sender.rwnd_limited + sender.sndbuf_limited


@pytest.mark.parametrize("pair", ["stack-kernel", "kernel-stack"], indirect=True)
def test_both_ends_say_the_same(ends: Ends, pair: Pair) -> None:
    server, client = ends.connected()
    for number in range(5):
        client.sendall(b"request %d" % number)
        server.recv(100)
        server.sendall(b"an answer")
        client.recv(100)
    s, c = at_rest(server, client)
    assert c.segs_out == s.segs_in
    assert s.segs_out + 1 == c.segs_in, "Linux does not count the SYN-ACK with the socket that it makes"
    for one, other in ((s, c), (c, s)):
        agree(one, other)
        assert one.state == 1 and one.options == other.options
        assert one.reordering == other.reordering
        assert one.snd_cwnd >= 10 and one.snd_ssthresh == other.snd_ssthresh
        assert one.last_data_sent >= other.last_data_recv - 60

    receiving = client.begin("receive_stream", LENGTH)
    server.send_stream(7, LENGTH)
    assert receiving.result(60) == (LENGTH, digest(7, LENGTH))
    s, c = at_rest(server, client)
    assert c.bytes_received == LENGTH + 45 and c.rcv_mss > 1000
    assert s.bytes_sent - s.bytes_retrans == c.bytes_received == s.bytes_acked
    assert c.data_segs_in <= s.data_segs_out
    if isinstance(pair.server, Namespace):  # while Linux counts a large segment from a TAP interface as one
        assert s.data_segs_out - s.total_retrans <= c.data_segs_in
    assert s.delivery_rate > 0 and s.busy_time > 0
