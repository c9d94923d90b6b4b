"""A layer written anew with no time later than an epoch (`rewrite-timestamp=true`, O22)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.archive.entry import NANOSECOND, Kind
from cache.value import replace

if TYPE_CHECKING:
    from cache.layers import LayerStore
    from cache.spec.oci import Layer


def rewrite_layer(layer: Layer, store: LayerStore, epoch: int) -> Layer:
    """Give the layer with later times set to the epoch; the same layer if there are none."""
    latest = epoch * NANOSECOND
    entries = store.index(layer)
    if all(entry.mtime <= latest for entry in entries):
        return layer
    with store.open_seekable(layer) as stream, store.writer() as writer:
        for entry in entries:
            dated = replace(entry, mtime=min(entry.mtime, latest))
            if entry.kind is Kind.FILE and entry.size:
                stream.seek(entry.offset)
                writer.add(dated, stream)
            else:
                writer.add(dated)
        return writer.commit()
