"""A Snapshotter in memory, for solver tests: trees are dictionaries of regular files."""

from __future__ import annotations

import contextlib
from itertools import count
from typing import TYPE_CHECKING

from builder.errors import SandboxError
from builder.sandbox.spec import Overlay
from builder.snapshot.snapshotter import Active
from cache.archive.entry import Entry, Kind
from cache.archive.tree import Tree
from cache.spec.oci import chain_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.memory_layers import MemoryLayers

    from builder.sandbox.spec import Recorded
    from cache.spec.digest import Digest
    from cache.spec.oci import Layer


class MemorySnapshotter:
    """The port without disk or mounts; `write` and `files` stand for what a step does and sees."""

    def __init__(self, layers: MemoryLayers) -> None:
        self._layers = layers
        self._trees: dict[Digest, dict[str, bytes]] = {chain_id(()): {}}
        self._names: dict[Digest, str] = {}
        self._changed: dict[str, dict[str, bytes]] = {}
        self._numbers = count()

    @property
    def base(self) -> str:
        """A name for nowhere."""
        return "memory"

    def lowers(self, layers: Sequence[Layer]) -> tuple[str, ...]:
        """Read what is missing from its tar."""
        names = []
        for height in range(1, len(layers) + 1):
            chain = chain_id([layer.diff_id for layer in layers[:height]])
            if chain not in self._trees:
                self._trees[chain] = self._read(layers[:height])
            names.append(self._name(chain))
        return tuple(reversed(names)) or (self._name(chain_id(())),)

    def lent(self, layers: Sequence[Layer]) -> contextlib.nullcontext[tuple[str, ...]]:
        """The same: nobody changes them."""
        return contextlib.nullcontext(self.lowers(layers))

    def recorded(self, layers: Sequence[Layer]) -> tuple[Recorded, ...]:
        """Nothing: everything is what it is meant to be."""
        del layers
        return ()

    def _name(self, chain: Digest) -> str:
        return self._names.setdefault(chain, f"t{len(self._names)}")

    def _read(self, layers: Sequence[Layer]) -> dict[str, bytes]:
        with self._layers.open_tar(layers[-1]):
            pass  # counted, and an error when it is not there
        tree = Tree.of(self._layers.index(layer) for layer in layers)
        files = {}
        for node in tree.walk():
            if node.entry.kind is Kind.FILE:
                tar = self._layers.tars[layers[node.layer].diff_id]
                files[node.entry.path] = tar[node.entry.offset :][: node.entry.size]
        return files

    def prepare(self, layers: Sequence[Layer]) -> Active:
        """Begin with a copy."""
        lowers = self.lowers(layers)
        parent = chain_id([layer.diff_id for layer in layers])
        key = f"a{next(self._numbers)}"
        self._changed[key] = dict(self._trees[parent])
        return Active(key, parent, Overlay(self.base, lowers, f"{key}/upper", f"{key}/work"))

    def files(self, active: Active) -> dict[str, bytes]:
        """What a step sees; it may be changed."""
        if active.key not in self._changed:
            msg = f"snapshot {active.key} is not active"
            raise SandboxError(msg)
        return self._changed[active.key]

    def diff(self, active: Active, stubs: Sequence[tuple[str, int]]) -> Layer:
        """Compare with the parent."""
        old, new = self._trees[active.parent], self.files(active)
        for path, _ in stubs:
            if new.get(path) == b"" and path not in old:
                del new[path]
        entries = []
        for path in sorted(old.keys() | new.keys()):
            if path not in new:
                parent, slash, name = path.rpartition("/")
                entries.append((Entry(f"{parent}{slash}.wh.{name}", Kind.FILE, 0), b""))
            elif old.get(path) != new[path]:
                entries.append((Entry(path, Kind.FILE, size=len(new[path])), new[path]))
        return self._layers.make(entries)

    def commit(self, active: Active, layer: Layer) -> None:
        """Keep the files under the new chain."""
        chain = layer.diff_id
        if active.parent != chain_id(()):
            chain = type(chain).of(f"{active.parent} {chain}".encode())
        self._trees.setdefault(chain, self.files(active))
        self.discard(active)

    def discard(self, active: Active) -> None:
        """Forget."""
        self._changed.pop(active.key, None)
