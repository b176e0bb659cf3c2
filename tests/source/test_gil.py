"""No function of the packet path may take the GIL: read from the C that Cython made.

A forgotten exceptval(check=False), a division without cdivision, or an assert make Cython put in code that takes the
GIL when it thinks an error possible. It compiles, passes every test, and is twice as slow or worse.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "build/cython"
SIGNS = re.compile(
    r"PyGILState_Ensure|__Pyx_PyGILState|ErrOccurredWithGIL|__Pyx_WriteUnraisable|__Pyx_AddTraceback|"
    r"PyErr_\w+|__Pyx_Raise\w*|Py_(?:X?)(?:INC|DEC)REF|__Pyx_GetModuleGlobalName|PyObject_\w+|PyEval_\w+"
)
# Components with a face to Python; their compiled methods may also be called with the GIL held.
FACES = {
    *("engine", "flip", "flows", "inspect", "replica", "sandbox", "control_messages", "channel.address_text"),
    *("driver.steer", "driver.pins", "driver.tap", "driver.memory", "driver.capture_memory"),
}


def functions(text: str) -> Iterator[tuple[str, str]]:
    """Name and body of each C function that stands for a cdef function of the module."""
    for found in re.finditer(
        r"^static [^;{}]*?\b(__pyx_f_\w+)\([^;{}]*\) \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL
    ):
        yield found[1], found[2]


def module_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[parts.index("dataplane") + 1 :])


def generated() -> list[Path]:
    return sorted(GENERATED.rglob("dataplane/**/*.c"))


def taking(body: str) -> str | None:
    sign = SIGNS.search(body)
    return sign[0] if sign else None


def test_there_is_something_to_look_at():
    modules = {module_of(path) for path in generated()}
    assert {"tcp.segment", "tcp.output", "ip.input", "socket.publish"} <= modules, "build first: make setup"


@pytest.mark.parametrize("path", generated(), ids=module_of)
def test_no_function_takes_the_gil(path):
    if not (ROOT / "src/neatstack/dataplane" / f"{module_of(path).replace('.', '/')}.py").exists():
        pytest.skip("left over from a module that is no more")
    found = {}
    for name, body in functions(path.read_text()):
        if (sign := taking(body)) and not (module_of(path) in FACES and "WITH_THREAD" not in body):
            found[name] = sign
    assert not found


def test_the_gate_sees_what_it_is_for(tmp_path):
    """A division without cdivision and a missing exceptval are caught; a clean function is not."""
    from Cython.Build import cythonize

    source = tmp_path / "sample.py"
    source.write_text(
        "import cython\n\n"
        "@cython.cfunc\n@cython.nogil\n@cython.exceptval(check=False)\n@cython.cdivision(False)\n"
        "def dividing(a: cython.int, b: cython.int) -> cython.int:\n    return a // b\n\n"
        "@cython.cfunc\n@cython.nogil\n"
        "def checked(a: cython.int) -> cython.int:\n    return a - 1\n\n"
        "@cython.cfunc\n@cython.nogil\n@cython.exceptval(check=False)\n"
        "def calling(a: cython.int) -> cython.int:\n    return checked(a)\n\n"
        "@cython.cfunc\n@cython.nogil\n@cython.exceptval(check=False)\n"
        "def clean(a: cython.int) -> cython.int:\n    return a + 1\n"
    )
    cythonize(str(source), language_level=3, quiet=True, build_dir=str(tmp_path))
    text = next(tmp_path.rglob("sample.c")).read_text()
    caught = {name.rpartition("_")[2]: taking(body) for name, body in functions(text)}
    assert caught["dividing"]
    assert caught["calling"]
    assert caught["clean"] is None
