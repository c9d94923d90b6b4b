"""File contents out of a stack of layers: each layer's tar opened once, read where entries point."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, BinaryIO, Self

from cache.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from cache.archive.tree import Node
    from cache.layers import LayerStore
    from cache.spec.oci import Layer

_PIECE = 1 << 20


class Payloads:
    """Contents of nodes of the merged tree of `layers`; a with-block owns the open files."""

    def __init__(self, layers: Sequence[Layer], store: LayerStore) -> None:
        """Open nothing yet."""
        self._layers = layers
        self._store = store
        self._owned = contextlib.ExitStack()
        self._open: dict[int, BinaryIO] = {}

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every layer that was opened."""
        self._owned.close()

    def at(self, node: Node) -> BinaryIO:
        """The node's layer, positioned at its payload; good until the next call."""
        stream = self._open.get(node.layer)
        if stream is None:
            layer = self._layers[node.layer]
            stream = self._owned.enter_context(self._store.open_seekable(layer))
            self._open[node.layer] = stream
        stream.seek(node.entry.offset)
        return stream

    def copy(self, node: Node, target: int) -> None:
        """Copy the node's payload to an open file descriptor.

        Raises:
            ArchiveError: the layer ends inside it.
        """
        stream = self.at(node)
        left = node.entry.size - _copied_by_kernel(stream, node, target)
        while left:
            data = stream.read(min(left, _PIECE))
            if not data:
                msg = f"layer ends inside {node.entry.path!r}"
                raise ArchiveError(msg)
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]


def _copied_by_kernel(stream: BinaryIO, node: Node, target: int) -> int:
    """Let the kernel copy (or share the blocks of) as much as it will; the rest is read."""
    done = 0
    try:
        source = stream.fileno()
        while done < node.entry.size:
            count = os.copy_file_range(
                source, target, node.entry.size - done, node.entry.offset + done
            )
            if not count:
                break
            done += count
    except (OSError, AttributeError):
        # No file (a layer in memory), other file systems, old kernels: reading always works. If
        # the disk is full, so it is for the write that follows, which then says so.
        pass
    if done:
        stream.seek(node.entry.offset + done)
    return done
