"""One entry of a tree or of a layer tar: the vocabulary of everything that reads or writes files."""

from __future__ import annotations

from enum import StrEnum

from cache.value import value

NANOSECOND = 1_000_000_000
MAX_PATH = 4096  # bytes of one in-image path
MAX_NAME = 255  # bytes of one component
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


class Kind(StrEnum):
    """What an entry is. HARDLINK occurs in tars only; a merged tree resolves it."""

    FILE = "file"
    DIRECTORY = "dir"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    CHAR = "char"
    BLOCK = "block"
    FIFO = "fifo"


@value
class Entry:
    """A file system object as data.

    path: in-image path without a leading or trailing slash, "" for the root. Text is UTF-8
        with surrogateescape, so that any byte survives; components are never "", "." or "..".
    mode: permission and special bits (0o7777). mtime: nanoseconds since the epoch.
    size: payload bytes of a FILE, else 0. linkname: verbatim text of a SYMLINK, in-image path
        (as `path`) of a HARDLINK's target. xattrs: sorted (name, value) pairs.
    offset: where the payload starts in its uncompressed layer tar, -1 when it is not in one.
    """

    path: str
    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    linkname: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    offset: int = -1


def encode(text: str) -> bytes:
    """In-image text to the bytes it stands for."""
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    """Bytes of a name to in-image text."""
    return data.decode("utf-8", "surrogateescape")
