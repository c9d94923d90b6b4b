"""Reading tar streams: entries in tar order, payloads as bounded streams.

Owns the walk from header to header and what extended headers change. Types and names are taken
as the container engines take them (Go's archive/tar): links and directories have no payload
whatever their size field says, and global extended headers are skipped. Sparse files are
refused, because an index could not point at their content. It must not know of disks.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, cast

from cache.archive.entry import MAX_PATH, Entry, Kind, decode
from cache.archive.header import (
    BLOCK,
    ZERO_BLOCK,
    Header,
    Memo,
    normal_path,
    parse_header,
    quoted,
)
from cache.archive.mould import make_entry
from cache.archive.pax import MAX_EXTENDED, Extended, parse_extended
from cache.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import WriteableBuffer

    # Given bytes, where to begin in them and where that is in the stream: takes whole entries off
    # the front, and says how many bytes they were and how many the next one wants, 0 for none of
    # its business.
    Taker = Callable[[bytes, int, int], tuple[int, int]]

_CHUNK = 256 * 1024  # bytes asked of a stream at once
_SCAN_CHUNK = 16 * 1024  # bytes read after a seek: a few headers, not a payload
_WINDOW = 512 * 1024  # bytes of the largest entry that a taker gets
_PIECE = 1024 * 1024  # most bytes taken in one piece for a reader who wants everything
_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,  # contiguous: a regular file to everyone but its inventor
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHAR,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
_EMPTY = Extended()
# Looking up an enum's member takes a while; these are needed for every entry.
_FILE, _DIRECTORY, _SYMLINK, _HARDLINK = Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK


class _Source:
    """A stream read in large pieces, counted from its beginning."""

    __slots__ = ("_base", "_buffer", "_chunk", "_start", "_stream", "memo")

    def __init__(self, stream: BinaryIO, chunk: int = _CHUNK) -> None:
        self._stream = stream
        self._chunk = chunk
        self._buffer = b""
        self._start = 0  # first unread byte of the buffer
        self._base = 0  # position of the buffer's first byte
        self.memo = Memo()

    @property
    def position(self) -> int:
        return self._base + self._start

    def block(self) -> bytes:
        """The next 512 bytes; fewer at the end of the stream."""
        start = self._start
        end = start + BLOCK
        if end <= len(self._buffer):
            self._start = end
            return self._buffer[start:end]
        return self.take(BLOCK)

    def some(self, limit: int) -> bytes:
        """At most `limit` bytes, at least one unless the stream has ended."""
        start = self._start
        if start == len(self._buffer):
            self._base += start
            self._buffer = self._stream.read(self._chunk) or b""
            start = 0
        data = self._buffer[start : start + limit]
        self._start = start + len(data)
        return data

    def take(self, count: int) -> bytes:
        """`count` bytes; fewer at the end of the stream."""
        data = self.some(count)
        if len(data) == count or not data:
            return data
        pieces = [data]
        left = count - len(data)
        while left and (data := self.some(left)):
            pieces.append(data)
            left -= len(data)
        return b"".join(pieces)

    def skip(self, count: int) -> bool:
        """Pass over bytes; False when the stream ends before."""
        start = self._start + count
        if start <= len(self._buffer):
            self._start = start
            return True
        while count and (data := self.some(count)):
            count -= len(data)
        return not count

    def offer(self, taker: Taker) -> None:
        """Let somebody take entries as long as he will."""
        wanted = 1
        while 0 < wanted <= _WINDOW and self._fill(wanted):
            taken, wanted = taker(self._buffer, self._start, self.position)
            self._start += taken

    def _fill(self, count: int) -> bool:
        """Have so many bytes in the buffer; False when the stream ends before."""
        left = len(self._buffer) - self._start
        if left >= count:
            return True
        pieces = [self._buffer[self._start :]]
        while left < count and (data := self._stream.read(self._chunk)):
            pieces.append(data)
            left += len(data)
        self._base += self._start
        self._start = 0
        self._buffer = b"".join(pieces)
        return left >= count

    def drain(self) -> None:
        """Read to the end of the stream, so that whoever verifies it sees every byte."""
        while self.some(self._chunk):
            pass


class _SeekableSource(_Source):
    """A file whose payloads need not be read."""

    __slots__ = ("_size",)

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, _SCAN_CHUNK)
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)

    def skip(self, count: int) -> bool:
        start = self._start + count
        if start <= len(self._buffer):
            self._start = start
            return True
        target = self._base + start
        if target > self._size:
            return False
        self._stream.seek(target)
        self._buffer = b""
        self._start = 0
        self._base = target
        return True


class _Payload:
    """The content of one entry; empty once the iterator has moved on.

    A bare object: what io.RawIOBase adds costs more than to parse a header.
    """

    __slots__ = ("_entry", "_source", "left")

    def __init__(self, source: _Source, entry: Entry) -> None:
        self._source = source
        self._entry = entry
        self.left = entry.size

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """Do nothing; the stream belongs to whoever opened it."""

    def _some(self, limit: int) -> bytes:
        data = self._source.some(min(limit, self.left))
        if not data and self.left and limit:
            raise _ends_inside(self._entry.path)
        self.left -= len(data)
        return data

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes; fewer only at the end of the entry."""
        wanted = self.left if size is None or size < 0 else min(size, self.left)
        data = self._some(wanted)
        if len(data) == wanted:
            return data
        pieces = [data]
        wanted -= len(data)
        while wanted:
            data = self._some(min(wanted, _PIECE))
            pieces.append(data)
            wanted -= len(data)
        return b"".join(pieces)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._some(len(view))
        view[: len(data)] = data
        return len(data)


def read_entries(stream: BinaryIO, taker: Taker | None = None) -> Iterator[tuple[Entry, BinaryIO]]:
    """Yield the entries of a tar stream with their payloads, then read the stream to its end.

    A payload may be read until the iterator advances; what was not read is skipped. An archive
    without end-of-archive blocks, even an empty stream, is accepted. What the taker takes is not
    yielded.

    Raises:
        ArchiveError: the archive is malformed, truncated or over a limit.
    """
    source = _Source(stream)
    while (entry := _next_entry(source, taker)) is not None:
        payload = _Payload(source, entry)
        yield entry, cast("BinaryIO", payload)
        left = payload.left
        payload.left = 0
        if left and not source.skip(left):
            raise _ends_inside(entry.path)
        if entry.size:
            _skip_padding(source, entry)
    source.drain()


def scan_entries(file: BinaryIO) -> Iterator[Entry]:
    """Yield the entries of a tar in a seekable file from its beginning, without the payloads.

    Raises:
        ArchiveError: the archive is malformed, truncated or over a limit.
    """
    source = _SeekableSource(file)
    while (entry := _next_entry(source)) is not None:
        yield entry
        if entry.size:
            if not source.skip(entry.size):
                raise _ends_inside(entry.path)
            _skip_padding(source, entry)


def _skip_padding(source: _Source, entry: Entry) -> None:
    padding = -entry.size % BLOCK
    if padding and not source.skip(padding):
        raise _ends_inside(entry.path)


def _ends_inside(path: str) -> ArchiveError:
    return ArchiveError(
        f"the archive ends inside {quoted(path)}", hint="the file or download is incomplete"
    )


def _next_entry(source: _Source, taker: Taker | None = None) -> Entry | None:
    """Read headers up to and including an entry's own; None at the end of the archive."""
    if taker is not None:
        source.offer(taker)
    header = _next_header(source)
    if header is None:
        return None
    kind = _KINDS.get(header.type)
    extended = _EMPTY
    if kind is None:
        described = _read_extended(source, header)
        if described is None:
            return None
        header, extended = described
        kind = _KINDS[header.type]
    # v7 archives mark directories by a slash only
    if header.type == b"\0" and (extended.path or header.name)[-1:] == b"/":
        kind = Kind.DIRECTORY
    return _entry(header, extended, kind, source.position)


def _next_header(source: _Source) -> Header | None:
    block = source.block()
    if not block:
        return None
    if len(block) < BLOCK:
        raise ArchiveError(
            f"the archive ends inside a header at byte {source.position - len(block)}",
            hint="the file or download is incomplete",
        )
    if block != ZERO_BLOCK:
        return parse_header(block, source.memo)
    second = source.block()
    if second and second != ZERO_BLOCK:
        raise ArchiveError("the archive has a single zero block before its end")
    return None


def _read_extended(source: _Source, first: Header) -> tuple[Header, Extended] | None:
    """Collect extended headers and return the header they lead to; None when there is none."""
    extended = Extended()
    names: dict[bytes, bytes] = {}
    is_awaited = False
    header: Header | None = first
    while header is not None and header.type not in _KINDS:
        if header.type == b"x":
            extended = parse_extended(_extended_payload(source, header))
            is_awaited = True
        elif header.type in {b"L", b"K"}:
            names[header.type] = _long_text(_extended_payload(source, header))
            is_awaited = True
        elif header.type in {b"g", b"V"}:
            _extended_payload(source, header)
        else:
            raise _unsupported(header)
        header = _next_header(source)
    if header is None:
        if is_awaited:
            raise ArchiveError("the archive ends after an extended header")
        return None
    extended.path = names.get(b"L", extended.path)  # GNU names win over PAX ones, as in Go
    extended.linkpath = names.get(b"K", extended.linkpath)
    return header, extended


def _extended_payload(source: _Source, header: Header) -> bytes:
    if header.size > MAX_EXTENDED:
        raise ArchiveError(
            f"extended tar header of {header.size} bytes is over the limit of {MAX_EXTENDED}"
        )
    padded = header.size + -header.size % BLOCK
    data = source.take(padded)
    if len(data) != padded:
        raise ArchiveError("the archive ends inside an extended header")
    return data[: header.size]


def _long_text(data: bytes) -> bytes:
    text = data.rstrip(b"\0")
    if len(text) > MAX_PATH or b"\0" in text:
        why = "contains NUL" if b"\0" in text else f"is longer than {MAX_PATH} bytes"
        raise ArchiveError(f"name {quoted(text)} {why}")
    return text


def _unsupported(header: Header) -> ArchiveError:
    if header.type == b"S":
        return _sparse(header.name)
    letter = quoted(header.type)
    return ArchiveError(f"{quoted(header.name)} has the unsupported tar entry type {letter}")


def _sparse(name: bytes) -> ArchiveError:
    return ArchiveError(
        f"{quoted(name)} is stored as a sparse file, which is not supported",
        hint="make the archive without --sparse",
    )


def _entry(header: Header, extended: Extended, kind: Kind, offset: int) -> Entry:
    name = header.name if extended.path is None else extended.path
    path = normal_path(name)
    if not path and kind is not _DIRECTORY:
        raise ArchiveError(f"archive entry {quoted(name)} would replace the root by a {kind}")
    linkname = ""
    if kind is _SYMLINK or kind is _HARDLINK:
        text = header.linkname if extended.linkpath is None else extended.linkpath
        linkname = _linkname(text, path, kind)
    if extended is _EMPTY:
        size, uid, gid, mtime = header.size, header.uid, header.gid, header.mtime
    else:
        if extended.is_sparse:
            raise _sparse(name)
        size = header.size if extended.size is None else extended.size
        uid = header.uid if extended.uid is None else extended.uid
        gid = header.gid if extended.gid is None else extended.gid
        mtime = header.mtime if extended.mtime is None else extended.mtime
    if kind is not _FILE:
        size = 0
    device = header.device
    return make_entry(
        path, kind, header.mode, uid, gid, size, mtime, linkname, device, extended.xattrs, offset
    )


def _linkname(text: bytes, path: str, kind: Kind) -> str:
    if kind is _HARDLINK:
        target = normal_path(text)
        if not target:
            raise ArchiveError(f"hard link {quoted(path)} has the root for its target")
        return target
    if not text or b"\0" in text or len(text) >= MAX_PATH:
        raise ArchiveError(f"symlink {quoted(path)} has an empty, overlong or unprintable target")
    return decode(text)
