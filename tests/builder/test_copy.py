"""COPY and WORKDIR onto trees in memory: what the sheet's section 3.0 and 3.3 rows promise."""

from __future__ import annotations

import contextlib
import io

import pytest
from support.copy_fakes import FakeTree, FakeWriter

from builder.context.memo import MemoryStatCache
from builder.context.source import CopyError
from builder.solver.copy_key import RemoteFile, copy_key_parts
from builder.solver.copy_op import write_copy
from builder.solver.mkdir_op import write_mkdir
from builder.solver.ownership import Owner, parse_owner
from cache.archive.entry import Entry, Kind
from cache.spec.digest import Digest
from frontend.graph import CopyOp, InlineSource, MkdirOp, PathSource, RemoteSource

FILE, DIR = Kind.FILE, Kind.DIRECTORY
PASSWD = "root:x:0:0::/root:/bin/sh\n#x\nshort\nodd:x:y:12\nbob:x:1000:100:Bob:/home/bob:/bin/sh\n"
GROUP = "root:x:0:\nusers:x:100:\nwheel:x:10:bob\n"


def copy(source, dest, *paths, base=None, remote=None, inline=(), **options):
    """Run one copy of the given source patterns and return the layer."""
    sources = tuple(PathSource(1, path) for path in paths) + tuple(inline)
    writer = FakeWriter()
    write_copy(
        CopyOp(sources, dest, **options),
        base or FakeTree(),
        {1: source or FakeTree()},
        remote or {},
        writer,
        created_mtime=5,
    )
    return writer


SHAPES = [
    ("C03 slash makes the directory", {"f": "1"}, {}, ["f"], "/a/b/", {"a": "dir", "a/b": "dir", "a/b/f": "1"}),
    ("C03 dot counts as a slash", {"f": "1"}, {}, ["f"], "/a/.", {"a": "dir", "a/f": "1"}),
    ("C03 without a slash only the parent", {"f": "1"}, {}, ["f"], "/a/b", {"a": "dir", "a/b": "1"}),
    ("C05 existing directory takes the name", {"x/f": "1"}, {"a": None}, ["x/f"], "/a", {"a": "dir", "a/f": "1"}),
    ("C05 the root takes the name", {"f": "1"}, {}, ["f"], "/", {"f": "1"}),
    ("C06 contents merge", {"d/f": "1", "d/e/g": "2"}, {}, ["d"], "/x", {"x": "dir", "x/f": "1", "x/e": "dir", "x/e/g": "2"}),
    ("C06 d/. is d", {"d/f": "1"}, {}, ["d/."], "/x", {"x": "dir", "x/f": "1"}),
    ("C06 an empty directory makes dest", {"d": None}, {}, ["d"], "/x", {"x": "dir"}),
    ("C06 the whole context", {"f": "1"}, {}, ["/"], "/", {"f": "1"}),
    ("C02 a link as destination is followed", {"f": "1"}, {"t": "old", "l": "-> /t"}, ["f"], "/l", {"t": "1"}),
    ("C02 a link out of the root stays inside", {"f": "1"}, {"l": "-> ../../t"}, ["f"], "/l/", {"t": "dir", "t/f": "1"}),
    ("C02 twin: /var/run -> /run", {"f": "1"}, {"var/run": "-> /run", "run": None}, ["f"], "/var/run/f", {"run": "dir", "run/f": "1"}),
    ("B04 a link to a foreign place", {"f": "1"}, {"data": "-> ../../../canary"}, ["f"], "/data/f", {"canary": "dir", "canary/f": "1"}),
    ("C07 a link inside dest is replaced", {"f": "1"}, {"d/f": "-> /t", "t": "old"}, ["f"], "/d/", {"d": "dir", "d/f": "1"}),
    ("C07 a nested link is replaced by a file", {"s/f": "1"}, {"d/f": "-> /t"}, ["s"], "/d", {"d": "dir", "d/f": "1"}),
    ("C08 the last of many wins", {"a": "1", "b": "2"}, {}, ["a", "b"], "/x", {"x": "2"}),
    ("C08 many into a directory", {"a": "1", "b": "2"}, {"x": None}, ["a", "b"], "/x", {"x": "dir", "x/a": "1", "x/b": "2"}),
    ("C20 dots are cleaned", {"f": "1"}, {}, ["../../f"], "/x", {"x": "1"}),
    ("C20 a trailing slash is ignored", {"f": "1"}, {}, ["f/"], "/x", {"x": "1"}),
    ("C21 a link is followed", {"f": "1", "l": "-> f"}, {}, ["l"], "/d/", {"d": "dir", "d/l": "1"}),
    ("C21 a link to a directory", {"d/f": "1", "l": "-> d"}, {}, ["l"], "/x", {"x": "dir", "x/f": "1"}),
    ("C21 a link on the way", {"d/f": "1", "l": "-> d"}, {}, ["l/f"], "/x", {"x": "1"}),
    ("C21 links inside stay links", {"d/l": "-> ../f"}, {}, ["d"], "/x", {"x": "dir", "x/l": "-> ../f"}),
    ("C21 wildcard matches are followed", {"s/l0": "-> f", "s/f": "1"}, {}, ["s/l*"], "/x/", {"x": "dir", "x/l0": "1"}),
    ("C22 star stays in its part", {"a.c": "1", "d/b.c": "2"}, {}, ["*.c"], "/x/", {"x": "dir", "x/a.c": "1"}),
    ("C22 star in the middle", {"s/a/q/f": "1", "s/b/r": "2"}, {}, ["s/*/q/f"], "/x/", {"x": "dir", "x/f": "1"}),
    ("C22 class and question mark", {"a1": "1", "a2": "2", "b1": "3"}, {}, ["[^b]?"], "/x/", {"x": "dir", "x/a1": "1", "x/a2": "2"}),
    ("C22 a literal bracket", {"[x": "1", "y": "2"}, {}, ["[[]x"], "/d/", {"d": "dir", "d/[x": "1"}),
    ("C22 linked directories are not entered", {"d/f": "1", "l": "-> d"}, {}, ["*/f"], "/x/", {"x": "dir", "x/f": "1"}),
    ("C23 no match copies nothing", {"f": "1"}, {}, ["*.c"], "/x/", {}),
    ("C23 other sources still come", {"f": "1"}, {}, ["f", "no*"], "/", {"f": "1"}),
    ("C24 matched directories are flattened", {"d1/a": "1", "d2/b": "2"}, {}, ["d*"], "/x", {"x": "dir", "x/a": "1", "x/b": "2"}),
    ("C26 nothing is decoded", {"a%41": "1", "aA": "2"}, {}, ["a%41"], "/x/", {"x": "dir", "x/a%41": "1"}),
    ("B05 a file named star", {"*": "1", "a": "2"}, {}, ["\\*"], "/x/", {"x": "dir", "x/*": "1"}),
    ("T44 a directory over a directory", {"d/f": "1"}, {}, ["d", "d"], "/x", {"x": "dir", "x/f": "1"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("context", "base", "paths", "dest", "expected"),
    [pytest.param(*row[1:], id=row[0]) for row in SHAPES],
)
def test_shape(context, base, paths, dest, expected):
    """Each row of the table gives exactly these entries (C02-C08, C20-C26)."""
    writer = copy(FakeTree(context), dest, *paths, base=FakeTree(base))
    assert writer.shape() == expected


ERRORS = [
    ("C07 contents onto a file", {"d/f": "1"}, {"x": "f"}, ["d"], "/x", "cannot copy to non-directory: /x"),
    ("C07 file onto a directory", {"s/a": "1"}, {"d/a": None}, ["s"], "/d", "cannot replace to directory /d/a with file"),
    ("C07 slash onto a file", {"f": "1"}, {"x": "f"}, ["f"], "/x/", "mkdir /x: not a directory"),
    ("C07 below a file", {"f": "1"}, {"x": "f"}, ["f"], "/x/y/z", "mkdir /x: not a directory"),
    ("C13 directory onto a link", {"s/bin/f": "1"}, {"bin": "-> usr/bin"}, ["s"], "/", "cannot copy to non-directory: /bin"),
    ("C23 missing", {"f": "1"}, {}, ["g/h"], "/", '"/g/h": not found'),
    ("C23 missing prefix of a wildcard", {"f": "1"}, {}, ["nothere/*.c"], "/", "lstat /nothere: no such file or directory"),
    ("B02 a link that would leave", {"a": "-> /canary/secret"}, {}, ["a"], "/", '"/a": not found'),
    ("B03 a link loop", {"a": "-> b", "b": "-> a"}, {}, ["a"], "/", '"/a": too many levels of symbolic links'),
    ("B04 a loop as destination", {"f": "1"}, {"a": "-> b", "b": "-> a"}, ["f"], "/a", '"//a": too many levels of symbolic links'),
    ("B05 malformed pattern", {"f": "1"}, {}, ["[*"], "/", "malformed pattern '[*' in a source path"),
    ("a name that means a deletion", {"d/.wh.f": ""}, {}, ["d"], "/", '"/.wh.f": names that begin with .wh. mean deletions in a layer'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("context", "base", "paths", "dest", "message"),
    [pytest.param(*row[1:], id=row[0]) for row in ERRORS],
)
def test_error(context, base, paths, dest, message):
    """Each row of the table is refused with exactly this message."""
    with pytest.raises(CopyError) as caught:
        copy(FakeTree(context), dest, *paths, base=FakeTree(base))
    assert caught.value.message == message.replace("//", "/")


def test_hints():
    """A missing source says whether it is ignored, misspelled or a dangling link (C23, D09)."""
    tree = FakeTree({"src/Main.py": "1", "l": "-> gone", "kept": "1"}, hidden={"secret"})
    for path, hint in [
        ("secret/x", "secret is excluded by .dockerignore"),
        ("src/main.py", "did you mean src/Main.py?"),
        ("scr/Main.py", "did you mean src?"),
        ("l", "it is a link whose target is not there"),
        ("zzz", "the top of the build context has kept, l, src"),
        ("src/zzz", "/src has Main.py"),
    ]:
        with pytest.raises(CopyError) as caught:
            copy(tree, "/", path)
        assert caught.value.hint == hint, path


def owned(path, kind=FILE, mode=0o644, uid=0, gid=0, mtime=0, **more):
    """An entry with metadata; files hold their path."""
    data = path.encode() if kind is FILE else b""
    return (Entry(path, kind, mode, uid, gid, len(data), mtime, **more), data)


def test_created_directories():
    """Created directories are 0755 0:0, or what --chown and octal --chmod say (C04)."""
    tree = FakeTree({"f": "1"})
    plain = copy(tree, "/y/z", "f")
    assert (plain.mode("y"), plain.owner("y"), plain.entries["y"].mtime) == ("0o755", (0, 0), 5)
    changed = copy(tree, "/y/z", "f", owner="3:4", mode="600")
    assert (changed.mode("y"), changed.owner("y")) == ("0o600", (3, 4))
    assert (changed.mode("y/z"), changed.owner("y/z")) == ("0o600", (3, 4))
    symbolic = copy(tree, "/y/z", "f", mode="a=r")
    assert (symbolic.mode("y"), symbolic.mode("y/z")) == ("0o755", "0o444")


def test_created_directories_inherit():
    """In a set-gid directory they get its group unless --chown says another, and the bit (C04)."""
    tree = FakeTree({"f": "1"})
    base = FakeTree({"s": owned("s", DIR, 0o2750, 9, 9)[0]})
    made = copy(tree, "/s/a/b/f", "f", base=base)
    assert {made.mode("s/a"), made.mode("s/a/b")} == {"0o2755"}
    assert (made.owner("s/a/b"), made.owner("s/a/b/f")) == ((0, 9), (0, 0))
    assert copy(tree, "/s/a/f", "f", base=base, owner="3:4").owner("s/a") == (3, 4)
    writer = FakeWriter()
    write_mkdir(MkdirOp("/s/w"), base, writer, mtime=9)
    assert (writer.mode("s/w"), writer.owner("s/w")) == ("0o2755", (0, 9))


def test_metadata_is_kept():
    """Owners of a stage, special mode bits, nanoseconds and file capabilities survive (C10, C11)."""
    xattrs = (("security.capability", b"\1\0"), ("user.a", b"b"))
    entry, data = owned("f", mode=0o6755, uid=7, gid=8, mtime=1_234_567_891, xattrs=xattrs)
    writer = copy(FakeTree({"f": (entry, data)}), "/g", "f")
    kept = writer.entries["g"]
    assert (kept.mode, kept.uid, kept.gid, kept.mtime, kept.xattrs) == (
        0o6755, 7, 8, 1_234_567_891, xattrs[:1],
    )  # fmt: skip


def test_top_directory():
    """An existing destination keeps mode and owner, a created one is no likeness (C12, T41)."""
    source = FakeTree({"d": owned("d", DIR, 0o700, 9, 9, 99)[0], "d/f": "1"})
    base = FakeTree({"x": owned("x", DIR, 0o711, 3, 3, 11)[0]})
    there = copy(source, "/x", "d", base=base, owner="5")
    top = there.entries["x"]
    assert (top.mode, top.uid, top.mtime) == (0o711, 3, 99)
    assert there.owner("x/f") == (5, 5)
    made = copy(source, "/x", "d").entries["x"]
    assert (made.mode, made.uid, made.mtime) == (0o755, 0, 99)


def test_nested_directories():
    """Nested directories that exist take the source's metadata (C13)."""
    source = FakeTree({"d/sub": owned("d/sub", DIR, 0o700, 101, 101, 9)[0]})
    base = FakeTree({"x/sub/old": "1"})
    writer = copy(source, "/x", "d", base=base)
    assert (writer.mode("x/sub"), writer.owner("x/sub")) == ("0o700", (101, 101))
    assert "x/sub/old" not in writer.entries


def test_base_directories_on_the_way():
    """Parents of the base are repeated with the base's metadata, so that no engine makes them up."""
    base = FakeTree({"tmp": owned("tmp", DIR, 0o1777, 0, 5, 11)[0]})
    parent = copy(FakeTree({"f": "1"}), "/tmp/f", "f", base=base).entries["tmp"]
    assert (parent.mode, parent.gid, parent.mtime) == (0o1777, 5, 11)


def test_hardlinks_stay():
    """Names of one inode within a copied directory stay linked; the link follows (C11)."""
    groups = {"d/a": "g", "d/b": "g", "e/c": "g"}
    tree = FakeTree({"d/a": "1", "d/b": "1", "e/c": "1"}, groups=groups)
    writer = copy(tree, "/x", "d", "e")
    assert writer.shape() == {"x": "dir", "x/a": "1", "x/b": "= x/a", "x/c": "1"}


@pytest.mark.parametrize("paths", [("d/*",), ("d/a", "d/b"), ("d/a", "d/l")])
def test_paths_taken_one_by_one_are_not_linked(paths):
    """Files that sources or patterns name, and targets of links, become files of their own (C11)."""
    files = {"d/a": "1", "d/b": "1", "d/l": "-> a"}
    tree = FakeTree(files, groups={"d/a": "g", "d/b": "g"})
    writer = copy(tree, "/x/", *paths)
    assert {entry.kind for entry in writer.entries.values()} == {Kind.DIRECTORY, Kind.FILE}


def test_later_sources_win():
    """What a later source replaces is not in the layer at all, links and groups included (C08)."""
    tree = FakeTree({"d/a": "1", "d/b": "1", "e/a": "2"}, groups={"d/a": "g", "d/b": "g"})
    writer = copy(tree, "/x", "d", "e")
    assert writer.shape() == {"x": "dir", "x/a": "2", "x/b": "1"}


OWNERS = [
    ("1", (1, 1)), ("1:2", (1, 2)), (":10", (0, 10)), ("root", (0, 0)), ("root:root", (0, 0)),
    ("bob", (1000, 100)), ("bob:wheel", (1000, 10)), ("5:wheel", (5, 10)), ("bob:7", (1000, 7)),
    ("2147483647", (2147483647, 2147483647)), ("bob:", (1000, 0)), ("+5", (5, 5)), (":", (0, 0)),
    ("-2", (4294967294, 4294967294)), ("-1", (0, 0)), ("007", (7, 7)), ("short", (0, 0)),
    ("odd", (0, 12)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), OWNERS)
def test_chown(text, expected):
    """--chown takes numbers and names of the destination's own user database (CP02)."""
    base = FakeTree({"etc/passwd": PASSWD, "usr/group": GROUP, "etc/group": "-> ../usr/group"})
    writer = copy(FakeTree({"f": "1"}), "/f", "f", base=base, owner=text)
    assert writer.owner("f") == expected


UNKNOWN = [
    ("4294967295", Owner()), ("9" * 5000, Owner()), ("0x10", Owner()), (" 1", Owner()),
    ("eve", Owner()), ("bob:none", Owner(1000, 100)), ("1:2147483648", Owner(1, 1)),
    ("1:2:3", Owner(1, 1)), ("١", Owner()), ("eve:7", Owner(0, 7)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), UNKNOWN, ids=range(len(UNKNOWN)))
def test_chown_unknown(text, expected):
    """An unknown name is root, or leaves the user's group, and a warning says so (CP02, B15)."""
    warnings = []
    base = FakeTree({"etc/passwd": PASSWD, "etc/group": GROUP})
    assert parse_owner(text, base, warnings.append) == expected
    assert len(warnings) == 1
    assert "of the image" in warnings[0]


def test_chown_without_a_database():
    """Without /etc/passwd every name is root; one that is no file is an error (CP02)."""
    assert copy(FakeTree({"f": "1"}), "/f", "f", owner="root").owner("f") == (0, 0)
    assert copy(FakeTree({"f": "1"}), "/f", "f", owner="bob").owner("f") == (0, 0)
    with pytest.raises(CopyError, match="not a regular file"):
        copy(FakeTree({"f": "1"}), "/f", "f", base=FakeTree({"etc/passwd": None}), owner="bob")


def test_chmod_spares_links():
    """--chmod applies to files and directories, not to links (CP03)."""
    tree = FakeTree({"d/l": "-> x", "d/f": "1", "d/e": None})
    writer = copy(tree, "/x", "d", mode="640")
    assert (writer.mode("x/l"), writer.mode("x/f"), writer.mode("x/e")) == (
        "0o777", "0o640", "0o640",
    )  # fmt: skip


def test_inline_and_remote():
    """Heredocs are 0644, fetched files 0600 with their time; flags apply to both (P55, A04)."""
    data = b"fetched"
    remote = {
        2: RemoteFile(
            Digest.of(data), len(data), 77, lambda: contextlib.nullcontext(io.BytesIO(data))
        )
    }
    inline = (InlineSource("a.txt", "text\n"), RemoteSource(2, "r.bin"))
    writer = copy(None, "/x/", inline=inline, remote=remote)
    assert writer.shape() == {"x": "dir", "x/a.txt": "text\n", "x/r.bin": "fetched"}
    assert (writer.mode("x/a.txt"), writer.mode("x/r.bin")) == ("0o644", "0o600")
    assert writer.entries["x/r.bin"].mtime == 77
    assert copy(None, "/f", inline=inline[:1], mode="+x", owner="9").mode("f") == "0o755"


def test_specials():
    """Devices and fifos are copied as entries, never opened (C25)."""
    pipe = Entry("p", Kind.FIFO, 0o600)
    null = Entry("null", Kind.CHAR, 0o666, device=(1, 3))
    table = {"p": pipe, "null": null}
    writer = copy(FakeTree(table), "/d/", "p", "null")
    assert writer.entries["d/null"].device == (1, 3)


def test_workdir():
    """WORKDIR makes what is missing, owned by USER, through the base's links (I05)."""
    base = FakeTree({"srv": "-> /data", "etc/passwd": PASSWD, "file": "1"})
    writer = FakeWriter()
    assert write_mkdir(MkdirOp("/srv/app/", "bob"), base, writer, mtime=9)
    assert writer.shape() == {"data": "dir", "data/app": "dir"}
    assert (writer.owner("data/app"), writer.mode("data/app")) == ((1000, 100), "0o755")
    assert writer.entries["data"].mtime == 9
    again = FakeWriter()
    for path in ("/", "/etc", "/etc/"):
        assert not write_mkdir(MkdirOp(path), base, again, mtime=9)
    assert again.entries == {}
    for path in ("/file", "/file/x"):
        with pytest.raises(CopyError, match="mkdir /file: not a directory"):
            write_mkdir(MkdirOp(path), base, again, mtime=9)
    write_mkdir(MkdirOp("/new", "nobody-here"), base, again, mtime=9)
    assert again.owner("new") == (0, 0)


def key(tree, *paths, memo=None, **options):
    """The identity parts of a copy."""
    op = CopyOp(tuple(PathSource(1, path) for path in paths), "/d/", **options)
    return copy_key_parts(op, {1: tree}, {}, memo)


def table(**changes):
    """A context with one of everything, changed."""
    rows = {
        "d/f": owned("d/f"),
        "d/l": "-> f",
        "d/e": Entry("d/e", DIR, 0o755),
        "d": Entry("d", DIR, 0o755),
    }
    return FakeTree({**rows, **changes})


SENSITIVE = [
    ("name", {"d/g": "1"}),
    ("content", {"d/f": "else"}),
    ("mode", {"d/f": owned("d/f", mode=0o600)}),
    ("owner", {"d/f": owned("d/f", uid=1)}),
    ("group", {"d/f": owned("d/f", gid=1)}),
    ("capability", {"d/f": owned("d/f", xattrs=(("security.capability", b"1"),))}),
    ("link target", {"d/l": "-> g"}),
    ("empty directory", {"d/h": None}),
    ("nested directory mode", {"d/e": Entry("d/e", DIR, 0o700)}),
    ("directory becomes a file", {"d/e": "x"}),
]


@pytest.mark.parametrize("change", [row[1] for row in SENSITIVE], ids=[row[0] for row in SENSITIVE])
def test_key_changes(change):
    """Every kind of change that a copy could show changes its identity (K01, K02, K08, J08)."""
    assert key(table(), "d") != key(table(**change), "d")


INSENSITIVE = [
    ("time", {"d/f": owned("d/f", mtime=99)}),
    ("unrelated file", {"other": "1"}),
    ("mode of the top directory", {"d": Entry("d", DIR, 0o700)}),
    ("other attributes", {"d/f": owned("d/f", xattrs=(("security.selinux", b"x"), ("user.a", b"1")))}),
]  # fmt: skip


@pytest.mark.parametrize(
    "change", [row[1] for row in INSENSITIVE], ids=[row[0] for row in INSENSITIVE]
)
def test_key_stays(change):
    """What a copy does not show is not in its identity (K01, K02, K04)."""
    assert key(table(), "d") == key(table(**change), "d")


def test_key_of_wildcards():
    """A renamed match is a miss, an unrelated file is not (K03, T55)."""
    first = key(FakeTree({"foo1": "1", "bar": "2"}), "foo*")
    assert first == key(FakeTree({"foo1": "1", "bar": "3", "baz": ""}), "foo*")
    assert first != key(FakeTree({"foo2": "1", "bar": "2"}), "foo*")


def test_key_parts_do_not_run_together():
    """Trees whose names and contents only concatenate alike differ (J09)."""
    assert key(FakeTree({"d/ab": "c"}), "d") != key(FakeTree({"d/a": "bc"}), "d")
    assert key(FakeTree({"d/a": "", "d/b": ""}), "d") != key(FakeTree({"d/a/b": ""}), "d")


def test_key_options():
    """Every option of the instruction is part of the identity (K03, J07)."""
    keys = [
        key(table(), "d"),
        key(table(), "d", owner="1"),
        key(table(), "d", mode="600"),
        key(table(), "d", parents=True),
    ]
    assert all(a != b for at, a in enumerate(keys) for b in keys[:at])
    inline = [
        copy_key_parts(CopyOp((InlineSource("a", text),), "/"), {}, {}) for text in ("x", "y")
    ]
    assert inline[0] != inline[1]


def test_key_memo():
    """An unchanged selection is answered from the memo without reading a file."""
    memo = MemoryStatCache()
    tree = table()
    first = key(tree, "d", memo=memo)
    reads = tree.reads
    assert key(tree, "d", memo=memo) == first
    assert tree.reads == reads
