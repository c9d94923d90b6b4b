"""ADD of archives onto trees in memory: section 3.4's A02 and A03, the sheet's group A."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest
from support.copy_fakes import FakeTree, FakeWriter

from builder.context.source import CopyError
from builder.solver.copy_key import RemoteFile
from builder.solver.copy_op import write_copy
from cache.archive.entry import Entry, Kind
from cache.errors import PybuildError
from cache.spec.digest import Digest
from frontend.graph import CopyOp, PathSource, RemoteSource, Unpack

TYPES = {
    "dir": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "fifo": tarfile.FIFOTYPE,
}


def tar(*members):
    """A tar of (name, text) files and (name, type, link target) others."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, what, *target in members:
            info = tarfile.TarInfo(name)
            info.uid, info.gid, info.mtime = 7, 8, 99
            data = b""
            if what in TYPES:
                info.type = TYPES[what]
                info.mode = 0o750
                info.linkname = target[0] if target else ""
                if what == "char":
                    info.devmajor, info.devminor = 1, 3
            else:
                data = what.encode()
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def add(data, dest="/x", *, base=None, unpack=Unpack.LOCAL, name="a.tar", **options):
    """ADD one file of the context."""
    writer = FakeWriter()
    op = CopyOp((PathSource(1, name),), dest, unpack=unpack, **options)
    tree = FakeTree({name: data})
    write_copy(op, FakeTree(base), {1: tree}, {}, writer, created_mtime=5)
    return writer


SHAPES = [
    ("dest is a directory", [("f", "1")], {}, {"x": "dir", "x/f": "1"}),
    ("implied parents", [("a/b/f", "1")], {}, {"x": "dir", "x/a": "dir", "x/a/b": "dir", "x/a/b/f": "1"}),
    ("names are cleaned", [("./a//f", "1"), ("/g", "2")], {}, {"x": "dir", "x/a": "dir", "x/a/f": "1", "x/g": "2"}),
    ("hardlinks", [("f", "1"), ("g", "hard", "f")], {}, {"x": "dir", "x/f": "1", "x/g": "= x/f"}),
    ("absolute hardlink", [("b/f", "1"), ("g", "hard", "/b/f")], {}, {"x": "dir", "x/b": "dir", "x/b/f": "1", "x/g": "= x/b/f"}),
    ("target replaced later", [("f", "1"), ("g", "hard", "f"), ("f", "2")], {}, {"x": "dir", "x/f": "2", "x/g": "1"}),
    ("hardlink to a symlink", [("l", "link", "q"), ("m", "hard", "l")], {}, {"x": "dir", "x/l": "-> q", "x/m": "-> q"}),
    ("hardlink into the base", [("g", "hard", "old")], {"x/old": "base"}, {"x": "dir", "x/g": "base"}),
    ("link in the archive", [("usr/lib", "dir"), ("lib", "link", "usr/lib"), ("lib/f", "1")], {},
     {"x": "dir", "x/usr": "dir", "x/usr/lib": "dir", "x/lib": "-> usr/lib", "x/usr/lib/f": "1"}),
    ("link in the base", [("lib/f", "1")], {"x/lib": "-> /usr/lib"}, {"usr": "dir", "usr/lib": "dir", "usr/lib/f": "1"}),
    ("escaping link", [("e", "link", "../../../canary"), ("e/f", "1")], {}, {"x": "dir", "x/e": "-> ../../../canary", "canary": "dir", "canary/f": "1"}),
    ("file over link", [("f", "1")], {"x/f": "-> /etc/passwd"}, {"x": "dir", "x/f": "1"}),
    ("directory over link", [("d", "dir"), ("d/f", "1")], {"x/d": "-> /etc"}, {"x": "dir", "x/d": "dir", "x/d/f": "1"}),
    ("file over directory", [("d", "1")], {"x/d/old": "1"}, {"x": "dir", "x/d": "1"}),
    ("file, then directory over directory", [("d", "1"), ("d", "dir"), ("d/n", "2")], {"x/d/old": "1"},
     {"x": "dir", "x/d": "dir", "x/d/.wh..wh..opq": "", "x/d/n": "2"}),
    ("last wins", [("f", "1"), ("f", "2")], {}, {"x": "dir", "x/f": "2"}),
    ("devices and fifos", [("n", "char"), ("p", "fifo")], {}, {"x": "dir", "x/n": "char", "x/p": "fifo"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("members", "base", "expected"), [pytest.param(*row[1:], id=row[0]) for row in SHAPES]
)
def test_shape(members, base, expected):
    """Each archive gives exactly these entries, through the base's and its own links (A02, A08)."""
    assert add(tar(*members), base=base).shape() == expected


ERRORS = [
    ("a deletion", [(".wh.f", "")], {}, "mean deletions"),
    ("an opaque marker", [("d/.wh..wh..opq", "")], {}, "mean deletions"),
    ("a hardlink to nothing", [("g", "hard", "f")], {}, "target is not there"),
    ("a hardlink to a directory", [("d", "dir"), ("g", "hard", "d")], {}, "target is not there"),
    ("below a file", [("f", "1"), ("f/g", "2")], {}, "not a directory"),
    ("below a link loop", [("l", "link", "m"), ("m", "link", "l"), ("l/f", "1")], {}, "symbolic"),
    ("onto a file", [("f", "1")], {"x": "1"}, "cannot copy to non-directory: /x"),
]


@pytest.mark.parametrize(
    ("members", "base", "message"), [pytest.param(*row[1:], id=row[0]) for row in ERRORS]
)
def test_error(members, base, message):
    """Archives that cannot be a layer's part are refused (A20, A26)."""
    with pytest.raises(CopyError, match=message):
        add(tar(*members), base=base)


@pytest.mark.parametrize("name", ["../x", "/../x", "a/../../x", ".."])
def test_names_that_leave(name):
    """Names that would leave the destination never do (A01)."""
    try:
        writer = add(tar((name, "1")))
    except PybuildError:
        return
    assert set(writer.entries) <= {"x", "x/x"}


def test_metadata():
    """Owners and modes come from the archive unless --chown; --chmod is not applied (A02)."""
    data = tar(("d", "dir"), ("d/f", "1"), ("i/g", "2"))
    kept = add(data, mode="600")
    assert (kept.owner("x/d"), kept.owner("x/d/f"), kept.mode("x/d")) == ((7, 8), (7, 8), "0o750")
    assert kept.owner("x/i") == (0, 0)
    assert kept.entries["x/d/f"].mtime == 99_000_000_000
    given = add(data, owner="1:2")
    implied = given.owner("x/i")
    assert (implied, given.mode("x/i")) == ((0, 0), "0o755")
    assert {given.owner(path) for path in given.entries if path != "x/i"} == {(1, 2)}


def test_made_directories_take_no_mode():
    """What ADD creates to unpack in is 0755 whatever --chmod says, with --chown's owner (A02)."""
    made = add(tar(("i/g", "2")), dest="/x/y", mode="777", owner="1:2")
    assert [made.mode(path) for path in ("x", "x/y", "x/y/i")] == ["0o755"] * 3
    assert [made.owner(path) for path in ("x", "x/y", "x/y/i")] == [(1, 2), (1, 2), (0, 0)]


def test_root_entry_changes_nothing():
    """An archive's own `./` does not touch the destination (A10)."""
    base = {"x": Entry("x", Kind.DIRECTORY, 0o700, 3, 3)}
    writer = add(tar(("./", "dir"), ("./f", "1")), base=base)
    assert (writer.mode("x"), writer.owner("x")) == ("0o700", (3, 3))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_content_decides(pack):
    """What is an archive is told by content, not by name (A02)."""
    assert add(pack(tar(("f", "1"))), name="no-suffix").shape() == {"x": "dir", "x/f": "1"}


def test_what_is_no_archive_is_copied():
    """Compressed files without a tar inside, other formats and short files are copied (A03, A35)."""
    for data in (gzip.compress(b"text"), b"PK\3\4zip", b"", b"\x1f\x8b", b"x" * 2000):
        writer = add(data, dest="/x/", name="a.tar")
        assert writer.data == {"x/a.tar": data}
        assert list(writer.entries) == ["x", "x/a.tar"]


def test_never():
    """COPY and ADD --unpack=false leave archives whole (T67)."""
    assert list(add(tar(("f", "1")), dest="/x", unpack=Unpack.NEVER, name="t").entries) == ["x"]


def test_fetched():
    """Fetched archives are unpacked only when asked to (A04)."""
    data = tar(("f", "1"))
    file = RemoteFile(Digest.of(data), len(data), 0, lambda: io.BytesIO(data))
    for unpack, expected in ((Unpack.LOCAL, ["x"]), (Unpack.ALWAYS, ["x", "x/f"])):
        writer = FakeWriter()
        op = CopyOp((RemoteSource(1, "r.tar"),), "/x", unpack=unpack)
        write_copy(op, FakeTree(), {}, {1: file}, writer, created_mtime=5)
        assert list(writer.entries) == expected


def test_wildcards():
    """Every match of a wildcard is looked into by itself (T71)."""
    tree = FakeTree({"1.tar": tar(("f", "1")), "2.tar": tar(("g", "2")), "3.tar": "text"})
    writer = FakeWriter()
    op = CopyOp((PathSource(1, "*.tar"),), "/x/", unpack=Unpack.LOCAL)
    write_copy(op, FakeTree(), {1: tree}, {}, writer, created_mtime=5)
    assert writer.shape() == {
        "x": "dir", "x/f": "1", "x/g": "2", "x/3.tar": "text",
    }  # fmt: skip


def test_later_sources_replace_members():
    """A file that a later source replaces is not in the layer (C08)."""
    tree = FakeTree({"1.tar": tar(("f", "1"), ("g", "1")), "f": "2"})
    writer = FakeWriter()
    op = CopyOp((PathSource(1, "1.tar"), PathSource(1, "f")), "/x/", unpack=Unpack.LOCAL)
    write_copy(op, FakeTree(), {1: tree}, {}, writer, created_mtime=5)
    assert writer.shape() == {"x": "dir", "x/f": "2", "x/g": "1"}


def test_directories_that_come_and_go():
    """An archive that turns a directory over and over costs no more than its entries (A25)."""
    many = [(f"d/{number}", "1") for number in range(2000)]
    flips = [member for number in range(1000) for member in (("d", "x"), ("d", "dir"))]
    writer = add(tar(*many, *flips, ("d/last", "2")))
    assert writer.shape() == {"x": "dir", "x/d": "dir", "x/d/.wh..wh..opq": "", "x/d/last": "2"}


def test_endless_link_targets():
    """Long chains of long link targets are refused quickly (A05)."""
    chain = [
        (f"l{number}", "link", "n/" * 700 + "../" * 700 + f"l{number + 1}") for number in range(200)
    ]
    with pytest.raises(CopyError, match="too many levels"):
        add(tar(*chain, ("l0/f", "1")))


def test_links_have_every_permission():
    """The mode that an archive gives a link says nothing (A02)."""
    assert add(tar(("l", "link", "f"))).mode("x/l") == "0o777"
