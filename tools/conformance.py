"""make conformance: packetdrill's scripts against the kernel's stack and this one, side by side.

packetdrill (https://github.com/google/packetdrill) is not part of this project. It has to be there, built; its scripts
say what Linux does, call by call and segment by segment. In its remote mode one half makes the calls, and the other, at
the far end of an interface, sends and checks the segments. That mode has limits, so the kernel is judged by it, too.
"""

from __future__ import annotations

import abc
import argparse
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from neatstack.experiment.netns import Lab, LabError, Namespace, Side, Stack, run

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
    "notsent_lowat": "-1",
    "fastopen": "0x70403",
    "fastopen_key": "a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4",
}


@dataclass(frozen=True)
class Family:
    """How packetdrill runs scripts with an address family; `skipped` are those of the other one.

    `gateway`: where its halves meet, with that family, too; `mtu`: with which the MSS is what the scripts say.
    """

    name: str
    skipped: str
    gateway: str
    mtu: int
    addresses: tuple[str, ...]

    @property
    def options(self) -> list[str]:
        level = "IP" if self.name == "ipv4" else "IPV6"
        cookie = "c1d1e9742a47a9bc" if self.name == "ipv6" else "3021b9d889017eeb"
        values = {
            "TFO_COOKIE": cookie,
            "CODE": "host_unreachable",
            "CMSG_LEVEL_IP": f"SOL_{level}",
            "CMSG_TYPE_RECVERR": f"{level}_RECVERR",
        }
        return [f"--mtu={self.mtu}", *(word for name, value in values.items() for word in ("-D", f"{name}={value}"))]


# The addresses of which the cookies in the scripts are, and those of the kernel at the far end.
OWN4, GATEWAY4, REMOTE4 = "192.168.0.1", "192.168.0.2", "192.0.2.1"
OWN6, GATEWAY6, REMOTE6 = "fd3d:a0b:17d6::1", "fd3d:a0b:17d6::2", "fd3d:fa7b:d17d::1"
ADDRESSES = ["--gateway", GATEWAY4, "--address", f"{OWN4}/16", "--host-address", f"{GATEWAY4}/16"]
ADDRESSES += ["--gateway", GATEWAY6, "--address", f"{OWN6}/64", "--host-address", f"{GATEWAY6}/64"]
WAY4 = f"--local_ip={OWN4}", f"--gateway_ip={GATEWAY4}", f"--remote_ip={REMOTE4}", "--netmask_ip=255.255.0.0"
WAY6 = f"--local_ip={OWN6}", f"--gateway_ip={GATEWAY6}", f"--remote_ip={REMOTE6}"
FAMILIES = {
    "ipv4": Family("ipv4", "v6.pkt", GATEWAY4, 1500, WAY4),
    "ipv6": Family("ipv6", "v4.pkt", GATEWAY6, 1520, WAY6),
    "mapped": Family("ipv4-mapped-ipv6", "v6.pkt", f"::ffff:{GATEWAY4}", 1500, WAY4),
}


def configuration(script: Path) -> str:
    """The options of a stack that are the switches of the kernel that a script sets; buffers for the window scale."""
    asked = SWITCHES | {name: value for name, value in SWITCH.findall(script.read_text()) if name in SWITCHES}
    booleans = {name: "false" if asked[name] == "0" else "true" for name in SWITCHES if SWITCHES[name] in ("0", "1")}
    values = booleans | {
        "ecn": f'"{ECN[asked["ecn"]]}"',
        "fastopen": int(asked["fastopen"], 0) & FASTOPEN,
        "fastopen_key": f'"{asked["fastopen_key"]}"',
        "notsent_lowat": max(int(asked["notsent_lowat"]), 0),
        "receive_buffer": 8 << 20,
        "send_buffer": 4 << 20,
        "sockets": 1024,
    }
    return "".join(f"{name} = {value}\n" for name, value in values.items())


class Place(abc.ABC):
    """Where scripts are run. None is what run() returns of a script that passes, else packetdrill's complaint."""

    def __init__(self, lab: Lab, packetdrill: Path, family: Family, tolerance: int):
        self.lab = lab
        self.common = [str(packetdrill), f"--ip_version={family.name}", f"--tolerance_usecs={tolerance}"]
        self.family = family
        self.common += ["--send_omit_free", f"--wire_server_port={WIRE_PORT}", *family.options, *family.addresses]

    def tried(self, script: Path) -> str | None:
        complaint = None
        for _ in range(TRIES):
            complaint = self.run(script)
            if complaint is None:
                return None
        return complaint

    def run(self, script: Path) -> str | None:
        with self.lab.scope():  # everything anew: nothing is known of the script's peer yet
            try:
                return self.run_once(script)
            except LabError as error:
                return str(error)

    @abc.abstractmethod
    def run_once(self, script: Path) -> str | None:
        """Make the place, and run the script there."""

    def judge(self, script: Path, caller: Side, far: Namespace, device: str, own: str) -> str | None:
        """Both halves of packetdrill: at `device` of `far`, and where `caller` runs programs, with its device `own`."""
        far.ip("link", "set", device, "mtu", LARGEST)
        far.ip("-6", "route", "add", "blackhole", REMOTE6)  # lest that kernel says what it knows of the script's peer
        server = far.spawn(*self.common, "--wire_server", f"--wire_server_dev={device}")
        while server.running() and f":{WIRE_PORT} " not in far.run("ss", "-Hltn"):
            time.sleep(0.02)
        argv = [*self.common, "--wire_client", f"--wire_client_dev={own}", f"--wire_server_at={self.family.gateway}"]
        return complaint_of(caller.argv(*argv, script.name), script, caller.env)


class Kernel(Place):
    """Two network namespaces."""

    def run_once(self, script: Path) -> str | None:
        near, far = self.lab.namespace("near"), self.lab.namespace("far")
        self.lab.veth(near, f"{OWN4}/16", far, f"{GATEWAY4}/16")
        for side, address in ((near, OWN6), (far, GATEWAY6)):
            side.ip("address", "add", f"{address}/64", "dev", "veth0", "nodad")
        near.ip("link", "set", "veth0", "mtu", LARGEST)
        # before the route that packetdrill makes, with the sizes of the scripts
        for family, gateway in (("-4", GATEWAY4), ("-6", GATEWAY6)):
            near.ip(family, "rule", "add", "pref", 100, "lookup", 100)
            sizes = ("mtu", "lock", self.family.mtu, "advmss", 1460)
            near.ip(family, "route", "add", "default", "via", gateway, "dev", "veth0", *sizes, "table", 100)
        near.ip("tuntap", "add", "tun0", "mode", "tap")  # whose queue the scripts set
        near.run("ping", "-c1", "-W2", GATEWAY4)
        return self.judge(script, near, far, "veth0", "veth0")


class Neat(Place):
    """A stack of one replica.

    packetdrill's half there sends the other one the hardware address of its interface, to put on the frames to come: a
    device that carries nothing stands for it, with the address of the stack.
    """

    def run_once(self, script: Path) -> str | None:
        stack = self.lab.stack(replicas=1, config=configuration(script), options=[*ADDRESSES, "--mtu", self.family.mtu])
        device = f"ip tuntap add tun0 mode tap; ip link set tun0 address {hardware_address(stack)} up"
        namespace = stack.programs.prefix[: stack.programs.prefix.index(sys.executable)]
        run([*namespace, "sh", "-c", device])
        return self.judge(script, stack.programs, stack.host, Stack.device, "tun0")


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
        kernel, stack = (place(lab, asked.program, family, asked.tolerance) for place in (Kernel, Neat))
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
            print(f"{name}: kernel: {on_kernel or 'passes'}; stack: {on_stack or 'passes'}", flush=True)
    console.print(table)
    print(f"{total} scripts; pass on the kernel: {counts['kernel']}, on the stack: {counts['stack']}")
    print("pass on the kernel only, for no known reason: " + (", ".join(surprises) or "none"))
    return bool(surprises)


if __name__ == "__main__":
    sys.exit(main())
