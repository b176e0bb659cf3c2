"""make conformance: packetdrill's scripts against the kernel's stack and this one, side by side.

packetdrill (https://github.com/google/packetdrill) is not part of this project. It has to be there, built; its scripts
say what Linux does, call by call and segment by segment. In its remote mode one half, under `neat run`, makes the
calls, and the other, at the far end of the TAP interface, sends and checks the segments.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from neatstack.experiment.netns import Lab, LabError, Stack, environment, run

KNOWN = Path(__file__).with_suffix(".toml")
SECONDS = 40  # of one script
TRIES = 2  # a busy machine misses moments
LARGEST = 20000  # bytes of IP packet: scripts send at once what a device with segmentation offload takes
WIRE_PORT = 8081  # of the control connection of packetdrill's two halves
SWITCH = re.compile(r"\btcp_(\w+)=\"?([\w-]+)")
ECN = {"0": "off", "1": "active", "2": "passive"}
FASTOPEN = 0x607  # what this stack knows of the bits
# The kernel's switches as all scripts take them to be.
SWITCHES = {
    "ecn": "0",
    "timestamps": "1",
    "sack": "1",
    "slow_start_after_idle": "0",
    "fastopen": "0x70403",
    "fastopen_key": "a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4",
}


@dataclass(frozen=True)
class Family:
    """How packetdrill runs scripts with an address family; `skipped` are those of the other one."""

    name: str
    skipped: str
    kernel: tuple[str, ...]
    stack: tuple[str, ...]

    @property
    def definitions(self) -> list[str]:
        level = "IP" if self.name == "ipv4" else "IPV6"
        cookie = "c1d1e9742a47a9bc" if self.name == "ipv6" else "3021b9d889017eeb"
        values = {
            "TFO_COOKIE": cookie,
            "CODE": "host_unreachable",
            "CMSG_LEVEL_IP": f"SOL_{level}",
            "CMSG_TYPE_RECVERR": f"{level}_RECVERR",
        }
        return [word for name, value in values.items() for word in ("-D", f"{name}={value}")]


def addresses(local: str, gateway: str, remote: str, netmask: str = "") -> tuple[str, ...]:
    mask = (f"--netmask_ip={netmask}",) if netmask else ()
    return f"--local_ip={local}", f"--gateway_ip={gateway}", f"--remote_ip={remote}", *mask


# The addresses that the cookies in the scripts are of. The kernel's end of a TUN interface has the same address as the
# gateway; a stack's gateway is the kernel.
OWN4, GATEWAY4, REMOTE4 = "192.168.0.1", "192.168.0.2", "192.0.2.1"
OWN6, GATEWAY6, REMOTE6 = "fd3d:a0b:17d6::1", "fd3d:a0b:17d6::2", "fd3d:fa7b:d17d::1"
ADDRESSES = ["--gateway", GATEWAY4, "--address", f"{OWN4}/16", "--host-address", f"{GATEWAY4}/16"]
ADDRESSES += ["--gateway", GATEWAY6, "--address", f"{OWN6}/64", "--host-address", f"{GATEWAY6}/64"]
KERNEL4 = addresses(OWN4, OWN4, REMOTE4, "255.255.0.0")
STACK4 = addresses(OWN4, GATEWAY4, REMOTE4, "255.255.0.0")
KERNEL6 = ("--mtu=1520", *addresses(OWN6, "fd3d:a0b:17d6:8888::1", REMOTE6))
STACK6 = ("--mtu=1520", *addresses(OWN6, GATEWAY6, REMOTE6))
FAMILIES = {
    "ipv4": Family("ipv4", "v6.pkt", KERNEL4, STACK4),
    "ipv6": Family("ipv6", "v4.pkt", KERNEL6, STACK6),
    "mapped": Family("ipv4-mapped-ipv6", "v6.pkt", KERNEL4, STACK4),
}


def configuration(script: Path) -> str:
    """The options of a stack that are the switches of the kernel that a script sets; buffers for the window scale."""
    asked = SWITCHES | {name: value for name, value in SWITCH.findall(script.read_text()) if name in SWITCHES}
    booleans = {name: "false" if asked[name] == "0" else "true" for name in SWITCHES if SWITCHES[name] in ("0", "1")}
    values = booleans | {
        "ecn": f'"{ECN[asked["ecn"]]}"',
        "fastopen": int(asked["fastopen"], 0) & FASTOPEN,
        "fastopen_key": f'"{asked["fastopen_key"]}"',
        "receive_buffer": 8 << 20,
        "send_buffer": 4 << 20,
        "sockets": 1024,
    }
    return "".join(f"{name} = {value}\n" for name, value in values.items())


class Place:
    """Where scripts are run. None is what run() returns of a script that passes, else packetdrill's complaint."""

    def __init__(self, packetdrill: Path, family: Family, tolerance: int):
        self.common = [str(packetdrill), f"--ip_version={family.name}", f"--tolerance_usecs={tolerance}"]
        self.common += ["--send_omit_free", *family.definitions]

    def tried(self, script: Path) -> str | None:
        complaint = None
        for _ in range(TRIES):
            complaint = self.run(script)
            if complaint is None:
                return None
        return complaint

    def run(self, script: Path) -> str | None:
        raise NotImplementedError


class Kernel(Place):
    """Each script in a network namespace of its own, over a TUN interface that packetdrill makes."""

    def __init__(self, packetdrill: Path, family: Family, tolerance: int):
        super().__init__(packetdrill, family, tolerance)
        self.options = family.kernel

    def run(self, script: Path) -> str | None:
        inside = 'ip link set lo up; exec "$0" "$@"'
        argv = ["unshare", "--net", "sh", "-c", inside, *self.common, *self.options, script.name]
        return complaint_of(argv, script, environment())


class Neat(Place):
    """Each script on a stack of its own, which knows nothing of the script's peer yet.

    packetdrill's half there sends the other one the hardware address of its interface, to put on the frames to come: a
    device that carries nothing stands for it, with the address of the stack.
    """

    def __init__(self, packetdrill: Path, family: Family, tolerance: int, lab: Lab):
        super().__init__(packetdrill, family, tolerance)
        self.lab, self.options = lab, [f"--wire_server_port={WIRE_PORT}", *family.stack]

    def run(self, script: Path) -> str | None:
        with self.lab.scope():
            stack = self.lab.stack(replicas=1, config=configuration(script), options=ADDRESSES)
            stack.host.spawn(*self.common, "--wire_server", "--wire_server_dev=neat0", *self.options)
            stack.host.ip("link", "set", Stack.device, "mtu", LARGEST)
            device = f"ip tuntap add tun0 mode tap; ip link set tun0 address {hardware_address(stack)} up"
            namespace = stack.programs.prefix[: stack.programs.prefix.index(sys.executable)]
            run([*namespace, "sh", "-c", device])
            argv = [*self.common, "--wire_client", "--wire_client_dev=tun0", "--wire_server_at", Stack.host_address]
            return complaint_of(stack.programs.argv(*argv, *self.options, script.name), script, stack.env)


def hardware_address(stack: Stack) -> str:
    stack.host.run("ping", "-c1", "-W2", OWN4, check=False)
    found = re.search(r"lladdr (\S+)", stack.host.run("ip", "neighbour", "show", OWN4))
    if not found:
        raise LabError("the stack does not answer ARP")
    return found[1]


def complaint_of(argv: list[str], script: Path, env: dict[str, str]) -> str | None:
    limited = ["timeout", "--kill-after=2", str(SECONDS), *argv]
    done = subprocess.run(
        limited, cwd=script.parent, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode == 0:
        return None
    lines = done.stdout.decode(errors="replace").splitlines()
    said = [line for line in lines if line.startswith((script.name, "script packet", "actual packet", "Assert"))]
    return " ".join(said) or f"exit status {done.returncode} {' '.join(lines[-3:])}"


def scripts(directory: Path, pattern: str, family: Family) -> Iterator[Path]:
    for script in sorted(directory.rglob("*.pkt")):
        if re.search(pattern, str(script.relative_to(directory))) and not script.name.endswith(family.skipped):
            yield script


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("packetdrill", type=Path, help="the directory with a built packetdrill and scripts: gtests/net")
    parser.add_argument("--only", default="", metavar="REGEX", help="scripts whose path under tcp/ has it")
    parser.add_argument("--family", choices=FAMILIES, default="ipv4")
    parser.add_argument("--tolerance", type=int, default=14000, metavar="US", help="of moments (14000)")
    asked = parser.parse_args(argv)
    asked.program = asked.packetdrill.resolve() / "packetdrill" / "packetdrill"
    if not asked.program.is_file():
        parser.error(f"{asked.program}: no such file; name the directory gtests/net of packetdrill's source, built")
    return asked


def main(argv: list[str] | None = None) -> int:
    asked = arguments(argv)
    family, known = FAMILIES[asked.family], tomllib.loads(KNOWN.read_text())
    directory = asked.packetdrill.resolve() / "tcp"
    table, counts = Table("script", "kernel", "stack", "what the stack's complaint is"), {"kernel": 0, "stack": 0}
    surprises, total = [], 0
    console = Console(width=160)
    with Lab() as lab:
        kernel = Kernel(asked.program, family, asked.tolerance)
        stack = Neat(asked.program, family, asked.tolerance, lab)
        for script in scripts(directory, asked.only, family):
            name = str(script.relative_to(directory))
            on_kernel = kernel.tried(script)
            on_stack = stack.tried(script)
            total += 1
            counts["kernel"] += on_kernel is None
            counts["stack"] += on_stack is None
            if on_kernel is None and on_stack is not None and name not in known:
                surprises.append(name)
            verdicts = ("passes" if complaint is None else "fails" for complaint in (on_kernel, on_stack))
            table.add_row(name, *verdicts, known.get(name) or on_stack or "")
            print(name, on_kernel is None, on_stack or "passes", flush=True)
    console.print(table)
    print(f"{total} scripts; pass on the kernel: {counts['kernel']}, on the stack: {counts['stack']}")
    print("pass on the kernel only, for no known reason: " + (", ".join(surprises) or "none"))
    return bool(surprises)


if __name__ == "__main__":
    sys.exit(main())
