"""Times in documents: RFC 3339 text to and from seconds. Reads no clock."""

from __future__ import annotations

import re
import time
from datetime import date

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))\Z",
    re.ASCII,
)


def rfc3339(seconds: int) -> str:
    """Whole seconds since the epoch as RFC 3339 text in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def seconds_of(text: str) -> int | None:
    """Whole seconds since the epoch of RFC 3339 text; None when it is not such text."""
    match = _RFC3339.match(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(match.group(i)) for i in range(1, 7))
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):  # noqa: PLR2004 - the calendar's numbers
        return None
    if year == 0:
        return None
    offset = 0
    if match.group(7):
        offset = int(match.group(8)) * 3600 + int(match.group(9)) * 60
        offset = -offset if match.group(7) == "-" else offset
    # Days count on past the end of a short month, as in the reference.
    days = date(year, month, 1).toordinal() - _EPOCH_DAY + day - 1
    return ((days * 24 + hour) * 60 + minute) * 60 + second - offset
