"""Digests of host files by their stat, in the memos of a store (the port is the context's)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cache.spec.digest import framed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cache.memos import SqliteMemos

# (inode, size, mtime, ctime) with times in nanoseconds, and the sha256 of the content.
_Record = tuple[tuple[int, int, int, int], bytes]


class StoredStatCache:
    """Remembers selections by fingerprint and files by directory."""

    def __init__(self, memos: SqliteMemos) -> None:
        """Use a store's memos."""
        self._memos = memos

    def selection(self, fingerprint: bytes, /) -> bytes | None:
        """Look a selection up."""
        return self._memos.get("selection", fingerprint.hex())

    def put_selection(self, fingerprint: bytes, digest: bytes, /) -> None:
        """Remember a selection."""
        self._memos.put("selection", fingerprint.hex(), digest)

    def files(self, root: str, /) -> Mapping[str, _Record]:
        """What is known of a directory; damaged memos read as nothing."""
        data = self._memos.get("files", _key(root))
        try:
            rows = json.loads(data or b"{}")
            return {
                path: ((ino, size, mtime, ctime), bytes.fromhex(digest))
                for path, (ino, size, mtime, ctime, digest) in rows.items()
            }
        except (ValueError, TypeError, AttributeError):
            return {}

    def put_files(self, root: str, records: Mapping[str, _Record], /) -> None:
        """Add to what is known of a directory."""
        known = dict(self.files(root))
        known.update(records)
        rows = {path: [*status, digest.hex()] for path, (status, digest) in known.items()}
        self._memos.put("files", _key(root), json.dumps(rows).encode())


def _key(root: str) -> str:
    return framed("pybuild.files.v1", [root.encode()]).hex
