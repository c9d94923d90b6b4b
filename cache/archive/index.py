"""A layer's entries as a compact record, quick to load.

Owns the record's format. It stores columns, because ten thousand values of one kind are read
in one step. Names are joined by NUL, which no name contains. It must not know where records lie.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from itertools import repeat
from typing import TYPE_CHECKING, Final

from cache.archive.entry import Entry, Kind, decode, encode
from cache.archive.mould import make_entry
from cache.errors import CorruptRecordError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MAGIC: Final = b"pbx1"  # the digit is the version
_WITH_DEVICES: Final = b"pbd1"  # the same of a layer that has some outside of /dev
MAGIC_SIZE: Final = 4
_PREAMBLE = struct.Struct(
    "<4sIII"
)  # magic, entries, bytes of the body, checksum of the stored body
_LENGTHS = struct.Struct("<4I")  # bytes of: paths, link names, devices, xattrs
_DEVICE = struct.Struct("<III")  # entry, major, minor
_XATTR = struct.Struct("<III")  # entry, bytes of the name, bytes of the value
_KINDS = tuple(Kind)
_DEVICES = frozenset({Kind.CHAR, Kind.BLOCK})
_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_COLUMNS = "HIIqqq"  # mode, uid, gid, size, mtime, offset
_LEVEL = 1  # paths and numbers repeat so much that higher levels gain little
_MAX_BODY = 1 << 30  # bytes; a million entries take a tenth


def dump_index(entries: Iterable[Entry]) -> bytes:
    """Put entries into a record."""
    listed = entries if isinstance(entries, tuple | list) else list(entries)
    columns = [
        array("H", [entry.mode for entry in listed]),
        array("I", [entry.uid for entry in listed]),
        array("I", [entry.gid for entry in listed]),
        array("q", [entry.size for entry in listed]),
        array("q", [entry.mtime for entry in listed]),
        array("q", [entry.offset for entry in listed]),
    ]
    texts = [
        encode("\0".join([entry.path for entry in listed])),
        encode("\0".join([entry.linkname for entry in listed])),
        _dump_devices(listed),
        _dump_xattrs(listed),
    ]
    kinds = bytes([_CODES[entry.kind] for entry in listed])
    numbers = [_little(column).tobytes() for column in columns]
    body = b"".join([_LENGTHS.pack(*map(len, texts)), kinds, *numbers, *texts])
    stored = zlib.compress(body, _LEVEL)
    magic = _WITH_DEVICES if any(map(_is_device, listed)) else _MAGIC
    return _PREAMBLE.pack(magic, len(listed), len(body), _checksum(magic, stored)) + stored


def names_devices(start: bytes) -> bool:
    """Whether a record, of which this is the start, has devices that steps may see."""
    return start == _WITH_DEVICES


def _checksum(magic: bytes, stored: bytes | memoryview) -> int:
    return zlib.crc32(stored, magic == _WITH_DEVICES)


def _is_device(entry: Entry) -> bool:
    """Whether an entry is a device, and not below /dev, where steps have their own."""
    return entry.kind in _DEVICES and not entry.path.startswith("dev/")


def load_index(data: bytes) -> tuple[Entry, ...]:
    """Take entries out of a record.

    Raises:
        CorruptRecordError: the record is damaged, or of another version.
    """
    try:
        return _load(data)
    except (ValueError, IndexError, zlib.error, struct.error) as error:
        raise CorruptRecordError(
            f"layer index is damaged: {error}", hint="it will be made anew from the layer"
        ) from error


def _load(data: bytes) -> tuple[Entry, ...]:
    magic, count, size, checksum = _PREAMBLE.unpack_from(data)
    if magic not in (_MAGIC, _WITH_DEVICES):
        raise ValueError("not an index of this version")
    stored = memoryview(data)[_PREAMBLE.size :]
    if size > _MAX_BODY or _checksum(magic, stored) != checksum:
        raise ValueError("checksum or size is wrong")
    inflater = zlib.decompressobj()
    body = inflater.decompress(stored, size + 1)
    if len(body) != size or not inflater.eof:
        raise ValueError("the body has another size")
    cursor = _Cursor(body)
    lengths = _LENGTHS.unpack(cursor.take(_LENGTHS.size))
    kinds = cursor.take(count)
    mode, uid, gid, length, mtime, offset = (cursor.column(code, count) for code in _COLUMNS)
    paths = _names(cursor.take(lengths[0]), count)
    links = _names(cursor.take(lengths[1]), count)
    devices = _load_devices(cursor.take(lengths[2]), count)
    xattrs = _load_xattrs(cursor.take(lengths[3]), count)
    if cursor.left:
        raise ValueError("bytes are left over")
    return tuple(
        map(
            make_entry,
            paths,
            map(_KINDS.__getitem__, kinds),
            mode,
            uid,
            gid,
            length,
            mtime,
            links,
            devices,
            xattrs,
            offset,
        )
    )


class _Cursor:
    """Bytes taken in order."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise ValueError("a column is cut off")
        self._at += count
        return self._data[self._at - count : self._at]

    def column(self, code: str, count: int) -> array[int]:
        column = array(code)
        column.frombytes(self.take(count * column.itemsize))
        return _little(column)


def _little(column: array[int]) -> array[int]:
    """Records are little-endian whoever reads them."""
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _names(data: bytes, count: int) -> list[str]:
    if not count:
        return []
    names = decode(data).split("\0")
    if len(names) != count:
        raise ValueError("the number of names is wrong")
    return names


def _dump_devices(entries: Sequence[Entry]) -> bytes:
    return b"".join(
        _DEVICE.pack(position, *entry.device)
        for position, entry in enumerate(entries)
        if entry.device != (0, 0)
    )


def _load_devices(data: bytes, count: int) -> Iterable[tuple[int, int]]:
    if not data:
        return repeat((0, 0), count)
    devices = [(0, 0)] * count
    for position, major, minor in _DEVICE.iter_unpack(data):
        devices[position] = major, minor
    return devices


def _dump_xattrs(entries: Sequence[Entry]) -> bytes:
    pieces = []
    for position, entry in enumerate(entries):
        for name, value in entry.xattrs:
            raw = encode(name)
            pieces += [_XATTR.pack(position, len(raw), len(value)), raw, value]
    return b"".join(pieces)


def _load_xattrs(data: bytes, count: int) -> Iterable[tuple[tuple[str, bytes], ...]]:
    if not data:
        return repeat((), count)
    found: dict[int, list[tuple[str, bytes]]] = {}
    cursor = _Cursor(data)
    while cursor.left:
        position, name, value = _XATTR.unpack(cursor.take(_XATTR.size))
        pair = decode(cursor.take(name)), cursor.take(value)
        found.setdefault(position, []).append(pair)
    xattrs: list[tuple[tuple[str, bytes], ...]] = [()] * count
    for position, pairs in found.items():
        xattrs[position] = tuple(pairs)
    return xattrs
