"""A COPY written again takes what did not change from the layer it wrote before."""

from __future__ import annotations

import hashlib
import os
import time

import pytest
from support.copy_fakes import FakeTree
from support.memory_layers import MemoryLayers

from builder.context.local import LocalContext
from builder.context.memo import MemoryStatCache
from builder.solver.copy_op import write_copy
from builder.solver.earlier import EarlierLayers
from builder.solver.layer_plan import _SMALL
from frontend.graph import CopyOp, PathSource

OP = CopyOp((PathSource(1, "/"),), "/app/")


class Counting(LocalContext):
    """Knows which files were opened to be read."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.opened = []

    def read(self, path, /):
        """Note and read."""
        self.opened.append(path)
        return super().read(path)

    def open(self, path, /):
        """Note and open."""
        self.opened.append(path)
        return super().open(path)


class Builds:
    """Builds of one directory by one COPY, with what is kept between them."""

    def __init__(self, root):
        self.root = root
        self.layers = MemoryLayers()
        self.memo = MemoryStatCache()

    def write(self, *, reuse=True):
        """Hash and write; gives the layer and the files read for writing it."""
        with Counting(str(self.root), memo=self.memo) as tree:
            for path in sorted(os.listdir(self.root)):
                tree.digest(path)
            tree.opened.clear()
            known = EarlierLayers(self.layers, self.memo)
            key = known.key(OP, {1: tree}) if reuse else None
            with known.opened(key) as earlier, self.layers.writer() as writer:
                write_copy(OP, FakeTree(), {1: tree}, {}, writer, created_mtime=5, earlier=earlier)
                layer = writer.commit()
            known.remember(key, layer.diff_id)
            return layer, tree.opened


@pytest.fixture
def builds(tmp_path):
    """A directory of old files, one of them large."""
    for name, data in (("a", b"a"), ("b", b"bb" * 100), ("large", os.urandom(_SMALL + 5))):
        (tmp_path / name).write_bytes(data)
        os.utime(tmp_path / name, (time.time() - 100,) * 2)
    time.sleep(0.05)  # what was just written is not trusted by its stat
    return Builds(tmp_path)


def test_only_what_changed_is_read(builds):
    """One file changed: it alone is opened, and the layer is the one written without reuse (W3e)."""
    assert builds.write()[1] == ["a", "b", "large"]
    (builds.root / "b").write_bytes(b"cc" * 100)
    layer, opened = builds.write()
    assert opened == ["b"]
    assert builds.write(reuse=False)[0] == layer


def test_nothing_is_read_when_only_a_time_changed(builds):
    """A new time makes a new layer; the file of that time is read, the others are not."""
    first, _ = builds.write()
    os.utime(builds.root / "large", (5, 5))
    layer, opened = builds.write()
    assert opened == []  # hashed again under its new stat, then taken from the layer
    assert layer != first


def test_a_damaged_layer_is_not_believed(builds):
    """What is taken is hashed: other bytes at the same place are read from the file instead."""
    first, _ = builds.write()
    tar = bytearray(builds.layers.tars[first.diff_id])
    entry = next(e for e in builds.layers.indexes[first.diff_id] if e.path == "app/large")
    tar[entry.offset + 3] ^= 1
    builds.layers.tars[first.diff_id] = bytes(tar)
    layer, opened = builds.write()
    assert layer == first
    assert opened == ["large"]


def test_a_lost_layer_costs_only_time(builds):
    """Pruned since: everything is read again."""
    first, _ = builds.write()
    builds.layers.tars.clear()
    assert builds.write() == (first, ["a", "b", "large"])


def test_a_truncated_layer_is_not_believed(builds):
    """A tar that ends early gives nothing past its end."""
    first, _ = builds.write()
    builds.layers.tars[first.diff_id] = builds.layers.tars[first.diff_id][:1500]
    layer, opened = builds.write()
    assert layer == first
    assert "large" in opened


def test_copies_of_trees_that_never_change_remember_nothing(builds):
    """COPY --from a stage has no use for an earlier layer."""
    tree = FakeTree({"a": "x"})
    tree.place = ""
    assert EarlierLayers(builds.layers, builds.memo).key(OP, {1: tree}) is None


def test_each_instruction_and_place_has_its_own(builds):
    """Another destination or directory is another copy."""
    known = EarlierLayers(builds.layers, builds.memo)
    here, there = FakeTree(), FakeTree()
    there.place = "elsewhere"
    keys = {
        known.key(OP, {1: here}),
        known.key(OP, {1: there}),
        known.key(CopyOp(OP.sources, "/other/"), {1: here}),
        known.key(CopyOp((PathSource(1, "/a"),), OP.dest), {1: here}),
    }
    assert len(keys) == 4
    assert hashlib.sha256(b"").digest() not in keys
