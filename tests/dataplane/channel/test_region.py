"""The state region: laid out once, checked when it is taken up again, and read from outside."""

import ctypes
import mmap
import struct

import pytest

from neatstack.dataplane import inspect
from neatstack.dataplane.channel.region import region_size
from neatstack.dataplane.engine import Engine
from tests.support.lab import PEER, Lab


def resident(memory: mmap.mmap) -> int:
    """Bytes of a private mapping that were ever touched, by the kernel's own account."""
    needle = hex(memory_address(memory))[2:]
    with open("/proc/self/smaps") as lines:
        for line in lines:
            if line.startswith(needle):
                for detail in lines:
                    if detail.startswith("Rss:"):
                        return int(detail.split()[1]) * 1024
    raise AssertionError("the mapping is not there")


def memory_address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def test_a_new_region_is_hardly_touched():
    region = mmap.mmap(-1, region_size(100_000))
    engine = Engine(region=region, max_tcbs=100_000)
    assert resident(region) < 1 << 20
    del engine


def test_what_is_not_a_region_is_refused():
    size = region_size(64)
    with pytest.raises(OSError, match="region"):
        Engine(region=mmap.mmap(-1, size - 4096), max_tcbs=64)
    for at, value in [(0, 1), (4, 99), (16, 1), (24, 63)]:  # magic, version, size, max_tcbs
        region = mmap.mmap(-1, size)
        engine = Engine(region=region, max_tcbs=64)
        del engine
        struct.pack_into("<I", region, at, value)
        with pytest.raises(ValueError, match="region"):
            Engine(region=region, max_tcbs=64)


@pytest.mark.parametrize("max_tcbs", [0, 1, 1 << 23])
def test_impossible_sizes_are_refused(max_tcbs):
    with pytest.raises(ValueError, match="max_tcbs"):
        region_size(max_tcbs)


def test_a_region_is_read_from_outside():
    region = mmap.mmap(-1, region_size(64))
    lab = Lab(region=region, max_tcbs=64)
    c = lab.accepted(80)
    c.sends(data=b"hello")
    outside = bytes(region)
    [connection] = inspect.connections(outside)
    assert (connection["state"], connection["local_port"]) == ("ESTABLISHED", 80)
    assert (connection["remote_address"], connection["remote_port"]) == (PEER, c.peer_port)
    assert (connection["channel"], connection["accepted"], connection["bytes_in"]) == (1, True, 5)
    [listener] = inspect.listeners(outside)
    assert (listener["port"], listener["channels"], listener["waiting"]) == (80, [1], 0)
    counters = inspect.counters(outside)
    assert counters["connections"] == 1 and counters["packets_in"] == 3
    assert all(count == 0 for name, count in counters.items() if name.startswith("drop_"))
    assert inspect.connections(outside, 0) == []


@pytest.mark.parametrize("junk", [b"", bytes(100), bytes(1 << 20), b"\xff" * (1 << 20)])
def test_what_is_no_region_cannot_be_inspected(junk):
    for look in (inspect.counters, inspect.connections, inspect.listeners):
        with pytest.raises(ValueError, match="not a state region"):
            look(junk)


def test_the_next_incarnation_keeps_counters_and_key():
    region = mmap.mmap(-1, region_size(64))
    lab = Lab(region=region, max_tcbs=64)
    lab.accepted(80)
    packets = lab.engine.counters()["packets_in"]
    lab = Lab(region=region, max_tcbs=64, incarnation=2)
    assert lab.engine.counters()["packets_in"] == packets
    assert lab.engine.connections() == [] and lab.engine.listeners() == []
