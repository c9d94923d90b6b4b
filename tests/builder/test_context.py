"""The local context on real directories, and layers as a source."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import threading
import time

import pytest
from support.copy_fakes import copied, settle, write

from builder.context.local import LocalContext
from builder.context.source import CopyError, clean
from builder.solver.selection import content_digest, digest_subtree, select
from cache.archive.entry import Entry, Kind
from cache.errors import PybuildError
from frontend.ignore import IgnoreMatcher, parse_ignore


def rules(*lines):
    """Ignore rules from lines."""
    return IgnoreMatcher(parse_ignore("\n".join(lines), ".dockerignore"))


def test_entries(tmp_path):
    """Entries are what lies there, owned by root, times to the nanosecond (C10, C11)."""
    write(tmp_path, "d/f", "text", 0o4755)
    os.utime(tmp_path / "d/f", ns=(1, 1_600_000_000_123_456_789))
    (tmp_path / "l").symlink_to("../out")
    with LocalContext(str(tmp_path)) as context:
        entry = context.get("d/f")
        assert entry == Entry(
            "d/f", Kind.FILE, 0o4755, 0, 0, 4, 1_600_000_000_123_456_789, "", (0, 0), entry.xattrs
        )
        assert context.read("d/f") == b"text"
        assert context.get("l").linkname == "../out"
        assert context.children("") == ["d", "l"]
        assert context.children("d/f") == context.children("none") == context.children("l") == []
        assert context.get("d/none") is context.get("none/x") is context.get("d/f/x") is None
        assert context.get("").kind is Kind.DIRECTORY


def test_links_stay_inside(tmp_path):
    """Links are resolved in the context; the host's files are out of reach (B01, B02)."""
    root = tmp_path / "context"
    write(root, "etc/hostname", "inner")
    write(tmp_path, "secret")
    (root / "up").symlink_to("../secret")
    (root / "abs").symlink_to("/etc/hostname")
    (root / "dir").symlink_to(str(tmp_path))
    with LocalContext(str(root)) as context:
        assert copied(context, "abs").shape() == {"x": "dir", "x/abs": "inner"}
        for path in ("up", "dir/secret", "../secret", "/etc/passwd", "dir"):
            with pytest.raises(CopyError, match="not found"):
                select(context, path)
        assert context.get("dir/secret") is None
        assert context.children("dir") == []


def test_root_may_be_a_link(tmp_path):
    """The directory the user names may be reached through a link (B20)."""
    write(tmp_path, "real/f")
    (tmp_path / "link").symlink_to("real")
    with LocalContext(str(tmp_path / "link")) as context:
        assert context.children("") == ["f"]


@pytest.mark.parametrize("name", ["none", "file"])
def test_root_that_is_no_directory(tmp_path, name):
    """A context that cannot be opened is named in the error (B20)."""
    write(tmp_path, "file")
    with pytest.raises(PybuildError, match=name):
        LocalContext(str(tmp_path / name))


def test_ignored(tmp_path):
    """Ignored paths are absent, but known to be hidden; parents of exceptions show (D04, D07, D09)."""
    for path in ("a/keep", "a/drop", "b/x/y", "c"):
        write(tmp_path, path)
    ignore = rules("a", "b", "c", "!a/keep")
    with LocalContext(str(tmp_path), ignore=ignore) as context:
        assert context.children("") == ["a"]
        assert context.children("a") == ["keep"]
        assert context.hidden("b")
        assert context.hidden("a/drop")
        assert not context.hidden("a/keep")
        assert not context.hidden("none")
        with pytest.raises(CopyError) as caught:
            select(context, "b/x/y")
        assert caught.value.hint == "b is excluded by .dockerignore"


def test_ignored_directories_are_not_entered(tmp_path):
    """Nothing below an ignored directory is looked at unless an exception may be there (D07)."""
    write(tmp_path, "big/deep/f")
    write(tmp_path, "other/deep/f")
    for lines in (["big", "other"], ["*", "!other/deep/none"]):
        with LocalContext(str(tmp_path), ignore=rules(*lines)) as context:
            context.fingerprint("")
            assert not any(path.startswith("big") for path in context._host.listings)
            assert context.children("") == []


def test_state_directory_is_left_out(tmp_path):
    """The state directory inside a context is never part of it (B20)."""
    write(tmp_path, "state/blob")
    write(tmp_path, "f")
    hidden = [str(tmp_path / "state"), str(tmp_path / "none")]
    with LocalContext(str(tmp_path), hidden=hidden) as context:
        assert context.children("") == ["f"]


def test_special_files(tmp_path):
    """A socket is an empty file; a fifo is copied as one and never opened (C25, B09)."""
    write(tmp_path, "d/f")
    os.mkfifo(tmp_path / "d/pipe")
    with socket.socket(socket.AF_UNIX) as server, LocalContext(str(tmp_path)) as context:
        server.bind(str(tmp_path / "sock"))
        assert copied(context, "sock").shape() == {"x": "dir", "x/sock": ""}
        assert copied(context, "d/f").shape() == {"x": "dir", "x/f": "x"}
        for pattern in ("d", "d/pipe", "d/*"):
            assert copied(context, pattern).entries["x/pipe"].kind is Kind.FIFO
        assert context.fingerprint("d") is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
def test_devices(tmp_path):
    """Devices are copied with their numbers, which count for the cache (C25)."""
    prints = []
    for minor in (3, 5):
        os.mknod(tmp_path / "null", 0o600 | stat.S_IFCHR, os.makedev(1, minor))
        with LocalContext(str(tmp_path)) as context:
            assert copied(context, "null").entries["x/null"].device == (1, minor)
            prints.append(context.fingerprint("null"))
        (tmp_path / "null").unlink()
    assert prints[0] != prints[1]


@contextlib.contextmanager
def as_nobody():
    """Give root's rights up for a while; without them nothing needs to be given up."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("locked", ["d/f", "d"])
def test_unreadable(tmp_path, locked):
    """A file or directory that cannot be read is named, with a way out (B09)."""
    write(tmp_path, "d/f")
    (tmp_path / locked).chmod(0)
    tmp_path.chmod(0o755)
    with (
        LocalContext(str(tmp_path)) as context,
        as_nobody(),
        pytest.raises(CopyError) as caught,
    ):
        content_digest(select(context, "/"))
    assert caught.value.message == f'"/{locked}": permission denied'
    assert ".dockerignore" in caught.value.hint
    (tmp_path / locked).chmod(0o700)


CHANGES = {
    "grown": lambda path: path.write_text("more than before"),
    "truncated": lambda path: path.write_text(""),
    "same size": lambda path: path.write_text("y"),
    "removed": lambda path: path.unlink(),
    "fifo": lambda path: (path.unlink(), os.mkfifo(path)),
    "link": lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
    "directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_before_it_is_read(tmp_path, change):
    """A file that is not what was listed is an error, and nothing hangs (B08)."""
    path = write(tmp_path, "f")
    settle()
    with LocalContext(str(tmp_path)) as context:
        content_digest(select(context, "f"))
        change(path)
        with pytest.raises(CopyError, match='"/f": changed while it was being read'):
            copied(context, "f")


def test_changed_while_it_is_read(tmp_path):
    """A file that moves under the reader is an error at its end (B08)."""
    for change in ("x" * 50, "y" * 100, "z" * 200):
        path = write(tmp_path, "f", "x" * 100)
        settle()
        with LocalContext(str(tmp_path)) as context, context.open("f") as stream:
            stream.read(10)
            path.write_text(change)
            with pytest.raises(CopyError, match="changed while it was being read"):
                stream.read()


def test_changed_within_a_tick(tmp_path):
    """A change that stat cannot show is found by its content (B08, J10)."""
    path = write(tmp_path, "f", "one")
    with LocalContext(str(tmp_path)) as context:
        context._young.add("f")
        context.digest("f")
        status = context._status("f")
        path.write_text("two")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        context._listings[""]["f"] = os.stat(path)  # as if the clock had not moved
        with pytest.raises(CopyError, match="changed"):
            context.read("f")


def test_swapped_directory(tmp_path):
    """A directory replaced by a link after it was listed is not followed (B08)."""
    write(tmp_path, "context/d/f", "inner")
    write(tmp_path, "outside/f", "secret")
    with LocalContext(str(tmp_path / "context")) as context:
        assert context.children("d") == ["f"]
        (tmp_path / "context/d").rename(tmp_path / "context/e")
        (tmp_path / "context/d").symlink_to("../outside")
        assert context.read("d/f") == b"inner"  # through the directory that is still open
        context._host.enter("")
        with pytest.raises(CopyError, match="changed"):
            context.read("d/f")


def test_hardlinks(tmp_path):
    """Names of one inode are one group (C11)."""
    write(tmp_path, "d/a")
    os.link(tmp_path / "d/a", tmp_path / "d/b")
    with LocalContext(str(tmp_path)) as context:
        assert copied(context, "d").shape() == {"x": "dir", "x/a": "x", "x/b": "= x/a"}


def test_xattrs(tmp_path):
    """Extended attributes of the host's files do not come into images (C11)."""
    path = write(tmp_path, "f")
    try:
        os.setxattr(path, "user.note", b"1")
    except OSError:
        pytest.skip("no extended attributes here")
    with LocalContext(str(tmp_path)) as context:
        assert context.get("f").xattrs == ()


def test_odd_names(tmp_path):
    """Names are kept byte for byte, valid UTF-8 or not (A34)."""
    name = os.fsdecode(b"\xff\n\x1b[")
    write(tmp_path, name)
    with LocalContext(str(tmp_path)) as context:
        assert context.children("") == [name]
        assert copied(context, "/").data == {f"x/{name}": b"x"}
        with pytest.raises(CopyError) as caught:
            select(context, f"{name}/none")
        assert "\x1b" not in caught.value.message


def test_deep_tree(tmp_path):
    """A tree deeper than Python's stack is read; one deeper than a path can be is an error (B16)."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(2100):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        with LocalContext(str(tmp_path)) as context:
            with pytest.raises(CopyError, match="path of over"):
                context.fingerprint("")
            assert context.get("/".join(["d"] * 1200)).kind is Kind.DIRECTORY
            assert len(os.listdir("/proc/self/fd")) < 256
    finally:  # pytest's own removal recurses
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_subtree_digest(tmp_path):
    """A bind mount's identity includes the directory's own mode and not its neighbours (K13)."""
    write(tmp_path, "d/f")
    write(tmp_path, "[x]")
    with LocalContext(str(tmp_path)) as context:
        first = digest_subtree(context, "/d")
        assert digest_subtree(context, "/[x]") != first
        with pytest.raises(CopyError, match="not found"):
            digest_subtree(context, "/none*")
    write(tmp_path, "other")
    (tmp_path / "d").chmod(0o700)
    with LocalContext(str(tmp_path)) as context:
        assert digest_subtree(context, "d") != first


def test_threads(tmp_path):
    """Several steps may read one context at a time."""
    for number in range(60):
        write(tmp_path, f"d{number % 6}/f{number}", str(number))
    found, failures = [], []

    def look(context):
        try:
            found.append(content_digest(select(context, "/")))
            copied(context, "/")
        except PybuildError as error:
            failures.append(error)

    with LocalContext(str(tmp_path)) as context:
        threads = [threading.Thread(target=look, args=(context,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert len(set(found)) == 1


def test_fast_enough(tmp_path):
    """Two thousand files are walked and fingerprinted in far less than a second."""
    for number in range(20):
        (tmp_path / f"d{number}").mkdir()
        for name in range(100):
            os.close(os.open(tmp_path / f"d{number}/f{name}", os.O_CREAT | os.O_WRONLY, 0o644))
    with LocalContext(str(tmp_path)) as context:
        start = time.perf_counter()
        context.fingerprint("")
        assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ""),
        ("/", ""),
        ("../../x", "x"),
        ("a/./b//c/", "a/b/c"),
        ("a/../..", ""),
        ("-rf", "-rf"),
    ],
)
def test_clean(path, expected):
    """Paths are cleaned as rooted ones (C20, C27)."""
    assert clean(path) == expected


def test_modes_of_stat(tmp_path):
    """Only permission and special bits are a mode."""
    write(tmp_path, "f", mode=0o1640)
    with LocalContext(str(tmp_path)) as context:
        assert stat.S_IFMT(context.get("f").mode) == 0
        assert context.get("f").mode == 0o1640
