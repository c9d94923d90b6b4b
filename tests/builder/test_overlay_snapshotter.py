"""Snapshots on real overlayfs, in real user namespaces."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import struct
import subprocess
import tempfile
from pathlib import Path
from random import Random

import pytest
from contract.snapshotter import CHECKS, base
from support.memory_layers import MemoryNames
from support.namespaces import people, run_in_namespace
from support.overlay_world import OverlayWorld

from builder.errors import SandboxError
from builder.snapshot.directories import Directories
from builder.snapshot.overlay import OverlaySnapshotter
from cache.archive.entry import Entry, Kind, decode, encode
from cache.archive.tree import Tree
from cache.errors import StoreError
from cache.spec.digest import Digest

THEN = 1_000_000_000_123_456_789
WHO = people()
LINKS = [[b"a-keep", b"keep2"]]  # "keep" itself is as it was below
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


@pytest.fixture(params=WHO, ids=str)
def namespace(request):
    """Run a function with a world, as root of a namespace over many ids or one."""
    who = request.param
    root = tempfile.mkdtemp(prefix="pybuild-test-")
    os.chown(root, who.uid, -1)

    def run(function):
        def body():
            os.umask(0o022)
            function(OverlayWorld(who, root))

        run_in_namespace(who, body)

    yield run

    def clean():
        Directories.open(os.path.dirname(root)).remove(os.path.basename(root))

    with contextlib.suppress(AssertionError):  # the plain user may not unlink it from /tmp
        run_in_namespace(who, clean)
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(namespace, check):
    """The port's contract, with real mounts."""
    namespace(check)


def described(top):
    """A tree on disk as comparable data."""
    seen = {}
    groups = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        place = os.path.join(top, path)
        status = os.lstat(place)
        kind = stat.S_IFMT(status.st_mode)
        payload = b""
        if kind == stat.S_IFREG:
            with open(place, "rb") as file:
                payload = file.read()
        elif kind == stat.S_IFLNK:
            payload = os.readlink(place)
        xattrs = {
            name: os.getxattr(place, name, follow_symlinks=False)
            for name in os.listxattr(place, follow_symlinks=False)
        }
        if kind == stat.S_IFDIR:
            pending += [os.path.join(path, os.fsencode(n)) for n in os.listdir(place)]
        elif status.st_nlink > 1:
            groups.setdefault(status.st_ino, []).append(path)
        mtime = status.st_mtime_ns if path else 0
        seen[path] = (status.st_mode, status.st_uid, status.st_gid, mtime, payload, xattrs)
    return seen, sorted(sorted(paths) for paths in groups.values() if len(paths) > 1)


def folder(path, mode=0o755):
    return Entry(path, Kind.DIRECTORY, mode, mtime=THEN), b""


def text(path, data=b"x", mode=0o644, **more):
    return Entry(path, Kind.FILE, mode, size=len(data), mtime=THEN, **more), data


def rich_base(world):
    """Two layers with something of everything."""
    owner = {"uid": 33, "gid": 44} if world.many_ids else {}
    one = world.layers.make(
        [
            folder("", 0o751),
            folder("etc"),
            text("etc/passwd", b"root"),
            text("etc/shadow", b"secret", 0o600, **owner),
            text("etc/motd"),
            folder("lists"),
            text("lists/a"),
            text("lists/b"),
            folder("doc", 0o2770),
            text("doc/readme", b"r" * 5000),
            folder("doc/sub"),
            text("doc/sub/x"),
            text("bin", mode=0o4755),
            (Entry("bin2", Kind.HARDLINK, linkname="bin", mtime=THEN), b""),
            (Entry("sh", Kind.SYMLINK, 0o777, linkname="bin", mtime=THEN), b""),
            text(decode(b"caf\xe9"), b"latin"),
            text("keep", xattrs=(("user.k", b"v"),)),
        ]
    )
    two = world.layers.make([text("etc/.wh.motd", b""), text("etc/group", b"g"), text("etc/issue")])
    return [one, two]


def rewrite(top):
    """What a busy step does."""
    at = lambda *names: os.path.join(top, *names)  # noqa: E731 - short for the table below
    os.unlink(at(b"etc/issue"))
    shutil.rmtree(at(b"lists"))
    os.mkdir(at(b"lists"))
    with open(at(b"lists/new"), "w") as out:
        out.write("new")
    shutil.move(os.fsdecode(at(b"doc")), os.fsdecode(at(b"doc2")))
    os.chmod(at(b"etc/passwd"), 0o600)
    os.link(at(b"keep"), at(b"keep2"))
    os.link(at(b"keep"), at(b"a-keep"))
    os.chmod(at(b"bin2"), 0o700)
    os.setxattr(at(b"bin2"), "security.capability", CAPABILITY)
    os.setxattr(at(b"etc"), "user.overlay.mine", b"1")
    os.setxattr(at(b"etc"), "user.overlay.opaque", b"y")
    os.unlink(at(b"sh"))
    os.mkdir(at(b"sh"))
    os.rename(at(b"caf\xe9"), at(b"\xff\xfe"))
    os.symlink(b"/\xff/..", at(b"sh/link"))
    os.mkfifo(at(b"sh/fifo"))
    with open(at(b"etc/group"), "r+"):
        pass  # copied up, unchanged
    os.chmod(at(b""), 0o711)  # noqa: S103 - unusual on purpose


def test_busy_step_survives_the_way_through_a_layer(namespace):
    """C7, R48: deletions, recreated and moved directories, links, capabilities, odd names."""

    def body(world):
        stack = rich_base(world)
        active = world.snapshotter.prepare(stack)
        with world.mounted(active) as top:
            rewrite(top)
            if world.many_ids:
                os.chown(os.path.join(top, b"etc/passwd"), 12, 34)
            want = described(top)
        layer = world.snapshotter.diff(active, [])
        index = {entry.path: entry for entry in world.layers.index(layer)}
        world.snapshotter.discard(active)

        assert "lists/.wh..wh..opq" in index
        assert [p for p in index if p.endswith(".wh..wh..opq")] == ["lists/.wh..wh..opq"]
        whiteouts = {p for p in index if ".wh." in p and not p.endswith(".opq")}
        assert whiteouts == {"etc/.wh.issue", ".wh.doc", decode(b".wh.caf\xe9")}
        assert "etc/group" not in index
        assert index["bin2"].xattrs == (("security.capability", CAPABILITY),)
        assert index["etc"].xattrs == (("user.overlay.mine", b"1"),)
        assert index["keep2"].linkname == "a-keep"
        assert "keep" not in index
        assert index[""].mode == 0o711
        assert index["etc/passwd"].mtime == THEN

        again = world.snapshotter.prepare([*stack, layer])
        with world.mounted(again) as top:
            got = described(top)
        del want[0][b"etc"][5]["user.overlay.opaque"]
        got[0][b"etc"][5].pop("user.overlay.mine", None)  # extraction leaves such names out
        want[0][b"etc"][5].pop("user.overlay.mine", None)
        assert got[0] == want[0]
        # The live mount shows a copied-up file under its old inode number, so the links are
        # compared by name; bin and bin2 are no longer one file, as the step copied bin2 up.
        assert got[1] == LINKS

    namespace(body)


def test_layer_equals_the_merged_index(namespace):
    """The tree by indexes, which COPY --from asks, is the tree that a step sees."""

    def body(world):
        stack = rich_base(world)
        active = world.snapshotter.prepare(stack)
        with world.mounted(active) as top:
            rewrite(top)
            seen, _ = described(top)
        layer = world.snapshotter.diff(active, [])
        tree = Tree.of(world.layers.index(item) for item in [*stack, layer])
        nodes = {encode(node.entry.path): node.entry for node in tree.walk()}
        assert nodes.keys() == seen.keys()
        for path, entry in nodes.items():
            mode, uid, gid, mtime, payload, _ = seen[path]
            assert stat.S_IMODE(mode) == entry.mode, path
            if path:
                assert mtime == entry.mtime, path
            if world.many_ids:
                assert (uid, gid) == (entry.uid, entry.gid), path
            if entry.kind is Kind.FILE:
                assert len(payload) == entry.size

    namespace(body)


def test_umoci_unpacks_the_same_tree(tmp_path):
    """A peer that unpacks base and diff gets the tree that the step saw."""
    if shutil.which("umoci") is None or os.getuid() != 0:
        pytest.skip("needs umoci and root")
    run_in_namespace(WHO[0], lambda: _umoci(tmp_path))


def _umoci(tmp_path):
    os.umask(0o022)
    world = OverlayWorld(WHO[0], str(tmp_path / "state"))
    stack = rich_base(world)
    active = world.snapshotter.prepare(stack)
    with world.mounted(active) as top:
        rewrite(top)
        want, _ = described(top)
    layer = world.snapshotter.diff(active, [])
    image = f"{tmp_path}/image"
    run = lambda *argv: subprocess.run(  # noqa: E731 - three calls of one kind
        argv, check=True, capture_output=True, text=True
    )
    run("umoci", "init", "--layout", image)
    run("umoci", "new", "--image", f"{image}:x")
    for number, item in enumerate([*stack, layer]):
        tar = tmp_path / f"{number}.tar"
        tar.write_bytes(world.layers.tars[item.diff_id])
        run("umoci", "raw", "add-layer", "--image", f"{image}:x", str(tar))
    run("umoci", "unpack", "--image", f"{image}:x", f"{tmp_path}/bundle")
    got, got_links = described(os.fsencode(tmp_path / "bundle" / "rootfs"))
    for tree in (got, want):
        for _, _, _, _, _, xattrs in tree.values():
            for name in [n for n in xattrs if n.startswith("user.overlay.")]:
                del xattrs[name]
    assert got == want
    assert got_links == LINKS


def meddle(random, top):
    """Do one random thing to a tree; what cannot be done is skipped."""
    names = [b"a", b"b", b"c"]
    one, two = (
        os.path.join(top, *random.choices(names, k=random.choice([1, 2, 2, 3]))) for _ in range(2)
    )
    when = random.choice([THEN, THEN + 1])
    deeds = [
        lambda: write(one, random.choice([b"", b"x", b"yy"])),
        lambda: write(two, b"x"),
        lambda: os.mkdir(one),
        lambda: os.link(one, two, follow_symlinks=False),
        lambda: os.symlink(random.choice([b"a", b"/none/c", b"./c"]), one),
        lambda: os.unlink(one),
        lambda: shutil.rmtree(one),
        lambda: os.rename(one, two),
        lambda: os.chmod(one, random.choice([0o600, 0o755])),
        lambda: os.utime(one, ns=(1, when), follow_symlinks=False),
    ]
    with contextlib.suppress(OSError):
        random.choice(deeds)()


def write(place, data):
    with open(place, "wb") as out:
        out.write(data)


def test_random_steps_survive_extraction(namespace):
    """Whatever three steps in a row do, layers alone give the tree that the last one left."""

    def body(world):
        random = Random(20)  # noqa: S311 - a fixed sequence
        for _ in range(10):
            stack = []
            for _ in range(3):
                active = world.snapshotter.prepare(stack)
                with world.mounted(active) as top:
                    for _ in range(random.randint(1, 12)):
                        meddle(random, top)
                    want, _ = described(top)
                layer = world.snapshotter.diff(active, [])
                world.snapshotter.commit(active, layer)
                stack.append(layer)
            elsewhere = OverlaySnapshotter(world.root, world.layers, MemoryNames())
            active = elsewhere.prepare(stack)
            with world.mounted(active) as top:
                got, _ = described(top)
            elsewhere.discard(active)
            assert got == want
            tree = Tree.of(world.layers.index(layer) for layer in stack)
            assert {encode(node.entry.path) for node in tree.walk()} == set(want)

    namespace(body)


def test_prepared_root_is_like_the_stack(namespace):
    """The root directory of an upper hides the lower's, so it must be equal to it."""

    def body(world):
        active = world.snapshotter.prepare(rich_base(world))
        status = os.stat(active.root.upper)
        assert stat.S_IMODE(status.st_mode) == 0o751
        assert status.st_mtime_ns == THEN

    namespace(body)


def test_places_to_mount_on_are_beneath_and_no_part_of_a_change(namespace):
    """What every step has mounted is not made in its upper; a change knows nothing of it (R07)."""

    def body(world):
        active = world.snapshotter.prepare([base(world, f=b"1")])
        (name,) = active.root.beneath
        assert name not in active.root.lowers
        assert sorted(os.listdir(f"{active.root.base}/{name}/etc")) == ["hosts", "resolv.conf"]
        os.mkdir(f"{active.root.upper}/etc")
        Path(f"{active.root.upper}/etc/hosts").write_text("mine")
        layer = world.snapshotter.diff(active, [])
        assert [entry.path for entry in world.layers.index(layer)] == ["etc", "etc/hosts"]
        world.snapshotter.discard(active)
        assert world.snapshotter.sweep() == 0

    namespace(body)


def test_a_change_of_nothing_is_written_once(namespace):
    """Steps that change nothing share a layer."""

    def body(world):
        layers = []
        for _ in range(2):
            active = world.snapshotter.prepare([base(world, f=b"1"), *layers])
            layers.append(world.snapshotter.diff(active, []))
            world.snapshotter.commit(active, layers[-1])
        assert layers[0] == layers[1]
        assert world.layers.index(layers[0]) == ()

    namespace(body)


def test_a_layer_without_entries_has_no_tree(namespace):
    """It changes nothing: it is neither kept, extracted nor mounted, and counts for no limit."""

    def body(world):
        below = base(world, f=b"1")
        lowers = world.snapshotter.lowers([below])
        active = world.snapshotter.prepare([below])
        nothing = world.snapshotter.diff(active, [])
        world.snapshotter.commit(active, nothing)
        assert world.snapshotter.lowers([below, *[nothing] * 600]) == lowers
        alone = world.snapshotter.prepare([nothing])
        assert world.look(alone) == {}
        active = world.snapshotter.prepare([nothing, below, nothing])
        world.change(active, {"g": b"2"})
        layer = world.snapshotter.diff(active, [])
        world.snapshotter.commit(active, layer)
        after = world.snapshotter.lowers([nothing, below, nothing, layer, nothing])
        assert after[1:] == lowers
        assert world.snapshotter.lowers([below, layer]) == after

    namespace(body)


def test_five_hundred_lowers_mount(namespace):
    """F12, R46: names are short enough for mount(2)'s one page of options."""

    def body(world):
        stack = [base(world, **{f"f{number}": b"1"}) for number in range(499)]
        active = world.snapshotter.prepare(stack)
        assert len(world.look(active)) == 499
        world.change(active, {"f7": b"changed", "f9": None})
        layer = world.snapshotter.diff(active, [])
        assert [e.path for e in world.layers.index(layer)] == ["f7", ".wh.f9"]
        world.snapshotter.commit(active, layer)
        assert len(world.look(world.snapshotter.prepare([*stack, layer]))) == 498

    namespace(body)


def test_too_many_layers_are_refused(namespace):
    """F12: the 501st lower is a clear error, not the kernel's EINVAL."""

    def body(world):
        with pytest.raises(SandboxError, match="501 layers"):
            world.snapshotter.prepare([base(world, a=b"1")] * 501)

    namespace(body)


def test_disk_errors_name_the_place(namespace):
    """A state directory that breaks under us is a StoreError, not a traceback."""

    def body(world):
        os.rename(f"{world.root}/snapshots", f"{world.root}/away")
        with world.open() as other:
            os.rmdir(f"{world.root}/snapshots")
            with pytest.raises(StoreError, match="empty"):
                other.prepare([])

    namespace(body)


def test_crash_leftovers_are_swept_and_used_trees_stay(namespace):
    """F16: what no record names and nobody locks goes; committed and active ones stay."""

    def body(world):
        layer = base(world, a=b"1")
        kept = world.snapshotter.prepare([layer])
        world.snapshotter.prepare([])
        os.mkdir(os.path.join(world.root, "snapshots", "left"))
        os.makedirs(os.path.join(world.root, "active", "dead", "upper", "x"))
        child = os.fork()
        if child == 0:
            world.open().prepare([layer])
            os._exit(0)
        os.waitpid(child, 0)
        assert world.snapshotter.sweep() == 3
        assert world.snapshotter.sweep() == 0
        assert world.look(kept) == {"a": b"1"}
        assert world.open().sweep() == 0

    namespace(body)


def test_tree_of_another_process_wins(namespace):
    """Whoever records a chain second throws its own tree away."""

    def body(world):
        layer = base(world, a=b"1")
        other = world.open()

        class Racing(MemoryNames):
            def put(self, chain, name):
                if world.names.get(chain) is None:
                    other.lowers([layer])
                return world.names.put(chain, name)

            def get(self, chain):
                return None

        racer = OverlaySnapshotter(world.root, world.layers, Racing(), keep_owner=world.many_ids)
        assert racer.lowers([layer]) == other.lowers([layer])
        assert len(os.listdir(os.path.join(world.root, "snapshots"))) == 1

    namespace(body)


def test_record_without_its_tree_is_extracted_anew(namespace):
    """A record whose directory is gone is forgotten, not believed."""

    def body(world):
        layer = base(world, a=b"1")
        world.names.put(layer.diff_id, "gone")
        assert world.look(world.snapshotter.prepare([layer])) == {"a": b"1"}
        world.snapshotter.remove(layer.diff_id)
        world.snapshotter.remove(Digest.of(b"unknown"))
        assert world.names.by_chain == {}
        assert os.listdir(os.path.join(world.root, "snapshots")) == ["places"]

    namespace(body)


def test_failed_extraction_leaves_nothing(namespace):
    """A broken tar fails with its error and no directory stays."""

    def body(world):
        layer = base(world, a=b"1")
        world.layers.tars[layer.diff_id] = b"not a tar" * 200
        with pytest.raises(Exception, match=r"."):
            world.snapshotter.lowers([layer])
        assert os.listdir(os.path.join(world.root, "snapshots")) == []

    namespace(body)


def test_leaving_discards_active_snapshots(namespace):
    """A with-block ends with its active snapshots, whatever is in them."""

    def body(world):
        with world.open() as snapshotter:
            active = snapshotter.prepare([])
            world.change(active, {"a": b"1"})
            os.chmod(active.root.upper, 0)
        assert os.listdir(os.path.join(world.root, "active")) == []

    namespace(body)


def test_state_directory_is_closed_to_others(tmp_path):
    """A24: setuid files of images must not be reachable for other users of the host."""
    directories = Directories.open(str(tmp_path / "a" / "b"))
    assert stat.S_IMODE(os.stat(tmp_path / "a" / "b").st_mode) == 0o700
    with directories.claim() as claim:
        assert directories.lock(claim.name) is None
    taken = directories.lock(claim.name)
    assert taken is not None
    os.close(taken.fd)
    assert directories.lock("missing") is None
    directories.close()


def test_default_acl_of_the_host_is_not_inherited(tmp_path):
    """A default ACL on the state directory must not decide the bytes of layers."""
    rows = [(1, 7, -1), (2, 7, 5), (4, 7, -1), (16, 7, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)
    try:
        os.setxattr(tmp_path, "system.posix_acl_default", acl)
    except OSError:
        pytest.skip("no ACLs on this file system")
    directories = Directories.open(str(tmp_path / "trees"))
    with directories.claim() as claim:
        assert os.listxattr(claim.fd) == []
    directories.close()


def test_unusable_state_directory_is_named(tmp_path):
    """A file where a directory must be is a StoreError that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Directories.open(str(tmp_path / "file"))
    directories = Directories.open(str(tmp_path / "dir"))
    os.rmdir(tmp_path / "dir")
    with pytest.raises(StoreError, match="dir"):
        directories.claim()
    directories.close()
