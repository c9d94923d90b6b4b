"""Snapshots on file systems that take no overlay's changes: a container's own, with the rest apart.

The state lies on an overlay, active snapshots on a tmpfs over their directory (F7).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile

import pytest
from contract.snapshotter import CHECKS, base, check_commit_needs_no_extraction
from support.namespaces import mount, people, run_in_namespace
from support.overlay_world import OverlayWorld

from builder.snapshot.directories import Directories
from builder.snapshot.overlay import OverlaySnapshotter
from builder.snapshot.seals import Boot
from cache.archive.entry import Entry, Kind
from cache.spec.oci import chain_id

WHO = people()
# An upper directory cannot become a tree on another file system: this cannot hold there.
KEPT = [check for check in CHECKS if check is not check_commit_needs_no_extraction]


def text(path, data=b"x"):
    """A file's entry and content."""
    return Entry(path, Kind.FILE, 0o644, size=len(data)), data


def lay_apart(root):
    """Mount an overlay for the state and a tmpfs in it for what steps write."""
    libc = ctypes.CDLL(None, use_errno=True)
    for name in ("lower", "upper", "work", "state"):
        os.mkdir(f"{root}/{name}")
    data = f"lowerdir={root}/lower,upperdir={root}/upper,workdir={root}/work,userxattr"
    mount(libc, "overlay", f"{root}/state", "overlay", 0, data)
    os.mkdir(f"{root}/state/active")
    mount(libc, "tmpfs", f"{root}/state/active", "tmpfs", 0, "mode=700")


@pytest.fixture(params=WHO, ids=str)
def apart(request):
    """Run a function with such a world, as root of a namespace over many ids or one."""
    who = request.param
    root = tempfile.mkdtemp(prefix="pybuild-apart-", dir="/var/tmp")
    os.chown(root, who.uid, -1)

    def run(function):
        def body():
            os.umask(0o022)
            lay_apart(root)
            function(OverlayWorld(who, f"{root}/state"))

        run_in_namespace(who, body)

    yield run

    def clean():
        for name in os.listdir(root):
            Directories.open(root).remove(name)

    run_in_namespace(who, clean)
    shutil.rmtree(root)


@pytest.mark.parametrize("check", KEPT, ids=lambda check: check.__name__)
def test_contract(apart, check):
    """The port's contract holds there, too."""
    apart(check)


def check_trees_of_another_boot_are_made_anew(world):
    """Trees that cannot be moved away are removed where they lie (S-R37)."""
    stack = [base(world, a=b"1", b=b"2")]

    def lowers(boot):
        with OverlaySnapshotter(
            world.root, world.layers, world.names, keep_owner=world.many_ids, boot=Boot(boot)
        ) as snapshotter:
            return snapshotter.lowers(stack)

    before, after = lowers("before"), lowers("after")
    assert before != after == lowers("after")
    assert sorted(os.listdir(world.snapshotter.base)) == sorted(after)
    assert os.listdir(f"{world.root}/active") == []


def check_committed_layer_is_extracted_again(world):
    """The upper goes with its step; the next one finds the same tree, from the layer."""
    stack = [base(world, a=b"1", b=b"2")]
    active = world.snapshotter.prepare(stack)
    world.change(active, {"c": b"3", "b": None})
    layer = world.snapshotter.diff(active, ())
    world.snapshotter.commit(active, layer)
    assert layer.diff_id not in world.layers.opened
    world.snapshotter.sweep()
    assert os.listdir(f"{world.root}/active") == []
    after = world.snapshotter.prepare([*stack, layer])
    assert world.look(after) == {"a": b"1", "c": b"3"}


def check_layer_that_removes_stands_whole(world):
    """Where no whiteout can be made, one tree holds all up to the layer that removes something."""
    stack = [base(world, a=b"1", b=b"2"), world.layers.make([text(".wh.a", b"")])]
    more = [*stack, base(world, d=b"4")]
    lowers = world.snapshotter.lowers(more)
    assert len(lowers) == 2
    active = world.snapshotter.prepare(more)
    assert world.look(active) == {"b": b"2", "d": b"4"}
    assert world.snapshotter.lowers(more) == lowers
    world.change(active, {"b": None})
    layer = world.snapshotter.diff(active, ())
    assert [entry.path for entry in world.layers.index(layer)] == [".wh.b"]


def check_whole_trees_are_kept_apart_from_others(world):
    """A whole tree is never taken for the one of its topmost layer alone."""
    stack = [base(world, a=b"1"), world.layers.make([text(".wh.a", b""), text("z")])]
    (whole,) = world.snapshotter.lowers(stack)
    assert world.names.get(chain_id([layer.diff_id for layer in stack])) is None
    assert world.names.holds(whole)


@pytest.mark.parametrize(
    "check",
    [
        check_committed_layer_is_extracted_again,
        check_trees_of_another_boot_are_made_anew,
        check_layer_that_removes_stands_whole,
        check_whole_trees_are_kept_apart_from_others,
    ],
    ids=lambda check: check.__name__,
)
def test_apart(apart, check):
    """What is different when the changes of steps lie elsewhere than the trees."""
    apart(check)
