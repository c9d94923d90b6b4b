"""Starting to write a file out while it is still growing, so that waiting for the disk is short.

A hint to the kernel: where it cannot be given, files are written out when they are synced.
"""

from __future__ import annotations

import contextlib
from typing import BinaryIO, Protocol

_STEP = 8 << 20  # bytes written between two hints
_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin, and do not wait


class _Start(Protocol):
    def __call__(self, fd: int, offset: int, count: int, flags: int, /) -> int: ...


class Writeback:
    """Follows one file that is written from its beginning to its end."""

    __slots__ = ("_begun", "_start")

    def __init__(self) -> None:
        """Nothing was begun."""
        self._begun = 0
        self._start: _Start | None = None

    def reached(self, fd: int, size: int) -> None:
        """The file has `size` bytes now; have what is new of it written out if it is much."""
        if size - self._begun < _STEP:
            return
        if self._start is None:
            self._start = _sync_file_range()
        self._start(fd, self._begun, size - self._begun, _WRITE)
        self._begun = size


class EarlyFile:
    """A sink over a file or pipe whose bytes are on their way to the disk early."""

    __slots__ = ("_file", "_size", "_writeback")

    def __init__(self, file: BinaryIO) -> None:
        """Write to a file that is at its beginning; it stays the caller's to close."""
        self._file = file
        self._size = 0
        self._writeback = Writeback()

    def write(self, data: bytes | memoryview, /) -> None:
        """Pass bytes on."""
        self._file.write(data)
        self._size += len(data)
        with contextlib.suppress(OSError):  # such as a file in memory, which has no descriptor
            self._writeback.reached(self._file.fileno(), self._size)


def _sync_file_range() -> _Start:
    import ctypes  # noqa: PLC0415 - only for large files

    try:
        call = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return lambda *_: 0
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    call.restype = ctypes.c_int
    return lambda fd, offset, count, flags: int(call(fd, offset, count, flags))
