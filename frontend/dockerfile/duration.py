"""Durations as Go writes them: `1h2m3.5s`, `300ms` (I09).

Microseconds are `us` only: flags are read byte by byte, which takes `µs` apart.
"""

from __future__ import annotations

import re

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
# Digits are limited so that no number takes long to read; 2**63 has 19 of them.
_PART = r"([0-9]{0,30})(?:\.([0-9]{0,30}))?(ns|us|ms|s|m|h)"
_MAX = (1 << 63) - 1
_MAX_FRACTION = 18  # digits that count; more would not fit into 64 bits


def parse_duration(text: str) -> int:
    """Return nanoseconds.

    Raises:
        ValueError: not a duration, or one that does not fit into 64 bits.
    """
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    part = re.compile(_PART)
    total = position = 0
    while position < len(rest):
        match = part.match(rest, position)
        if not match or not (match[1] or match[2]):
            raise ValueError(f'invalid duration "{text[:64]}"')
        unit = _UNITS[match[3]]
        fraction = match[2] or ""
        total += int(match[1] or "0") * unit + _part_of(unit, fraction)
        if total > _MAX:
            raise ValueError(f'invalid duration "{text[:64]}"')
        position = match.end()
    if not rest:
        raise ValueError(f'invalid duration "{text[:64]}"')
    return sign * total


def _part_of(unit: int, fraction: str) -> int:
    """Take a decimal fraction of a unit, rounding as floating point does."""
    digits = fraction[:_MAX_FRACTION]
    return int(float(int(digits or "0")) * (unit / 10.0 ** len(digits)))
