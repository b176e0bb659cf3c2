"""When text has left, was acknowledged, and has come, for programs that want to know (NEAT_FLAG_TIMES)."""

from typing import Any

from tests.support.lab import Connection, Lab
from tests.support.layout import neat

SECOND = 1_000_000_000


def timed(lab: Lab) -> tuple[Connection, Any]:
    c = lab.connected()
    c.socket.set_flags(c.socket.flags | neat.FLAG_TIMES | neat.FLAG_NODELAY)
    lab.run()
    times = c.socket.times
    times.head = 0
    times.generation = c.socket.mine.generation
    return c, times


def send(c: Connection, times: Any, data: bytes) -> None:
    """As the library does: the key before the text."""
    times.keys[times.head % neat.TIMES].at = c.socket.mine.tx_head + len(data)
    times.head += 1
    c.socket.send(data)


def test_each_send_is_told_when_its_last_byte_has_left_and_when_it_was_acknowledged() -> None:
    lab = Lab()
    c, times = timed(lab)
    window = c.tcb["cc"]["cwnd"]
    first = lab.time
    send(c, times, b"a" * 100)
    send(c, times, b"b" * window)
    lab.run()
    assert (times.sent, times.acked) == (1, 0), "the window holds back the end of the second"
    c.socket.program.events()
    lab.wait(0.02)
    c.sends(ack=1 + 100)
    lab.run()
    assert [event[1] for event in c.socket.program.events()] == [c.socket.number]
    assert (times.sent, times.acked) == (2, 1)
    lab.wait(0.02)
    c.sends(ack=1 + 100 + window)
    lab.run()
    assert (times.sent, times.acked) == (2, 2)
    told = [[each.sent_ns / SECOND, each.acked_ns / SECOND] for each in times.times[:2]]
    assert [[round(at - told[0][0], 2) for at in each] for each in told] == [[0, 0.02], [0.02, 0.04]]
    assert round(lab.time - first, 2) == 0.04


def test_the_last_text_that_has_come_has_its_time() -> None:
    lab = Lab()
    c, _ = timed(lab)
    assert not c.socket.replica.rx_time_ns
    c.sends(data=b"x")
    lab.run()
    came = c.socket.replica.rx_time_ns
    assert came
    lab.wait(1)
    c.sends(ack=1)
    lab.run()
    assert c.socket.replica.rx_time_ns == came
    c.sends(seq=2, data=b"x")
    lab.run()
    assert c.socket.replica.rx_time_ns > came


def test_nothing_is_told_unasked() -> None:
    lab = Lab()
    c = lab.accepted()
    send(c, c.socket.times, b"x")
    lab.run()
    c.sends(ack=2, data=b"y")
    lab.run()
    assert not c.socket.times.sent and not c.socket.replica.rx_time_ns


def test_another_use_of_the_slot_begins_anew() -> None:
    lab = Lab()
    c, times = timed(lab)
    send(c, times, b"x")
    lab.run()
    c.sends(ack=2)
    assert times.acked == 1
    c.socket.abort()
    lab.run()
    slot = c.socket.number
    again, times = timed(lab)
    assert again.socket.number == slot
    again.socket.send(b"y")
    lab.run()
    assert (times.sent, times.acked) == (0, 0), "not what was told of the connection before"


def test_made_up_keys_do_no_harm() -> None:
    """A head that no library puts there, ends that never come: no more work than there are keys."""
    lab = Lab()
    c, times = timed(lab)
    times.head = 0xFFFFFF00
    for key in times.keys:
        key.at = 0x80000000
    times.keys[neat.TIMES - 1].at = 0
    c.socket.send(b"x")
    lab.run()
    c.sends(ack=2)
    lab.run()
    assert times.sent == times.acked == times.head - neat.TIMES
    assert c.state == "ESTABLISHED"
