"""Confined paths: by openat2 and by the walk that replaces it."""

from __future__ import annotations

import errno
import os
import stat
import threading

import pytest

from cache.archive import rooted
from cache.errors import ArchiveError


@pytest.fixture(params=["openat2", "walk"])
def way(request, monkeypatch):
    """Run with the system call, and as if the kernel did not have it."""
    if request.param == "walk":

        def refuse(*arguments):
            raise OSError(errno.ENOSYS, "not here")

        monkeypatch.setattr(rooted, "openat2", refuse)
    return request.param


@pytest.fixture
def outside(tmp_path):
    """A directory beside the root, with a secret in it."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_text("host")
    return path


@pytest.fixture
def root(tmp_path, outside):
    """A root directory's path and descriptor; the path is also reachable as `.path`."""
    path = tmp_path / "root"
    path.mkdir()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield Root(path, fd)
    os.close(fd)


class Root:
    def __init__(self, path, fd):
        self.path = path
        self.fd = fd

    def read(self, path, limit=100):
        return rooted.read_file_in_root(self.fd, path, limit)


LINKED = {errno.ELOOP, errno.ENOTDIR, errno.EXDEV, errno.ENOENT}


def failure(function, *arguments) -> int:
    """The number of the error a call ends with."""
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    raise AssertionError("no error")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_links_are_followed_inside_the_root(way, root, outside):
    """A02, A03: absolute and climbing links mean places in the root."""
    (root.path / "etc").mkdir()
    (root.path / "etc/real").write_text("image")
    (root.path / "abs").symlink_to("/etc/real")
    (root.path / "up").symlink_to("../" * 50 + "etc/real")
    (root.path / "dir").symlink_to("/etc")
    (root.path / "out").symlink_to(outside)
    before = descriptors()
    for path in ("abs", "up", "dir/real", "/dir/../etc/./real", "../../etc/real", "dir/../abs"):
        assert root.read(path) == b"image"
    assert root.read("out/secret") is None
    assert root.read("../outside/secret") is None
    assert root.read(str(outside / "secret")) is None
    assert descriptors() == before


def test_magic_links_are_not_followed(way, outside):
    """A08: /proc/self/fd/N and the like do not lead out of the root."""
    fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    hidden = os.open(outside, os.O_RDONLY | os.O_DIRECTORY)
    try:
        number = failure(rooted.open_in_root, fd, f"self/fd/{hidden}/secret")
        assert number in {errno.ELOOP, errno.ENOENT}
    finally:
        os.close(hidden)
        os.close(fd)


def test_loops_end(way, root):
    """A05: a loop is absent; a chain of forty links is followed."""
    (root.path / "a").symlink_to("b")
    (root.path / "b").symlink_to("a")
    assert root.read("a/x") is None
    (root.path / "l0").write_text("end")
    for number in range(1, 42):
        (root.path / f"l{number}").symlink_to(f"l{number - 1}")
    assert root.read("l40") == b"end"
    assert root.read("l41") is None


def test_only_regular_files_are_read(way, root):
    """A14: fifos do not hang, devices and directories are nothing."""
    os.mkfifo(root.path / "fifo")
    (root.path / "dir").mkdir()
    (root.path / "tolink").symlink_to("fifo")
    for path in ("fifo", "dir", "tolink", "", "/", "missing", "dir/missing", "fifo/x", "n" * 300):
        assert root.read(path) is None


def test_reading_is_limited(way, root):
    """E: a file over the limit is an error, one at the limit is not."""
    (root.path / "f").write_bytes(b"x" * 100)
    assert root.read("f", 100) == b"x" * 100
    with pytest.raises(ArchiveError, match="larger than 99"):
        root.read("f", 99)


def test_names_are_bytes(way, root):
    """A34: names that are not UTF-8 are found."""
    with open(os.fsencode(root.path) + b"/\xff\n", "wb") as file:
        file.write(b"raw")
    assert root.read("\udcff\n") == b"raw"


def test_beneath_refuses_every_link(way, root):
    """A02: a path for writing has no links at all."""
    (root.path / "d/e").mkdir(parents=True)
    (root.path / "l").symlink_to("d")
    os.close(rooted.open_beneath(root.fd, "d/e"))
    os.close(rooted.open_beneath(root.fd, ""))
    for path in ("l", "l/e", "d/../../x", "missing", "d/e/f"):
        assert failure(rooted.open_beneath, root.fd, path) in LINKED


def test_parent_is_resolved_and_the_name_is_not(way, root):
    """A07: the last component stays as it is."""
    (root.path / "usr/lib").mkdir(parents=True)
    (root.path / "lib").symlink_to("usr/lib")
    (root.path / "usr/lib/x").symlink_to("/etc/passwd")
    fd, name = rooted.open_parent(root.fd, "lib/x")
    assert name == "x"
    assert os.path.samestat(os.fstat(fd), os.stat(root.path / "usr/lib"))
    os.close(fd)
    for path in ("", "/", "a/..", "."):
        with pytest.raises(ArchiveError):
            rooted.open_parent(root.fd, path)


def test_parents_are_made_inside_the_root(way, root, outside):
    """A02: missing directories appear where links lead in the root, whatever the umask."""
    (root.path / "usr").mkdir()
    (root.path / "u").symlink_to("/usr")
    (root.path / "dangling").symlink_to(outside / "new")
    (root.path / "file").write_text("")
    old = os.umask(0o077)
    try:
        rooted.make_parents(root.fd, "u/a/b/file")
        rooted.make_parents(root.fd, "u/a/b/file")
        rooted.make_parents(root.fd, "file-at-top")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(root.path / "usr/a/b").st_mode) == 0o755
    for path in ("dangling/x/y", "file/x/y", "a/../../b/c", "n/" * 3000):
        with pytest.raises(ArchiveError):
            rooted.make_parents(root.fd, path)
    assert sorted(os.listdir(outside)) == ["secret"]


def test_removal_follows_no_link(root, outside):
    """A09: links are removed, what they lead to stays."""
    (root.path / "t/d").mkdir(parents=True)
    (root.path / "t/d/l").symlink_to(outside)
    (root.path / "t/l").symlink_to("/")
    rooted.remove_tree(root.fd, "t")
    (root.path / "l").symlink_to(outside)
    rooted.remove_tree(root.fd, "l")
    rooted.remove_tree(root.fd, "absent")
    assert os.listdir(root.path) == []
    assert (outside / "secret").read_text() == "host"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_removal_takes_single_names(root, name):
    """A01: nothing but an entry of the directory itself can be removed."""
    with pytest.raises(ArchiveError):
        rooted.remove_tree(root.fd, name)


def test_removal_opens_closed_directories(root):
    """R: directories without any permission are removed by their owner."""
    (root.path / "t/d/e").mkdir(parents=True)
    (root.path / "t/d/e/f").write_text("")
    for path in ("t/d/e", "t/d", "t"):
        (root.path / path).chmod(0)
    rooted.remove_tree(root.fd, "t")
    assert os.listdir(root.path) == []


def test_removal_of_deep_trees(root):
    """R: three thousand levels need neither recursion nor descriptors."""
    here = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    before = descriptors()
    rooted.remove_tree(root.fd, "d")
    assert os.listdir(root.path) == []
    assert descriptors() == before


def test_lookups_survive_renames(root, outside):
    """A05: while a directory moves in and out of the root, no path leads out of it."""
    (root.path / "a/b").mkdir(parents=True)
    (root.path / "a/b/up").symlink_to("../../../../outside/secret")
    stop = threading.Event()

    def shuffle():
        while not stop.is_set():
            os.rename(root.path / "a/b", outside / "b")
            os.rename(outside / "b", root.path / "a/b")

    mover = threading.Thread(target=shuffle)
    mover.start()
    try:
        for _ in range(300):
            for walk in (rooted.open_in_root, rooted.walk_in_root):
                try:
                    fd = walk(root.fd, "a/b/up", os.O_PATH)
                except OSError:
                    continue
                os.close(fd)
                raise AssertionError("a path led out of the root")
    finally:
        stop.set()
        mover.join()
