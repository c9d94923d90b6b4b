"""In-memory fakes of the content ports; they pass the suite of contract/content_store.py."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zlib
from typing import TYPE_CHECKING, BinaryIO

import zstandard

from cache.archive.reader import scan_entries
from cache.archive.writer import TarWriter
from cache.errors import (
    ContentNotFoundError,
    DigestMismatchError,
    SizeMismatchError,
    StoreError,
)
from cache.spec import oci
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor, Layer
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache.archive.entry import Entry

_PLAIN = (oci.OCI_LAYER, oci.DOCKER_LAYER)
_GZIP = (oci.OCI_LAYER_GZIP, oci.DOCKER_LAYER_GZIP)


class VerifyingStream(io.BytesIO):
    """Bytes that, read to the end, turn out not to be the announced ones."""

    def __init__(self, data: bytes, expected: Digest) -> None:
        super().__init__(data)
        self._expected = expected

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if not data and size != 0 and Digest.of(self.getvalue()) != self._expected:
            msg = f"content does not have the digest {self._expected}"
            raise DigestMismatchError(msg)
        return data


class MemoryWriter:
    """An ingest kept in a bytearray."""

    def __init__(self, blobs: dict[Digest, bytes]) -> None:
        self._blobs = blobs
        self._data = bytearray()
        self._open = True

    def write(self, data: bytes | memoryview, /) -> int:
        if not self._open:
            msg = "the ingest is closed"
            raise StoreError(msg)
        self._data += data
        return len(data)

    def commit(self, media_type: str, expected: Digest | None = None) -> Descriptor:
        if not self._open:
            msg = "the ingest is closed"
            raise StoreError(msg)
        self._open = False
        digest = Digest.of(bytes(self._data))
        if expected is not None and expected != digest:
            msg = f"content has the digest {digest}, not the expected {expected}"
            raise DigestMismatchError(msg)
        self._blobs[digest] = bytes(self._data)
        return Descriptor(media_type, digest, len(self._data))

    def close(self) -> None:
        self._open = False


class MemoryContent:
    """A ContentStore in a dictionary, which tests may damage."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.opened: list[Digest] = []

    @contextlib.contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        data = self.blobs.get(descriptor.digest)
        if data is None:
            msg = f"{descriptor.digest} is not in the store"
            raise ContentNotFoundError(msg)
        if len(data) != descriptor.size:
            msg = f"{descriptor.digest}: the stored copy has another size"
            raise SizeMismatchError(msg)
        self.opened.append(descriptor.digest)
        yield VerifyingStream(data, descriptor.digest)

    @contextlib.contextmanager
    def writer(self) -> Iterator[MemoryWriter]:
        writer = MemoryWriter(self.blobs)
        try:
            yield writer
        finally:
            writer.close()

    def size(self, digest: Digest) -> int | None:
        data = self.blobs.get(digest)
        return None if data is None else len(data)

    def settle(self) -> None:
        """Nothing outlives the process."""

    def delete(self, digest: Digest) -> None:
        self.blobs.pop(digest, None)

    def __iter__(self) -> Iterator[Digest]:
        return iter(tuple(self.blobs))

    def put(self, data: bytes, media_type: str) -> Descriptor:
        """Store bytes at once."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit(media_type)


class MemoryLayerWriter:
    """A LayerWriter onto MemoryContent."""

    def __init__(self, content: MemoryContent) -> None:
        self._content = content
        self._sink = io.BytesIO()
        self._tar = TarWriter(self._sink)

    def add(self, entry: Entry, payload: bytes | BinaryIO | None = None) -> None:
        self._tar.add(entry, payload)

    def commit(self) -> Layer:
        self._tar.finish()
        blob = self._content.put(self._sink.getvalue(), oci.OCI_LAYER)
        return Layer(blob, blob.digest)


class MemoryLayers:
    """A LayerStore over MemoryContent."""

    def __init__(self, content: MemoryContent) -> None:
        self.content = content
        self.compressions: list[tuple[Digest, str]] = []

    @contextlib.contextmanager
    def writer(self) -> Iterator[MemoryLayerWriter]:
        yield MemoryLayerWriter(self.content)

    @contextlib.contextmanager
    def open_tar(self, layer: Layer) -> Iterator[BinaryIO]:
        with self.open_seekable(layer) as stream:
            yield stream

    @contextlib.contextmanager
    def open_seekable(self, layer: Layer) -> Iterator[BinaryIO]:
        with self.content.open(layer.blob) as stream:
            data = stream.read()
        if layer.blob.media_type in _GZIP:
            data = zlib.decompress(data, 31)
        elif layer.blob.media_type not in _PLAIN:
            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        if hashlib.sha256(data).hexdigest() != layer.diff_id.hex:
            msg = f"layer content does not have the diff_id {layer.diff_id}"
            raise DigestMismatchError(msg)
        yield io.BytesIO(data)

    def index(self, layer: Layer) -> tuple[Entry, ...]:
        with self.open_seekable(layer) as stream:
            return tuple(scan_entries(stream))

    def compressed(self, layer: Layer, media_type: str, level: int | None = None) -> Descriptor:
        self.compressions.append((layer.diff_id, media_type))
        if layer.blob.media_type == media_type:
            return layer.blob
        with self.open_seekable(layer) as stream:
            data = stream.read()
        if media_type in _GZIP:
            deflate = zlib.compressobj(6, zlib.DEFLATED, 31)
            data = deflate.compress(data) + deflate.flush()
        elif media_type not in _PLAIN:
            data = zstandard.ZstdCompressor().compress(data)
        return replace(self.content.put(data, media_type), media_type=media_type)


def make_layer(layers: MemoryLayers, *items: Entry | tuple[Entry, bytes]) -> Layer:
    """Make a layer of entries; a tuple's second item is the payload."""
    with layers.writer() as writer:
        for item in items:
            if isinstance(item, tuple):
                entry, data = item
                writer.add(replace(entry, size=len(data)), data)
            else:
                writer.add(item)
        return writer.commit()
