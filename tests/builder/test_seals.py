"""Trees after a loss of power: those of this boot and sealed ones are used, others made anew."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from support.memory_layers import MemoryLayers, MemoryNames
from support.twins import compile_twins

from builder.snapshot.directories import Directories
from builder.snapshot.overlay import OverlaySnapshotter
from builder.snapshot.plain import PlainSnapshotter, drop_idle
from builder.snapshot.seals import SEALED, Boot, Seals, write_beside
from cache.archive.entry import Entry, Kind
from cache.archive.tree import Tree
from cache.database import Database
from cache.errors import StoreError
from cache.snapshotnames import SqliteSnapshotNames
from cache.spec.digest import Digest
from cache.spec.oci import chain_id

BEFORE, NOW = "before-the-loss", "after-the-loss"
CHAIN = Digest.of(b"chain")
_LONG = 60


@pytest.fixture(autouse=True)
def _twins():
    compile_twins()


class Disk:
    """What writes a file system, told by the test how it goes."""

    def __init__(self):
        self.asked = []
        self.written = None

    def write(self, path):
        """Begin; the answer is what the test says by then."""
        self.asked.append(path)
        return lambda: self.written


class World:
    """A state directory over boots of a machine."""

    def __init__(self, root):
        self.root = Path(root)
        self.layers = MemoryLayers()
        self.names = MemoryNames()
        self.disk = Disk()
        own = {"uid": os.geteuid(), "gid": os.getegid(), "mtime": 10**18}
        self.stack = [
            self.layers.make([(Entry(name, Kind.FILE, 0o644, size=1, **own), b"x")])
            for name in ("one", "two")
        ]

    def merged(self, layers):
        """The merged tree of a stack."""
        return Tree.of(self.layers.index(layer) for layer in layers)

    def overlay(self, boot, settled=0, names=None):
        """A build's trees in a boot of that name."""
        boot = Boot(boot, self.disk.write, settled)
        return OverlaySnapshotter(str(self.root), self.layers, names or self.names, boot=boot)

    def plain(self, boot):
        """The same without mounts."""
        return PlainSnapshotter(
            str(self.root), self.layers, merged=self.merged, keep_owner=False, boot=Boot(boot)
        )

    def trees(self, boot, **more):
        """The names a build in a boot gets of the stack's trees."""
        with self.overlay(boot, **more) as snapshotter:
            return snapshotter.lowers(self.stack)

    def lose(self, *names):
        """Empty the files of trees, as a loss of power does."""
        for name in names:
            for path in (self.root / "snapshots" / name).iterdir():
                path.write_bytes(b"")

    def contents(self, names):
        """What the files of trees hold, topmost tree first."""
        return [
            path.read_bytes() for n in names for path in (self.root / "snapshots" / n).iterdir()
        ]

    def there(self):
        """All trees."""
        return sorted(os.listdir(self.root / "snapshots"))


@pytest.fixture
def world(tmp_path):
    """A state directory of the test's own."""
    return World(tmp_path / "state")


def test_a_tree_of_another_boot_is_extracted_anew(world):
    """S-R37: what lost its contents with the power is not used, and goes."""
    before = world.trees(BEFORE)
    world.lose(*before)
    after = world.trees(NOW)
    assert not set(before) & set(after)
    assert world.contents(after) == [b"x", b"x"]
    assert world.there() == sorted(after)
    assert os.listdir(world.root / "active") == []
    assert world.trees(NOW) == after


def test_a_tree_of_this_boot_is_used_as_it_lies(world):
    """A killed build loses nothing that it wrote, so nothing is made twice."""
    before = world.trees(NOW)
    assert world.trees(NOW) == before
    with world.overlay(NOW) as snapshotter:
        active = snapshotter.prepare(world.stack)
        Path(active.root.upper, "new").write_bytes(b"y")
        snapshotter.commit(active, snapshotter.diff(active, []))
    (left,) = set(world.names.by_chain.values()) - {f"{name} {NOW}" for name in before}
    assert left.endswith(f" {NOW}")


def test_a_tree_that_a_step_left_in_another_boot_is_extracted_anew(world):
    """It comes from its layer then, as one that was fetched does."""
    with world.overlay(BEFORE) as snapshotter:
        active = snapshotter.prepare(world.stack)
        Path(active.root.upper, "new").write_bytes(b"y")
        layer = snapshotter.diff(active, [])
        snapshotter.commit(active, layer)
        tree = snapshotter.lowers([*world.stack, layer])[0]
    world.lose(tree)
    with world.overlay(NOW) as snapshotter:
        top = snapshotter.lowers([*world.stack, layer])[0]
        assert (Path(snapshotter.base) / top / "new").read_bytes() == b"y"


def test_a_tree_used_again_is_sealed_once_it_is_written(world):
    """The build that finds it old has it written; from then on any boot believes it."""
    first = world.trees(NOW)
    assert world.disk.asked == []  # made just now, used by nobody else
    world.disk.written = True
    assert world.trees(NOW) == first
    assert world.disk.asked == [str(world.root / "snapshots")]
    assert set(world.names.by_chain.values()) == {f"{name} {SEALED}" for name in first}
    assert world.trees("the next") == first
    assert len(world.disk.asked) == 1


def test_a_build_does_not_wait_for_the_seal(world):
    """Not written by its end, or not to be written: another build tries again."""
    first = world.trees(NOW)
    for written in (None, False):
        world.disk.written = written
        assert world.trees(NOW) == first
        assert set(world.names.by_chain.values()) == {f"{name} {NOW}" for name in first}
    assert len(world.disk.asked) == 2


def test_a_young_tree_is_not_written_out(world):
    """The kernel does it in time; the disk is for the builds that follow."""
    first = world.trees(NOW, settled=_LONG)
    assert world.trees(NOW, settled=_LONG) == first
    assert world.disk.asked == []


def test_what_is_found_while_others_are_written_waits_for_its_own_turn(world):
    """A seal says that the tree was complete before the writing began."""
    world.trees(NOW)
    one, two = (chain_id([layer.diff_id for layer in world.stack[:n]]) for n in (1, 2))
    with world.overlay(NOW) as snapshotter:
        snapshotter.lowers(world.stack[:1])
        world.disk.written = None
        snapshotter.lowers(world.stack)
        assert len(world.disk.asked) == 1
        world.disk.written = True
        snapshotter.lowers(world.stack)
        assert world.names.get(one).endswith(SEALED)
        assert world.names.get(two).endswith(NOW)
        assert len(world.disk.asked) == 2
    assert world.names.get(two).endswith(SEALED)


def test_without_the_name_of_the_boot_all_is_believed(world):
    """A masked /proc: as if there were no loss; what such a build makes, others make anew."""
    first = world.trees(BEFORE)
    assert world.trees("") == first
    world.names.by_chain.clear()
    unmarked = world.trees("")
    assert set(world.names.by_chain.values()) == set(unmarked)  # as older versions wrote them
    assert world.trees("") == unmarked
    assert not set(world.trees(NOW)) & set(unmarked)


def test_the_name_of_the_boot_is_what_the_kernel_says(tmp_path):
    """No name when it cannot be read or is none."""
    assert Boot.current().name == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    file = tmp_path / "id"
    assert Boot.current(str(file)).name == ""
    for text in (b"", b"\xff" * 36, b"x" * 35, b"x" * 37, b"x " * 18):
        file.write_bytes(text)
        assert Boot.current(str(file)).name == ""


def test_a_sync_runs_beside_the_build(tmp_path, monkeypatch):
    """The real one ends well on a directory, and badly on none or without the program."""
    for path, good in ((tmp_path, True), (tmp_path / "none", False)):
        written = write_beside(str(path))
        deadline = time.monotonic() + _LONG
        while (done := written()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert done is good
        assert written() is False  # it is asked once only
    monkeypatch.setenv("PATH", str(tmp_path))
    assert write_beside(str(tmp_path))() is False


class Closed(MemoryNames):
    """Records that can be read only."""

    def replace(self, chain, before, after):
        """Refuse."""
        raise StoreError("attempt to write a readonly database")


def test_records_that_cannot_be_written_keep_no_build_from_its_trees(world):
    """The seal is not set, which is no error; a tree not to be believed is one."""
    first = world.trees(NOW)
    closed = Closed()
    closed.by_chain = world.names.by_chain
    world.disk.written = True
    assert world.trees(NOW, names=closed) == first
    assert set(closed.by_chain.values()) == {f"{name} {NOW}" for name in first}
    world.lose(*first)
    with pytest.raises(StoreError, match="readonly"):
        world.trees("the next", names=closed)


def test_two_builds_at_once_after_a_loss_agree(world):
    """S-R15: one tree of each chain stays, neither takes away what the other made."""
    database = Database(str(world.root.parent / "state.db"))
    before = world.trees(BEFORE, names=SqliteSnapshotNames(database))
    world.lose(*before)
    database.close()
    start = threading.Barrier(4)
    found = []

    def build():
        mine = Database(str(world.root.parent / "state.db"))
        start.wait(_LONG)
        found.append(world.trees(NOW, names=SqliteSnapshotNames(mine)))
        mine.close()

    builds = [threading.Thread(target=build) for _ in range(4)]
    for one in builds:
        one.start()
    for one in builds:
        one.join(_LONG)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert world.contents(found[0]) == [b"x", b"x"]
    assert world.there() == sorted(found[0])
    assert os.listdir(world.root / "active") == []


def test_only_what_was_seen_is_dropped(tmp_path):
    """A tree that another process made anew between the look and the drop stays named."""
    trees = Directories.open(str(tmp_path))
    with trees.claim() as old, trees.claim() as new:
        thrown = []

        class Overtaken(MemoryNames):
            def replace(self, chain, before, after):
                self.by_chain[chain] = f"{new.name} {NOW}"
                return super().replace(chain, before, after)

        names = Overtaken()
        names.put(CHAIN, f"{old.name} {BEFORE}")
        seals = Seals(names, trees, Boot(NOW), lambda *gone: thrown.append(gone))
        assert seals.get(CHAIN) is None
        assert thrown == []
        assert seals.put(CHAIN, "late") == new.name
        assert seals.get(CHAIN) == new.name
        assert seals.holds(new.name)
    trees.close()


def test_a_plain_tree_of_another_boot_is_made_anew(world):
    """S-R37: the directory goes, whatever it holds; one of this boot is taken again."""

    def step(boot):
        with world.plain(boot) as snapshotter:
            active = snapshotter.prepare(world.stack)
            held = {path.name: path.read_bytes() for path in Path(active.root.path).iterdir()}
            snapshotter.commit(active, world.layers.make([]))
            world.stack = world.stack[:2]
        return active.key, held

    whole = {"one": b"x", "two": b"x"}
    key, held = step(BEFORE)
    assert held == whole
    (tree,) = (world.root / "plain").iterdir()
    for name in whole:
        (tree / "root" / name).write_bytes(b"")
    chain = tree / "chain"
    again, held = step(NOW)
    assert (again != key, held) == (True, whole)
    assert not chain.exists()
    with world.plain(NOW) as snapshotter:
        longer = [*world.stack, world.layers.make([])]
        assert snapshotter.prepare(longer).key == again
        assert os.listdir(world.root / "plain") == [again]


def test_prune_drops_plain_trees_of_another_boot(world):
    """They are of no use, though their stack is still named."""
    for boot in (BEFORE, NOW):
        with world.plain(boot) as snapshotter:
            snapshotter.commit(snapshotter.prepare([]), world.stack[0])
        kept = {str(world.stack[0].diff_id)}
        drop_idle(str(world.root), kept, Boot(NOW))
        assert len(os.listdir(world.root / "plain")) == (boot == NOW)
    drop_idle(str(world.root), kept, Boot(""))
    assert len(os.listdir(world.root / "plain")) == 1
    shutil.rmtree(world.root / "plain")


def test_names_with_a_note_are_held(tmp_path):
    """A sweep finds a tree named, whatever is noted of it; a longer name is another."""
    database = Database(str(tmp_path / "state.db"))
    names = SqliteSnapshotNames(database, "single ")
    names.put(CHAIN, f"abcde {BEFORE}")
    assert names.holds("abcde")
    assert not any(map(names.holds, ("abcd", "abcde b", "bcde", "%", "")))
    assert not names.replace(CHAIN, "abcde", "abcde sealed")
    assert names.replace(CHAIN, f"abcde {BEFORE}", "abcde sealed")
    assert names.get(CHAIN) == "abcde sealed"
    assert names.replace(CHAIN, "abcde sealed", None)
    assert names.get(CHAIN) is None
    database.close()
