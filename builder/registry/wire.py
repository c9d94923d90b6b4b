"""HTTP/1.1 as text: how a request is written, and what a reply's head may look like (RFC 9112).

Owns the grammar and the rules of framing: where a body ends and whether the connection may be
used again. What could be read in two ways is refused, since of two readers on the way one might
read it in the other. Opens and reads nothing itself.
"""

from __future__ import annotations

import re

from cache.hints import TYPE_CHECKING
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MAX_LINE = 64 * 1024  # bytes; a Location may hold a signature of some thousands
_MAX_HEAD = 256 * 1024  # bytes of a head, or of trailers
_MAX_FIELDS = 200  # header lines; the servers we know send up to 30
_MAX_INTERIM = 20  # 1xx replies before the one that counts
_MAX_CHUNK_LINE = 4096  # bytes of a chunk's size with its extensions, which nobody uses
CHUNKED = -1
TO_THE_END = -2
# Sets and methods of text rather than patterns, which take longer to compile than a request.
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_CONTROLS = frozenset(map(chr, (*range(9), *range(10, 32), 127)))
_MAX_DIGITS = 18  # of a Content-Length
_CHUNK = rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n\0]*)?\Z"  # compiled when a reply has chunks
_BODILESS = frozenset({204, 304})


class ProtocolError(Exception):
    """What came is no HTTP reply, or ends before its end."""


@value
class Head:
    """Status line and header fields of a reply; names in lower case."""

    minor: int
    status: int
    fields: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        """The values of all lines of a field."""
        lower = name.lower()
        return [text for found, text in self.fields if found == lower]

    def get(self, name: str) -> str:
        """A field's value, lines joined as lists are; empty when it is absent."""
        return ", ".join(self.all(name))

    def names(self, field: str) -> list[str]:
        """The items of a list of tokens, in lower case."""
        items = (item.strip(" \t").lower() for item in self.get(field).split(","))
        return [item for item in items if item]

    @property
    def keeps(self) -> bool:
        """Whether the peer keeps the connection open."""
        options = self.names("connection")
        return "close" not in options and (self.minor > 0 or "keep-alive" in options)

    def body(self, method: str) -> int:
        """How the body is delimited: a length, CHUNKED or TO_THE_END.

        Raises:
            ProtocolError: lengths or codings that contradict each other or are none.
        """
        length = self._length()
        if method == "HEAD" or self.status in _BODILESS:
            return 0
        codings = self.all("transfer-encoding")
        if not codings:
            return TO_THE_END if length is None else length
        if self.names("transfer-encoding") != ["chunked"] or length is not None or not self.minor:
            msg = f"transfer encoding {', '.join(codings)[:40]!r} cannot be read here"
            raise ProtocolError(msg)
        return CHUNKED

    def _length(self) -> int | None:
        found: set[int] = set()
        for text in self.all("content-length"):
            for item in text.split(","):
                digits = item.strip(" \t")
                if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
                    msg = f"Content-Length {text[:40]!r} is no length"
                    raise ProtocolError(msg)
                found.add(int(digits))
        if len(found) > 1:
            msg = "several lengths for one body"
            raise ProtocolError(msg)
        return found.pop() if found else None


def read_head(line: Callable[[int], bytes]) -> Head:
    """Read a head; `line` gives the next line, without its end, of at most so many bytes.

    Raises:
        ProtocolError: not a reply, or over a limit.
    """
    for _ in range(_MAX_INTERIM):
        minor, status = _status_line(line(MAX_LINE))
        head = Head(minor, status, tuple(read_fields(line)))
        if head.status >= 200:  # noqa: PLR2004 - 1xx are not yet the reply
            return head
        if head.status == 101:  # noqa: PLR2004 - switching protocols
            break
    msg = "the reply does not come to its point"
    raise ProtocolError(msg)


def _status_line(line: bytes) -> tuple[int, int]:
    """The minor version and the status."""
    minor, status = line[7:8], line[9:12]
    fits = line[:7] == b"HTTP/1." and minor in {b"0", b"1"} and line[8:9] == b" "
    fits = fits and not {0, 13}.intersection(line)  # NUL, and CR within the line
    if not fits or not status.isdigit() or status < b"100" or line[12:13] not in {b"", b" "}:
        msg = f"{line[:60]!r} is no status line"
        raise ProtocolError(msg)
    return int(minor), int(status)


def read_fields(line: Callable[[int], bytes]) -> list[tuple[str, str]]:
    """Read header or trailer lines up to the empty one.

    Raises:
        ProtocolError: not fields, or over a limit.
    """
    found: list[tuple[str, str]] = []
    count = total = 0
    while data := line(MAX_LINE):
        count, total = count + 1, total + len(data)
        if count > _MAX_FIELDS or total > _MAX_HEAD:
            msg = "too many header lines"
            raise ProtocolError(msg)
        text = data.decode("latin-1")
        if text[0] in " \t" and found:
            # A folded line: one value, says RFC 9112, 5.2.
            name, before = found.pop()
            found.append((name, _checked(" ".join([before, text.strip(" \t")]))))
            continue
        name, colon, content = text.partition(":")
        if not colon or not name or not _TOKEN.issuperset(name):
            msg = f"{text[:60]!r} is no header line"
            raise ProtocolError(msg)
        found.append((name.lower(), _checked(content.strip(" \t"))))
    return found


def _checked(content: str) -> str:
    if not _CONTROLS.isdisjoint(content):
        msg = "control characters in a header line"
        raise ProtocolError(msg)
    return content


def read_chunk_size(line: Callable[[int], bytes]) -> int:
    """Read the line before a chunk.

    Raises:
        ProtocolError: not a size.
    """
    data = line(_MAX_CHUNK_LINE)
    match = re.match(_CHUNK, data)
    if match is None:
        msg = f"{data[:40]!r} is no chunk size"
        raise ProtocolError(msg)
    return int(match[1], 16)


def request_head(method: str, target: str, fields: Mapping[str, str]) -> bytes:
    """Write a request's head.

    Raises:
        ValueError: a target, name or value that would break out of its line.
    """
    if not target or " " in target or not (target.isascii() and target.isprintable()):
        msg = "malformed request target"
        raise ValueError(msg)
    lines = [f"{method} {target} HTTP/1.1"]
    for name, content in fields.items():
        if not name or not _TOKEN.issuperset(name) or not _CONTROLS.isdisjoint(content):
            msg = f"header {name[:40]!r} cannot be sent"
            raise ValueError(msg)
        lines.append(f"{name}: {content}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunks(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """Give a body of unknown length its chunked form."""
    for piece in pieces:
        if piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"
