"""Writing tar streams: the same entries give the same bytes.

Owns the choice between plain ustar headers and PAX records, which are written only where ustar
cannot say it. Names are written as the bytes they are, in PAX records too, and without
`hdrcharset`: Go's archive/tar, GNU tar and Python read them so. User and group names stay
empty. Sparse files are written as plain data. It must not know of disks or of compression.
"""

from __future__ import annotations

from typing import BinaryIO, Protocol
from zlib import adler32

from cache.archive.entry import MAX_PATH, Entry, Kind, encode
from cache.archive.header import BLOCK, MAX_ID, MAX_SIZE, ZERO_BLOCK, byte_sum, quoted
from cache.archive.mould import make_entry
from cache.archive.pax import MAX_EXTENDED, format_records, format_time, xattr_records
from cache.errors import ArchiveError

_TYPES = {
    Kind.FILE: b"0",
    Kind.HARDLINK: b"1",
    Kind.SYMLINK: b"2",
    Kind.CHAR: b"3",
    Kind.BLOCK: b"4",
    Kind.DIRECTORY: b"5",
    Kind.FIFO: b"6",
}
_PIECE = 1024 * 1024  # bytes copied at once
_GATHER = 256 * 1024  # bytes collected before the sink is bothered
_SMALL = 16 * 1024  # bytes of a payload that is cheaper to copy than to keep apart
_SECOND = 1_000_000_000
_NAME = 100
_PREFIX = 155
_MAX_OCTAL_ID = 0o7777777
_MAX_OCTAL_SIZE = 0o77777777777
_PAX_NAME = b"././@PaxHeader"  # no in-image path looks like it
_HEAD = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0"
_MAGIC = b"ustar\x0000".ljust(72, b"\0")  # magic, version, no user name, no group name
_NO_DEVICE = b"0000000\x000000000\0"
_NO_PREFIX = bytes(_PREFIX + 12)


_TIME_RECORD = 31  # no record of a time that ustar can nearly say is as long


class Sink(Protocol):
    """Something bytes can be written to."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take all of the bytes."""


class TarWriter:
    """A tar stream in the making: add the entries, then finish.

    The sink gets the bytes in large pieces; it has all of them after `finish`.
    """

    __slots__ = ("_gathered", "_pieces", "_position", "_sink")

    def __init__(self, sink: Sink) -> None:
        """Write to a sink, which stays the caller's to close."""
        self._sink = sink
        self._pieces: list[bytes] = []
        self._gathered = 0
        self._position = 0

    @property
    def position(self) -> int:
        """Bytes of tar so far, delivered or not."""
        return self._position

    def add(self, entry: Entry, payload: bytes | BinaryIO | None = None) -> Entry:
        """Append an entry and return it as a reader will see it, offset included.

        A FILE needs its payload; a stream is read for exactly `entry.size` bytes.

        Raises:
            ArchiveError: the payload ends early or the entry cannot be written.
        """
        size = entry.size if entry.kind is Kind.FILE else 0
        if isinstance(payload, bytes) and len(payload) != size:
            raise ArchiveError(f"{quoted(entry.path)} has {len(payload)} bytes instead of {size}")
        if size and payload is None:
            raise ArchiveError(f"{quoted(entry.path)} needs a payload of {size} bytes")
        head = _quick_headers(entry, size) or _headers(entry, size)
        offset = self._position + len(head)
        padding = ZERO_BLOCK[: -size % BLOCK]
        if size <= _SMALL and isinstance(payload, bytes):
            self._put(b"%b%b%b" % (head, payload, padding))
        else:
            self._put(head)
            if isinstance(payload, bytes):
                self._put(payload)
            elif size and payload is not None:
                self._copy(entry.path, payload, size)
            self._put(padding)
        return _placed(entry, size, offset)

    def finish(self) -> None:
        """End the archive with two zero blocks and deliver what is left."""
        self._put(ZERO_BLOCK * 2)
        self._flush()

    def _put(self, data: bytes) -> None:
        self._pieces.append(data)
        self._position += len(data)
        self._gathered += len(data)
        if self._gathered >= _GATHER:
            self._flush()

    def _flush(self) -> None:
        if self._pieces:
            self._sink.write(b"".join(self._pieces))
            self._pieces.clear()
            self._gathered = 0

    def _copy(self, path: str, payload: BinaryIO, size: int) -> None:
        left = size
        while left:
            data = payload.read(min(left, _PIECE))
            if not data:
                raise ArchiveError(
                    f"{quoted(path)} ended after {size - left} of {size} bytes",
                    hint="the file changed while it was read",
                )
            self._put(data)
            left -= len(data)


def _placed(entry: Entry, size: int, offset: int) -> Entry:
    if entry.offset == offset and entry.size == size:
        return entry
    return make_entry(
        entry.path,
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        size,
        entry.mtime,
        entry.linkname,
        entry.device,
        entry.xattrs,
        offset,
    )


def _quick_headers(entry: Entry, size: int) -> bytes:
    """The headers of an ordinary file or directory, b"" for any other entry: most of all there are.

    They are what `_headers` gives; a test compares them.
    """
    kind = entry.kind
    name = entry.path.encode("utf-8", "surrogateescape")
    if kind is Kind.DIRECTORY:
        name += b"/"
        tail, total = _DIRECTORY_TAIL
    elif kind is Kind.FILE:
        tail, total = _FILE_TAIL
    else:
        return b""
    seconds, fraction = divmod(entry.mtime, _SECOND)
    uid, gid = entry.uid, entry.gid
    if (
        not entry.path
        or len(name) > _NAME
        or entry.xattrs
        or entry.linkname
        or not 0 <= uid <= _MAX_OCTAL_ID
        or not 0 <= gid <= _MAX_OCTAL_ID
        or not 0 <= seconds <= _MAX_OCTAL_SIZE
        or not 0 <= size <= _MAX_OCTAL_SIZE
        or entry.device != (0, 0)
        or b"\0" in name
    ):
        return b""
    head = _HEAD % (name.ljust(_NAME, b"\0"), entry.mode & 0o7777, uid, gid, size, seconds)
    # As `byte_sum`: what stays the same behind the checksum is summed already.
    checksum = (adler32(head, 0) & 0xFFFF) + total
    time = _quick_time(seconds, fraction) if fraction else b""
    return b"%b%b%06o\0 %b" % (time, head, checksum, tail)


def _quick_time(seconds: int, fraction: int) -> bytes:
    record = (b"mtime=%d.%09d" % (seconds, fraction)).rstrip(b"0")
    record = b"%d %b\n" % (len(record) + 4, record)  # two digits, a blank and a newline
    return _TIME_HEADERS[len(record)] + record + ZERO_BLOCK[len(record) :]


def _headers(entry: Entry, size: int) -> bytes:
    """The header block of an entry, with an extended header before it where it needs one."""
    name = encode(entry.path)
    if entry.kind is Kind.DIRECTORY:
        name = name + b"/" if name else b"./"
    link = encode(entry.linkname) if entry.linkname else b""
    seconds, fraction = divmod(entry.mtime, _SECOND)
    if (
        len(name) <= _NAME
        and len(link) <= _NAME
        and not fraction
        and 0 <= seconds <= _MAX_OCTAL_SIZE
        and size <= _MAX_OCTAL_SIZE
        and 0 <= entry.uid <= _MAX_OCTAL_ID
        and 0 <= entry.gid <= _MAX_OCTAL_ID
        and not entry.xattrs
        and entry.device == (0, 0)
        and name
        and b"\0" not in name
        and b"\0" not in link
    ):
        numbers = (entry.mode & 0o7777, entry.uid, entry.gid, size, seconds)
        return _block(name, numbers, _TYPES[entry.kind], link)
    return _rich_headers(entry, size, name, link)


def _block(
    name: bytes,
    numbers: tuple[int, int, int, int, int],
    letter: bytes,
    link: bytes = b"",
    device: bytes = _NO_DEVICE,
    prefix: bytes = _NO_PREFIX,
) -> bytes:
    head = _HEAD % (name.ljust(_NAME, b"\0"), *numbers)
    tail = b"%b%b%b%b%b" % (letter, link.ljust(_NAME, b"\0"), _MAGIC, device, prefix)
    return b"%b%06o\0 %b" % (head, byte_sum(head + b"        " + tail), tail)


def _tail(letter: bytes) -> tuple[bytes, int]:
    """What follows the checksum of a plain entry, and its part of that sum."""
    tail = b"%b%b%b%b%b" % (letter, bytes(_NAME), _MAGIC, _NO_DEVICE, _NO_PREFIX)
    return tail, sum(tail) + 8 * ord(" ")


_FILE_TAIL = _tail(_TYPES[Kind.FILE])
_DIRECTORY_TAIL = _tail(_TYPES[Kind.DIRECTORY])
_TIME_HEADERS = [
    _block(_PAX_NAME, (0o644, 0, 0, length, 0), b"x") for length in range(_TIME_RECORD)
]


def _rich_headers(entry: Entry, size: int, name: bytes, link: bytes) -> bytes:
    _check(entry, name, link)
    records: list[tuple[bytes, bytes]] = []
    short, prefix = name, b""
    if len(name) > _NAME:
        short, prefix = _split(name)
        if not prefix:
            records.append((b"path", name))
    if len(link) > _NAME:
        records.append((b"linkpath", link))
    uid, gid = entry.uid, entry.gid
    if uid > _MAX_OCTAL_ID:
        records.append((b"uid", b"%d" % uid))
        uid = 0
    if gid > _MAX_OCTAL_ID:
        records.append((b"gid", b"%d" % gid))
        gid = 0
    seconds, fraction = divmod(entry.mtime, _SECOND)
    if fraction or not 0 <= seconds <= _MAX_OCTAL_SIZE:
        records.append((b"mtime", format_time(entry.mtime)))
        seconds = seconds if 0 <= seconds <= _MAX_OCTAL_SIZE else 0
    if size > _MAX_OCTAL_SIZE:
        records.append((b"size", b"%d" % size))
    field_size = size if size <= _MAX_OCTAL_SIZE else 0
    records.extend(xattr_records(entry.xattrs))
    plain = _block(
        short[:_NAME],
        (entry.mode & 0o7777, uid, gid, field_size, seconds),
        _TYPES[entry.kind],
        link[:_NAME],
        b"%07o\0%07o\0" % entry.device,
        prefix.ljust(_PREFIX + 12, b"\0"),
    )
    return _extended(entry.path, records) + plain if records else plain


def _extended(path: str, records: list[tuple[bytes, bytes]]) -> bytes:
    data = format_records(records)
    if len(data) > MAX_EXTENDED:
        raise ArchiveError(
            f"attributes of {quoted(path)} take {len(data)} bytes; the limit is {MAX_EXTENDED}"
        )
    block = _block(_PAX_NAME, (0o644, 0, 0, len(data), 0), b"x")
    return block + data + ZERO_BLOCK[: -len(data) % BLOCK]


def _check(entry: Entry, name: bytes, link: bytes) -> None:
    """Refuse what no reader would take back."""
    if not name or len(name) > MAX_PATH + 1 or b"\0" in name + link:
        raise ArchiveError(f"{quoted(entry.path)} is empty, overlong or contains NUL")
    if not (0 <= entry.uid <= MAX_ID and 0 <= entry.gid <= MAX_ID and 0 <= entry.size <= MAX_SIZE):
        raise ArchiveError(f"{quoted(entry.path)} has an owner or size that is out of range")
    if not all(0 <= number <= _MAX_OCTAL_ID for number in entry.device):
        raise ArchiveError(f"{quoted(entry.path)} has a device number that is out of range")


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Divide a long name between ustar's two fields; an empty prefix means it does not fit."""
    slash = name.rfind(b"/", 0, min(len(name) - 1, _PREFIX + 1))
    if slash <= 0 or len(name) - slash - 1 > _NAME:
        return name, b""
    return name[slash + 1 :], name[:slash]
