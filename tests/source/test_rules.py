"""Rules about the code that a reader would otherwise have to keep in mind."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATAPLANE = ROOT / "src/neatstack/dataplane"
LONGEST = 600  # lines that a sitting can take in

# Each layer may import those before it. Types and checks are everybody's. Whatever else there is comes last.
LAYERS = [
    *("wire", "channel", "death", "journal", "driver", "ip", "tcp", "udp", "socket"),
    *("inspect", "flows", "audit", "adopt", "batch", "engine"),
]
TYPES = {
    "check",
    "stack",
    "tcp.tcb",
    "tcp.state",
    "driver.device",
    "channel.layout",
    "channel.atomic",
    "channel.address",
}
UPWARD = {
    ("ip.input", "tcp.segment"),  # run to completion: a packet is handed on by a call
    ("ip.input", "udp.input"),
    ("ip.icmp", "udp.error"),
    ("ip.icmp", "tcp.errors"),
    ("ip.input6", "tcp.segment"),
    ("ip.input6", "udp.input"),
    ("ip.icmp6", "udp.error"),
    ("ip.icmp6", "tcp.errors"),
}


def tracked(*suffixes: str) -> list[Path]:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    return [ROOT / name for name in names if name.endswith(suffixes) and (ROOT / name).exists()]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(DATAPLANE).with_suffix("").parts)


def imports(text: str) -> set[str]:
    """Modules of the data plane that a .py or .pxd names, without the package's name."""
    found = re.findall(r"^\s*from (?:cython\.cimports\.)?neatstack\.dataplane\.([\w.]+) c?import", text, re.MULTILINE)
    return set(found)


def rank(module: str) -> int:
    layer = module.split(".")[0]
    return LAYERS.index(layer) if layer in LAYERS else len(LAYERS)


def sources() -> list[Path]:
    return [p for p in tracked(".py", ".pxd", ".c", ".h") if "tests/source" not in str(p)]


@pytest.mark.parametrize("path", tracked(".py", ".pxd", ".c", ".h", ".sh"), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_enough(path):
    assert len(path.read_text().splitlines()) < LONGEST


def test_the_data_plane_imports_no_other_part():
    for path in tracked(".py", ".pxd"):
        if path.is_relative_to(DATAPLANE):
            strange = re.findall(r"neatstack\.(?!dataplane)\w+", path.read_text())
            assert not strange, f"{path}: {strange}"


def test_control_takes_only_plain_python_from_the_data_plane():
    """The manager must live when no compiled module loads, and must not do a replica's work.

    Link is another process, and puts datagrams together as replicas do.
    """
    allowed = {"channel.create", "ip.reassembler"}
    for path in tracked(".py"):
        if path.is_relative_to(ROOT / "src/neatstack/control"):
            used = imports(path.read_text())
            assert not any(
                name.split(".")[0] in ("tcp", "ip", "socket", "engine", "wire") for name in used - allowed
            ), path


def test_layers_import_downwards():
    wrong = []
    for path in tracked(".py", ".pxd"):
        if not path.is_relative_to(DATAPLANE) or path.name == "__init__.py":
            continue
        importer = module_name(path)
        if importer in TYPES:
            continue
        for imported in imports(path.read_text()) - TYPES:
            if rank(imported) > rank(importer) and (importer, imported) not in UPWARD:
                wrong.append(f"{importer} imports {imported}")
    assert not wrong, "\n".join(wrong)


def test_pxd_types_hold_no_code():
    """Types sit in declaration files: what every layer includes must not grow functions."""
    for name in ("stack", "tcp.tcb", "driver.device", "channel.layout"):
        text = (DATAPLANE / (name.replace(".", "/") + ".pxd")).read_text()
        assert "cdef inline" not in text, name


@pytest.mark.parametrize(
    "word", ["TODO", "FIXME", "XXX", "HACK", "pdb.set_trace", "breakpoint()", "<<<<<<<", ">>>>>>>"]
)
def test_nothing_is_left_for_later(word):
    found = [str(p) for p in sources() if word in p.read_text()]
    assert not found


def test_c_files_carry_the_licence():
    for path in tracked(".c", ".h"):
        if path.is_relative_to(ROOT / "src"):
            assert "SPDX-License-Identifier: Apache-2.0" in path.read_text(), path


def test_one_place_changes_a_state():
    """Only tcp/state.py assigns Tcb.state (and the table clears it)."""
    for path in tracked(".py", ".pxd"):
        if path.is_relative_to(DATAPLANE) and module_name(path) not in ("tcp.state", "tcp.table"):
            found = re.findall(r"^\s*(?:t|c|tcb|s\.tcbs\[\w+\])\.state = .*$", path.read_text(), re.MULTILINE)
            assert not found, f"{path}: {found}"


def test_functions_fit_a_screen():
    """60 lines of a Python function; what is longer says several things at once."""
    import ast

    long = []
    for path in tracked(".py"):
        if path.is_relative_to(ROOT / "src"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 75:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} {node.end_lineno - node.lineno}")
    assert not long, "\n".join(long)


def test_ruff_has_nothing_to_say():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--quiet", "--output-format", "concise", "."],
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout.decode()
