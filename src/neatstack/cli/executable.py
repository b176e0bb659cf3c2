"""Programs that are to be run: found as a shell finds them, and able to take the socket library."""

import os
import shutil
import struct
from pathlib import Path

from neatstack.control.errors import NeatError

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # exit statuses of a shell
ELF_MAGIC = b"\x7fELF"
PT_INTERP = 3
SCRIPTS_DEEP = 5  # a script's interpreter may be a script, as deep as Linux allows
HEAD = 256  # bytes of a first line that Linux looks at


def find(name: str) -> str:
    """The path of a program. Raises NeatError with a shell's status."""
    path = name if "/" in name else shutil.which(name)
    if path is None or not os.path.exists(path):
        raise NeatError(f"{name}: no such program; check its name and PATH", NOT_FOUND)
    if os.path.isdir(path) or not os.access(path, os.X_OK):
        raise NeatError(f"{name}: not executable; check its permissions", NOT_EXECUTABLE)
    return path


def check_dynamic(path: str) -> None:
    """Raise NeatError when the socket library cannot be loaded into the program, or into its interpreter."""
    named = path
    for _ in range(SCRIPTS_DEEP):
        try:
            with open(path, "rb") as file:
                head = file.read(HEAD)
                if head.startswith(ELF_MAGIC) and not _has_interpreter(file.fileno(), head):
                    what = named if path == named else f"{path}, which runs {named},"
                    why = "is statically linked and cannot load the socket library; use a dynamic build"
                    raise NeatError(f"{what} {why}", NOT_EXECUTABLE)
        except OSError:
            return  # executable but not readable: what it is shows when it runs
        if not head.startswith(b"#!"):
            return
        words = head[2:].split(b"\n", 1)[0].split()
        if not words:
            return
        path = os.fsdecode(words[0])
        if Path(path).name == "env" and len(words) > 1:
            arguments = [os.fsdecode(word) for word in words[1:] if not word.startswith(b"-") and b"=" not in word]
            path = (shutil.which(arguments[0]) if arguments else None) or path


def _has_interpreter(descriptor: int, head: bytes) -> bool:
    """Does the ELF file ask for a dynamic loader (a PT_INTERP program header)?"""
    if len(head) < 64:
        return False
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    if wide:
        (table,) = struct.unpack_from(order + "Q", head, 32)
        size, count = struct.unpack_from(order + "HH", head, 54)
    else:
        (table,) = struct.unpack_from(order + "I", head, 28)
        size, count = struct.unpack_from(order + "HH", head, 42)
    entries = (os.pread(descriptor, 4, table + i * size) for i in range(count))
    return any(len(entry) == 4 and struct.unpack(order + "I", entry)[0] == PT_INTERP for entry in entries)
