"""How isolated the replicas and spares of a running stack are, as the kernel tells it in /proc.

The processes themselves are not asked, nor is what they were told to do. Whoever looks needs the right to read the
memory maps of others (CAP_SYS_PTRACE), which root has. The command line looks, so that the manager need not.
"""

import grp
import os
import pwd
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neatstack.control.errors import NeatError

NAMESPACES = ("net", "ipc", "mnt", "pid", "user", "uts", "cgroup")
SECCOMP = {"0": "none", "1": "strict", "2": "filter"}
CAPABILITY_SETS = {
    "CapInh": "inheritable",
    "CapPrm": "permitted",
    "CapEff": "effective",
    "CapBnd": "bounding",
    "CapAmb": "ambient",
}
CAPABILITIES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin "
    "sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override "
    "mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
).split()  # by number, linux/capability.h
FIXED = 2  # ET_EXEC: an ELF file that is always mapped where it says
ATTEMPTS, PAUSE = 30, 0.1  # a dead replica is replaced meanwhile; seconds

File = tuple[str, int]  # device and inode
Report = dict[str, Any]


class Gone(Exception):
    """A process has ended; `args[0]` says which."""


@dataclass(frozen=True)
class Mapping:
    """One line of /proc/PID/maps."""

    start: int
    end: int
    rights: str  # such as r-xp; the last is s when shared, p when private
    device: str
    inode: int
    path: str

    @property
    def file(self) -> File:
        return self.device, self.inode

    @property
    def is_writable_and_shared(self) -> bool:
        return self.rights[1] == "w" and self.rights[3] == "s"

    @property
    def name(self) -> str:
        """The path, or the name that memory without a path was made with."""
        return self.path.removesuffix(" (deleted)").removeprefix("/memfd:")


@dataclass(frozen=True)
class Member:
    """A process that takes part in a stack. `isolated`: a replica or a spare."""

    name: str
    pid: int
    isolated: bool
    state: str = ""


def parse_maps(text: str) -> list[Mapping]:
    """/proc/PID/maps."""
    mappings = []
    for line in text.splitlines():
        places, rights, _, device, inode, *path = line.split(maxsplit=5)
        start, end = (int(place, 16) for place in places.split("-"))
        mappings.append(Mapping(start, end, rights, device, int(inode), path[0] if path else ""))
    return mappings


def parse_status(text: str) -> dict[str, Any]:
    """What /proc/PID/status says of rights. Users and groups are four each: real, effective, saved, for files."""
    fields = dict(re.findall(r"^(\w+):[ \t]*(.*)$", text, re.MULTILINE))
    return {
        "users": [_named(int(number), _user) for number in fields["Uid"].split()],
        "groups": [_named(int(number), _group) for number in fields["Gid"].split()],
        "supplementary_groups": [_named(int(number), _group) for number in fields["Groups"].split()],
        "capabilities": {name: capabilities(int(fields[key], 16)) for key, name in CAPABILITY_SETS.items()},
        "seccomp": SECCOMP.get(fields["Seccomp"], fields["Seccomp"]),
        "no_new_privileges": fields["NoNewPrivs"] == "1",
    }


def capabilities(mask: int) -> list[str]:
    """The names of a set of capabilities."""
    numbers = (number for number in range(mask.bit_length()) if mask >> number & 1)
    return [f"cap_{CAPABILITIES[number] if number < len(CAPABILITIES) else number}" for number in numbers]


def parse_core_limit(text: str) -> int | None:
    """The hard limit of a core file in bytes, from /proc/PID/limits; None: unlimited."""
    (hard,) = re.findall(r"^Max core file size +\S+ +(\S+)", text, re.MULTILINE)
    return None if hard == "unlimited" else int(hard)


def parse_interfaces(text: str) -> list[str]:
    """The network interfaces of /proc/PID/net/dev."""
    return [line.partition(":")[0].strip() for line in text.splitlines()[2:]]


def layout(mappings: Iterable[Mapping], executable: str) -> dict[str, int]:
    """Where the parts of an address space begin; the stack begins at its upper end, and grows downwards."""
    starts: dict[str, int] = {}
    for mapping in mappings:
        file = os.path.basename(mapping.path)
        if mapping.path == executable:
            starts.setdefault("executable", mapping.start)
        elif file.startswith("libc.so") or re.fullmatch(r"libc-[\d.]+\.so", file):
            starts.setdefault("libc", mapping.start)
        elif re.fullmatch(r"replica\..*so", file):
            starts.setdefault("data_plane", mapping.start)
        elif mapping.path == "[heap]":
            starts.setdefault("heap", mapping.start)
        elif mapping.path == "[stack]":
            starts["stack"] = mapping.end
    return starts


def agreements(layouts: dict[str, dict[str, int]]) -> list[Report]:
    """The parts that two or more processes have at the same address. `layouts` are by the process's name."""
    found: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for name, parts in layouts.items():
        for part, address in parts.items():
            found[part, address].append(name)
    return [
        {"part": part, "address": address, "processes": names}
        for (part, address), names in found.items()
        if len(names) > 1
    ]


def users_of(maps: dict[str, list[Mapping]]) -> dict[File, dict[str, str]]:
    """Who maps each file that somebody can write in memory that others see, and whether to read (r), write (w) or both.

    `maps` are the mappings by the process's name. What is mapped privately counts too: it shows what others write.
    """
    written = {mapping.file for mappings in maps.values() for mapping in mappings if mapping.is_writable_and_shared}
    users: dict[File, dict[str, str]] = {file: {} for file in written}
    for name, mappings in maps.items():
        for mapping in mappings:
            if mapping.file in users:
                rights = users[mapping.file].get(name, "") + ("r" if mapping.rights[0] == "r" else "")
                rights += "w" if mapping.is_writable_and_shared else ""
                users[mapping.file][name] = "".join(sorted(set(rights)))
    return users


def shared_by_isolated(users: dict[File, dict[str, str]], names: dict[File, str], isolated: set[str]) -> list[Report]:
    """The memory that two of the processes `isolated` map, and one of these can write: there must be none."""
    found = []
    for file, by in sorted(users.items()):
        sharers = {name: rights for name, rights in by.items() if name in isolated}
        if len(sharers) > 1 and any("w" in rights for rights in sharers.values()):
            found.append({"name": names[file], "device": file[0], "inode": file[1], "processes": sharers})
    return found


def members(status: dict[str, Any]) -> list[Member]:
    """Everybody that the answer to `status` names."""
    spares = enumerate(status.get("spares", []))
    return [
        *(Member(f"replica {r['id']}", r["pid"], True, r["state"]) for r in status["replicas"]),
        *(Member(f"spare {i}", spare["pid"], True, "ready" if spare["ready"] else "starting") for i, spare in spares),
        *(Member(name, process["pid"], False) for name, process in status["processes"].items()),
        *(Member(f"program {p['pid']} ({p['name']})", p["pid"], False) for p in status["programs"] if p["pid"]),
    ]


def examine(ask: Callable[[], dict[str, Any]]) -> Report:
    """The whole report. `ask` gives the answer to `status`; it is asked until nobody was replaced meanwhile.

    Otherwise a dead replica's memory would be seen twice: in its own map, and in that of the spare which took it over.
    Raises NeatError.
    """
    what = "a replica"
    for _ in range(ATTEMPTS):
        before = members(status := ask())
        try:
            report = look(status["name"], before)
        except Gone as gone:
            what = gone.args[0]
            time.sleep(PAUSE)
            continue
        after = members(ask())
        if [m for m in before if m.isolated] == [m for m in after if m.isolated]:
            return report
    raise NeatError(f"{what} was replaced while it was looked at; try again")


def look(stack: str, everybody: list[Member]) -> Report:
    """The report on those members that are isolated. Raises Gone, and NeatError when there is no right to look."""
    isolated = [member for member in everybody if member.isolated]
    manager = next(member.pid for member in everybody if member.name == "manager")
    maps = {}
    for member in everybody:
        try:
            maps[member.name] = parse_maps(_read(member, "maps"))
        except Gone:
            if member.isolated:
                raise
    users = users_of(maps)
    names = {mapping.file: mapping.name for mappings in maps.values() for mapping in mappings}
    layouts = {member.name: layout(maps[member.name], _link(member, "exe")) for member in isolated}
    return {
        "name": stack,
        "processes": [
            {
                "process": member.name,
                "pid": member.pid,
                "state": member.state,
                **rights(member, manager),
                "memory": memory(member.name, maps[member.name], users),
                "layout": layouts[member.name],
            }
            for member in isolated
        ],
        "shared_by_replicas": shared_by_isolated(users, names, {member.name for member in isolated}),
        "same_addresses": agreements(layouts),
        "fixed_executable": any(_is_fixed(member) for member in isolated),
    }


def rights(member: Member, manager: int) -> Report:
    """What the process may do, and which namespaces are its own."""
    status = parse_status(_read(member, "status"))
    namespaces = {kind: _namespace(member, kind, manager) for kind in NAMESPACES}
    if namespaces["net"] == "own" and set(parse_interfaces(_read(member, "net/dev"))) <= {"lo"}:
        namespaces["net"] = "own, empty"
    return {
        **status,
        "dumpable": _is_dumpable(member, status["users"][1]["id"]),
        "core_limit": parse_core_limit(_read(member, "limits")),
        "namespaces": namespaces,
    }


def memory(name: str, mappings: list[Mapping], users: dict[File, dict[str, str]]) -> list[Report]:
    """What the process can write in memory that others may see, and who else maps it."""
    sizes: defaultdict[File, int] = defaultdict(int)
    for mapping in mappings:
        if mapping.is_writable_and_shared:
            sizes[mapping.file] += mapping.end - mapping.start
    names = {mapping.file: mapping.name for mapping in mappings}
    return [
        {
            "name": names[file],
            "device": file[0],
            "inode": file[1],
            "size": size,  # bytes
            "shared_with": {other: how for other, how in users[file].items() if other != name},
        }
        for file, size in sizes.items()
    ]


def _read(member: Member, file: str) -> str:
    """A file of /proc/PID. A process that has ended but is still there to be waited for has no memory any more."""
    try:
        text = Path(f"/proc/{member.pid}/{file}").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise _gone(member) from None
    except PermissionError:
        raise _forbidden(member) from None
    if not text:
        raise _gone(member)
    return text


def _link(member: Member, link: str, pid: int | None = None) -> str:
    try:
        return os.readlink(f"/proc/{pid or member.pid}/{link}")
    except (FileNotFoundError, ProcessLookupError):
        raise _gone(member) from None
    except PermissionError:
        raise _forbidden(member) from None


def _gone(member: Member) -> Gone:
    return Gone(f"{member.name} (pid {member.pid})")


def _forbidden(member: Member) -> NeatError:
    return NeatError(f"no right to look into {member.name} (pid {member.pid}); run as root, with CAP_SYS_PTRACE")


def _namespace(member: Member, kind: str, manager: int) -> str:
    return "shared" if _link(member, f"ns/{kind}") == _link(member, f"ns/{kind}", manager) else "own"


def _is_dumpable(member: Member, user: int) -> bool | None:
    """The files in /proc/PID of one that is not dumpable belong to root (proc(5)). None: root's own, so unknown."""
    try:
        owner = os.stat(f"/proc/{member.pid}/status").st_uid
    except FileNotFoundError:
        raise _gone(member) from None
    return None if user == 0 else owner == user


def _is_fixed(member: Member) -> bool:
    """Is its executable linked to be at one address always?"""
    try:
        with open(f"/proc/{member.pid}/exe", "rb") as file:
            return int.from_bytes(file.read(18)[16:], "little") == FIXED
    except FileNotFoundError:
        raise _gone(member) from None


def _named(number: int, find: Callable[[int], str]) -> Report:
    try:
        return {"id": number, "name": find(number)}
    except KeyError:
        return {"id": number, "name": str(number)}


def _user(number: int) -> str:
    return pwd.getpwuid(number).pw_name


def _group(number: int) -> str:
    return grp.getgrgid(number).gr_name
