"""What /proc says, read from text that was taken there."""

from neatstack.control import isolation
from neatstack.control.isolation import Mapping

MAPS = """\
00400000-00420000 r--p 00000000 fe:00 1185                               /usr/bin/python3.11
00420000-006bf000 r-xp 00020000 fe:00 1185                               /usr/bin/python3.11
0a3f1000-0a4d6000 rw-p 00000000 00:00 0                                  [heap]
7f4fa0000000-7f4fa2692000 rw-s 00000000 00:01 1040                       /memfd:neat-region-0 (deleted)
7f4fa3000000-7f4fa3001000 r--s 00000000 00:01 1033                       /memfd:neat-stack (deleted)
7f4fa4000000-7f4fa4026000 r--p 00000000 fe:00 3001                       /usr/lib/x86_64-linux-gnu/libc.so.6
7f4fa4026000-7f4fa417c000 r-xp 00026000 fe:00 3001                       /usr/lib/x86_64-linux-gnu/libc.so.6
7f4fa5000000-7f4fa5042000 r-xp 00000000 fe:00 9 /a b/replica.cpython-311-x86_64-linux-gnu.so
7f4fa6000000-7f4fa6001000 rw-p 00000000 00:00 0
7ffd1c9e0000-7ffd1ca01000 rw-p 00000000 00:00 0                          [stack]
"""
STATUS = """\
Name:\tneat-replica-0
State:\tS (sleeping)
Uid:\t65534\t65534\t65534\t65534
Gid:\t65534\t0\t4000000000\t65534
Groups:\t{groups}
NSpid:\t4711
CapInh:\t0000000000000000
CapPrm:\t0000000000000401
CapEff:\t0000000000000000
CapBnd:\t000003ffffffffff
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t1
"""
LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max core file size        0                    {hard}                    bytes
Max resident set          unlimited            unlimited            bytes
"""
DEVICES = """\
Inter-|   Receive                        |  Transmit
 face |bytes    packets errs drop fifo   |bytes    packets errs drop fifo
    lo:       0       0    0    0    0           0       0    0    0    0
 neat0:1234567       8    0    0    0           0       0    0    0    0
"""


def mapping(file: int, rights: str) -> Mapping:
    return Mapping(0, 4096, rights, "00:01", file, f"/memfd:memory-{file} (deleted)")


def test_maps() -> None:
    mappings = isolation.parse_maps(MAPS)
    assert len(mappings) == 10
    region = mappings[3]
    assert (region.start, region.end, region.file) == (0x7F4FA0000000, 0x7F4FA2692000, ("00:01", 1040))
    assert region.name == "neat-region-0"
    assert [m.name for m in mappings if m.is_writable_and_shared] == ["neat-region-0"]
    assert mappings[7].path == "/a b/replica.cpython-311-x86_64-linux-gnu.so"
    assert mappings[8].path == ""


def test_layout() -> None:
    assert isolation.layout(isolation.parse_maps(MAPS), "/usr/bin/python3.11") == {
        "executable": 0x400000,
        "heap": 0x0A3F1000,
        "libc": 0x7F4FA4000000,
        "data_plane": 0x7F4FA5000000,
        "stack": 0x7FFD1CA01000,
    }


def test_agreements() -> None:
    layouts = {"a": {"libc": 1, "heap": 5}, "b": {"libc": 2, "heap": 5}, "c": {"libc": 1, "heap": 6, "stack": 5}}
    assert isolation.agreements(layouts) == [
        {"part": "libc", "address": 1, "processes": ["a", "c"]},
        {"part": "heap", "address": 5, "processes": ["a", "b"]},
    ]
    assert isolation.agreements({"a": layouts["a"]}) == []


def test_status() -> None:
    status = isolation.parse_status(STATUS.format(groups="0 4000000000 "))
    assert [user["id"] for user in status["users"]] == [65534] * 4
    assert status["users"][0]["name"] == "nobody"
    assert [group["id"] for group in status["groups"]] == [65534, 0, 4000000000, 65534]
    assert status["supplementary_groups"] == [
        {"id": 0, "name": "root"},
        {"id": 4000000000, "name": "4000000000"},  # nobody has given it a name
    ]
    held = status["capabilities"]
    assert (held["permitted"], held["effective"]) == (["cap_chown", "cap_net_bind_service"], [])
    assert len(held["bounding"]) == 42 and held["bounding"][-2:] == ["cap_checkpoint_restore", "cap_41"]
    assert (status["seccomp"], status["no_new_privileges"]) == ("filter", True)
    assert isolation.parse_status(STATUS.format(groups=""))["supplementary_groups"] == []


def test_core_limit() -> None:
    assert isolation.parse_core_limit(LIMITS.format(hard="0")) == 0
    assert isolation.parse_core_limit(LIMITS.format(hard="unlimited")) is None


def test_interfaces() -> None:
    assert isolation.parse_interfaces(DEVICES) == ["lo", "neat0"]


def test_who_shares() -> None:
    """File 1: two replicas write. 2: a replica and a program. 3: read by all. 4: one writes, another looks."""
    maps = {
        "replica 0": [mapping(1, "rw-s"), mapping(2, "rw-s"), mapping(3, "r--s"), mapping(4, "-w-s")],
        "replica 1": [mapping(1, "r--s"), mapping(1, "rw-s"), mapping(3, "r--s"), mapping(4, "r--p")],
        "program": [mapping(2, "rw-s"), mapping(3, "r--s")],
    }
    users = isolation.users_of(maps)
    assert users == {
        ("00:01", 1): {"replica 0": "rw", "replica 1": "rw"},
        ("00:01", 2): {"replica 0": "rw", "program": "rw"},
        ("00:01", 4): {"replica 0": "w", "replica 1": "r"},
    }
    names = {m.file: m.name for mappings in maps.values() for m in mappings}
    found = isolation.shared_by_isolated(users, names, {"replica 0", "replica 1"})
    assert [(entry["name"], entry["processes"]) for entry in found] == [
        ("memory-1", {"replica 0": "rw", "replica 1": "rw"}),
        ("memory-4", {"replica 0": "w", "replica 1": "r"}),
    ]
    assert isolation.shared_by_isolated(users, names, {"replica 0"}) == []


def test_memory_of_one() -> None:
    maps = {"replica 0": [mapping(2, "rw-s"), mapping(2, "rw-s"), mapping(3, "r--s")], "program": [mapping(2, "r--s")]}
    (memory,) = isolation.memory("replica 0", maps["replica 0"], isolation.users_of(maps))
    assert (memory["name"], memory["size"], memory["shared_with"]) == ("memory-2", 8192, {"program": "r"})
    assert isolation.memory("program", maps["program"], isolation.users_of(maps)) == []


def test_who_takes_part() -> None:
    """Spares too, also when the manager is too old to have any; a child that nobody has claimed is no process yet."""
    status = {
        "replicas": [{"id": 0, "pid": 5, "state": "running"}],
        "processes": {"manager": {"pid": 6}},
        "programs": [{"pid": 7, "name": "nginx"}, {"pid": 0, "name": ""}],
    }
    assert [(m.name, m.pid, m.isolated) for m in isolation.members(status)] == [
        ("replica 0", 5, True),
        ("manager", 6, False),
        ("program 7 (nginx)", 7, False),
    ]
    status["spares"] = [{"pid": 8, "ready": False, "resident": 1}]
    assert isolation.members(status)[1] == isolation.Member("spare 0", 8, True, "starting")
