"""Snapshots without mounts: what a step changed about a directory, found without hashing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.memory_layers import MemoryLayers

from builder.sandbox.spec import Recorded
from builder.snapshot.plain import PlainSnapshotter
from cache.archive.entry import Entry, Kind
from cache.archive.tree import Tree

DIR, FILE, LINK = Kind.DIRECTORY, Kind.FILE, Kind.SYMLINK
OLD = 1_600_000_000_000_000_000


def entry(path, kind=FILE, mode=0o644, **more):
    """An old entry."""
    return Entry(path, kind, 0o755 if kind is DIR else mode, mtime=OLD, **more)


BASE = [
    (entry("bin", DIR), None),
    (entry("bin/tool", mode=0o755, size=4), b"tool"),
    (entry("d", DIR), None),
    (entry("d/a", size=1), b"a"),
    (entry("d/b", size=1), b"b"),
    (entry("d/e", DIR), None),
    (entry("d/e/f", size=1), b"f"),
    (entry("x", DIR), None),
    (entry("x/a", size=1), b"A"),
    (entry("l", LINK, 0o777, linkname="d/a"), None),
    (entry("h1", size=2), b"hh"),
    (Entry("h2", Kind.HARDLINK, 0o644, mtime=OLD, linkname="h1"), None),
]


class World:
    """A snapshotter over layers in memory, and what steps do."""

    def __init__(self, root):
        self.layers = MemoryLayers()
        self.root = str(root)
        self.snapshotter = self.opened()
        self.stack = [self.layers.make(BASE)]

    def opened(self):
        """Another process's view of the same state."""
        return PlainSnapshotter(self.root, self.layers, merged=self.merged, keep_owner=False)

    def merged(self, layers):
        """The merged tree of a stack."""
        return Tree.of(self.layers.index(layer) for layer in layers)

    def step(self, change, recorded=()):
        """Change the tree, commit; gives the layer's entries by path."""
        active = self.snapshotter.prepare(self.stack)
        change(active.root.path)
        layer = self.snapshotter.diff(active, [], recorded(active) if recorded else ())
        self.snapshotter.commit(active, layer)
        self.stack.append(layer)
        return {e.path: e for e in self.layers.index(layer)}

    def data(self, path):
        """The payload of a file of the newest layer."""
        layer = self.stack[-1]
        found = next(e for e in self.layers.index(layer) if e.path == path)
        return self.layers.tars[layer.diff_id][found.offset :][: found.size]


@pytest.fixture
def world(tmp_path):
    """A state directory with a base."""
    return World(tmp_path / "state")


def test_no_change_is_an_empty_layer(world):
    """Nothing touched, nothing written (R11)."""
    assert world.step(lambda _: None) == {}
    assert world.step(lambda root: Path(root, "d/a").read_bytes()) == {}


def test_changed_new_and_gone_names_are_found(world):
    """Contents, modes, new files and whiteouts, with the directories above them."""

    def change(root):
        with open(f"{root}/d/a", "wb") as file:
            file.write(b"new")
        os.chmod(f"{root}/bin/tool", 0o700)
        os.unlink(f"{root}/d/b")
        os.mkdir(f"{root}/n")
        os.symlink("d", f"{root}/n/s")

    found = world.step(change)
    assert set(found) == {"bin", "bin/tool", "d", "d/a", "d/.wh.b", "n", "n/s"}
    assert world.data("d/a") == b"new"
    assert found["bin/tool"].mode == 0o700
    assert found["n/s"].linkname == "d"


def test_a_change_that_hides_its_time_is_found(world):
    """Same size, same mtime, other bytes: the change time tells (kaniko's blind spot)."""

    def change(root):
        status = os.stat(f"{root}/d/a")
        with open(f"{root}/d/a", "r+b") as file:
            file.write(b"Z")
        os.utime(f"{root}/d/a", ns=(status.st_atime_ns, status.st_mtime_ns))

    assert set(world.step(change)) == {"d", "d/a"}
    assert world.data("d/a") == b"Z"


def test_a_directory_made_anew_is_opaque(world):
    """Rm -rf and mkdir: a marker hides what was there, once (F5)."""

    def change(root):
        shutil.rmtree(f"{root}/d")
        os.mkdir(f"{root}/d")
        with open(f"{root}/d/a", "wb") as file:
            file.write(b"a")

    found = world.step(change)
    assert set(found) == {"d", "d/.wh..wh..opq", "d/a"}
    assert world.merged(world.stack).children("d") == ["a"]


def test_a_directory_moved_over_another_is_a_new_one(world):
    """Mv keeps inodes and times of what is inside: the directory's own inode tells."""

    def change(root):
        shutil.rmtree(f"{root}/x")
        os.rename(f"{root}/d", f"{root}/x")

    found = world.step(change)
    assert {".wh.d", "x", "x/.wh..wh..opq", "x/a", "x/b", "x/e", "x/e/f"} == set(found)
    assert world.data("x/a") == b"a"


def test_links_stay_links(world):
    """Names of one inode: the first is the file; an untouched pair of the base is no change."""

    def change(root):
        os.link(f"{root}/d/a", f"{root}/d/z")
        os.link(f"{root}/d/z", f"{root}/d/y")

    found = world.step(change)
    assert found.keys() == {"d", "d/y", "d/z"}  # links to the base are not part of a layer (R11)
    assert (found["d/z"].kind, found["d/z"].linkname) == (Kind.HARDLINK, "d/y")
    assert world.data("d/y") == b"a"


def test_what_is_replaced_by_the_same_is_no_change(world):
    """As an overlay tells it: a package installed again leaves its files out of the layer (F2)."""

    def change(root):
        for name in ("d/a", "d/b"):
            os.unlink(f"{root}/{name}")
            with open(f"{root}/{name}", "wb") as file:
                file.write(b"a")
            os.utime(f"{root}/{name}", ns=(OLD, OLD))
        os.utime(f"{root}/d", ns=(OLD, OLD))

    assert world.step(change).keys() == {"d", "d/b"}


def test_records_replace_what_the_disk_says(world):
    """Owners, devices and capabilities that the kernel refused come from the records."""

    def change(root):
        for name in ("own", "dev"):
            open(f"{root}/{name}", "wb").close()

    def recorded(active):
        def name(path):
            status = os.stat(f"{active.root.path}/{path}")
            return f"{status.st_dev}:{status.st_ino}"

        cap = (("security.capability", b"c" * 20),)
        return [
            Recorded(name("own"), 33, 44, 0o104755, xattrs=cap),
            Recorded(name("dev"), mode=0o020666, device=(1, 3)),
        ]

    found = world.step(change, recorded)
    own, dev = found["own"], found["dev"]
    assert (own.uid, own.gid, own.mode, own.xattrs) == (
        33, 44, 0o4755, (("security.capability", b"c" * 20),),
    )  # fmt: skip
    assert (dev.kind, dev.mode, dev.device) == (Kind.CHAR, 0o666, (1, 3))
    active = world.snapshotter.prepare(world.stack)
    seeds = {r.name: r for r in active.recorded}
    assert (seeds["own"].uid, seeds["own"].mode) == (33, 0o104755)
    assert seeds["dev"].device == (1, 3)
    world.snapshotter.discard(active)


def test_layers_in_between_are_brought_in(world):
    """A COPY between two RUNs changes, adds and removes on disk; the directory is kept."""
    world.step(lambda _: None)
    names = set(os.listdir(f"{world.root}/plain"))
    world.stack.append(
        world.layers.make(
            [
                (entry("d", DIR), None),
                (Entry("d/.wh.e", FILE, 0), b""),
                (entry("d/a", size=2), b"22"),
                (entry("q", size=1), b"q"),
            ]
        )
    )
    seen = {}

    def look(root):
        seen.update(a=Path(root, "d/a").read_bytes(), d=sorted(os.listdir(f"{root}/d")))
        seen["q"] = Path(root, "q").read_bytes()

    assert world.step(look) == {}
    assert seen == {"a": b"22", "d": ["a", "b"], "q": b"q"}
    assert set(os.listdir(f"{world.root}/plain")) == names


def test_an_idle_directory_serves_the_next_build_and_a_dirty_one_none(world):
    """What holds a known stack is used again; what a crash left in flux is swept (F16)."""
    world.step(lambda root: open(f"{root}/n", "wb").close())
    with world.opened() as other:
        active = other.prepare(world.stack)
        assert os.listdir(f"{world.root}/plain") == [active.key]
        assert os.path.exists(f"{active.root.path}/n")
        other._active.clear()  # as if killed in the middle of the step
    with world.opened() as third:
        assert third.prepare(world.stack).key != active.key
        os.close(next(iter(third._active.values())).claim.fd)
        third._active.clear()
    with world.opened() as fourth:
        assert fourth.sweep() >= 1


def test_failed_steps_leave_nothing(world):
    """A discarded step's directory goes with what it did."""
    active = world.snapshotter.prepare(world.stack)
    world.snapshotter.discard(active)
    assert os.listdir(f"{world.root}/plain") == []


def test_trees_lent_for_changes_are_nobody_elses(world):
    """S-C09, S-J17: each has a directory of its own, which goes and is no tree for a later step."""
    with (
        world.snapshotter.lent(world.stack) as first,
        world.snapshotter.lent(world.stack) as second,
    ):
        assert first != second
        for names in (first, second):
            Path(world.snapshotter.base, names[0], "d/a").write_bytes(b"HACK")
    assert os.listdir(world.snapshotter.base) == []
    active = world.snapshotter.prepare(world.stack)
    assert Path(active.root.path, "d/a").read_bytes() == b"a"


def test_what_owners_may_reach_is_no_tree_for_others(tmp_path):
    """S-J17: where files are their owners', a tree mounted for reading goes with its build."""
    layers = MemoryLayers()
    own = {"uid": os.geteuid(), "gid": os.getegid()}
    stack = [layers.make([(entry("f", size=1, **own), b"a")])]

    def opened():
        return PlainSnapshotter(
            str(tmp_path),
            layers,
            merged=lambda those: Tree.of(layers.index(layer) for layer in those),
            keep_owner=True,
        )

    with opened() as snapshotter:
        (name,) = snapshotter.lowers(stack)
        assert snapshotter.lowers(stack) == (name,)
        Path(snapshotter.base, name, "f").chmod(0o777)
    with opened() as snapshotter:
        active = snapshotter.prepare(stack)
        assert Path(active.root.path, "f").stat().st_mode & 0o777 == 0o644
