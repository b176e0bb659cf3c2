"""Passive open: RFC 9293 sections 3.5, 3.10.7.1 (CLOSED), 3.10.7.2 (LISTEN) and 3.10.7.4 (SYN-RECEIVED)."""

import pytest

from tests.support.lab import PEER, STACK, Lab
from tests.support.layout import neat
from tests.support.packet import NOP, SACK_PERMITTED, Segment, mss, option, wscale
from tests.support.program import address_be, port_be

TIMESTAMP = option(8, bytes(8))

# ---- the handshake ----


def test_three_way_handshake_gives_the_program_a_connection():
    lab = Lab()
    listener = lab.listening(80)
    c = lab.connection(80)
    c.sends("S", options=mss(1460))
    syn_ack = c.expects("SA", seq=0, ack=1)
    assert syn_ack.mss == 1460
    assert lab.program.accept(listener) is None
    c.sends("A")
    c.expects_nothing()
    assert c.state == "ESTABLISHED"

    socket = lab.program.accept(listener)
    assert socket.state == neat.STATE_OPEN
    assert (neat.OP_LOOK, socket.number, 1) in lab.program.events()
    lines = socket.replica
    assert (lines.local_be, lines.local_port_be) == (address_be(STACK), port_be(80))
    assert (lines.remote_be, lines.remote_port_be) == (address_be(PEER), port_be(c.peer_port))
    assert lines.tcp_state == 1
    assert lines.listener == listener


@pytest.mark.rfc("7323:2.2a")
def test_options_that_the_peer_did_not_offer_are_not_used():
    """RFC 7323 section 2.2: a SYN-ACK scales only if the SYN did."""
    lab = Lab()
    lab.listening(80)
    plain, scaling = lab.connection(), lab.connection()
    plain.sends("S", options=mss(1460))
    assert plain.expects("SA").wscale is None
    scaling.sends("S", options=mss(1460) + NOP + wscale(7) + SACK_PERMITTED)
    assert scaling.expects("SA").wscale is not None


def test_data_on_the_handshakes_last_ack_is_delivered():
    lab = Lab()
    listener = lab.listening(80)
    c = lab.connection(80)
    c.sends("S")
    c.expects("SA")
    c.sends("A", data=b"GET /")
    assert lab.program.accept(listener).recv() == b"GET /"


def test_data_on_a_syn_is_delivered_once():
    """RFC 9293 section 3.10.7.2: it is kept, or left for the peer to send again; delivered only when established."""
    lab = Lab()
    listener = lab.listening(80)
    c = lab.connection(80)
    c.sends("S", data=b"early")
    acked = c.expects("SA", seq=0).ack
    assert acked in (1, 6)
    c.sends("A", seq=1, data=b"early")
    assert lab.program.accept(listener).recv() == b"early"


def test_data_before_accept_waits_in_the_stack():
    """A held connection acknowledges what it can keep, and hands it over with the connection."""
    lab = Lab()
    listener = lab.listening(80, post=0)
    c = lab.connection(80)
    c.sends("S", options=c.syn_options)
    assert c.expects("SA").window == 16384
    c.sends("A")
    text = bytes(range(1, 11)) * 1460  # a first window (RFC 6928)
    for n in range(0, len(text), 1460):
        c.sends(data=text[n : n + 1460])
    assert c.receives()[-1].ack == 1 + len(text)
    lab.program.post(listener)
    lab.run()
    socket = lab.program.accept(listener)
    assert socket.recv() == text
    c.sends(data=b"z")
    assert socket.recv() == b"z"


# ---- SYN-RECEIVED ----


def test_syn_ack_is_retransmitted_with_backoff_and_then_forgotten():
    """RFC 6298 section 5.5; after the last the half-open connection is gone and its place free."""
    lab = Lab()
    lab.listening(80)
    c = lab.connection(80)
    c.sends("S")
    c.expects("SA", at=0)
    lab.until(200)
    moments = [s.at for s in c.receives()]
    assert moments[:4] == pytest.approx([1, 3, 7, 15], abs=0.01)
    assert 3 <= len(moments) <= 7
    assert c.state == "CLOSED"
    assert lab.engine.counters()["connections"] == 0


def test_a_repeated_syn_is_answered_with_the_same_numbers():
    lab = Lab()
    listener = lab.listening(80)
    c = lab.connection(80)
    c.sends("S")
    c.expects("SA", seq=0, ack=1)
    c.sends("S", seq=0)
    assert c.expects().ack == 1
    c.sends("A", seq=1)
    assert lab.program.accept(listener) is not None
    c.expects_nothing()


def test_a_wrong_ack_in_syn_received_is_reset_and_changes_nothing():
    """Section 3.10.7.4, fifth: <SEQ=SEG.ACK><CTL=RST>."""
    lab = Lab()
    listener = lab.listening(80)
    c = lab.connection(80)
    c.sends("S")
    c.expects("SA")
    for wrong in (0, 2, 1000):
        c.sends("A", seq=1, ack=wrong)
        c.expects("R", seq=wrong)
    assert c.state == "SYN_RECEIVED"
    c.sends("A", seq=1)
    assert lab.program.accept(listener) is not None


@pytest.mark.rfc("9293:MUST-11")
def test_reset_in_syn_received_frees_the_place():
    """Section 3.10.7.4, second: a passive open returns to LISTEN, and the program never hears of it."""
    lab = Lab()
    listener = lab.listening(80)
    c = lab.connection(80)
    c.sends("S")
    c.expects("SA")
    c.sends("R", seq=1)
    assert c.state == "CLOSED"
    assert lab.engine.counters()["connections"] == 0
    assert lab.program.accept(listener) is None
    c.expects_nothing()


def test_fin_right_after_the_handshake():
    lab = Lab()
    listener = lab.listening(80)
    c = lab.connection(80)
    c.sends("S")
    c.expects("SA")
    c.sends("FA", data=b"bye")
    c.expects("A", ack=5)
    socket = lab.program.accept(listener)
    assert socket.recv() == b"bye"
    assert socket.eof
    assert c.state == "CLOSE_WAIT"


# ---- LISTEN and CLOSED ----


@pytest.mark.parametrize("listening", [True, False], ids=["LISTEN", "CLOSED"])
def test_an_unknown_ack_is_reset(listening):
    """3.10.7.1 and 3.10.7.2: <SEQ=SEG.ACK><CTL=RST>."""
    lab = Lab()
    if listening:
        lab.listening(80)
    c = lab.connection(80)
    for flags in ("A", "SA", "FA", "PA"):
        c.sends(flags, seq=100, ack=5000)
        c.expects("R", seq=5000, window=0)


@pytest.mark.parametrize(
    "flags,data,length", [("S", b"", 1), ("F", b"", 1), ("SF", b"abc", 5), ("", b"abc", 3), ("", b"", 0)]
)
@pytest.mark.parametrize("port", [81, 0])
def test_a_segment_without_ack_to_a_closed_port_is_reset(flags, data, length, port):
    """3.10.7.1: <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>. Nobody ever listens on port 0."""
    lab = Lab()
    c = lab.connection(port)
    c.sends(flags, data=data, seq=0)
    reset = c.expects("RA", ack=length)
    assert reset.seq == 0
    assert lab.drops("no_port") == 1


@pytest.mark.parametrize("flags", ["R", "RA", "SR"])
@pytest.mark.parametrize("listening", [True, False], ids=["LISTEN", "CLOSED"])
def test_a_reset_is_never_answered(flags, listening):
    lab = Lab()
    if listening:
        lab.listening(80)
    c = lab.connection(80)
    c.sends(flags, seq=7, ack=9)
    c.expects_nothing()
    assert lab.engine.counters()["connections"] == 0


@pytest.mark.parametrize("flags", ["", "F", "P", "U"])
def test_a_listener_drops_what_is_no_syn(flags):
    """3.10.7.2, fourth."""
    lab = Lab()
    lab.listening(80)
    c = lab.connection(80)
    c.sends(flags, data=b"text", seq=5)
    c.expects_nothing()
    assert lab.engine.counters()["connections"] == 0


def test_a_listener_bound_to_another_address_does_not_answer():
    lab = Lab()
    lab.listening(80, address="127.0.0.1")
    c = lab.connection(80)
    c.sends("S")
    c.expects("RA", ack=1)


def test_unlisten_ends_half_open_and_waiting_connections():
    lab = Lab()
    listener = lab.listening(80, post=0)
    half, waiting = lab.connection(80), lab.connection(80)
    for c in (half, waiting):
        c.sends("S")
        c.expects("SA")
    waiting.sends("A")
    lab.engine.unlisten(listener)
    lab.run()
    assert "R" in waiting.expects().flags
    late = lab.connection(80)
    late.sends("S")
    late.expects("RA", ack=1)
    assert lab.engine.counters()["connections"] == 0


# ---- bounds ----


@pytest.mark.rfc("4987:3.3")
def test_the_syn_queue_is_bounded():
    """RFC 4987 section 3: beyond the bound a SYN is answered with a cookie, and nothing is kept of it."""
    lab = Lab()
    lab.listening(80, backlog=16)
    for port in range(1000, 1200):
        lab.inject(Segment(source=PEER, destination=STACK, source_port=port, destination_port=80, seq=1, flags="S"))
    half_open = lab.engine.counters()["connections"]
    assert 16 <= half_open <= 64
    assert lab.engine.counters()["cookies_sent"] == 200 - half_open
    assert len(lab.left) == 200
    lab.until(300)
    assert lab.engine.counters()["connections"] == 0
    lab.left.clear()
    c = lab.connection(80)
    c.sends("S")
    c.expects("SA")


def test_the_accept_queue_is_bounded_and_recovers():
    lab = Lab()
    listener = lab.listening(80, backlog=4, post=0)
    peers = [lab.connection(80) for _ in range(12)]
    for c in peers:
        c.sends("S")
        if lab.left:
            c.expects("SA")
            c.sends("A")
    established = sum(c.state == "ESTABLISHED" for c in peers)
    assert 4 <= established <= 5
    assert lab.drops("accept_queue") + lab.drops("syn_queue") > 0
    lab.program.post(listener, 12)
    lab.run()
    taken = 0
    while lab.program.accept(listener):
        taken += 1
        lab.run()
    assert taken >= established
    late = lab.connection(80)
    late.sends("S")
    late.expects("SA")
    late.sends("A")
    assert lab.program.accept(listener) is not None


def test_a_flood_of_syns_does_not_harm_connections():
    lab = Lab(max_tcbs=64)
    c = lab.accepted(80)
    for port in range(1000, 3000):
        lab.inject(Segment(source=PEER, destination=STACK, source_port=port, destination_port=80, seq=1, flags="S"))
    c.sends(data=b"still here")
    assert c.socket.recv() == b"still here"
    c.socket.send(b"yes")
    lab.run()
    c.expects("A", data=b"yes")


@pytest.mark.parametrize(
    "offered, answered",
    [
        (mss(1460), "020405b4"),
        (mss(1460) + NOP + wscale(7), "020405b4 01030307"),
        (mss(1460) + NOP + NOP + SACK_PERMITTED, "020405b4 01010402"),
        (mss(1460) + SACK_PERMITTED + TIMESTAMP, "020405b4 0402080a"),
        (mss(1460) + NOP + NOP + TIMESTAMP, "020405b4 0101080a"),
    ],
)
def test_the_options_of_a_syn_lie_as_linux_puts_them(offered: bytes, answered: str):
    """Selective acknowledgments take the place of the NOPs before timestamps: four bytes less."""
    lab = Lab()
    lab.listening()
    c = lab.connection()
    c.sends("S", options=offered)
    options = c.expects("SA").options
    assert options[: len(bytes.fromhex(answered))] == bytes.fromhex(answered)
    assert len(options) == (16 if TIMESTAMP in offered else len(bytes.fromhex(answered)))


@pytest.mark.rfc("9293:MUST-41")
def test_a_further_listener_disturbs_nobody():
    lab = Lab()
    c = lab.accepted()
    half = lab.connection(peer_port=1111)
    half.sends("S")
    half.expects("SA")
    before = c.tcb, half.tcb
    lab.listening(81)
    lab.listening(80, address="10.0.0.2")
    assert (c.tcb, half.tcb) == before
    half.sends("A")
    assert half.state == "ESTABLISHED"


@pytest.mark.rfc("9293:MUST-42")
def test_a_port_that_connects_may_listen_too():
    lab = Lab()
    c = lab.connecting(lines={"local_port": 5000})
    c.expects("S")
    other = lab.accepted(5000)
    assert (c.state, other.state) == ("SYN_SENT", "ESTABLISHED")
    half = lab.connection(5000, peer_port=1111)
    half.sends("S")
    half.expects("SA")
    lab.listening(5000, address="10.0.0.2")
    c.sends("SA", ack=1)
    half.sends("A")
    assert (c.state, half.state) == ("ESTABLISHED", "ESTABLISHED")


def test_another_syn_for_a_half_open_connection_is_challenged():
    """RFC 5961 section 4.2 in SYN-RECEIVED: only the SYN that we know is answered with our SYN-ACK again."""
    lab = Lab()
    lab.listening()
    c = lab.connection()
    c.sends("S")
    c.expects("SA")
    c.sends("S", seq=500)
    c.expects("A", seq=1, ack=1)
    assert c.state == "SYN_RECEIVED"
