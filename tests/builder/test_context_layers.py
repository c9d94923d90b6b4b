"""Layers as a source of copies."""

from __future__ import annotations

import contextlib
import io

import pytest
from support.copy_fakes import copied

from builder.context.layered import LayerTree
from builder.context.memo import MemoryStatCache
from builder.context.source import CopyError
from builder.solver.copy_key import copy_key_parts
from cache.archive.entry import Entry, Kind
from cache.archive.tree import Tree
from cache.spec.digest import Digest
from cache.spec.oci import OCI_LAYER, Descriptor, Layer
from frontend.graph import CopyOp, PathSource


class FakeLayers:
    """A store of seekable tars."""

    def __init__(self, *tars):
        self._tars = tars
        self.opened = 0

    @contextlib.contextmanager
    def open_seekable(self, layer):
        self.opened += 1
        yield io.BytesIO(self._tars[layer.blob.size])


def layer(number):
    """A layer that names the number of its fake tar."""
    digest = Digest.of(str(number).encode())
    return Layer(Descriptor(OCI_LAYER, digest, number), digest)


def layered():
    """Two layers: a file with two names below, one of them replaced above."""
    below = [
        Entry("d", Kind.DIRECTORY, 0o755, 1, 2),
        Entry("d/a", Kind.FILE, 0o644, 5, 6, 3, 9, offset=2),
        Entry("d/b", Kind.HARDLINK, linkname="d/a"),
        Entry("gone", Kind.FILE, size=1, offset=0),
    ]
    above = [Entry(".wh.gone", Kind.FILE, offset=0), Entry("d/c", Kind.FILE, size=1, offset=1)]
    store = FakeLayers(b"..one...", b".c")
    return LayerTree(Tree.of([below, above]), [layer(0), layer(1)], store), store


def test_layers_as_source():
    """Bytes come from the tar that holds them, owners are kept, markers are not copied (C10, J12)."""
    tree, store = layered()
    with tree:
        writer = copied(tree, "/", "/x")
        assert writer.shape() == {
            "x": "dir", "x/d": "dir", "x/d/a": "one", "x/d/b": "= x/d/a", "x/d/c": "c",
        }  # fmt: skip
        assert writer.owner("x/d/a") == (5, 6)
        assert tree.digest("d/a") == tree.digest("d/b")
        assert tree.get("d/../gone") is None
        assert store.opened == 2
        with tree.open("d/a") as stream:
            assert (stream.read(2), stream.read(5), stream.read()) == (b"on", b"e", b"")
        with pytest.raises(CopyError):
            tree.read("d")


def test_layers_identity():
    """A stage copied from is known by content: other layers with the same files are a hit (K06)."""
    tree, _ = layered()
    flat = [
        Entry("d", Kind.DIRECTORY, 0o755, 1, 2),
        Entry("d/a", Kind.FILE, 0o644, 5, 6, 3, 1, offset=0),
        Entry("d/b", Kind.FILE, 0o644, 5, 6, 3, 1, offset=0),
        Entry("d/c", Kind.FILE, size=1, offset=3),
    ]
    other = LayerTree(Tree.of([flat]), [layer(0)], FakeLayers(b"onec"))
    op = CopyOp((PathSource(1, "/d"),), "/x")
    memo = MemoryStatCache()
    assert copy_key_parts(op, {1: tree}, {}, memo) == copy_key_parts(op, {1: other}, {}, memo)
    assert tree.fingerprint("d") != other.fingerprint("d")


def test_layer_that_ends_early():
    """A tar shorter than its index says is an error."""
    entry = Entry("f", Kind.FILE, size=9, offset=0)
    tree = LayerTree(Tree.of([[entry]]), [layer(0)], FakeLayers(b"123"))
    with pytest.raises(CopyError, match="ends inside"):
        tree.read("f")
    with tree.open("f") as stream:
        assert stream.read(3) == b"123"
        with pytest.raises(CopyError, match="ends inside"):
            stream.read(1)
