"""History entries not yet dated, and the exact created_by texts (O10-O12); knows no graph walk."""

from __future__ import annotations

import json

from cache.hints import TYPE_CHECKING
from cache.value import value
from frontend.source import redacted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cache.spec.config import Healthcheck
    from frontend.graph import Ref

COMMENT = "buildkit.dockerfile.v0"
EXPORTED = "buildkit.exporter.image.v0"  # of an entry that no instruction gave
_SUFFIX = " # buildkit"
_MILLISECOND = 1_000_000
_UNITS = ((1, "ns"), (1_000, "µs"), (_MILLISECOND, "ms"))
_SECOND = 1_000_000_000
_ASCII_END = 0x7F
_SHORT = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


@value
class PendingHistory:
    """One entry to be: `ref` is the vertex that makes its layer, None for an empty layer."""

    created_by: str
    ref: Ref | None = None
    comment: str = COMMENT


def run_text(argv: tuple[str, ...], arguments: tuple[tuple[str, str], ...]) -> str:
    """Word a RUN: `RUN |2 a=1 b=2 /bin/sh -c make # buildkit`."""
    shown = [f"|{len(arguments)}", *(f"{k}={v}" for k, v in arguments)] if arguments else []
    return f"RUN {' '.join([*shown, *argv])}{_SUFFIX}"


def copy_text(keyword: str, flags: Iterable[str], paths: Iterable[str]) -> str:
    """Word a COPY or ADD: expanded flags and paths, heredocs as <<NAME before the destination.

    Credentials of a URL are not what others are told who get the image (S-I09).
    """
    return f"{' '.join([keyword, *flags, *map(redacted, paths)])}{_SUFFIX}"


def pairs_text(keyword: str, pairs: Iterable[tuple[str, str | None]]) -> str:
    """Word ENV, LABEL and ARG: `ENV a=1 b=two words`; no `=` for a value that is unknown."""
    return " ".join([keyword, *(k if v is None else f"{k}={v}" for k, v in pairs)])


def quoted_list(words: Iterable[str]) -> str:
    """Word a list of strings as Go's %q does: `["a" "b"]`."""
    return f"[{' '.join(quote(word) for word in words)}]"


def plain_list(words: Iterable[str]) -> str:
    """Word a list of strings as Go's %v does: `[a b]`."""
    return f"[{' '.join(words)}]"


def quote(text: str) -> str:
    """Quote as a Go string literal."""
    return f'"{"".join(_escaped(c) for c in text)}"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char in _SHORT:
        return _SHORT[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code <= _ASCII_END:
        return f"\\x{code:02x}"
    return json.dumps(char)[1:-1] if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - the plane


def duration(nanoseconds: int) -> str:
    """Render a duration as Go does: `1m30s`, `1.5s`, `100ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < _SECOND:
        unit, name = next(u for u in reversed(_UNITS) if nanoseconds >= u[0])
        return f"{_decimal(nanoseconds, unit)}{name}"
    minutes, rest = divmod(nanoseconds, 60 * _SECOND)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{_decimal(rest, _SECOND)}s"


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    digits = str(unit + part)[1:].rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def healthcheck_text(check: Healthcheck) -> str:
    """Word a HEALTHCHECK as Go prints the struct."""
    return (
        f"HEALTHCHECK {{Test:{plain_list(check.test)} Interval:{duration(check.interval)}"
        f" Timeout:{duration(check.timeout)} StartPeriod:{duration(check.start_period)}"
        f" StartInterval:{duration(check.start_interval)} Retries:{check.retries}}}"
    )
