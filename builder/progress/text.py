"""Untrusted bytes as harmless text, and numbers as people read them. Knows no event and no stream."""

from __future__ import annotations

import re

MAX_LINE = 16 * 1024  # bytes of one log line; what is longer is shown as several
_MAX_SIZE_DIGITS = 1000
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")

# Whole escape sequences go: CSI (colours, cursor), then OSC, DCS, SOS, PM, APC (titles, links,
# clipboard), then two-byte ones. None of the loops overlap, so matching stays linear.
_SEQUENCE = (  # patterns are compiled when they are first needed
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b[ -/]+[0-~]"
    r"|\x1b[0-9=>cDEHMNO78]"
)
# C0 without tab, DEL, C1, line and paragraph separators, and what reorders or hides text.
_CONTROL = (
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)


def harmless(text: str) -> str:
    """Text a terminal only prints: sequences dropped, other control characters spelled out."""
    if text.isprintable():
        return text
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(_CONTROL, _spelled, re.sub(_SEQUENCE, "", text))


def _spelled(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - one byte


class LineSplitter:
    """Cuts a byte stream into harmless lines; a carriage return starts its line anew."""

    def __init__(self) -> None:
        """Begin with nothing held."""
        self._held = b""

    def feed(self, data: bytes) -> list[str]:
        """Take bytes; give the lines they complete."""
        *lines, held = (self._held + data).split(b"\n")
        while len(held) > MAX_LINE:
            lines.append(held[:MAX_LINE])
            held = held[MAX_LINE:]
        self._held = held
        return [_line(line) for line in lines]

    def finish(self) -> list[str]:
        """Give the unfinished last line, if there is one."""
        held, self._held = self._held, b""
        return [_line(held)] if held.rstrip(b"\r") else []


def _line(line: bytes) -> str:
    # A program that redraws one line means its last state.
    shown = line.rstrip(b"\r").rpartition(b"\r")[2]
    return harmless(shown.decode("utf-8", "surrogateescape"))


def human_size(count: int) -> str:
    """Bytes in decimal units: 999B, 1.2kB, 40.0MB."""
    if count < _MAX_SIZE_DIGITS:
        return f"{count}B"
    value = float(count)
    unit = 0
    while value >= 999.95 and unit < len(_UNITS) - 1:  # noqa: PLR2004 - would round to 1000.0
        value /= 1000
        unit += 1
    return f"{value:.1f}{_UNITS[unit]}"


def human_seconds(seconds: float) -> str:
    """A duration: 0.3s, 75.0s as 1m15s, 2h03m."""
    if seconds < 59.95:  # noqa: PLR2004 - would round to 60.0
        return f"{max(seconds, 0.0):.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004 - an hour
        return f"{minutes}m{rest:02}s"
    return f"{minutes // 60}h{minutes % 60:02}m"
