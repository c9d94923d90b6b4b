"""Remembered digests of files that stat says have not changed: the port and one in memory.

Owns what is remembered; must not know where it is kept or how files are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

# (inode, size, mtime, ctime), times in nanoseconds: what must be equal for a digest to hold.
Stat = tuple[int, int, int, int]
FileRecord = tuple[Stat, bytes]


class SelectionCache(Protocol):
    """Memos of what was selected; losing one costs time, never correctness."""

    def selection(self, fingerprint: bytes, /) -> bytes | None:
        """The content digest remembered for a selection's fingerprint."""

    def put_selection(self, fingerprint: bytes, digest: bytes, /) -> None:
        """Remember a selection's content digest."""


class StatCache(SelectionCache, Protocol):
    """Memos of selections and of files."""

    def files(self, root: str, /) -> Mapping[str, FileRecord]:
        """Everything remembered of a directory's files, by path."""

    def put_files(self, root: str, records: Mapping[str, FileRecord], /) -> None:
        """Remember files of a directory, replacing what was known of the same paths."""


class MemoryStatCache:
    """A StatCache that lives as long as the process."""

    def __init__(self) -> None:
        """Start empty."""
        self._selections: dict[bytes, bytes] = {}
        self._files: dict[str, dict[str, FileRecord]] = {}

    def selection(self, fingerprint: bytes, /) -> bytes | None:
        """Look a selection up."""
        return self._selections.get(fingerprint)

    def put_selection(self, fingerprint: bytes, digest: bytes, /) -> None:
        """Remember a selection."""
        self._selections[fingerprint] = digest

    def files(self, root: str, /) -> Mapping[str, FileRecord]:
        """Copy out what is known of a directory."""
        return dict(self._files.get(root, {}))

    def put_files(self, root: str, records: Mapping[str, FileRecord], /) -> None:
        """Add to what is known of a directory."""
        self._files.setdefault(root, {}).update(records)
