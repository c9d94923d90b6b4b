"""Reading one file of the context: its bytes exactly, or an error when it moves meanwhile (B08).

Must not know how files are found.
"""

from __future__ import annotations

import io
import os

from builder.context.source import CopyError, shown
from cache.hints import Self
from cache.spec import hashes


def changed(path: str) -> CopyError:
    """Say that a file is no longer what it was when the context was listed."""
    return CopyError(
        f'"{shown(path)}": changed while it was being read',
        hint="build again once nothing writes to the build context",
    )


class PayloadReader(io.RawIOBase):
    """Exactly the bytes a stat announced; checks at their end that the file stood still.

    With an expected sha256 the bytes are hashed as well: a file that was written within a clock
    tick of its listing can change without its stat saying so.
    """

    def __init__(
        self, fd: int, status: os.stat_result | None, path: str, expected: bytes | None = None
    ) -> None:
        """Read from the start of `fd`, which stays the caller's to close."""
        super().__init__()
        self._fd = fd
        self._status = status
        self._path = path
        self._left = status.st_size if status is not None else 0
        self._expected = expected
        self._hash = hashes.sha256() if expected is not None else None
        self._checked = status is None

    @classmethod
    def empty(cls, path: str) -> Self:
        """A payload of no bytes."""
        return cls(-1, None, path)

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, all without one; empty only at the end.

        Raises:
            CopyError: the file changed, or the device failed.
        """
        everything = size is None or size < 0
        want = self._left if size is None or size < 0 else min(size, self._left)
        data = self._take(want)
        if everything and self._left:
            rest = [data]
            while self._left:
                rest.append(self._take(self._left))
            data = b"".join(rest)
        if not self._left:
            self._check()
        return data

    def readinto(self, buffer: object, /) -> int:
        """Read into a buffer."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _take(self, want: int) -> bytes:
        if not want:
            return b""
        try:
            data = os.read(self._fd, min(want, 1 << 26))
        except OSError as error:
            reason = (error.strerror or "cannot be read").lower()
            raise CopyError(f'"{shown(self._path)}": {reason}') from error
        if not data:
            raise changed(self._path)
        self._left -= len(data)
        if self._hash is not None:
            self._hash.update(data)
        return data

    def _check(self) -> None:
        if self._checked or self._status is None:
            return
        self._checked = True
        still = is_same(os.fstat(self._fd), self._status)
        if not still or (self._hash is not None and self._hash.digest() != self._expected):
            raise changed(self._path)


def is_same(now: os.stat_result, then: os.stat_result) -> bool:
    """Whether a file is the one that was listed, unchanged."""
    return (
        now.st_ctime_ns == then.st_ctime_ns
        and now.st_size == then.st_size
        and now.st_ino == then.st_ino
        and now.st_mtime_ns == then.st_mtime_ns
    )
