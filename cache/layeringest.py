"""A layer being written: its tar, its index, and what is compressed of it at the same time.

Three ways: the tar alone, the tar and its compressed form, or the compressed form alone, from
which the tar can be made when somebody asks for it. The caller chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from cache.ahead import Tee
from cache.archive.writer import TarWriter
from cache.spec import hashes, oci
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor, Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache.ahead import Ahead
    from cache.archive.entry import Entry
    from cache.localstore import BlobWriter


class TarIngest:
    """A LayerWriter onto a blob ingest; `keep` is given every layer before it is given out."""

    def __init__(
        self,
        blob: BlobWriter | Measure,
        ahead: Ahead | None,
        keep: Callable[[Digest, list[Entry], Ahead | None], None],
    ) -> None:
        """Write to `blob`, and to `ahead` beside it."""
        self._blob = blob
        self._ahead = ahead
        self._tar = TarWriter(blob if ahead is None else Tee(blob, ahead))
        self._entries: list[Entry] = []
        self._keep = keep

    def add(self, entry: Entry, payload: bytes | BinaryIO | None = None) -> None:
        """Append an entry."""
        self._entries.append(self._tar.add(entry, payload))

    def commit(self) -> Layer:
        """Finish and publish."""
        self._tar.finish()
        if self._ahead is not None:
            self._ahead.end()
        descriptor = self._blob.commit(oci.OCI_LAYER)
        self._keep(descriptor.digest, self._entries, self._ahead)
        return Layer(descriptor, descriptor.digest)


class Measure:
    """Takes a tar that is not stored, for its digest and size."""

    __slots__ = ("_size", "_state")

    def __init__(self) -> None:
        """Nothing was written."""
        self._state = hashes.Sha256()
        self._size = 0

    def write(self, data: bytes | memoryview, /) -> int:
        """Take all of the bytes."""
        self._state.update(data)
        self._size += len(data)
        return len(data)

    def commit(self, media_type: str) -> Descriptor:
        """Describe what was written."""
        return Descriptor(media_type, Digest("sha256", self._state.hexdigest()), self._size)
