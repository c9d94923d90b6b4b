"""The 512-byte tar header: its fields as numbers and names, with every claim checked.

Owns ustar, GNU, star and v7 layouts. It must not know of streams or of extended headers.
"""

from __future__ import annotations

from struct import Struct
from zlib import adler32

from cache.archive.entry import MAX_NAME, MAX_PATH, decode, encode
from cache.errors import ArchiveError
from cache.value import field, state, value

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
MAX_ID = 2**32 - 2  # the last number is chown's "leave as it is"
MAX_SIZE = 1 << 50  # bytes of one payload; no file system we meet holds more
MAX_TIME = 2**63 - 1  # nanoseconds, so that times fit 64 bits: years 1677 to 2262
MAX_DEVICE = 2**32 - 1
_SECOND = 1_000_000_000
_HALF = 256
_CHECKSUM = slice(148, 156)
_SPACES = 8 * 0x20  # the checksum field counts as spaces
_SIGN_BIT = 0x80
_BASE_256 = 0x80
_STAR_PREFIX = 131  # star keeps two times behind a shorter prefix
_SHOWN = 200  # characters of a name in a message
_MEMO = 1000  # values remembered; archives have fewer, and hostile ones shall not fill memory
_DEVICES = frozenset({b"3", b"4"})
_LEADING = frozenset({"", ".", "/"})
_FIELDS = Struct("100s24s12s12s8x1s100s6s2x32x32x16s155s12s")


@state
class Header:
    """A header block as read; extended headers may replace some of it."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    type: bytes
    linkname: bytes
    device: tuple[int, int]


def quoted(name: str | bytes) -> str:
    """A name for a message: control characters escaped, never too long."""
    text = decode(name) if isinstance(name, bytes) else name
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def byte_sum(block: bytes) -> int:
    """The sum of 512 bytes."""
    # Adler-32's low half is the sum modulo 65521, which 256 bytes cannot reach; it runs in C.
    low = adler32(block[:_HALF], 0) & 0xFFFF
    return low + (adler32(block[_HALF:], 0) & 0xFFFF)


def is_header(block: bytes) -> bool:
    """Whether 512 bytes are a tar header, judged by their checksum."""
    return len(block) == BLOCK and block != ZERO_BLOCK and _is_sound(block)


def _is_sound(block: bytes) -> bool:
    """Whether the checksum is right."""
    stored = block[_CHECKSUM]
    actual = byte_sum(block) - sum(stored) + _SPACES
    if stored == b"%06o\0 " % actual:
        return True
    text = stored.replace(b"\0", b" ").strip()
    if not text.isdigit():
        return False
    try:
        claimed = int(text, 8)
    except ValueError:
        return False
    # Some old writers summed signed characters.
    high = sum(byte >= _SIGN_BIT for byte in block) - sum(byte >= _SIGN_BIT for byte in stored)
    return claimed in {actual, actual - 256 * high}


@value
class Memo:
    """Numbers seen before in one archive: the same few owners and times come again and again."""

    owners: dict[bytes, tuple[int, int, int]] = field(default_factory=dict)
    times: dict[bytes, int] = field(default_factory=dict)


def parse_header(block: bytes, memo: Memo) -> Header:
    """Read a header block.

    Raises:
        ArchiveError: the checksum is wrong or a number is malformed or out of range.
    """
    name, owner, size, mtime, kind, linkname, magic, device, prefix, tail = _FIELDS.unpack(block)
    name = name.partition(b"\0")[0]
    if not _is_sound(block):
        raise ArchiveError(
            f"damaged tar header at {quoted(name)}: the checksum does not match",
            hint="the archive is corrupt or is not a tar file",
        )
    if prefix[0] and magic == b"ustar\0":
        if tail[8:] == b"tar\0":
            prefix = prefix[:_STAR_PREFIX]
        name = prefix.partition(b"\0")[0] + b"/" + name
    try:
        mode, uid, gid = memo.owners.get(owner) or _owner(owner, memo)
        return Header(
            name,
            mode,
            uid,
            gid,
            _number(size, MAX_SIZE),
            memo.times.get(mtime) or _time(mtime, memo),
            kind,
            linkname.partition(b"\0")[0] if linkname[0] else b"",
            _device(device) if kind in _DEVICES and magic[:5] == b"ustar" else (0, 0),
        )
    except ValueError as error:
        raise ArchiveError(f"bad tar header of {quoted(name)}: {error}") from error


def _owner(field: bytes, memo: Memo) -> tuple[int, int, int]:
    """Mode, user and group, which stand side by side."""
    mode = _number(field[:8], MAX_SIZE) & 0o7777
    found = mode, _number(field[8:16], MAX_ID), _number(field[16:], MAX_ID)
    if len(memo.owners) < _MEMO:
        memo.owners[field] = found
    return found


def _time(field: bytes, memo: Memo) -> int:
    value = _any_number(field) * _SECOND
    if not -MAX_TIME <= value <= MAX_TIME:
        raise ValueError(f"time {value // _SECOND} is out of range")
    if len(memo.times) < _MEMO:
        memo.times[field] = value
    return value


def _device(field: bytes) -> tuple[int, int]:
    return _number(field[:8], MAX_DEVICE), _number(field[8:], MAX_DEVICE)


def _number(field: bytes, largest: int) -> int:
    value = _any_number(field)
    if not 0 <= value <= largest:
        raise ValueError(f"number {value} is out of range")
    return value


def _any_number(field: bytes) -> int:
    """An octal or base-256 number; blank is 0."""
    text = field.strip(b" \0")
    if text.isdigit():
        return int(text, 8)
    if not text:
        return 0
    if field[0] & _BASE_256:
        return _base_256(field)
    return _until_nul(field)


def _until_nul(field: bytes) -> int:
    """Octal digits followed by NUL and then by anything, as some writers leave it."""
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    if not text.isdigit():
        raise ValueError(f"number {field!r} is not octal")
    return int(text, 8)


def _base_256(field: bytes) -> int:
    """GNU's binary numbers: two's complement below the marker bit."""
    value = int.from_bytes(field, "big")
    marker = _BASE_256 << 8 * (len(field) - 1)
    is_negative = field[0] & 0x40  # the bit under the marker
    return value - 2 * marker if is_negative else value - marker


def normal_path(name: bytes) -> str:
    """A name in an archive as an in-image path, `..` resolved by text and stopped at the root.

    Raises:
        ArchiveError: a NUL, or a path or component over the limit.
    """
    # Searching text is several times as fast as searching bytes.
    text = decode(name)
    # Over-long input is refused before it is split, whatever it would shrink to.
    if len(name) > MAX_PATH or "\0" in text:
        why = "contains NUL" if "\0" in text else f"is longer than {MAX_PATH} bytes"
        raise ArchiveError(f"path {quoted(name)} {why}")
    if "/." in text or "//" in text or text[-1:] == "/" or text[:1] in _LEADING:
        kept: list[str] = []
        for part in text.split("/"):
            if part == "..":
                del kept[-1:]
            elif part not in {"", "."}:
                kept.append(part)
        text = "/".join(kept)
    if len(name) > MAX_NAME and max(map(len, encode(text).split(b"/"))) > MAX_NAME:
        raise ArchiveError(f"path {quoted(name)} has a component longer than {MAX_NAME} bytes")
    return text
