"""Times in documents: RFC 3339 text to and from seconds. Reads no clock."""

from __future__ import annotations

import re
import time

_TIME = "1970-01-01T00:00:00"
_ZONE = r"(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))"
_DIGITS = 14
_EPOCH = 719_468  # days from the first of March of the year 0 to 1970


def rfc3339(seconds: int) -> str:
    """Whole seconds since the epoch as RFC 3339 text in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def seconds_of(text: str) -> int | None:
    """Whole seconds since the epoch of RFC 3339 text; None when it is not such text."""
    offset = _offset(text[len(_TIME) :])
    numbers = text[:4], text[5:7], text[8:10], text[11:13], text[14:16], text[17:19]
    digits = "".join(numbers)
    if offset is None or not (len(digits) == _DIGITS and digits.isascii() and digits.isdecimal()):
        return None
    if text[4] + text[7] + text[13] + text[16] != "--::" or text[10] not in "Tt ":
        return None
    year, month, day, hour, minute, second = map(int, numbers)
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):  # noqa: PLR2004 - the calendar's numbers
        return None
    if year == 0:
        return None
    # Days count on past the end of a short month, as in the reference; years begin with March.
    year -= month < 3  # noqa: PLR2004 - March
    days = 365 * year + year // 4 - year // 100 + year // 400 - _EPOCH
    days += (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return ((days * 24 + hour) * 60 + minute) * 60 + second - offset


def _offset(zone: str) -> int | None:
    """Seconds ahead of UTC, from what follows the seconds; None when that is no zone."""
    if zone == "Z":
        return 0
    match = re.fullmatch(_ZONE, zone, re.ASCII)
    if match is None:
        return None
    if match[1] is None:
        return 0
    ahead = int(match[2]) * 3600 + int(match[3]) * 60
    return -ahead if match[1] == "-" else ahead
