"""What every Snapshotter must do. A check takes a World, which hides how a step changes a tree."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

import pytest

from cache.archive.entry import Entry, Kind
from cache.archive.tree import Tree
from cache.errors import PybuildError
from cache.spec.oci import chain_id

if TYPE_CHECKING:
    from support.memory_layers import MemoryLayers

    from builder.snapshot.snapshotter import Active, Snapshotter
    from cache.spec.oci import Layer


class World(Protocol):
    """A snapshotter under test and the means to look at it."""

    snapshotter: Snapshotter
    layers: MemoryLayers

    def change(self, active: Active, files: dict[str, bytes | None]) -> None:
        """Write files, or delete them where the value is None, as a step would."""

    def look(self, active: Active) -> dict[str, bytes]:
        """All files of the merged tree a step would see."""


def base(world, **files: bytes) -> Layer:
    """A layer of files."""
    return world.layers.make(
        (Entry(path, Kind.FILE, size=len(data)), data) for path, data in sorted(files.items())
    )


def content(world, layers):
    """Files of a stack as the layers alone tell."""
    tree = Tree.of(world.layers.index(layer) for layer in layers)
    return {n.entry.path: n.entry.size for n in tree.walk() if n.entry.kind is Kind.FILE}


def check_step_sees_its_stack(world):
    """An active snapshot shows the merged layers, topmost winning."""
    stack = [base(world, a=b"1", b=b"1"), base(world, b=b"22")]
    active = world.snapshotter.prepare(stack)
    assert world.look(active) == {"a": b"1", "b": b"22"}
    assert active.root.base == world.snapshotter.base
    assert active.root.lowers == world.snapshotter.lowers(stack)
    assert active.parent == chain_id([layer.diff_id for layer in stack])


def check_empty_stack_is_an_empty_tree(world):
    """FROM scratch has a tree too, and a lower to mount."""
    active = world.snapshotter.prepare([])
    assert len(active.root.lowers) == 1
    assert world.look(active) == {}
    world.change(active, {"a": b"1"})
    layer = world.snapshotter.diff(active, [])
    world.snapshotter.commit(active, layer)
    assert world.look(world.snapshotter.prepare([layer])) == {"a": b"1"}


def check_diff_holds_the_change_only(world):
    """A layer has what was written and a whiteout for what was deleted."""
    stack = [base(world, a=b"1", b=b"1", c=b"1")]
    active = world.snapshotter.prepare(stack)
    world.change(active, {"b": None, "n": b"new"})
    layer = world.snapshotter.diff(active, [])
    paths = {e.path for e in world.layers.index(layer) if e.path}
    assert paths == {".wh.b", "n"}
    assert content(world, [*stack, layer]) == {"a": 1, "c": 1, "n": 3}


def check_no_change_gives_one_empty_layer(world):
    """Nothing changed gives a layer without entries, equal for all stacks."""
    layers = set()
    for stack in ([], [base(world, a=b"1")]):
        active = world.snapshotter.prepare(stack)
        layer = world.snapshotter.diff(active, [])
        assert world.layers.index(layer) == ()
        layers.add(layer)
        world.snapshotter.discard(active)
    assert len(layers) == 1


def check_stubs_are_no_change(world):
    """Mount stubs left behind are not in the layer."""
    active = world.snapshotter.prepare([base(world, a=b"1")])
    world.change(active, {"stub": b""})
    layer = world.snapshotter.diff(active, [("stub", 1)])
    assert world.layers.index(layer) == ()


def check_commit_needs_no_extraction(world):
    """A committed change is a lower of its chain without reading its tar."""
    stack = [base(world, a=b"1")]
    active = world.snapshotter.prepare(stack)
    world.change(active, {"a": None, "n": b"new"})
    layer = world.snapshotter.diff(active, [])
    world.snapshotter.commit(active, layer)
    again = world.snapshotter.prepare([*stack, layer])
    assert world.look(again) == {"n": b"new"}
    assert layer.diff_id not in world.layers.opened


def check_extraction_equals_commit(world):
    """A layer extracted elsewhere gives the tree that its step saw."""
    stack = [base(world, a=b"1", b=b"1")]
    active = world.snapshotter.prepare(stack)
    world.change(active, {"a": None, "n": b"new", "b": b"2"})
    seen = world.look(active)
    layer = world.snapshotter.diff(active, [])
    world.snapshotter.discard(active)
    assert world.look(world.snapshotter.prepare([*stack, layer])) == seen


def check_lowers_are_shared_and_stable(world):
    """Stacks with a common base share its tree; asking again extracts nothing."""
    one, two, three = base(world, a=b"1"), base(world, b=b"1"), base(world, c=b"1")
    first = world.snapshotter.lowers([one, two])
    second = world.snapshotter.lowers([one, three])
    assert first[-1] == second[-1]
    assert first[0] != second[0]
    assert world.snapshotter.lowers([one, two]) == first
    assert sorted(map(str, world.layers.opened)) == sorted(
        str(x.diff_id) for x in (one, two, three)
    )
    assert all(len(name) <= 6 for name in first + second)


def check_same_layer_on_other_base_is_another_tree(world):
    """Trees are named by chain: a layer on two bases is two trees."""
    one, two, top = base(world, a=b"1"), base(world, b=b"1"), base(world, c=b"1")
    assert world.snapshotter.lowers([one, top])[0] != world.snapshotter.lowers([two, top])[0]


def check_actives_are_private(world):
    """Two steps on one stack do not see each other."""
    stack = [base(world, a=b"1")]
    one, two = world.snapshotter.prepare(stack), world.snapshotter.prepare(stack)
    world.change(one, {"a": b"changed"})
    assert world.look(two) == {"a": b"1"}
    assert one.key != two.key


def check_discard_is_idempotent(world):
    """Discarding twice, or after commit, is success; the committed tree stays."""
    active = world.snapshotter.prepare([])
    world.change(active, {"a": b"1"})
    layer = world.snapshotter.diff(active, [])
    world.snapshotter.commit(active, layer)
    world.snapshotter.discard(active)
    world.snapshotter.discard(active)
    assert world.look(world.snapshotter.prepare([layer])) == {"a": b"1"}


def check_ended_snapshots_cannot_be_read(world):
    """Diff and commit after the end are errors, not empty layers."""
    active = world.snapshotter.prepare([])
    layer = world.snapshotter.diff(active, [])
    world.snapshotter.discard(active)
    with pytest.raises(PybuildError):
        world.snapshotter.diff(active, [])
    with pytest.raises(PybuildError):
        world.snapshotter.commit(active, layer)


def check_committing_twice_keeps_the_first(world):
    """Two steps with the same result end in one tree."""
    actives = [world.snapshotter.prepare([]) for _ in range(2)]
    for active in actives:
        world.change(active, {"a": b"1"})
    # their layers differ in mtimes at most: both are committed as the first one's
    layer = world.snapshotter.diff(actives[0], [])
    for active in actives:
        world.snapshotter.commit(active, layer)
    assert len(world.snapshotter.lowers([layer])) == 1


def check_missing_layer_is_an_error_and_leaves_nothing(world):
    """A layer nobody has fails, and a later try with it there succeeds."""
    layer = base(world, a=b"1")
    tar = world.layers.tars.pop(layer.diff_id)
    with pytest.raises(PybuildError):
        world.snapshotter.lowers([layer])
    world.layers.tars[layer.diff_id] = tar
    assert world.look(world.snapshotter.prepare([layer])) == {"a": b"1"}


def check_concurrent_calls_extract_once(world):
    """Threads that want one chain wait for one extraction."""
    stack = [base(world, a=b"1"), base(world, b=b"1")]
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(world.snapshotter.lowers(stack)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
    assert len(results) == 8
    assert len(world.layers.opened) == 2


CHECKS = tuple(value for name, value in sorted(globals().items()) if name.startswith("check_"))
