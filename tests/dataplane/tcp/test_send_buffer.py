"""The send buffer follows the congestion window (Linux: tcp_sndbuf_expand), unless SO_SNDBUF says how large it is."""

from tests.support.crash import CrashWire
from tests.support.lab import Connection, Lab
from tests.support.layout import neat

RING = 1 << 20
SEGMENT = 4096 + 256  # a segment of 1460 bytes costs so much on Linux
INITIAL = 2 * 10 * SEGMENT


def filled(window: int = 65535, text: int = RING) -> tuple[Lab, Connection]:
    lab = Lab(rings=RING)
    c = lab.accepted(80, window=window)
    assert c.socket.replica.send_most == INITIAL == 87040
    c.socket.send(b"x" * text)
    lab.run()
    return lab, c


def acknowledge(lab: Lab, c: Connection) -> int:
    """All that was sent. Bytes that are acknowledged now."""
    sent = int(c.socket.replica.tx_sent)
    c.sends(ack=1 + sent, window=65535)
    lab.run()
    return sent


def test_it_grows_with_the_congestion_window_and_never_beyond_the_ring():
    lab, c = filled()
    sizes = []
    for _ in range(8):
        acknowledge(lab, c)
        sizes.append(int(c.socket.replica.send_most))
        assert sizes[-1] == min(RING, max(INITIAL, 2 * (c.tcb["cc"]["cwnd"] // 1460) * SEGMENT))
    assert sizes == sorted(sizes)
    assert INITIAL < sizes[0] < sizes[1] < RING == Lab(rings=RING).program.header.tx_size


def test_it_does_not_grow_for_a_program_that_sends_little():
    lab, c = filled(text=0)
    for _ in range(20):
        c.socket.send(b"x" * 3000)
        lab.run()
        acknowledge(lab, c)
    assert c.socket.replica.send_most == INITIAL


def test_it_never_falls_with_the_congestion_window():
    lab, c = filled()
    for _ in range(2):
        acknowledge(lab, c)
    grown, cwnd = int(c.socket.replica.send_most), c.tcb["cc"]["cwnd"]
    lab.wait(2)  # nothing is acknowledged: a retransmission timeout
    assert c.tcb["cc"]["cwnd"] < cwnd
    assert c.socket.replica.send_most == grown > INITIAL


def test_the_next_connection_in_the_slot_begins_anew():
    lab, c = filled()
    for _ in range(3):
        acknowledge(lab, c)
    number = c.socket.number
    assert c.socket.replica.send_most > INITIAL
    c.sends("R", seq=1)
    lab.run()
    c.socket.close()
    lab.run()
    for _ in range(20):
        other = lab.accepted(80, listener=c.listener)
        if other.socket.number == number:
            assert other.socket.replica.send_most == INITIAL
            return
    raise AssertionError("the slot was not used again")


def test_the_program_is_told_when_a_third_of_it_is_free():
    lab, c = filled(window=65535, text=INITIAL)
    lab.program.events()
    told, due = [], []
    for n in range(1, 6):
        c.sends(ack=1 + n * 1460, window=65535)
        lab.run()
        limit = int(c.socket.replica.send_most)
        due.append(INITIAL - n * 1460 <= limit - limit // 3)
        told.append((neat.OP_LOOK, c.socket.number, 1) in lab.program.events())
    first = due.index(True)
    assert first > 1
    assert told[: first + 1] == due[: first + 1]


def test_who_waits_is_told_also_if_all_the_room_is_growth():
    """What waits was too much for the old limit, and is little for the new one, before and after the acknowledgment."""
    lab = Lab(rings=RING)
    c = lab.accepted(80, window=65535)
    c.socket.send(b"x" * 70_000)  # more than two thirds of what there is at first
    lab.run()
    lab.program.events()
    told = []
    for _ in range(3):
        waiting = int(c.socket.mine.tx_head) - int(c.socket.replica.tx_tail)
        acknowledge(lab, c)
        told.append((neat.OP_LOOK, c.socket.number, 1) in lab.program.events())
        assert waiting > 0
    assert int(c.socket.replica.send_most) * 2 // 3 > 70_000
    assert any(told)


def test_it_outlives_the_replica():
    wire = CrashWire(rings=RING)
    client, server = wire.connect()
    text = bytes(range(256)) * 1024
    assert client.send(text) == len(text)
    sizes, received = [], b""
    wire.die("a", "sealed", 5)

    def done() -> bool:
        nonlocal received
        received += server.recv()
        sizes.append(int(client.replica.send_most))
        return len(received) == len(text)

    wire.until(done)
    assert wire.deaths == 1
    assert received == text
    assert sizes == sorted(sizes)
    assert INITIAL == sizes[0] < sizes[-1]
