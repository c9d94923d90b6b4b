"""Trees to read, by output: the contexts as they lie on disk, stages from their layers' indexes."""

from __future__ import annotations

import contextlib
import threading

from builder.errors import SandboxError
from builder.solver.output import ContextOutput, Output, TreeOutput
from cache.hints import TYPE_CHECKING
from cache.spec.oci import chain_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from builder.context.source import SourceTree
    from cache.archive.tree import Node, Tree
    from cache.layers import LayerStore
    from cache.spec.digest import Digest
    from cache.spec.oci import Layer

_KEPT = 8  # merged trees of a build that are kept; one of Debian's size takes some 10 MB


class LazyTree:
    """A merged tree that is made when something is first looked up in it."""

    def __init__(self, make: Callable[[], Tree]) -> None:
        """Make nothing yet."""
        self._make = make
        self._tree: Tree | None = None

    def node(self, path: str, /) -> Node | None:
        """Look a path up."""
        return self._made().node(path)

    def children(self, path: str, /) -> list[str]:
        """Names in a directory."""
        return self._made().children(path)

    def _made(self) -> Tree:
        if self._tree is None:
            self._tree = self._make()
        return self._tree


class Trees:
    """Opens outputs for reading."""

    def __init__(self, contexts: Mapping[str, SourceTree], layers: LayerStore) -> None:
        """Take the opened contexts by name."""
        self._contexts = contexts
        self._layers = layers
        self._merged: dict[Digest, Tree] = {}
        self._lock = threading.Lock()

    def merged(self, layers: Sequence[Layer]) -> Tree:
        """The merged index of a stack; do not change it."""
        chains = _chains(layers)
        with self._lock:
            known = next((n for n in range(len(layers), -1, -1) if chains[n] in self._merged), 0)
            tree = self._merged.get(chains[known])
            if tree is not None and known == len(layers):
                return tree
            from cache.archive.tree import Tree  # noqa: PLC0415 - a cached build merges none

            tree = Tree() if tree is None else tree.copy()
            for number in range(known, len(layers)):
                tree.apply(self._layers.index(layers[number]), number)
            if len(self._merged) >= _KEPT:
                self._merged.pop(next(iter(self._merged)))
            self._merged[chains[-1]] = tree
        return tree

    @contextlib.contextmanager
    def opened(self, output: Output) -> Iterator[SourceTree]:
        """Open an output as a tree."""
        match output:
            case TreeOutput(layers):
                from builder.context.layered import LayerTree  # noqa: PLC0415 - for some builds

                with LayerTree(LazyTree(lambda: self.merged(layers)), layers, self._layers) as tree:
                    yield tree
            case ContextOutput(name):
                yield self._contexts[name]
            case _:
                msg = "a fetched file is no tree"
                raise SandboxError(msg)


def _chains(layers: Sequence[Layer]) -> list[Digest]:
    """Chain IDs of every beginning of a stack, the empty one first."""
    chains = [chain_id(())]
    for number, layer in enumerate(layers):
        below = [chains[-1]] if number else []
        chains.append(chain_id([*below, layer.diff_id]))
    return chains
