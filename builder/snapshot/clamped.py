"""A layer store whose new layers hold no time past SOURCE_DATE_EPOCH.

Used for what RUN writes, whose times are those of the build: with it, the same inputs give the
same digest. What COPY brings keeps its times.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, BinaryIO

from cache.archive.entry import NANOSECOND
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager

    from cache.archive.entry import Entry
    from cache.layers import ArrivingLayers, LayerWriter
    from cache.spec.oci import Descriptor, Layer


class ClampedLayers:
    """ArrivingLayers around others; `epoch` is in seconds."""

    def __init__(self, inner: ArrivingLayers, epoch: int) -> None:
        """Wrap a store."""
        self._inner = inner
        self._latest = epoch * NANOSECOND

    @contextlib.contextmanager
    def writer(self) -> Iterator[LayerWriter]:
        """Begin a layer."""
        with self._inner.writer() as writer:
            yield _ClampedWriter(writer, self._latest)

    def expect(self, layers: Iterable[Layer]) -> None:
        """As they are."""
        self._inner.expect(layers)

    def has_devices(self, layer: Layer) -> bool:
        """The inner store's."""
        return self._inner.has_devices(layer)

    def keep_index(self, layer: Layer, entries: list[Entry]) -> None:
        """As they are."""
        self._inner.keep_index(layer, entries)

    def open_tar(self, layer: Layer) -> AbstractContextManager[BinaryIO]:
        """The inner store's."""
        return self._inner.open_tar(layer)

    def open_seekable(self, layer: Layer) -> AbstractContextManager[BinaryIO]:
        """The inner store's."""
        return self._inner.open_seekable(layer)

    def index(self, layer: Layer) -> tuple[Entry, ...]:
        """The inner store's."""
        return self._inner.index(layer)

    def compressed(self, layer: Layer, media_type: str, level: int | None = None) -> Descriptor:
        """The inner store's."""
        return self._inner.compressed(layer, media_type, level)


class _ClampedWriter:
    def __init__(self, inner: LayerWriter, latest: int) -> None:
        self._inner = inner
        self._latest = latest

    def add(self, entry: Entry, payload: bytes | BinaryIO | None = None) -> None:
        if entry.mtime > self._latest:
            entry = replace(entry, mtime=self._latest)
        self._inner.add(entry, payload)

    def commit(self) -> Layer:
        return self._inner.commit()
