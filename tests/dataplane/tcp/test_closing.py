"""Closing: RFC 9293 sections 3.6 (figures 12 to 14) and 3.10.7.4 (eighth); half-close; RST when data is lost."""

import errno

import pytest

from tests.support.lab import Lab
from tests.support.layout import neat
from tests.support.wire import Wire


def test_we_close_first():
    """Figure 12: FIN-WAIT-1, FIN-WAIT-2, TIME-WAIT."""
    lab = Lab()
    c = lab.accepted()
    c.socket.close()
    lab.run()
    c.expects("FA", seq=1, ack=1)
    assert c.state == "FIN_WAIT_1"
    c.sends(ack=2)
    assert c.state == "FIN_WAIT_2"
    c.sends("FA", ack=2)
    c.expects("A", seq=2, ack=2)
    assert c.state == "TIME_WAIT"
    assert c.socket.is_free, "TIME-WAIT needs no slot"
    lab.wait(61)
    assert c.state == "CLOSED"
    c.expects_nothing()


@pytest.mark.rfc("9293:MUST-12")
def test_the_peer_closes_first():
    """Figure 12, the other side: CLOSE-WAIT, LAST-ACK, CLOSED."""
    lab = Lab()
    c = lab.accepted()
    lab.program.events()
    c.sends("FA", data=b"last")
    c.expects("A", ack=6)
    assert c.state == "CLOSE_WAIT"
    assert lab.program.events()
    assert not c.socket.eof, "data first"
    assert c.socket.recv() == b"last"
    assert c.socket.eof
    c.socket.close()
    lab.run()
    c.expects("FA", seq=1, ack=6)
    assert c.state == "LAST_ACK"
    c.sends(ack=2)
    assert c.state == "CLOSED"
    assert c.socket.is_free
    assert lab.engine.counters()["connections"] == 0


def test_both_close_at_once():
    """Figure 13: FIN crosses FIN: CLOSING, then TIME-WAIT."""
    lab = Lab()
    c = lab.accepted()
    c.socket.close()
    lab.run()
    c.expects("FA", seq=1)
    c.sends("FA", ack=1)
    c.expects("A", seq=2, ack=2)
    assert c.state == "CLOSING"
    c.sends(ack=2)
    assert c.state == "TIME_WAIT"


def test_fin_and_its_ack_in_one_segment():
    """FIN-WAIT-1 to TIME-WAIT directly."""
    lab = Lab()
    c = lab.accepted()
    c.socket.close()
    lab.run()
    c.expects("FA")
    c.sends("FA", ack=2)
    c.expects("A", seq=2, ack=2)
    assert c.state == "TIME_WAIT"


def test_half_close_lets_data_come():
    """Section 3.6: CLOSE means "I have no more data to send"."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"request")
    c.socket.shutdown()
    lab.run()
    c.expects("FA", data=b"request")
    c.sends(ack=9)
    assert c.state == "FIN_WAIT_2"
    assert c.socket.fin_acked
    lab.wait(300)
    assert c.state == "FIN_WAIT_2", "a half-closed socket that a program holds waits for ever"
    for _ in range(10):
        c.sends(data=b"x" * 1000)
        lab.run()
    assert c.socket.recv() == b"x" * 10000
    c.sends("FA")
    assert c.socket.eof
    assert c.state == "TIME_WAIT"
    c.socket.close()
    lab.run()
    assert c.socket.is_free


def test_the_peer_half_closes_and_we_go_on_sending():
    lab = Lab()
    c = lab.accepted()
    c.sends("FA")
    c.expects("A", ack=2)
    for n in range(5):
        c.socket.send(b"y" * 1000)
        lab.run()
        c.sends(ack=1 + 1000 * (n + 1))
    assert sum(len(s.payload) for s in c.receives()) == 5000
    c.socket.close()
    lab.run()
    c.expects("FA", seq=5001)
    assert c.state == "LAST_ACK"


def test_data_before_close_is_sent_before_the_fin():
    lab = Lab()
    c = lab.accepted()
    data = bytes(range(250)) * 160
    assert c.socket.send(data) == len(data)
    c.socket.close()
    lab.run()
    got, fin = b"", False
    for _ in range(20):
        for s in c.receives():
            got += s.payload
            fin = fin or "F" in s.flags
        if fin:
            break
        c.sends(ack=c.heard)
    assert got == data
    assert fin


def test_the_slot_stays_until_the_send_ring_is_not_needed():
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"precious")
    c.socket.close()
    lab.run()
    c.receives()
    assert not c.socket.is_free
    lab.wait(1.1)
    assert c.expects("FA").payload == b"precious"
    c.sends(ack=10)
    assert c.socket.is_free


@pytest.mark.rfc("9293:SHLD-3", "9293:MAY-1")
def test_close_with_unread_data_resets():
    """RFC 9293 section 3.10.4 leaves it to RFC 1122 4.2.2.13: data lost is told by a RST."""
    lab = Lab()
    c = lab.accepted()
    c.sends(data=b"unread")
    c.socket.close()
    lab.run()
    assert "R" in c.expects(seq=1).flags
    assert c.state == "CLOSED"
    assert c.socket.is_free


@pytest.mark.rfc("9293:SHLD-3")
@pytest.mark.parametrize("acked", [False, True], ids=["FIN-WAIT-1", "FIN-WAIT-2"])
def test_data_after_close_resets(acked):
    """RFC 1122 section 4.2.2.13, RFC 2525 section 2.16: new data for a closed socket: RST."""
    lab = Lab()
    c = lab.accepted()
    c.socket.close()
    lab.run()
    c.expects("FA")
    if acked:
        c.sends(ack=2)
    c.sends(data=b"more", ack=2 if acked else 1)
    assert "R" in c.receives()[-1].flags
    assert c.state == "CLOSED"


def test_fin_wait_2_of_a_closed_socket_ends():
    """Linux: tcp_fin_timeout, 60 s, once no program can read."""
    lab = Lab()
    c = lab.accepted()
    c.socket.close()
    lab.run()
    c.sends(ack=2)
    assert c.state == "FIN_WAIT_2"
    lab.wait(59)
    assert c.state == "FIN_WAIT_2"
    lab.wait(2)
    assert c.state == "CLOSED"


def test_last_ack_and_fin_wait_1_end_without_an_answer():
    """A peer that has gone holds nothing for ever: the FIN's retransmissions end the connection."""
    lab = Lab()
    first, second = lab.accepted(80), lab.accepted(81)
    first.socket.close()
    second.sends("FA")
    second.socket.close()
    lab.run()
    assert (first.state, second.state) == ("FIN_WAIT_1", "LAST_ACK")
    lab.wait(2000)
    assert lab.engine.counters()["connections"] == 0
    assert first.socket.is_free
    assert second.socket.is_free


def test_a_second_fin_is_acknowledged_again():
    lab = Lab()
    c = lab.accepted()
    c.sends("FA")
    c.expects("A", ack=2)
    c.sends("FA", seq=1)
    c.expects("A", ack=2)
    assert c.state == "CLOSE_WAIT"


def test_data_beyond_a_fin_is_ignored():
    """3.10.7.4, seventh, CLOSE-WAIT: this should not occur, since a FIN has been received; ignore the text."""
    lab = Lab()
    c = lab.accepted()
    c.sends("FA", data=b"end")
    c.sends(data=b"more", seq=5)
    assert c.socket.recv() == b"end"
    assert c.socket.eof


def test_what_comes_after_shutdown_read_can_be_read():
    """As on Linux: only who would wait is told of the end. Who reads nothing stops the peer."""
    lab = Lab(rings=4096)
    c = lab.accepted()
    c.socket.shutdown(neat.SHUT_READ)
    lab.run()
    c.expects_nothing()
    for _ in range(10):
        c.sends(data=b"x" * 1000)
    lab.wait(1)
    last = c.receives()[-1]
    assert (last.ack, last.window) == (4097, 0)
    assert c.socket.recv() == b"x" * 4096
    c.socket.send(b"still")
    lab.run()
    c.expects("A", data=b"still")


def test_text_after_both_ways_were_shut_resets():
    """RFC 1122 section 4.2.2.13, as on Linux; what came before can be read."""
    lab = Lab()
    c = lab.accepted()
    c.sends(data=b"before")
    lab.run()
    c.receives()
    c.socket.shutdown(neat.SHUT_READ | neat.SHUT_WRITE)
    lab.run()
    c.expects("FA")
    c.sends(ack=2, data=b"after")
    assert "R" in c.expects().flags
    assert c.socket.recv() == b"before"
    assert c.socket.error == errno.ECONNRESET


def test_sending_after_shutdown_is_not_sent():
    lab = Lab()
    c = lab.accepted()
    c.socket.shutdown()
    lab.run()
    c.expects("FA", seq=1)
    c.socket.send(b"too late")
    lab.run()
    c.sends(ack=2)
    lab.wait(5)
    c.expects_nothing()


def test_abort_resets():
    """SO_LINGER with 0: RFC 9293 section 3.10.5."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"never mind")
    lab.run()
    c.receives()
    c.socket.abort()
    lab.run()
    assert "R" in c.expects().flags
    assert c.state == "CLOSED"
    assert c.socket.is_free
    lab.wait(100)
    c.expects_nothing()


def test_what_was_sent_before_an_abort_goes_first():
    """As on Linux, where send() sends at once: a last message and a reset behind it reach the peer in this order."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"last words")
    c.socket.abort()
    lab.run()
    c.expects("A", data=b"last words")
    assert "R" in c.expects(seq=11).flags


def test_what_was_sent_before_a_close_with_unread_data_goes_first():
    lab = Lab()
    c = lab.accepted()
    c.sends(data=b"unread")
    c.receives()
    c.socket.send(b"an answer")
    c.socket.close()
    lab.run()
    c.expects("A", data=b"an answer")
    assert "R" in c.expects(seq=10).flags


def test_a_dead_programs_connections_are_reset():
    lab = Lab()
    c = lab.accepted()
    lab.engine.drop_channel(1)
    lab.run()
    assert "R" in c.expects().flags
    assert lab.engine.counters()["connections"] == 0


def test_a_closed_slot_serves_again():
    lab = Lab(sockets=16)
    listener = lab.listening(post=4)
    for n in range(100):
        c = lab.accepted(80, listener=listener)
        c.sends(data=b"%d" % n)
        assert c.socket.recv() == b"%d" % n
        c.sends("FA")
        c.socket.close()
        lab.run()
        c.receives()
        c.sends(ack=2)
        assert c.state == "CLOSED"


@pytest.mark.parametrize("first", ["a", "b", "both"])
def test_two_stacks_close(first):
    wire = Wire()
    left, right = wire.connect()
    left.send(b"x" * 5000)
    right.send(b"y" * 5000)
    wire.until(lambda: left.readable == right.readable == 5000)
    left.recv()
    right.recv()
    if first in ("a", "both"):
        left.close()
    if first in ("b", "both"):
        right.close()
    if first == "a":
        wire.until(lambda: right.eof)
        right.close()
    if first == "b":
        wire.until(lambda: left.eof)
        left.close()
    wire.until(lambda: left.is_free and right.is_free, limit=10)
    wire.wait(61)
    for host in (wire.a, wire.b):
        assert host.engine.counters()["connections"] == 0
    assert wire.a.engine.counters()["connections_reset"] == 0


@pytest.mark.rfc("9293:MUST-12")
def test_a_connection_reset_by_the_peer_says_so():
    lab = Lab()
    c = lab.accepted()
    lab.program.events()
    c.sends("R")
    assert c.socket.state == neat.STATE_CLOSED
    assert c.socket.reset
    assert c.socket.error == errno.ECONNRESET
    assert lab.program.events()
    c.socket.close()
    lab.run()
    assert c.socket.is_free
    c.expects_nothing()


def test_the_reset_of_an_abort_follows_all_that_was_sent():
    """Section 3.10.5, also after a timeout has stepped back: the peer believes it at the next number only."""
    lab = Lab()
    c = lab.accepted()
    c.socket.send(b"x" * 4380)
    lab.run()
    c.receives()
    lab.wait(0.3)
    assert c.expects("A", seq=1).length == 1460
    c.socket.abort()
    lab.run()
    c.expects("RA", seq=4381)
