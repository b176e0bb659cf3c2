"""Socket options that change what TCP does: TCP_DEFER_ACCEPT, SYNCNT, LINGER2, MAXSEG, NOTSENT_LOWAT, QUICKACK."""

import pytest

from tests.support.lab import Lab
from tests.support.layout import neat
from tests.support.packet import mss

# ---- TCP_DEFER_ACCEPT ----


def deferring(tries: int) -> tuple[Lab, int, object]:
    lab = Lab()
    listener = lab.listening(80, defer=tries)
    c = lab.connection(80)
    c.sends("S", options=mss(1460))
    c.expects("SA", at=0)
    return lab, listener, c


def test_the_program_wakes_only_for_text():
    lab, listener, c = deferring(3)
    c.sends("A")
    c.expects_nothing()
    assert lab.program.accept(listener) is None and c.state == "SYN_RECEIVED"
    lab.wait(0.5)
    c.sends("A", data=b"GET /")
    assert lab.program.accept(listener).recv() == b"GET /"


def test_a_fin_wakes_it_too():
    lab, listener, c = deferring(3)
    c.sends("A")
    c.sends("FA")
    socket = lab.program.accept(listener)
    assert socket is not None and socket.eof


def test_a_silent_peer_is_accepted_in_the_end():
    """As Linux: nothing is sent while the time runs; then the SYN-ACK, and the ACK of that will do."""
    lab, listener, c = deferring(2)
    c.sends("A")
    lab.until(2.5)
    c.expects_nothing()
    lab.until(3.5)
    c.expects("SA", at=3)
    assert lab.program.accept(listener) is None
    c.sends("A")
    assert lab.program.accept(listener) is not None


def test_a_peer_that_answers_no_more_is_forgotten():
    lab, listener, c = deferring(2)
    c.sends("A")
    lab.until(200)
    assert lab.program.accept(listener) is None
    assert lab.engine.counters()["connections"] == 0


def test_without_an_ack_the_handshake_is_as_ever():
    lab, _, c = deferring(4)
    lab.until(8)
    assert [s.at for s in c.receives()] == pytest.approx([1, 3, 7], abs=0.01)


# ---- TCP_SYNCNT ----


@pytest.mark.parametrize("count", [1, 2, 7])
def test_syncnt_of_a_client(count):
    lab = Lab()
    c = lab.connecting(80, lines={"syn_retries": count})
    lab.until(400)
    assert len(c.receives()) == 1 + count
    assert c.socket.error == 110  # ETIMEDOUT


def test_syncnt_of_a_listener():
    lab = Lab()
    lab.listening(80, syn_retries=2)
    c = lab.connection(80)
    c.sends("S")
    lab.until(100)
    assert len(c.receives()) == 3 and c.state == "CLOSED"


# ---- TCP_LINGER2 ----


@pytest.mark.parametrize("seconds,ends", [(0, 60), (5, 5), (120, 120)])
def test_how_long_an_orphan_waits_for_a_fin(seconds, ends):
    lab = Lab()
    c = lab.accepted(80)
    c.socket.set(fin_wait_s=seconds)
    c.socket.close()
    lab.run()
    c.expects("FA")
    c.sends("A", ack=2)
    assert c.state == "FIN_WAIT_2"
    lab.wait(ends - 0.5)
    assert c.state == "FIN_WAIT_2"
    lab.wait(1)
    assert c.state == "CLOSED"


def test_a_negative_linger2_waits_not_at_all():
    lab = Lab()
    c = lab.accepted(80)
    c.socket.set(fin_wait_s=neat.NO_FIN_WAIT)
    c.socket.close()
    lab.run()
    c.expects("FA")
    c.sends("A", ack=2)
    lab.run()
    assert c.state == "CLOSED" and "R" in c.expects().flags


# ---- TCP_MAXSEG, of a listener ----


def test_maxseg_of_a_listener():
    lab = Lab()
    listener = lab.listening(80, mss=500)
    c = lab.connection(80)
    c.sends("S", options=mss(1460))
    assert c.expects("SA").mss == 500
    c.sends("A")
    socket = lab.program.accept(listener)
    socket.send(b"x" * 1200)
    lab.run()
    assert [len(s.payload) for s in c.receives() if s.payload] == [500, 500, 200]


# ---- TCP_NOTSENT_LOWAT ----


def test_the_program_knows_what_was_not_sent():
    lab = Lab()
    c = lab.accepted(80, window=3000)
    c.socket.set(unsent_most=4000, flags=c.socket.flags | neat.FLAG_UNSENT_MOST)
    c.socket.send(b"x" * 10_000)
    lab.run()
    sent = sum(len(s.payload) for s in c.receives())
    assert c.socket.replica.tx_sent == sent == 2920
    lab.program.events()
    c.sends(ack=2921)
    lab.run()
    assert c.socket.replica.tx_sent == 5840
    assert (neat.OP_LOOK, c.socket.number, 1) not in lab.program.events()
    c.sends(ack=5841)
    lab.run()
    assert c.socket.replica.tx_sent == 8760
    assert (neat.OP_LOOK, c.socket.number, 1) in lab.program.events()  # less than half of it is left


# ---- SO_SNDBUF ----


def test_the_program_is_told_when_a_third_of_its_buffer_is_free():
    lab = Lab(rings=65536)
    c = lab.accepted(80, window=20_000)
    c.socket.set(send_buffer=6000, flags=c.socket.flags | neat.FLAG_SEND_BUFFER)
    c.socket.send(b"x" * 6000)
    lab.run()
    lab.program.events()
    for ack, free in ((1461, False), (2001, True), (6001, False)):
        c.sends(ack=ack)
        lab.run()
        assert ((neat.OP_LOOK, c.socket.number, 1) in lab.program.events()) == free


# ---- TCP_QUICKACK ----


def test_quickack_sends_what_is_owed():
    lab = Lab()
    c = lab.accepted(80)
    c.sends(data=b"x")
    c.expects_nothing()
    c.socket.set_flags(c.socket.flags | neat.FLAG_QUICKACK)
    lab.run()
    c.expects("A", ack=2)
    c.sends(data=b"y")
    c.expects("A", ack=3)


# ---- TCP_CONGESTION ----


def test_the_algorithm_is_the_listeners_until_the_program_chooses_another():
    lab = Lab()
    c = lab.connection(80)
    c.listener = lab.listening(80, congestion=neat.RENO)
    c.sends("S", options=mss(1460))
    c.expects("SA", at=0)
    assert c.tcb["cc"]["algorithm"] == neat.RENO
    c.sends("A")
    socket = lab.program.accept(c.listener)
    for chosen, known in ((neat.CUBIC, neat.CUBIC), (neat.RENO, neat.RENO), (77, neat.CUBIC)):
        socket.set(congestion=chosen)
        lab.run()
        assert c.tcb["cc"]["algorithm"] == known
