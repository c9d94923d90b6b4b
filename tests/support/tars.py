"""Tar streams for tests: well-formed ones by our writer, hostile ones by hand."""

from __future__ import annotations

import io

from cache.archive.entry import Entry, Kind
from cache.archive.writer import TarWriter
from cache.value import replace

END = bytes(1024)


def archive(*items: Entry | tuple[Entry, bytes]) -> io.BytesIO:
    """A tar of entries, those with content as pairs."""
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    for item in items:
        entry, payload = item if isinstance(item, tuple) else (item, b"")
        writer.add(replace(entry, size=len(payload)), payload)
    writer.finish()
    buffer.seek(0)
    return buffer


def member(
    name: bytes,
    kind: bytes = b"0",
    payload: bytes = b"",
    *,
    link: bytes = b"",
    mode: bytes = b"0000644\0",
    uid: bytes = b"0000000\0",
    gid: bytes = b"0000000\0",
    size: bytes | None = None,
    mtime: bytes = b"00000000000\0",
    magic: bytes = b"ustar\x0000",
    device: bytes = b"0000000\x000000000\0",
    prefix: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    """One header with its payload, every field as given."""
    size = b"%011o\0" % len(payload) if size is None else size
    head = name.ljust(100, b"\0") + mode + uid + gid + size + mtime
    tail = kind + link.ljust(100, b"\0") + magic.ljust(72, b"\0") + device
    tail += prefix.ljust(167, b"\0")
    total = sum(head) + 8 * 32 + sum(tail)
    block = head + (b"%06o\0 " % total if checksum is None else checksum) + tail
    assert len(block) == 512
    return block + payload + bytes(-len(payload) % 512)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """An extended header."""
    return member(b"pax", kind, b"".join(record(*pair) for pair in records))


def record(key: bytes, value: bytes) -> bytes:
    """One PAX record."""
    length = len(key) + len(value) + 3
    while len(str(length)) + len(key) + len(value) + 3 != length:
        length = len(str(length)) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def file(path: str, content: bytes = b"", **fields: object) -> tuple[Entry, bytes]:
    """A file entry with its content."""
    return Entry(path, Kind.FILE, **fields), content  # type: ignore[arg-type]


def directory(path: str, mode: int = 0o755, **fields: object) -> Entry:
    """A directory entry."""
    return Entry(path, Kind.DIRECTORY, mode, **fields)  # type: ignore[arg-type]


def symlink(path: str, target: str) -> Entry:
    """A symlink entry."""
    return Entry(path, Kind.SYMLINK, 0o777, linkname=target)


def hardlink(path: str, target: str) -> Entry:
    """A hard link entry."""
    return Entry(path, Kind.HARDLINK, linkname=target)
