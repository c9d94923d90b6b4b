"""A layer that is begun when there is something to write. Must not know what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from contextlib import ExitStack

    from cache.archive.entry import Entry
    from cache.layers import LayerStore, LayerWriter
    from cache.spec.oci import Layer


class LateWriter:
    """A LayerWriter that begins the layer with its first entry; many a step changes nothing."""

    def __init__(self, store: LayerStore, held: ExitStack) -> None:
        """Write to `store`; `held` ends the writing."""
        self._store = store
        self._held = held
        self._writer: LayerWriter | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there was no entry yet."""
        return self._writer is None

    def add(self, entry: Entry, payload: bytes | BinaryIO | None = None) -> None:
        """Append an entry."""
        if self._writer is None:
            self._writer = self._held.enter_context(self._store.writer())
        self._writer.add(entry, payload)

    def commit(self) -> Layer:
        """Finish and publish."""
        if self._writer is None:
            self._writer = self._held.enter_context(self._store.writer())
        return self._writer.commit()
