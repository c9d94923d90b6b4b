"""Layers as content: tar in, index beside it, tar out; compressed forms made when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from cache.archive.entry import Entry
    from cache.spec.oci import Descriptor, Layer


class LayerWriter(Protocol):
    """A layer being written: entries in, an uncompressed tar and its index out."""

    def add(self, entry: Entry, payload: bytes | BinaryIO | None = None) -> None:
        """Append an entry; a FILE of size n needs a payload of exactly n bytes.

        Raises:
            ArchiveError: the payload ends early or the entry cannot be written.
        """

    def commit(self) -> Layer:
        """Finish the tar and publish it; the same entries give the same layer."""


class LayerStore(Protocol):
    """Layers by descriptor and diff_id; every byte given out was verified."""

    def writer(self) -> AbstractContextManager[LayerWriter]:
        """Begin a layer; leaving without commit discards it."""

    def open_tar(self, layer: Layer) -> AbstractContextManager[BinaryIO]:
        """The uncompressed tar as a stream; read to its end it is verified against diff_id."""

    def open_seekable(self, layer: Layer) -> AbstractContextManager[BinaryIO]:
        """The uncompressed tar as a seekable file, stored on first use and verified then."""

    def index(self, layer: Layer) -> tuple[Entry, ...]:
        """The layer's entries in tar order (whiteouts and hardlinks as they stand in the tar)."""

    def compressed(self, layer: Layer, media_type: str, level: int | None = None) -> Descriptor:
        """The descriptor of the layer in another compression, made and stored on first use.

        `level` None is the compression's own default; otherwise the layer is compressed anew.
        """


class ArrivingLayers(LayerStore, Protocol):
    """A LayerStore whose tars may still be on their way when they are opened."""

    def expect(self, layers: Iterable[Layer]) -> None:
        """Be told which layers will be opened soon, in this order: fetch what is not here."""

    def keep_index(self, layer: Layer, entries: list[Entry]) -> None:
        """Be given the entries that were seen while a tar was read to its verified end."""

    def has_devices(self, layer: Layer) -> bool:
        """Whether a layer has devices outside of /dev."""
