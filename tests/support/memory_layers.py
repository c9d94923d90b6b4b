"""A LayerStore in memory, for tests: real tars, no compression, no disk."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, BinaryIO

from cache.archive.entry import Entry, Kind
from cache.archive.writer import TarWriter
from cache.errors import ContentNotFoundError
from cache.spec.digest import Digest
from cache.spec.oci import OCI_LAYER, Descriptor, Layer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class MemoryWriter:
    """A layer being written."""

    def __init__(self, store: MemoryLayers) -> None:
        self._store = store
        self._sink = io.BytesIO()
        self._tar = TarWriter(self._sink)
        self._entries: list[Entry] = []

    def add(self, entry: Entry, payload: bytes | BinaryIO | None = None) -> None:
        """Append an entry."""
        self._entries.append(self._tar.add(entry, payload))

    def commit(self) -> Layer:
        """Publish it."""
        self._tar.finish()
        data = self._sink.getvalue()
        digest = Digest.of(data)
        self._store.tars[digest] = data
        self._store.indexes[digest] = tuple(self._entries)
        return Layer(Descriptor(OCI_LAYER, digest, len(data)), digest)


class MemoryLayers:
    """Layers by diff_id; `opened` counts how often each tar was asked for."""

    def __init__(self) -> None:
        self.tars: dict[Digest, bytes] = {}
        self.indexes: dict[Digest, tuple[Entry, ...]] = {}
        self.opened: list[Digest] = []

    @contextlib.contextmanager
    def writer(self) -> Iterator[MemoryWriter]:
        """Begin a layer."""
        yield MemoryWriter(self)

    def make(self, entries: Iterable[tuple[Entry, bytes]]) -> Layer:
        """Write a layer in one go."""
        with self.writer() as writer:
            for entry, payload in entries:
                writer.add(entry, payload)
            return writer.commit()

    def expect(self, layers: Iterable[Layer]) -> None:
        """Have everything here."""

    def keep_index(self, layer: Layer, entries: list[Entry]) -> None:
        """Keep what was seen."""
        self.indexes[layer.diff_id] = tuple(entries)

    @contextlib.contextmanager
    def open_tar(self, layer: Layer) -> Iterator[BinaryIO]:
        """Give the tar."""
        self.opened.append(layer.diff_id)
        if layer.diff_id not in self.tars:
            msg = f"layer {layer.diff_id} is not in memory"
            raise ContentNotFoundError(msg)
        yield io.BytesIO(self.tars[layer.diff_id])

    def open_seekable(self, layer: Layer) -> contextlib.AbstractContextManager[BinaryIO]:
        """Give the tar, which is seekable anyway."""
        return self.open_tar(layer)

    @contextlib.contextmanager
    def kept(self, diff_id: Digest, /) -> Iterator[tuple[tuple[Entry, ...], BinaryIO]]:
        """Give what was written here."""
        if diff_id not in self.tars:
            msg = f"layer {diff_id} is not in memory"
            raise ContentNotFoundError(msg)
        yield self.indexes[diff_id], io.BytesIO(self.tars[diff_id])

    def index(self, layer: Layer) -> tuple[Entry, ...]:
        """Give the entries."""
        return self.indexes[layer.diff_id]

    def has_devices(self, layer: Layer) -> bool:
        """Whether there are any in the entries."""
        return any(e.kind in {Kind.CHAR, Kind.BLOCK} for e in self.index(layer))

    def compressed(self, layer: Layer, media_type: str, level: int | None = None) -> Descriptor:
        """Know uncompressed layers only."""
        del level
        if media_type != OCI_LAYER:
            raise NotImplementedError(media_type)
        return layer.blob


class MemoryNames:
    """SnapshotNames in memory."""

    def __init__(self) -> None:
        self.by_chain: dict[Digest, str] = {}

    def get(self, chain: Digest) -> str | None:
        """Look up."""
        return self.by_chain.get(chain)

    def put(self, chain: Digest, name: str) -> str:
        """Let the first win."""
        return self.by_chain.setdefault(chain, name)

    def remove(self, chain: Digest) -> None:
        """Forget."""
        self.by_chain.pop(chain, None)

    def replace(self, chain: Digest, before: str, after: str | None) -> bool:
        """Compare, then set."""
        if self.by_chain.get(chain) != before:
            return False
        self.by_chain.pop(chain)
        if after is not None:
            self.by_chain[chain] = after
        return True

    def holds(self, name: str) -> bool:
        """Search the names."""
        return any(noted.partition(" ")[0] == name for noted in self.by_chain.values())
