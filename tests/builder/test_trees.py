"""Merged trees of a build: made from the longest known beginning, equal to a fresh merge."""

from __future__ import annotations

from support.memory_layers import MemoryLayers

from builder.solver.output import TreeOutput
from builder.solver.trees import Trees
from cache.archive.entry import Entry, Kind
from cache.archive.tree import Tree
from cache.spec.oci import chain_id


def test_merging_step_by_step_equals_merging_at_once():
    """A stack merged on top of a known one is the tree of the whole stack."""
    store = MemoryLayers()
    stacks = [
        [Entry("a", Kind.DIRECTORY, 0o755), Entry("a/x", Kind.SYMLINK, linkname="y")],
        [Entry("a/.wh.x", Kind.FILE), Entry("b", Kind.DIRECTORY, 0o700)],
        [Entry("a/z", Kind.DIRECTORY, 0o755), Entry(".wh.b", Kind.FILE)],
    ]
    layers = []
    trees = Trees({}, store)
    for entries in stacks:
        layers.append(store.make((entry, b"") for entry in entries))
        merged = trees.merged(layers)
        fresh = Tree.of(store.index(layer) for layer in layers)
        assert [node.entry.path for node in merged.walk()] == [
            node.entry.path for node in fresh.walk()
        ]
        assert trees.merged(layers) is merged
    assert trees.merged(layers[:1]).get("a/x") is not None
    assert TreeOutput(tuple(layers)).chain == chain_id([layer.diff_id for layer in layers])
