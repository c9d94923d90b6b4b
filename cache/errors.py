"""The root of every error pybuild raises, and the leaves of the cache package."""

from __future__ import annotations


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
