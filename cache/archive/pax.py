"""PAX extended headers: records as bytes, and what they say about an entry.

Owns the record grammar, its limits and the keys we understand. It must not know of streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.archive.entry import decode, encode
from cache.archive.header import MAX_ID, MAX_SIZE, MAX_TIME
from cache.errors import ArchiveError
from cache.value import state

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_EXTENDED = 1024 * 1024  # bytes of one extended header or GNU long name
MAX_XATTR_NAME = 255  # the kernel's limits
MAX_XATTR_VALUE = 65536
XATTR = b"SCHILY.xattr."
_SPARSE = b"GNU.sparse."
_TIME = b" mtime="
_MAX_DIGITS = 30
_SECOND = 1_000_000_000
_NANO_DIGITS = 9


@state
class Extended:
    """What extended headers say about the next entry; None where they are silent."""

    path: bytes | None = None
    linkpath: bytes | None = None
    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime: int | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()
    is_sparse: bool = False


def parse_extended(data: bytes) -> Extended:
    """Read the payload of an `x` header; keys we do not know are ignored.

    Raises:
        ArchiveError: a record is malformed or a number is out of range.
    """
    found = Extended()
    xattrs: dict[str, bytes] = {}
    try:
        if _is_time_alone(data):
            found.mtime = parse_time(data[len(_TIME) + 2 : -1])
            return found
        for key, value in _records(data):
            if key.startswith(XATTR):
                _take_xattr(xattrs, key[len(XATTR) :], value)
            elif key.startswith(_SPARSE):
                found.is_sparse = True
            elif value:  # an empty value leaves the plain header in force
                _take(found, key, value)
    except ValueError as error:
        raise ArchiveError(f"bad extended tar header: {error}") from error
    found.xattrs = tuple(sorted(xattrs.items()))
    return found


def _is_time_alone(data: bytes) -> bool:
    """Whether a time is all there is, as for most entries of most layers."""
    digits = data[:2]
    return (
        data[2 : 2 + len(_TIME)] == _TIME
        and digits.isdigit()
        and int(digits) == len(data) > len(_TIME) + 3
        and data[-1:] == b"\n"
    )


def _take(found: Extended, key: bytes, value: bytes) -> None:
    if key == b"path":
        found.path = value
    elif key == b"linkpath":
        found.linkpath = value
    elif key == b"mtime":
        found.mtime = parse_time(value)
    elif key == b"size":
        found.size = _decimal(value, MAX_SIZE)
    elif key == b"uid":
        found.uid = _decimal(value, MAX_ID)
    elif key == b"gid":
        found.gid = _decimal(value, MAX_ID)


def _take_xattr(xattrs: dict[str, bytes], name: bytes, value: bytes) -> None:
    if not 0 < len(name) <= MAX_XATTR_NAME or b"\0" in name:
        raise ValueError(f"bad xattr name {name[:MAX_XATTR_NAME]!r}")
    if len(value) > MAX_XATTR_VALUE:
        raise ValueError(f"xattr {name!r} is larger than {MAX_XATTR_VALUE} bytes")
    xattrs[decode(name)] = value


def _records(data: bytes) -> Iterable[tuple[bytes, bytes]]:
    """Split records: a length, a space, key=value, a newline."""
    start = 0
    total = len(data)
    while start < total:
        space = data.find(b" ", start, start + 8)  # seven digits exceed the limit on the block
        digits = data[start:space] if space > 0 else b""
        if not digits.isdigit():
            raise ValueError("a record does not begin with its length")
        end = start + int(digits)
        # data[end - 1] exists and lies behind the space once both comparisons hold
        if end > total or end <= space + 1 or data[end - 1 : end] != b"\n":
            raise ValueError(f"a record claims {int(digits)} bytes and does not end there")
        equals = data.find(b"=", space + 1, end)
        if equals <= space + 1:
            raise ValueError("a record has no key")
        key = data[space + 1 : equals]
        if b"\0" in key:
            raise ValueError("a key contains NUL")
        yield key, data[equals + 1 : end - 1]
        start = end


def _decimal(text: bytes, largest: int) -> int:
    if len(text) > _MAX_DIGITS or not text.isdigit():
        raise ValueError(f"{text[:_MAX_DIGITS]!r} is not a number")
    value = int(text)
    if value > largest:
        raise ValueError(f"number {value} is out of range")
    return value


def parse_time(text: bytes) -> int:
    """Decimal seconds as nanoseconds; digits beyond the ninth are dropped."""
    is_negative = text[:1] == b"-"
    whole, _, fraction = text[is_negative:].partition(b".")
    if len(whole) > _MAX_DIGITS or not whole.isdigit() or not (fraction or b"0").isdigit():
        raise ValueError(f"{text[:_MAX_DIGITS]!r} is not a time")
    value = int(whole) * _SECOND + int(fraction[:_NANO_DIGITS].ljust(_NANO_DIGITS, b"0"))
    if value > MAX_TIME:
        raise ValueError(f"time {text[:_MAX_DIGITS]!r} is out of range")
    return -value if is_negative else value


def format_time(value: int) -> bytes:
    """Nanoseconds as decimal seconds, exactly and without trailing zeros."""
    sign = "-" if value < 0 else ""
    whole, fraction = divmod(abs(value), _SECOND)
    tail = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{sign}{whole}{tail}".encode()


def format_records(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The payload of an `x` header."""
    return b"".join(_record(key, value) for key, value in records)


def _record(key: bytes, value: bytes) -> bytes:
    bare = len(key) + len(value) + 3  # a space, an equals sign, a newline
    length = bare + len(str(bare))
    if len(str(length)) > len(str(bare)):  # counting the digits added one
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


def xattr_records(xattrs: Iterable[tuple[str, bytes]]) -> list[tuple[bytes, bytes]]:
    """Extended attributes as records, sorted by name."""
    return [(XATTR + encode(name), value) for name, value in sorted(xattrs)]
