"""Digests of host files by their stat, in the memos of a store (the port is the context's).

The files of a directory are one value: their paths, then a row of 64 bytes for each. It is read
without making an object for each of them, and changed without reading it.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from struct import error as FormatError  # noqa: N812 - it is a class

from cache.hints import TYPE_CHECKING
from cache.spec.digest import framed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache.memos import SqliteMemos

# (inode, size, mtime, ctime) with times in nanoseconds, and the sha256 of the content.
_Record = tuple[tuple[int, int, int, int], bytes]

_HEAD = Struct("<4sII")  # mark, number of files, bytes of their paths
_MARK = b"pbf2"
_ROW = Struct("<QQqq32s")
_MAX_FILES = 1_000_000  # remembered of one directory; those of deleted files are among them


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
        return _Files.of(self._memos.get("files", _key(root)) or b"")

    def put_files(self, root: str, records: Mapping[str, _Record], /) -> None:
        """Add to what is known of a directory."""
        known = _Files.of(self._memos.get("files", _key(root)) or b"")
        if len(known) + len(records) > _MAX_FILES:
            known = _Files.of(b"")
        self._memos.put("files", _key(root), known.with_records(records))


class _Files(Mapping[str, _Record]):
    """Rows by path; a row is unpacked when it is asked for."""

    def __init__(self, paths: list[str], rows: bytes) -> None:
        self._paths = paths
        self._rows = rows
        self._index = dict(zip(paths, range(len(paths)), strict=True))

    @classmethod
    def of(cls, data: bytes) -> _Files:
        """Decode."""
        try:
            mark, count, length = _HEAD.unpack_from(data)
            names = data[_HEAD.size : _HEAD.size + length].decode("utf-8", "surrogateescape")
            paths = names.split("\0") if count else []
            rows = data[_HEAD.size + length :]
            if mark == _MARK and len(paths) == count and len(rows) == count * _ROW.size:
                return cls(paths, rows)
        except (ValueError, FormatError):
            pass  # it is forgotten
        return cls([], b"")

    def with_records(self, records: Mapping[str, _Record]) -> bytes:
        """Encode these and others, which replace those of the same paths."""
        rows = bytearray(self._rows)
        more: list[str] = []
        for path, (status, digest) in records.items():
            row = _ROW.pack(*status, digest)
            at = self._index.get(path)
            if at is None:
                more.append(path)
                rows += row
            else:
                rows[at * _ROW.size : (at + 1) * _ROW.size] = row
        paths = [*self._paths, *more]
        names = "\0".join(paths).encode("utf-8", "surrogateescape")
        return _HEAD.pack(_MARK, len(paths), len(names)) + names + rows

    def __getitem__(self, path: str) -> _Record:
        inode, size, mtime, ctime, digest = _ROW.unpack_from(
            self._rows, self._index[path] * _ROW.size
        )
        return (inode, size, mtime, ctime), digest

    def get(self, path: str, default: _Record | None = None) -> _Record | None:  # type: ignore[override] # no other default is used
        """As a dict's, without an exception for each path that is not there."""
        return self[path] if path in self._index else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def _key(root: str) -> str:
    return framed("pybuild.files.v2", [root.encode()]).hex
