"""Shared memory as a Python object: unmapped when the last reference to it goes.

Python's own mmap objects keep the descriptor and look it up again, which the system call filter would have to allow.
"""

import os

import cython
from cython.cimports.cpython.buffer import PyBuffer_FillInfo
from cython.cimports.libc.errno import errno
from cython.cimports.posix.mman import MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap


@cython.final
@cython.cclass
class Mapping:
    """All of a memory file. OSError if it cannot be mapped. The descriptor may be closed at once."""

    _memory: cython.p_void
    _size: cython.Py_ssize_t
    _writable: cython.bint

    def __cinit__(self, fd: cython.int, writable: cython.bint = True):
        self._size = os.lseek(fd, 0, os.SEEK_END)
        self._writable = writable
        protection: cython.int = PROT_READ | PROT_WRITE if writable else PROT_READ
        self._memory = mmap(cython.NULL, self._size, protection, MAP_SHARED, fd, 0)
        if self._memory == MAP_FAILED:
            self._memory = cython.NULL
            raise OSError(errno, f"cannot map shared memory: {os.strerror(errno)}")

    def __dealloc__(self):
        if self._memory:
            munmap(self._memory, self._size)

    def __getbuffer__(self, view: cython.pointer[cython.Py_buffer], flags: cython.int):
        PyBuffer_FillInfo(view, self, self._memory, self._size, not self._writable, flags)

    def __len__(self):
        return self._size
