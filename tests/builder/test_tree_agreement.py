"""Extraction, overlay merging and the merged index must be one view of a stack of layers."""

from __future__ import annotations

import io
import os
import stat
import tempfile

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.memory_layers import MemoryLayers

from builder.snapshot.lower import StackedLower
from cache.archive.entry import Entry, Kind, decode, encode
from cache.archive.extract import extract_layer
from cache.archive.rooted import remove_tree
from cache.archive.tree import Tree
from cache.errors import ArchiveError

KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK}

PATHS = st.sampled_from(["a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/b/c", "a/b/d", "c/a/b"])
TARGETS = st.sampled_from(["b", "/a", "../c", "a/b", "/", ".", "..", "c/a"])


def whiteout(path):
    parent, slash, name = path.rpartition("/")
    return Entry(f"{parent}{slash}.wh.{name}", Kind.FILE)


ENTRIES = st.one_of(
    st.builds(lambda p, m: Entry(p, Kind.DIRECTORY, m), PATHS, st.sampled_from([0o755, 0o700])),
    st.builds(lambda p, s: Entry(p, Kind.FILE, size=s), PATHS, st.integers(0, 9)),
    st.builds(lambda p, t: Entry(p, Kind.SYMLINK, 0o777, linkname=t), PATHS, TARGETS),
    st.builds(whiteout, PATHS),
    st.builds(lambda p: Entry(f"{p}/.wh..wh..opq", Kind.FILE), PATHS),
)
LAYERS = st.lists(st.lists(ENTRIES, max_size=7), min_size=1, max_size=4)


def markers_first(layer):
    """Extraction streams, so links lead the same way only when marks come before entries."""
    return [e for e in layer if ".wh." in e.path] + [e for e in layer if ".wh." not in e.path]


def is_ambiguous(tree, layer):
    """Whether a mark's way leads over a lower link that the layer itself replaces.

    The index decides this by the whole layer; extraction, which streams, by what came before.
    """
    own = {entry.path for entry in layer}
    for entry in layer:
        parts = entry.path.split("/")
        ways = ["/".join(parts[:count]) for count in range(1, len(parts))]
        if parts[-1].startswith(".wh.") and any(
            way in own and tree.get(way) and tree.get(way).kind is Kind.SYMLINK for way in ways
        ):
            return True
    return False


def is_redundant(tree, layer):
    """Whether a mark lies below what another mark hides: extraction keeps an empty directory."""
    marks = [entry.path.rpartition("/") for entry in layer if ".wh." in entry.path]
    places = [(tree.resolve(parent), name.removeprefix(".wh.")) for parent, _, name in marks]
    for number, (place, _) in enumerate(places):
        for other, (top, name) in enumerate(places):
            hidden = top if name == ".wh..opq" else f"{top}/{name}".lstrip("/")
            if number != other and (not hidden or f"{place}/".startswith(f"{hidden}/")):
                return True
    return False


def on_disk(base_fd, names):
    """The merged tree of extracted layers, as overlayfs would show it."""
    lower = StackedLower(base_fd, names)
    seen = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        status = lower.lstat(path)
        assert status is not None
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        text = decode(lower.readlink(path)) if kind is Kind.SYMLINK else ""
        size = status.st_size if kind is Kind.FILE else 0
        mode = 0 if kind is Kind.SYMLINK else stat.S_IMODE(status.st_mode)
        seen[decode(path)] = (kind, mode, size, text)
        if kind is Kind.DIRECTORY:
            names_here = set()
            for top in names:
                try:
                    fd = os.open(
                        os.path.join(top, path),
                        os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
                        dir_fd=base_fd,
                    )
                except OSError:
                    continue
                names_here.update(map(os.fsencode, os.listdir(fd)))
                os.close(fd)
            below = [path + b"/" + name if path else name for name in names_here]
            pending += [place for place in below if lower.lstat(place) is not None]
    return seen


def in_index(tree):
    return {
        e.path: (e.kind, 0 if e.kind is Kind.SYMLINK else e.mode, e.size, e.linkname)
        for e in (node.entry for node in tree.walk())
    }


def compare(layers):
    store = MemoryLayers()
    tree = Tree()
    names = []
    with tempfile.TemporaryDirectory() as base:
        base_fd = os.open(base, os.O_RDONLY)
        try:
            for number, entries in enumerate(layers):
                if is_ambiguous(tree, entries) or is_redundant(tree, entries):
                    return
                layer = store.make((entry, b"x" * entry.size) for entry in entries)
                name = b"%d" % number
                os.mkdir(name, dir_fd=base_fd)
                root_fd = os.open(name, os.O_RDONLY, dir_fd=base_fd)
                try:
                    tar = io.BytesIO(store.tars[layer.diff_id])
                    extract_layer(tar, root_fd, tree, keep_owner=False)
                finally:
                    os.close(root_fd)
                names.insert(0, name)
                tree.apply(store.index(layer), number)
                assert on_disk(base_fd, names) == in_index(tree)
        except ArchiveError:
            return  # loops and the like: both refuse, or the first of them
        finally:
            for name in names:
                remove_tree(base_fd, decode(name))
            os.close(base_fd)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@example(
    [
        [Entry("a", Kind.SYMLINK, 0o777, linkname="b"), Entry("a/a", Kind.DIRECTORY, 0o755)],
        [whiteout("a"), Entry("a/.wh..wh..opq", Kind.FILE)],
    ]
)
@given(LAYERS)
def test_extracted_stacks_look_like_their_index(layers):
    """A20-A26: what COPY reads from the index is what RUN sees on disk."""
    compare([markers_first(layer) for layer in layers])


def test_names_survive_both_ways():
    """R48: odd bytes are the same name in the index and on disk."""
    name = decode(b"\xff\n-")
    assert encode(name) == b"\xff\n-"
    compare([[Entry(name, Kind.FILE, size=1)], [Entry(f".wh.{name}", Kind.FILE)]])
