"""TCP_INFO: what a connection tells of itself, in the fields of Linux's struct tcp_info."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import pytest

from tests.crash.scenarios import PORT
from tests.dataplane.tcp.test_fastopen import asking, carrying, serving, taught
from tests.dataplane.tcp.test_icmp import UNREACHABLE, error
from tests.support.crash import CrashWire
from tests.support.lab import Connection, Lab
from tests.support.layout import TcpInfo, neat
from tests.support.packet import NOP, SACK_PERMITTED, option

MSS = 1460
ANY = 2**64 - 1
UNLIMITED = 0x7FFFFFFF
OPEN, DISORDER, RECOVERY, LOSS = 0, 1, 3, 4


def told(c: Connection) -> Any:
    c.socket.ask()
    c.lab.run()
    assert c.socket.replica.info_answered == c.socket.mine.info_asked
    return c.socket.info


def selective(lab: Lab, **options: Any) -> Connection:
    """A connection that agrees on selective acknowledgments, whose round trip takes 100 ms."""
    c = lab.connection(**options)
    c.syn_options += NOP + NOP + SACK_PERMITTED
    c.listener = lab.listening()
    c.sends("S", options=c.syn_options)
    lab.wait(0.1)
    c.expects("SA")
    c.sends(seq=1)
    c.socket = lab.program.accept(c.listener)
    lab.run()
    return c


def sack(c: Connection, left: int, right: int) -> bytes:
    """The option for a block of our segments, counted from 0."""
    return NOP + NOP + option(5, struct.pack("!2I", *(c.irs + 1 + MSS * n & 0xFFFFFFFF for n in (left, right))))


def flight(c: Connection, length: int = 10 * MSS) -> list[Any]:
    c.socket.send(bytes(length))
    c.lab.run()
    return c.receives()


def test_of_a_connection_that_was_accepted() -> None:
    lab = Lab()
    info = told(lab.accepted(wscale=7, mss=1000))
    assert (info.tcp_state, info.ca_state, info.retransmits, info.probes, info.backoff) == (1, OPEN, 0, 0, 0)
    assert (info.snd_mss, info.advmss, info.rcv_mss, info.pmtu) == (1000, MSS, 536, 1500)
    assert info.wscales & 15 == 7 and info.options == 4
    assert (info.snd_cwnd, info.snd_ssthresh, info.reordering) == (10, UNLIMITED, 3)
    assert info.snd_wnd == 65535 << 7 and info.rcv_wnd == 65535
    assert (info.segs_in, info.segs_out, info.data_segs_in, info.data_segs_out, info.delivered) == (2, 0, 0, 0, 1)
    assert (info.bytes_acked, info.bytes_received, info.bytes_sent, info.notsent_bytes) == (0, 0, 0, 0)
    assert (info.pacing_rate, info.max_pacing_rate, info.app_limited, info.delivery_rate) == (ANY, ANY, 1, 0)


def test_of_a_connection_that_was_opened() -> None:
    lab = Lab()
    c = lab.connecting()
    info = told(c)
    assert (info.tcp_state, info.segs_out, info.unacked, info.delivered, info.bytes_acked) == (2, 1, 1, 0, 0)
    lab.wait(0.05)
    c.expects("S")
    c.sends("SA", seq=0, ack=1, options=c.syn_options)
    info = told(c)
    assert (info.tcp_state, info.segs_out, info.segs_in, info.delivered, info.bytes_acked) == (1, 2, 1, 1, 1)
    assert info.rtt == info.min_rtt == info.rcv_rtt == 50_000 and info.rttvar == 25_000 and info.rto == 250_000


def test_what_is_counted() -> None:
    lab = Lab()
    c = lab.accepted()
    c.sends(data=bytes(100))
    c.sends(data=bytes(200))
    flight(c, 2 * MSS + 10)
    info = told(c)
    assert (info.bytes_sent, info.bytes_acked, info.unacked, info.delivered) == (2930, 0, 3, 1)
    c.sends(ack=2931)
    info = told(c)
    assert (info.segs_in, info.data_segs_in, info.bytes_received) == (5, 2, 300)
    assert (info.data_segs_out, info.bytes_acked, info.unacked, info.delivered) == (3, 2930, 0, 4)
    assert info.segs_out == 3 and info.rcv_mss == 536
    c.sends(data=bytes(MSS))
    c.sends("FA")
    info = told(c)
    assert (info.rcv_mss, info.tcp_state, info.bytes_received) == (MSS, 8, 300 + MSS + 1)
    c.socket.shutdown()
    lab.run()
    c.sends(ack=2932)
    info = told(c)
    assert info.bytes_acked == 2931 and info.bytes_sent == 2930


def test_segments_that_come_as_one_are_counted_as_the_peer_sent_them() -> None:
    lab = Lab()
    c = lab.accepted()
    c.sends(data=bytes(3 * MSS + 1))
    c.sends(data=bytes(2 * MSS))
    info = told(c)
    assert (info.segs_in, info.data_segs_in, info.rcv_mss) == (2 + 4 + 2, 6, MSS)


def test_times_since_something_was_sent_or_came() -> None:
    lab = Lab()
    c = lab.accepted()
    flight(c, 10)
    lab.wait(0.1)
    c.sends(data=b"text", ack=11)
    lab.wait(0.2)
    c.sends(ack=11)
    lab.wait(0.3)
    info = told(c)
    assert (info.last_data_sent_ms, info.last_data_recv_ms, info.last_ack_recv_ms) == (600, 500, 300)


def test_what_is_lost_and_sent_again() -> None:
    lab = Lab()
    c = selective(lab)
    flight(c)
    lab.wait(0.1)
    c.sends(ack=1, options=sack(c, 1, 2))
    info = told(c)
    assert (info.ca_state, info.sacked, info.lost, info.retrans) == (DISORDER, 1, 0, 0)
    c.sends(ack=1, options=sack(c, 1, 4))
    info = told(c)
    assert (info.ca_state, info.sacked, info.retrans, info.lost) == (RECOVERY, 3, 1, 1)
    assert (info.total_retrans, info.bytes_retrans, info.bytes_sent) == (1, MSS, 11 * MSS)
    assert info.snd_ssthresh == 7 and info.unacked == 10
    c.sends(ack=1 + 10 * MSS)
    info = told(c)
    assert (info.ca_state, info.sacked, info.retrans, info.unacked) == (OPEN, 0, 0, 0)
    assert (info.delivered, info.bytes_acked, info.data_segs_out) == (11, 10 * MSS, 11)


def test_after_a_timeout() -> None:
    lab = Lab()
    c = lab.accepted()
    flight(c, 100)
    lab.wait(0.9)
    info = told(c)
    assert info.ca_state == LOSS and info.retransmits == info.backoff >= 1
    assert info.total_retrans == info.data_segs_out - 1 and info.bytes_retrans == 100 * info.total_retrans


@pytest.mark.parametrize("selectively", [True, False])
def test_how_long_what_timeouts_have_found_lost_was_repaired(selectively: bool) -> None:
    lab = Lab()
    c = selective(lab) if selectively else lab.accepted()
    flight(c)
    assert told(c).total_rto == 0
    while not (info := told(c)).total_rto:
        lab.wait(0.01)
    assert info.total_rto_recoveries == 1 and info.total_rto_time_ms <= 10
    while (info := told(c)).total_rto < 2:
        lab.wait(0.01)
    so_far = info.total_rto_time_ms
    assert (info.total_rto, info.total_rto_recoveries) == (2, 1) and so_far > 200, "of one series"
    lab.wait(0.1)
    c.sends(ack=1 + 5 * MSS)
    lab.wait(0.1)
    info = told(c)
    assert abs(info.total_rto_time_ms - so_far - 200) < 20, "five segments are still to be repaired"
    c.receives()
    c.sends(ack=1 + 10 * MSS)
    so_far = told(c).total_rto_time_ms
    lab.wait(1)
    info = told(c)
    assert (info.total_rto, info.total_rto_recoveries, info.total_rto_time_ms) == (2, 1, so_far)


def test_timeouts_of_the_handshake_are_counted() -> None:
    lab = Lab()
    c = lab.connecting()
    lab.wait(3.5)
    c.expects("S")
    c.expects("S")
    c.expects("S")
    c.sends("SA", seq=0, ack=1, options=c.syn_options)
    lab.wait(1)
    info = told(c)
    assert (info.total_rto, info.total_rto_recoveries) == (2, 1)
    assert info.total_rto_time_ms == pytest.approx(2500, abs=20)


def test_a_timeout_without_need_is_repaired_when_that_is_known() -> None:
    lab = Lab(rings=1 << 18)
    c = selective(lab, wscale=7)
    flight(c, 30 * MSS)
    while not told(c).total_rto:
        lab.wait(0.01)
    c.receives()
    c.sends(ack=1 + 3 * MSS)
    c.receives()
    c.sends(ack=1 + 6 * MSS)
    info = told(c)
    assert info.ca_state == OPEN and info.unacked
    lab.wait(0.05)
    assert told(c).total_rto_time_ms == info.total_rto_time_ms


def test_how_long_the_peers_window_was_waited_for() -> None:
    lab = Lab()
    c = lab.accepted(window=2 * MSS)
    lab.wait(1)
    flight(c, 8 * MSS)
    lab.wait(0.2)
    c.sends(ack=1 + 2 * MSS, window=0)
    info = told(c)
    assert info.notsent_bytes == 6 * MSS and info.unacked == 0
    lab.wait(0.5)
    info = told(c)
    assert info.probes >= 1 and info.rwnd_limited == info.busy_time == pytest.approx(700_000, abs=1000)
    c.receives()
    c.sends(ack=c.heard, window=65535)
    lab.wait(0.1)
    c.receives()
    c.sends(ack=c.heard, window=65535)
    info = told(c)
    assert info.rwnd_limited == pytest.approx(700_000, abs=1000)
    assert info.busy_time == pytest.approx(800_000, abs=1000)
    lab.wait(2)
    assert told(c).busy_time == info.busy_time, "nothing is on its way"


def test_a_window_for_less_than_what_is_worth_sending_is_waited_for() -> None:
    lab = Lab()
    c = lab.accepted()
    c.sends(ack=1, window=10)
    flight(c, MSS)
    lab.wait(0.1)
    assert told(c).rwnd_limited == 100_000


def test_how_long_room_in_the_ring_was_waited_for() -> None:
    lab = Lab(rings=4096)
    c = lab.accepted()
    flight(c, 4096)
    lab.wait(0.1)
    info = told(c)
    assert info.sndbuf_limited == info.busy_time == 100_000
    c.sends(ack=4097)
    flight(c, 100)
    lab.wait(0.1)
    info = told(c)
    assert (info.sndbuf_limited, info.busy_time) == (100_000, 200_000)


def test_a_full_ring_that_the_congestion_window_holds_back_is_not_short_of_room() -> None:
    lab = Lab(rings=16384)
    c = lab.accepted()
    flight(c, 16384)
    lab.wait(0.1)
    info = told(c)
    assert info.notsent_bytes == 16384 - 10 * MSS and info.busy_time == 100_000 and info.sndbuf_limited == 0


def test_the_rate_of_delivery() -> None:
    lab = Lab(rings=1 << 18)
    c = selective(lab, wscale=7)
    flight(c)
    lab.wait(0.1)
    c.sends(ack=1 + 10 * MSS)
    info = told(c)
    assert info.delivery_rate == 10 * MSS * 10 and info.app_limited, "all that there was to send in 100 ms"
    flight(c, 100 * MSS)
    lab.wait(0.1)
    c.sends(ack=c.heard)
    info = told(c)
    assert info.delivery_rate == 20 * MSS * 10 and not info.app_limited, "a congestion window in a round trip"
    assert info.rwnd_limited == 0, "the congestion window is no window of the peer's"
    for _ in range(6):
        lab.wait(0.1)
        c.receives()
        c.sends(ack=c.heard)
    rate = told(c).delivery_rate
    flight(c, 10)
    lab.wait(0.1)
    c.sends(ack=c.heard)
    assert told(c).delivery_rate == rate, "how little the user sends says nothing"


def test_the_rate_while_something_is_on_its_way() -> None:
    lab = Lab()
    c = selective(lab)
    flight(c)
    lab.wait(0.1)
    c.sends(ack=1 + 6 * MSS)
    assert told(c).delivery_rate == 6 * MSS * 10


def test_what_is_lost_and_waits_to_be_sent_again() -> None:
    lab = Lab()
    c = selective(lab)
    flight(c)
    lab.wait(0.1)
    c.sends(ack=1, options=sack(c, 4, 8))
    info = told(c)
    assert (info.sacked, info.lost, info.retrans) == (4, 4, 4)
    assert info.unacked - info.sacked - info.lost + info.retrans == 6, "what is on its way, as Linux counts it"
    lab.wait(1)  # a timeout
    info = told(c)
    assert (info.ca_state, info.lost, info.retrans) == (LOSS, 10, 1)


def test_probes_of_a_connection_that_is_kept_alive() -> None:
    lab = Lab()
    c = lab.accepted()
    c.socket.set(flags=c.socket.flags | neat.FLAG_KEEPALIVE, keep_idle_s=5, keep_interval_s=5, keep_count=9)
    lab.run()
    lab.wait(11)
    assert told(c).probes == 2


def test_what_the_path_can_carry() -> None:
    lab = Lab()
    c = lab.accepted()
    flight(c, MSS)
    error(lab, c, UNREACHABLE, 4, seq=1, mtu=1000)
    info = told(c)
    assert (info.pmtu, info.snd_mss) == (1000, 960)


@pytest.mark.parametrize("taken", [True, False])
def test_whether_text_on_the_syn_was_taken(taken: bool) -> None:
    lab = taught()
    c = asking(lab)
    c.expects("S", data=b"request")
    c.sends("SA", seq=0, ack=8 if taken else 1, options=c.syn_options)
    assert told(c).options & 32 == 32 * taken


@pytest.mark.parametrize("text", [b"GET /", b""])
def test_that_text_came_on_the_syn(text: bytes) -> None:
    """A cookie alone opens at once, too."""
    lab, listener, cookie = serving()
    c = lab.connection()
    c.sends("S", data=text, options=c.syn_options + carrying(cookie))
    c.socket = lab.program.accept(listener)
    assert bool(told(c).options & 32) == bool(text)


def test_disorder_that_was_seen() -> None:
    lab = Lab()
    c = selective(lab)
    c.sends(data=b"later", seq=10)
    c.sends(data=b"later", seq=20)
    assert told(c).rcv_ooopack == 2
    flight(c)
    lab.wait(0.1)
    c.sends(ack=1, options=sack(c, 2, 3))
    c.sends(ack=1 + 3 * MSS)
    assert told(c).reord_seen == 1
    c.sends(ack=1 + 3 * MSS, options=sack(c, 0, 2))
    assert told(c).dsack_dups == 2


def test_congestion_that_was_told_of() -> None:
    lab = Lab(ecn=2)
    c = lab.connection()
    c.listener = lab.listening()
    c.sends("SEC", options=c.syn_options)
    c.expects("SAE")
    c.sends(seq=1)
    c.socket = lab.program.accept(c.listener)
    assert told(c).options & 24 == 8
    assert told(c).ecn_mode == 1
    c.sends(tos=2)
    assert told(c).options & 24 == 24, "something came that could be marked"
    c.sends(tos=1, data=bytes(10))
    c.sends(tos=2, data=bytes(20))
    c.sends(tos=3, data=bytes(2 * MSS))
    info = told(c)
    assert (info.received_e1_bytes, info.received_e0_bytes, info.received_ce_bytes) == (10, 20, 2 * MSS)
    assert info.received_ce == 2, "segments"
    flight(c)
    c.sends("AE", ack=1 + 4 * MSS)
    info = told(c)
    assert (info.delivered_ce, info.ca_state) == (4, 2)


def test_the_rate_that_the_user_allows() -> None:
    lab = Lab()
    c = lab.accepted()
    c.socket.set(pacing_rate=100_000)
    lab.run()
    info = told(c)
    assert info.pacing_rate == info.max_pacing_rate == 100_000


def test_of_a_connection_that_was_reset() -> None:
    lab = Lab()
    c = lab.accepted()
    c.sends(data=bytes(5))
    c.sends("R", seq=6)
    info = told(c)
    assert c.socket.state == neat.STATE_CLOSED
    assert (info.tcp_state, info.bytes_received) == (7, 5)


def test_nothing_is_written_unless_it_is_asked_for() -> None:
    lab = Lab()
    c = lab.accepted()
    c.sends(data=bytes(100))
    assert bytes(c.socket.info) == bytes(ctypes.sizeof(TcpInfo))
    info = told(c)
    c.sends(data=bytes(100))
    assert c.socket.info == info


def test_a_successor_answers_and_counts_on() -> None:
    wire = CrashWire()
    listener = wire.b.program.listen(PORT)
    wire.run()
    client = wire.a.program.connect(wire.b.address, PORT)
    wire.until(lambda: client.state == neat.STATE_OPEN)
    client.send(bytes(3000))
    wire.wait(1)
    server = wire.b.program.accept(listener)
    assert server is not None
    server.recv()
    server.send(bytes(2000))
    wire.wait(1)
    wire.die("b", "command_taken")
    server.ask()
    wire.wait(0.1)
    assert wire.deaths == 1
    assert server.replica.info_answered == server.mine.info_asked
    info = server.info
    assert (info.bytes_received, info.bytes_acked, info.data_segs_in) == (3000, 2000, 3)
    assert info.data_segs_out - info.total_retrans == 2
    assert info.segs_in >= 5 and info.busy_time > 0
