"""`neat doctor`: what this host lacks, and how to get it."""

import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import typer

EXAMPLES = "Example: [bold]neat doctor[/]. Exit status 1 when something is missing that a stack needs."
KERNEL_LEAST = 5, 10
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SETUID": 7}
CHECKSUM_FEATURE = {"x86_64": ("flags", "sse4_2"), "aarch64": ("Features", "crc32")}  # by machine: /proc/cpuinfo
PACKAGE = Path(__file__).parents[1]


def doctor() -> None:
    """Check what a stack needs of this host."""
    from rich.console import Console

    console = Console(highlight=False)
    missing = 0
    for title, check in CHECKS.items():
        problem = check()
        missing += problem is not None
        line = f"[green]ok[/]       {title}" if problem is None else f"[red]missing[/]  {title}: {problem}"
        console.print(line, soft_wrap=True)
    if missing:
        raise typer.Exit(1)


def _kernel() -> str | None:
    release = platform.release()
    version = tuple(int(part) for part in release.split(".")[:2])
    return None if version >= KERNEL_LEAST else f"this is {release}; use Linux 5.10 or later"


def _processor(machine: str = platform.machine(), cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """Checksums of the replicas' memory (CRC32C) are instructions of the processor."""
    word, feature = CHECKSUM_FEATURE.get(machine, ("", ""))
    if not word:
        return f"{machine} is not supported; use x86-64 or AArch64"
    listed = re.search(rf"^{word}\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    if listed is None or feature not in listed[1].split():
        return f"/proc/cpuinfo shows no {feature}; use a newer processor, or let the virtual machine have it"
    return None


def _rights() -> str | None:
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    lacking = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    return f"{', '.join(lacking)}; run as root" if lacking else None


def _tun() -> str | None:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return "no such device; `modprobe tun`, in a container --device /dev/net/tun"
    except PermissionError:
        return "no right to open it; run as root"
    except OSError as error:
        return f"{error.strerror}; `modprobe tun`"
    return None


def _namespaces() -> str | None:
    absent = [kind for kind in ("net", "ipc") if not Path(f"/proc/self/ns/{kind}").exists()]
    return f"no {' and '.join(absent)} namespaces; use a kernel with CONFIG_NAMESPACES" if absent else None


def _memory() -> str | None:
    try:
        os.close(os.memfd_create("neat-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    except OSError as error:
        return f"memfd_create: {error.strerror}; use a kernel with CONFIG_MEMFD_CREATE"
    return None


def _extension() -> str | None:
    from importlib.util import find_spec

    try:
        spec = find_spec("neatstack.dataplane.driver.tap")
    except ImportError:
        spec = None
    if spec is None or not (spec.origin or "").endswith(".so"):
        return "not compiled; install neatstack with `pip install .` (gcc and Cython are needed)"
    return None


def _library() -> str | None:
    built = (PACKAGE / "client/libneat.so").exists()
    return None if built else "not built; install neatstack with `pip install .` (gcc is needed)"


def _steering() -> str | None:
    if not (PACKAGE / "dataplane/driver/steer.bpf.o").exists():
        return "not built; `apt install clang libbpf-dev`, then install neatstack again"
    try:
        from neatstack.dataplane.driver.steer import Steering

        Steering.load().close()
    except ImportError as error:
        return f"{error}; `apt install libbpf1`"
    except OSError as error:
        return f"{error.strerror}; run as root, on a kernel with CONFIG_BPF_SYSCALL"
    return None


CHECKS: dict[str, Callable[[], str | None]] = {
    "Linux 5.10 or later": _kernel,
    "processor with CRC32C instructions": _processor,
    "rights to make interfaces and to isolate processes": _rights,
    "/dev/net/tun": _tun,
    "namespaces": _namespaces,
    "sealed shared memory": _memory,
    "compiled data plane": _extension,
    "socket library libneat.so": _library,
    "steering program, and eBPF to run it": _steering,
}
