"""Time as a build needs it: RFC 3339 for records, the epoch's clamp, nanoseconds for mtimes."""

from __future__ import annotations

import time

from cache.value import value

_SECOND = 1_000_000_000


@value
class Clock:
    """The wall clock, or SOURCE_DATE_EPOCH where it was given (seconds, O21)."""

    epoch: int | None = None

    def text(self) -> str:
        """Now, RFC 3339 with nanoseconds."""
        if self.epoch is not None:
            return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.epoch))
        now = time.time_ns()
        head = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // _SECOND))
        return f"{head}.{now % _SECOND:09d}Z"

    def nanoseconds(self) -> int:
        """Now, for the mtime of what a step makes itself."""
        return time.time_ns() if self.epoch is None else self.epoch * _SECOND

    def seconds(self) -> int:
        """Now, whole."""
        return int(time.time()) if self.epoch is None else self.epoch
