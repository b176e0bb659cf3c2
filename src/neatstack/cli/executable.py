"""Programs that are to be run: found as a shell finds them, and able to take the socket library."""

import errno
import os
import shutil
import stat
import struct
import sys
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


def check_loadable(path: str) -> None:
    """Raise NeatError when the socket library cannot be loaded into the program, or into its interpreter."""
    named = path
    for _ in range(SCRIPTS_DEEP):
        try:
            with open(path, "rb") as file:
                head = file.read(HEAD)
                reason = _refuses_library(file.fileno(), head) if head.startswith(ELF_MAGIC) else None
        except OSError:
            return  # executable but not readable: what it is shows when it runs
        if reason:
            what = named if path == named else f"{path}, which runs {named},"
            raise NeatError(f"{what} {reason}", NOT_EXECUTABLE)
        if not head.startswith(b"#!"):
            return
        words = head[2:].split(b"\n", 1)[0].split()
        if not words:
            return
        path = os.fsdecode(words[0])
        if Path(path).name == "env" and len(words) > 1:
            arguments = [os.fsdecode(word) for word in words[1:] if not word.startswith(b"-") and b"=" not in word]
            path = (shutil.which(arguments[0]) if arguments else None) or path


def _refuses_library(descriptor: int, head: bytes) -> str | None:
    """Why the dynamic loader would not load the library into this ELF file, if so."""
    with open(sys.executable, "rb") as ours:
        own = ours.read(20)
    if (head[4], head[18:20]) != (own[4], own[18:20]):  # word size, machine
        return "is for another architecture than the socket library; use a build for this one"
    if not _has_interpreter(descriptor, head):
        return "is statically linked and cannot load the socket library; use a dynamic build"
    if _gains_rights(descriptor):
        return "is set-user-ID or has file capabilities, which keeps the socket library out; run it as that user"
    return None


def _gains_rights(descriptor: int) -> bool:
    """Does executing the file give rights that the caller does not have (ld.so(8), secure-execution mode)?"""
    status = os.fstat(descriptor)
    if status.st_mode & stat.S_ISUID and status.st_uid != os.geteuid():
        return True
    if status.st_mode & stat.S_ISGID and status.st_gid != os.getegid():
        return True
    try:
        return os.geteuid() != 0 and bool(os.getxattr(descriptor, "security.capability"))
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        return False


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
