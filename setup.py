"""What is compiled: the modules of neatstack.dataplane (Python), the socket library (C), the steering program (eBPF).

`python setup.py build_ext -i` builds in place, `pip install .` into a wheel. NEAT_BUILD=release|nojournal|debug|asan
chooses the flags; changing it rebuilds everything. NEAT_JOBS limits the compilers that run at once (default: one a
core).
A module that needs a C library says so itself, with `# distutils: libraries = ...` in its first lines.
"""

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

BUILD = os.environ.get("NEAT_BUILD", "release")
JOBS = int(os.environ.get("NEAT_JOBS", 0)) or os.cpu_count() or 1
SANITIZE = ["-fsanitize=address,undefined"] if BUILD == "asan" else []
CRC32C = {"x86_64": ["-msse4.2"], "aarch64": ["-march=armv8-a+crc"]}.get(platform.machine(), [])
FLAGS = {
    "release": ["-O3", "-fno-strict-aliasing"],
    "nojournal": ["-O3", "-fno-strict-aliasing", "-DNEAT_NO_JOURNAL"],  # only to measure what the journal costs
    "debug": ["-O1", "-g", "-fno-strict-aliasing", "-DNEAT_CHECKS"],
    "asan": ["-O1", "-g", "-fno-strict-aliasing", "-DNEAT_CHECKS", "-fno-omit-frame-pointer", *SANITIZE],
}[BUILD]
FAST = BUILD in ("release", "nojournal")
LIBRARY_FLAGS = ["-O2"] if FAST else [flag for flag in FLAGS if flag != "-fno-strict-aliasing"]
QUIET = ["-Wno-unused-function", "-Wno-sign-compare", "-Wno-discarded-qualifiers"]  # said of generated code
DIRECTIVES = {
    "language_level": 3,
    "cdivision": True,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "warn.maybe_uninitialized": True,
}
SOURCE = Path("src/neatstack")
if BUILD == "asan":  # by clang, with the coverage that its fuzzer is guided by (tests/fuzz)
    os.environ.update(CC="clang", LDSHARED="clang -shared")
COVERAGE = ["-fsanitize=fuzzer-no-link", "-Wno-unknown-warning-option"] if BUILD == "asan" else []
HEADERS = sorted(str(p) for p in SOURCE.rglob("*") if p.suffix in (".h", ".def"))


def modules() -> list[Extension]:
    files = sorted(p for p in (SOURCE / "dataplane").rglob("*.py") if p.name != "__init__.py")
    return [
        Extension(
            ".".join(p.relative_to("src").with_suffix("").parts),
            [str(p)],
            include_dirs=["src"],
            depends=HEADERS,
            extra_compile_args=[*FLAGS, *COVERAGE, *CRC32C, *QUIET],
            extra_link_args=SANITIZE,
        )
        for p in files
    ]


def multiarch() -> str:
    return subprocess.run(["gcc", "-print-multiarch"], check=True, capture_output=True, text=True).stdout.strip()


class Build(build_ext):
    """build_ext, and the two files that are not Python extensions."""

    def run(self) -> None:
        """Force a full rebuild when the last build in place had other flags."""
        stamp = Path("build/variant")
        if self.inplace:
            self.force = self.force or (stamp.exists() and stamp.read_text() != BUILD)
            stamp.unlink(missing_ok=True)
        self.parallel = self.parallel or JOBS
        super().run()
        root = Path("src" if self.inplace else self.build_lib) / "neatstack"
        self.socket_library(root / "client/libneat.so")
        self.steering(root / "dataplane/driver/steer.bpf.o")
        if self.inplace:
            stamp.parent.mkdir(exist_ok=True)
            stamp.write_text(BUILD)

    def socket_library(self, target: Path) -> None:
        sources = sorted(str(p) for p in (SOURCE / "client").glob("*.c"))
        flags = [*LIBRARY_FLAGS, "-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden", "-shared", "-fPIC", "-Isrc"]
        self.command(target, sources, ["gcc", *flags, *sources, "-ldl", "-lpthread"])

    def steering(self, target: Path) -> None:
        source = str(SOURCE / "dataplane/driver/steer.bpf.c")
        flags = ["-O2", "-g", "-target", "bpf", "-Isrc", f"-I/usr/include/{multiarch()}"]
        self.command(target, [source], ["clang", *flags, "-c", source])

    def command(self, target: Path, sources: list[str], argv: list[str]) -> None:
        """Run a compiler if a source or header is newer than what it makes, replacing the old file in one step."""
        inputs = [Path(p) for p in (*sources, *HEADERS, "setup.py")]
        if not self.force and target.exists() and target.stat().st_mtime > max(p.stat().st_mtime for p in inputs):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.{os.getpid()}")
        argv = [*argv, "-o", str(new)]
        self.announce(shlex.join(argv), level=2)
        try:
            subprocess.run(argv, check=True)
            new.replace(target)
        except subprocess.CalledProcessError:
            raise SystemExit(f"cannot build {target.name}") from None
        finally:
            new.unlink(missing_ok=True)


if __name__ == "__main__":
    setup(
        package_dir={"": "src"},
        cmdclass={"build_ext": Build},
        ext_modules=cythonize(
            modules(),
            compiler_directives=DIRECTIVES,
            include_path=["src"],
            build_dir="build/cython",
            emit_linenums=True,
            nthreads=JOBS if JOBS > 1 else 0,
            quiet=not {"-q", "--quiet"}.isdisjoint(sys.argv),
        ),
    )
