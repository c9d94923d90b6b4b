"""Filling the trees of a stack, layer by layer or several merged into one.

Layers are extracted side by side: most ask nothing about those below them, and the others wait
for the answer. It must not know where trees lie or how they are named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from builder.snapshot.line import Turn
    from cache.archive.entry import Entry
    from cache.archive.tree import Tree
    from cache.layers import ArrivingLayers
    from cache.spec.oci import Layer

    Merged = Callable[[Sequence[Layer]], Tree]

_DRAIN = 1 << 20


class Stack:
    """A stack of layers being extracted, each at its turn or before."""

    def __init__(self, store: ArrivingLayers, layers: Sequence[Layer], merged: Merged) -> None:
        """Remember what of; `merged` gives the merged index of a stack."""
        self._store = store
        self._layers = layers
        self._merged = merged

    def extract(self, count: int, root_fd: int, turn: Turn, *, keep_owner: bool) -> None:
        """Extract layer `count` on those below it into an empty directory."""
        from cache.archive.extract import extract_layer  # noqa: PLC0415 - cached builds need none

        layer = self._layers[count]
        below = _Below(lambda: self._tree_below(count, turn))
        with self._store.open_tar(layer) as tar:
            stream = cast("BinaryIO", _Checked(tar, turn))
            entries = extract_layer(stream, root_fd, below, keep_owner=keep_owner)
            while stream.read(_DRAIN):
                pass  # only a stream read to its end has been verified
        self._store.keep_index(layer, entries)

    def _tree_below(self, count: int, turn: Turn) -> Tree:
        turn.wait()
        return self._merged(self._layers[:count])

    def extract_whole(self, count: int, root_fd: int, turn: Turn, *, keep_owner: bool) -> None:
        """Make the merged tree of all layers up to `count` in an empty directory."""
        from builder.snapshot.materialize import materialize  # noqa: PLC0415 - rarely needed

        turn.wait()
        layers = self._layers[: count + 1]
        tree = self._merged(layers)
        materialize(root_fd, tree, layers, self._store, keep_owner=keep_owner, keep_modes=True)


class _Below:
    """The merged tree below a layer, had when it is first asked about."""

    def __init__(self, make: Callable[[], Tree]) -> None:
        self._make = make
        self._tree: Tree | None = None

    def _made(self) -> Tree:
        if self._tree is None:
            self._tree = self._make()
        return self._tree

    def get(self, path: str) -> Entry | None:
        return self._made().get(path)

    def resolve(self, path: str) -> str:
        return self._made().resolve(path)

    def children(self, path: str) -> Iterable[str]:
        return self._made().children(path)


class _Checked:
    """A tar that ends in an error as soon as a layer below has."""

    def __init__(self, tar: BinaryIO, turn: Turn) -> None:
        self._tar = tar
        self._turn = turn

    def read(self, size: int, /) -> bytes:
        self._turn.check()
        return self._tar.read(size)
