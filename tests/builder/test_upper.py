"""Reading an overlayfs upper directory into layer entries."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import tempfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import SandboxError
from builder.snapshot import attributes
from builder.snapshot.lower import EmptyLower, StackedLower
from builder.snapshot.stubs import remove_stubs
from builder.snapshot.upper import write_upper
from cache.archive.entry import Kind, decode
from cache.errors import ArchiveError

THEN = 1_000_000_000_123_456_789
IS_ROOT = os.getuid() == 0


class Recorder:
    """A LayerWriter that keeps what it gets."""

    def __init__(self):
        self.entries = []
        self.payloads = {}

    def add(self, entry, payload=None):
        data = payload if isinstance(payload, bytes) else payload.read() if payload else b""
        assert len(data) == entry.size
        self.entries.append(entry)
        self.payloads[entry.path] = data

    def commit(self):
        raise NotImplementedError

    @property
    def paths(self):
        return [entry.path for entry in self.entries]

    def __getitem__(self, path):
        (entry,) = [entry for entry in self.entries if entry.path == path]
        return entry


class Pair:
    """An upper directory over a stack of lower ones, made by hand."""

    def __init__(self, base):
        self.base = os.fsencode(base)
        self.stack = [b"lower"]
        os.mkdir(self.at(b"lower"), 0o755)
        os.mkdir(self.at(b"upper"), 0o755)

    def at(self, *parts):
        return os.path.join(self.base, *(os.fsencode(part) for part in parts))

    def directory(self, side, path, mtime=THEN):
        os.makedirs(self.at(side, path), exist_ok=True)
        os.utime(self.at(side, path), ns=(0, mtime))

    def file(self, side, path, data=b"", mode=0o644, mtime=THEN):
        os.makedirs(os.path.dirname(self.at(side, path)), exist_ok=True)
        with open(self.at(side, path), "wb") as out:
            out.write(data)
        os.chmod(self.at(side, path), mode)
        os.utime(self.at(side, path), ns=(0, mtime))

    def whiteout(self, path, side="upper"):
        os.makedirs(os.path.dirname(self.at(side, path)), exist_ok=True)
        os.mknod(self.at(side, path), stat.S_IFCHR, 0)

    def opaque(self, path, side="upper"):
        os.makedirs(self.at(side, path), exist_ok=True)
        os.setxattr(self.at(side, path), "user.overlay.opaque", b"y")

    def settle(self, *paths):
        """Give directories of both sides one mtime."""
        for path in paths:
            for side in ("lower", "upper"):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self.at(side, path), ns=(0, THEN))

    @contextlib.contextmanager
    def opened(self):
        base_fd = os.open(self.base, os.O_RDONLY)
        upper_fd = os.open(self.at("upper"), os.O_RDONLY)
        try:
            yield upper_fd, StackedLower(base_fd, self.stack)
        finally:
            os.close(base_fd)
            os.close(upper_fd)

    def read(self):
        recorder = Recorder()
        with self.opened() as (upper_fd, lower):
            write_upper(upper_fd, lower, recorder)
        return recorder

    def remove_stubs(self, *stubs):
        with self.opened() as (upper_fd, lower):
            remove_stubs(upper_fd, lower, stubs)


@pytest.fixture
def pair(tmp_path):
    old = os.umask(0o022)
    yield Pair(tmp_path)
    os.umask(old)


def test_empty_upper_gives_nothing_at_once(pair):
    """A step that changed nothing costs far less than a millisecond."""
    pair.file("lower", "a/b")
    assert pair.read().entries == []
    with pair.opened() as (upper_fd, lower):
        took = []
        for _ in range(20):
            began = time.perf_counter()
            write_upper(upper_fd, lower, Recorder())
            took.append(time.perf_counter() - began)
    assert min(took) < 0.001


def test_new_files_come_with_their_parents_sorted(pair):
    """Entries are parents first and in byte order; metadata is complete to the nanosecond."""
    pair.file("upper", "b/z", b"zz", 0o640)
    pair.file("upper", "b/a-", b"")
    pair.file("upper", "b/a/x", b"x")
    pair.file("upper", "B", b"")
    got = pair.read()
    assert got.paths == ["B", "b", "b/a", "b/a/x", "b/a-", "b/z"]
    entry = got["b/z"]
    assert (entry.kind, entry.mode, entry.mtime, entry.size) == (Kind.FILE, 0o640, THEN, 2)
    assert (entry.uid, entry.gid) == (os.getuid(), os.getgid())
    assert got.payloads["b/z"] == b"zz"


def test_parents_of_changes_are_included(pair):
    """As docker does, the unchanged directories above a change are written too."""
    pair.file("lower", "usr/share/doc/x", b"1")
    pair.file("upper", "usr/share/doc/x", b"2")
    pair.directory("upper", "usr/lib")
    pair.directory("lower", "usr/lib")
    pair.settle("usr", "usr/share", "usr/share/doc")
    assert pair.read().paths == ["usr", "usr/share", "usr/share/doc", "usr/share/doc/x"]


def test_untouched_copies_are_dropped(pair):
    """Directories and files that equal the lower's in all respects are no change."""
    pair.file("lower", "d/f", b"same")
    pair.file("upper", "d/f", b"same")
    pair.settle("d")
    os.symlink("t", pair.at("lower", "l"))
    os.symlink("t", pair.at("upper", "l"))
    for side in ("lower", "upper"):
        os.utime(pair.at(side, "l"), ns=(0, THEN), follow_symlinks=False)
        os.mkfifo(pair.at(side, "p"))
        os.utime(pair.at(side, "p"), ns=(0, THEN))
    assert pair.read().entries == []


@pytest.mark.parametrize("what", ["data", "mode", "mtime", "xattr", "size"])
def test_any_difference_of_a_file_is_a_change(pair, what):
    """Same size and mtime are not enough: content, mode and attributes count."""
    pair.file("lower", "f", b"same")
    pair.file("upper", "f", {"data": b"Same", "size": b"same."}.get(what, b"same"))
    if what == "mode":
        os.chmod(pair.at("upper", "f"), 0o600)
    elif what == "mtime":
        os.utime(pair.at("upper", "f"), ns=(0, THEN + 1))
    elif what == "xattr":
        os.setxattr(pair.at("upper", "f"), "user.k", b"v")
    got = pair.read()
    assert got.paths == ["f"]
    assert len(got.payloads["f"]) == got["f"].size


def test_large_files_compare_and_stream(pair):
    """Files over a block are compared to the last byte and handed over as streams."""
    data = bytes(range(256)) * 5000
    pair.file("lower", "same", data)
    pair.file("upper", "same", data)
    pair.file("lower", "other", data)
    pair.file("upper", "other", data[:-1] + b"!")
    got = pair.read()
    assert got.paths == ["other"]
    assert got.payloads["other"] == data[:-1] + b"!"


def test_changed_directory_metadata_is_a_change(pair):
    """A chmod of a directory writes that directory and its parents, no children."""
    pair.directory("lower", "a/b")
    pair.directory("upper", "a/b")
    os.chmod(pair.at("upper", "a/b"), 0o700)
    pair.settle("a", "a/b")
    got = pair.read()
    assert got.paths == ["a", "a/b"]
    assert got["a/b"].mode == 0o700


def test_root_is_written_only_when_its_rights_changed(pair):
    """A chmod of / is kept; its mtime, which every change moves, is not."""
    os.utime(pair.at("upper"), ns=(0, THEN))
    assert pair.read().entries == []
    os.chmod(pair.at("upper"), 0o700)
    got = pair.read()
    assert got.paths == [""]
    assert (got.entries[0].kind, got.entries[0].mode) == (Kind.DIRECTORY, 0o700)


def test_whiteouts_only_for_paths_the_lower_has(pair):
    """A deletion of what never was there is left out."""
    pair.file("lower", "d/gone")
    pair.whiteout("d/gone")
    pair.whiteout("d/never")
    pair.whiteout("new/never")
    got = pair.read()
    assert got.paths == ["d", "d/.wh.gone", "new"]
    marker = got["d/.wh.gone"]
    assert (marker.kind, marker.mode, marker.size, marker.mtime, marker.uid) == (
        Kind.FILE,
        0,
        0,
        0,
        0,
    )


def test_opaque_only_over_a_lower_directory(pair):
    """Every fresh directory is flagged opaque; a marker is due only where one was replaced."""
    pair.file("lower", "old/x")
    pair.file("lower", "file")
    pair.opaque("old")
    pair.opaque("file")
    pair.opaque("fresh")
    pair.file("upper", "old/y")
    got = pair.read()
    assert got.paths == ["file", "fresh", "old", "old/.wh..wh..opq", "old/y"]


def test_below_an_opaque_directory_nothing_is_hidden(pair):
    """Equal files in a recreated directory are new; whiteouts there mean nothing."""
    pair.file("lower", "d/f", b"1")
    pair.file("upper", "d/f", b"1")
    pair.opaque("d")
    pair.whiteout("d/g")
    pair.file("lower", "d/g", b"1")
    pair.settle("d")
    assert pair.read().paths == ["d", "d/.wh..wh..opq", "d/f"]


def test_bookkeeping_attributes_do_not_leak(pair):
    """A18: overlay's own names are stripped and escaped ones are given back."""
    pair.file("upper", "f")
    for name, value in (
        ("user.overlay.origin", b"\0"),
        ("user.overlay.impure", b"y"),
        ("user.overlay.uuid", b"u"),
        ("user.overlay.overlay.mine", b"1"),
        ("user.overlay.overlay.overlay.mine", b"2"),
        ("user.overlay.overlay.opaque", b"y"),
        ("user.a", b"\0\xff"),
    ):
        os.setxattr(pair.at("upper", "f"), name, value)
    want = (("user.a", b"\0\xff"), ("user.overlay.mine", b"1"), ("user.overlay.overlay.mine", b"2"))
    assert pair.read()["f"].xattrs == want


@pytest.mark.parametrize("name", ["redirect", "metacopy"])
def test_incomplete_uppers_are_refused(pair, name):
    """Content that lies elsewhere must never be read as if it were all."""
    pair.directory("upper", "d")
    os.setxattr(pair.at("upper", "d"), f"user.overlay.{name}", b"x")
    with pytest.raises(SandboxError, match=name):
        pair.read()


def test_capabilities_take_the_portable_form():
    """A19: v3 becomes v2 of 20 bytes without the host's root id; v2 and odd ones stay."""
    v3 = struct.pack("<6I", 0x03000001, 0x400, 0, 0, 0, 100000)
    v2 = struct.pack("<5I", 0x02000001, 0x400, 0, 0, 0)
    read = attributes.clean([("security.capability", v3), ("security.selinux", b"x")])
    assert read.xattrs == (("security.capability", v2),)
    assert attributes.clean([("security.capability", v2)]).xattrs[0][1] == v2
    assert attributes.clean([("security.capability", b"?" * 24)]).xattrs[0][1] == b"?" * 24


def test_access_lists_are_kept(pair):
    """An ACL set by a step is part of its change, as extraction gives it back."""
    rows = [(1, 6, -1), (2, 4, os.getuid()), (4, 4, -1), (16, 4, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)
    pair.file("upper", "f")
    try:
        os.setxattr(pair.at("upper", "f"), "system.posix_acl_access", acl)
    except OSError:
        pytest.skip("no ACLs on this file system")
    assert pair.read()["f"].xattrs == (("system.posix_acl_access", acl),)


def test_trusted_bookkeeping_counts_too():
    """Uppers of mounts without userxattr carry the same marks under trusted."""
    read = attributes.clean([("trusted.overlay.opaque", b"y"), ("trusted.other", b"x")])
    assert read == attributes.Attributes((), opaque=True)
    assert not attributes.clean([("user.overlay.opaque", b"x")]).opaque


def test_hard_links_name_the_first_path(pair):
    """Links of one inode refer to the first path in the order of the layer."""
    pair.file("upper", "b/x", b"1")
    os.link(pair.at("upper", "b/x"), pair.at("upper", "a"))
    os.link(pair.at("upper", "b/x"), pair.at("upper", "c"))
    os.symlink("t", pair.at("upper", "s"))
    os.link(pair.at("upper", "s"), pair.at("upper", "s2"), follow_symlinks=False)
    got = pair.read()
    assert got.paths == ["a", "b", "b/x", "c", "s", "s2"]
    assert got["a"].kind is Kind.FILE
    assert [(got[p].kind, got[p].linkname) for p in ("b/x", "c", "s2")] == [
        (Kind.HARDLINK, "a"),
        (Kind.HARDLINK, "a"),
        (Kind.HARDLINK, "s"),
    ]


def test_link_to_an_untouched_file_is_a_file(pair):
    """`ln old new` leaves old out of the layer, as it did not change; new is no link then (R11)."""
    pair.file("lower", "old", b"1")
    pair.file("upper", "old", b"1")
    os.link(pair.at("upper", "old"), pair.at("upper", "z"))
    got = pair.read()
    assert (got.paths, got["z"].kind) == (["z"], Kind.FILE)


def test_special_files(pair):
    """Fifos and symlinks are kept, never opened or followed; sockets are skipped."""
    os.mkfifo(pair.at("upper", "fifo"))
    os.symlink(b"/\xff/../x", pair.at("upper", "link"))
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(pair.at("upper"))
        server.bind("sock")
        os.chdir(here)
    got = pair.read()
    assert got.paths == ["fifo", "link"]
    assert got["fifo"].kind is Kind.FIFO
    assert got["link"].linkname == decode(b"/\xff/../x")


@pytest.mark.skipif(not IS_ROOT, reason="devices need root")
def test_devices_keep_their_numbers(pair):
    """Character and block devices other than 0:0 are content."""
    try:
        os.mknod(pair.at("upper", "null"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.mknod(pair.at("upper", "disk"), stat.S_IFBLK | 0o600, os.makedev(300, 70000))
    except PermissionError:
        pytest.skip("devices are refused here")
    got = pair.read()
    assert (got["null"].kind, got["null"].device) == (Kind.CHAR, (1, 3))
    assert (got["disk"].kind, got["disk"].device) == (Kind.BLOCK, (300, 70000))


def test_names_are_bytes(pair):
    """R48: any byte but slash and NUL survives, sorted as bytes."""
    names = [b"\xff\xfe", b"-rf", b"a\nb", "é".encode(), "e\u0301".encode(), b"n" * 255]
    for name in names:
        pair.file("upper", name)
    assert pair.read().paths == [decode(name) for name in sorted(names)]


@pytest.mark.parametrize("name", [".wh.foo", ".wh..wh..opq", ".wh."])
def test_names_that_mean_deletions_are_refused(pair, name):
    """R48: a literal `.wh.` name made by a step would delete in the next build."""
    pair.file("upper", f"d/{name}")
    with pytest.raises(ArchiveError, match=f"/d/{name}") as caught:
        pair.read()
    assert caught.value.hint


def test_deleting_a_very_long_name_is_refused(pair):
    """A20: a whiteout longer than a name may be could not be read back."""
    pair.file("lower", "n" * 252)
    pair.whiteout("n" * 252)
    with pytest.raises(ArchiveError, match="deletion"):
        pair.read()


def dig(pair, depth):
    """Make a deep chain of directories without long paths."""
    fd = os.open(pair.at("upper"), os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def bury(pair):
    """Remove what dig made, which pytest cannot."""
    fd = os.open(pair.at("upper"), os.O_RDONLY)
    while True:
        try:
            os.rename("d/d", "e", src_dir_fd=fd, dst_dir_fd=fd)
        except FileNotFoundError:
            break
        os.rmdir("d", dir_fd=fd)
        os.rename("e", "d", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(fd)


def test_deep_trees_use_few_descriptors(pair):
    """Two thousand levels need neither recursion nor descriptors; beyond the path limit is an error."""
    fd = dig(pair, 2000)
    before = len(os.listdir("/proc/self/fd"))
    most = 0

    class Counter(Recorder):
        def add(self, entry, payload=None):
            nonlocal most
            most = max(most, len(os.listdir("/proc/self/fd")))
            super().add(entry, payload)

    recorder = Counter()
    with pair.opened() as (upper_fd, lower):
        write_upper(upper_fd, lower, recorder)
    os.close(fd)
    assert len(recorder.entries) == 2000
    assert most - before <= 4
    bury(pair)


def test_paths_over_the_limit_are_refused(pair):
    """A path that no layer can hold is a clear error, not a kernel's."""
    os.close(dig(pair, 3000))
    with pytest.raises(ArchiveError, match="over the limit"):
        pair.read()
    bury(pair)


def test_stacked_lower_merges_like_overlayfs(pair):
    """Whiteouts, opaque directories and type changes inside the stack hide what lies deeper."""
    pair.stack = [b"top", b"lower"]
    for path in ("d/a", "d/b", "o/x", "f/y", "deep/er/z"):
        pair.file("lower", path, b"low")
    pair.whiteout("d/a", side="top")
    pair.opaque("o", side="top")
    pair.file("top", "f", b"a file now")
    pair.file("top", "d/b", b"top")
    pair.directory("top", "deep/er")
    with pair.opened() as (_, lower):
        assert lower.lstat(b"d/a") is None
        assert lower.lstat(b"o/x") is None
        assert lower.lstat(b"f/y") is None
        assert lower.lstat(b"deep/er/z").st_size == 3
        assert stat.S_ISREG(lower.lstat(b"f").st_mode)
        with lower.open(b"d/b") as read:
            assert (read(2), read(9), read(9)) == (b"to", b"p", b"")
        with pytest.raises(FileNotFoundError), lower.open(b"d/a"):
            pass


def test_empty_lower_makes_everything_new(pair):
    """FROM scratch: the whole upper is the layer, root rights only when unusual."""
    pair.file("upper", "d/f", b"1")
    pair.whiteout("gone")
    pair.opaque("d")
    recorder = Recorder()
    with pair.opened() as (upper_fd, _):
        os.chown(upper_fd, -1, -1)
        write_upper(upper_fd, EmptyLower(), recorder)
    recorder.entries = [e for e in recorder.entries if e.path]
    assert recorder.paths == ["d", "d/f"]
    for method in (EmptyLower().xattrs, EmptyLower().readlink, EmptyLower().open):
        with pytest.raises(FileNotFoundError):
            method(b"x")


def test_stubs_go_without_a_trace(pair):
    """Mount points that were only that leave no entry and no mtime behind."""
    pair.directory("lower", "etc", mtime=THEN)
    pair.file("lower", "etc/passwd")
    os.utime(pair.at("lower", "etc"), ns=(0, THEN))
    pair.file("upper", "etc/resolv.conf")
    pair.file("upper", "etc/hosts")
    pair.directory("upper", "proc")
    pair.directory("upper", "run/secrets")
    pair.remove_stubs(
        ("etc/resolv.conf", THEN),
        ("/etc/hosts", THEN + 5),
        ("run/secrets", 7),
        ("run", 8),
        ("proc", 9),
        ("sys", 9),
    )
    assert pair.read().entries == []


def test_stubs_that_were_used_stay(pair):
    """Content written to a stub, and what the lower has, is the step's own."""
    pair.file("upper", "etc/hosts", b"127.0.0.1")
    pair.file("upper", "dev/shm/left")
    pair.file("lower", "etc/empty")
    pair.file("upper", "etc/empty")
    os.symlink("/tmp", pair.at("upper", "way"))
    pair.remove_stubs(
        ("dev/shm", 1),
        ("etc/hosts", 1),
        ("etc/empty", 1),
        ("way/x", 1),
        ("etc/hosts/x", 1),
        ("../x", 1),
        ("way", 1),
    )
    assert os.listdir(pair.at("upper", "dev/shm")) == [b"left"]
    assert sorted(os.listdir(pair.at("upper", "etc"))) == [b"empty", b"hosts"]
    assert os.path.islink(pair.at("upper", "way"))


def test_parent_of_a_stub_keeps_the_mtime_of_real_changes(pair):
    """Where the step itself added a name beside the stub, the parent's new mtime stays."""
    pair.directory("lower", "etc")
    pair.file("upper", "etc/hosts")
    pair.file("upper", "etc/new")
    os.utime(pair.at("upper", "etc"), ns=(0, THEN + 50))
    pair.remove_stubs(("etc/hosts", THEN))
    got = pair.read()
    assert got.paths == ["etc", "etc/new"]
    assert got["etc"].mtime == THEN + 50


@settings(deadline=None)  # it waits for the disk
@given(st.dictionaries(st.sampled_from(["a", "a/b", "c", "d/e", "d"]), st.binary(max_size=3)))
def test_same_upper_gives_same_entries(files):
    """Two directories with equal content give equal layers, whatever the creation order."""
    seen = []
    for order in (list(files), list(files)[::-1]):
        with tempfile.TemporaryDirectory() as base:
            pair = Pair(base)
            for path in order:
                with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
                    pair.file("upper", f"x/{path}/f", files[path])
            recorder = pair.read()
            seen.append([(e.path, e.kind, e.size) for e in recorder.entries])
    assert seen[0] == seen[1]


def test_twenty_thousand_files_take_about_a_second(pair):
    """R44: reading a large change keeps up with the tar writer."""
    for number in range(40):
        pair.directory("upper", f"d{number}")
        for name in range(500):
            with open(pair.at("upper", f"d{number}/f{name}"), "wb") as out:
                out.write(b"x" * 100)

    class Count:
        count = 0

        def add(self, entry, payload=None):
            Count.count += 1

        def commit(self):
            raise NotImplementedError

    began = time.perf_counter()
    with pair.opened() as (upper_fd, lower):
        write_upper(upper_fd, lower, Count())
    took = time.perf_counter() - began
    assert Count.count == 20_040
    assert took < 5
