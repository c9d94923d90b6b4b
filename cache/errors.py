"""The root of every error pybuild raises, and the leaves of the cache package."""

from __future__ import annotations

import errno
import os

_ELSEWHERE = "name another state directory with --root or PYBUILD_ROOT"
_ROOM = f"free some space with `pybuild prune`, or {_ELSEWHERE}"
_OPEN = "raise the limit on open files, for example with `ulimit -n 1024`"
_LARGE = "raise the limit on the size of files: `ulimit -f unlimited`"
_FOREIGN = f"make it writable for you, or {_ELSEWHERE}"
_WRONG = f"move what lies there away, or {_ELSEWHERE}"
_ADVICE = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EMFILE: _OPEN,
    errno.ENFILE: _OPEN,
    errno.EFBIG: _LARGE,
}
_STATE_ADVICE = {
    errno.EACCES: _FOREIGN,
    errno.EPERM: _FOREIGN,
    errno.EROFS: _FOREIGN,
    errno.ENOTDIR: _WRONG,
    errno.EEXIST: _WRONG,
    errno.EISDIR: _WRONG,
    errno.ELOOP: _WRONG,
}


def reason_of(error: OSError) -> str:
    """What the system said, and of what where that is known.

    A descriptor's number, which fdopen leaves as the name, names nothing to a user.
    """
    named = isinstance(error.filename, (str, bytes)) and error.filename
    where = f": {os.fsdecode(error.filename)}" if named else ""
    return f"{error.strerror or error}{where}"


def advice_on(error: OSError, *, in_state: bool = False) -> str | None:
    """The next step, where the error alone tells it; more is known of the state directory's."""
    number = error.errno or 0
    return _ADVICE.get(number, _STATE_ADVICE.get(number, _ELSEWHERE) if in_state else None)


class PybuildError(Exception):
    """Something a user can act on: a one-line message and, where known, the next step."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Take a lower-case message without a final period and an optional next step."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class ContentNotFoundError(PybuildError):
    """A digest that is not in the store."""


class DigestMismatchError(PybuildError):
    """Bytes whose digest is not the one they were announced with."""


class SizeMismatchError(PybuildError):
    """Bytes whose count is not the one they were announced with."""


class CorruptRecordError(PybuildError):
    """A cache row that does not say what it must."""


class InvalidDocumentError(PybuildError):
    """A manifest, config, index, reference or digest that is malformed or ambiguous."""


class ArchiveError(PybuildError):
    """A tar stream that is malformed, over a limit, or would leave its root."""


class StoreError(PybuildError):
    """The state directory cannot be used: not writable, full, foreign, damaged."""
