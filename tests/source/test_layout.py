"""The tests' picture of shared memory is the C compiler's."""

import ctypes
import subprocess

from tests.support.layout import CONSTANTS, HEADER, STRUCTURES


def test_the_c_compiler_agrees_on_every_offset_and_constant(tmp_path):
    expected, lines = [], []
    for name, kind in STRUCTURES.items():
        for field, _ in kind._fields_:
            place = getattr(kind, field)
            expected.append(f"{name}.{field} {place.offset} {place.size}")
            size = f"sizeof(((struct {name} *)0)->{field})"
            lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof(struct {name}, {field}), {size});')
        expected.append(f"{name} {ctypes.sizeof(kind)}")
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
    for name, value in CONSTANTS.items():
        expected.append(f"{name} {value}")
        lines.append(f'printf("{name} %lu\\n", (unsigned long){name});')

    source, program = tmp_path / "layout.c", tmp_path / "layout"
    source.write_text(
        f'#include <stdio.h>\n#include <stddef.h>\n#include "{HEADER}"\nint main(void) {{\n'
        + "\n".join(lines)
        + "\nreturn 0; }\n"
    )
    subprocess.run(["gcc", "-o", program, source], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split("\n")[:-1]
    assert printed == expected
    assert len(expected) > 150
