"""Making the files of ordinary tar entries in C, a window of the stream at a time.

Owns the call of the library beside it and the entries that come of it. What is ordinary, bulkfiles.c
says; everything else, and whatever fails, is left to reader and unpacker, who are the reference.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from cache import native
from cache.archive.entry import Entry, Kind, decode
from cache.archive.mould import make_entry

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

_REVISION = 1  # bulkfiles.c has the same
_ROOM = 1024  # entries made by one call
_TEXTS = 256 * 1024  # bytes of their paths and link texts
_RULES = struct.Struct("=iIIIII")
_MADE = struct.Struct("=IIIIqqQ")
_KINDS = (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK)
_NO_DEVICE = (0, 0)


def bulk_taker(
    root_fd: int,
    habits: tuple[bool, tuple[int, int] | None, int],
    note: Callable[[list[Entry]], None],
) -> _Bulk | None:
    """A taker for `reader.read_entries` that makes what it takes below a root and notes it.

    `habits` are those of `attributes.Dresser`. None where the library is not to be had.
    """
    library = native.library(__file__, "bulkfiles", _REVISION)
    if library is None:
        return None
    keep_owner, own, plain_bits = habits
    rules = _RULES.pack(root_fd, keep_owner, own is not None, *(own or (0, 0)), plain_bits)
    return _Bulk(library, rules, note)


class _Bulk:
    """Makes files by the window."""

    def __init__(
        self, library: ctypes.CDLL, rules: bytes, note: Callable[[list[Entry]], None]
    ) -> None:
        import ctypes  # noqa: PLC0415 - not on the path of a cached build

        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self._unpack = library.bulk_unpack
        self._unpack.restype = size
        self._unpack.argtypes = (
            *(ctypes.c_char_p, ctypes.c_char_p, size, size),
            *(pointer, size, pointer, size, pointer, pointer, pointer),
        )
        self._rules = rules
        self._note = note
        self._records = ctypes.create_string_buffer(_ROOM * _MADE.size)
        self._texts = ctypes.create_string_buffer(_TEXTS)
        self._used, self._taken, self._wanted = size(), size(), size()
        self._results: list[Any] = [
            ctypes.byref(result) for result in (self._used, self._taken, self._wanted)
        ]

    def __call__(self, data: bytes, start: int, position: int) -> tuple[int, int]:
        """Take entries: how many bytes they were, and how many the next one wants."""
        window = self._rules, data, start, len(data) - start
        room = self._records, _ROOM, self._texts, _TEXTS
        count = self._unpack(*window, *room, *self._results)
        if count:
            self._note(self._entries(count, position))
        return self._taken.value, self._wanted.value

    def _entries(self, count: int, position: int) -> list[Entry]:
        records = memoryview(self._records)[: count * _MADE.size]
        texts = decode(bytes(memoryview(self._texts)[: self._used.value])).split("\0")
        return [
            make_entry(
                path, _KINDS[kind], mode, uid, gid, size, mtime, link, _NO_DEVICE, (), position + at
            )
            for (kind, mode, uid, gid, size, mtime, at), path, link in zip(
                _MADE.iter_unpack(records), texts[0:-1:2], texts[1::2], strict=True
            )
        ]
