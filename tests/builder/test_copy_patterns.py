"""--parents and --exclude, --chmod texts and wildcards: CP03, CP05, CP06, C22."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.copy_fakes import FakeTree, FakeWriter

from builder.context.source import CopyError
from builder.solver.copy_key import copy_key_parts
from builder.solver.copy_op import write_copy
from builder.solver.wildcard import Wildcard, is_wildcard, unescape
from cache.archive.entry import Entry, Kind
from cache.errors import PybuildError
from frontend.graph import CopyOp, PathSource

CONTEXT = {
    "x/a.txt": "1",
    "x/y/b.txt": "2",
    "x/y/c.md": "3",
    "x/z/d.txt": "4",
    "hom1.txt": "5",
    "home.md": "6",
    "l": "-> x",
}


def copy(dest, *paths, context=None, **options):
    """Run one copy onto nothing."""
    writer = FakeWriter()
    op = CopyOp(tuple(PathSource(1, path) for path in paths), dest, **options)
    write_copy(op, FakeTree(), {1: FakeTree(context or CONTEXT)}, {}, writer, created_mtime=5)
    return writer


def files(writer):
    """The paths that are no directories."""
    return [path for path, entry in writer.entries.items() if entry.kind is not Kind.DIRECTORY]


PARENTS = [
    (["/x/a.txt"], ["p/x/a.txt"]),
    (["/x/a.txt", "/x/y/b.txt"], ["p/x/a.txt", "p/x/y/b.txt"]),
    (["/x/./y/b.txt"], ["p/y/b.txt"]),
    (["/x/./y/*.txt"], ["p/y/b.txt"]),
    (["/x/./**/*.txt"], ["p/a.txt", "p/y/b.txt", "p/z/d.txt"]),
    (["/**/*.md"], ["p/home.md", "p/x/y/c.md"]),
    (["/x/y"], ["p/x/y/b.txt", "p/x/y/c.md"]),
    (["/x/./y"], ["p/y/b.txt", "p/y/c.md"]),
    (["/x/./y/./b.txt"], ["p/y/b.txt"]),
    (["/x*/./y"], ["p/y/b.txt", "p/y/c.md"]),
    (["/x/*/./b.txt"], ["p/a.txt", "p/b.txt"]),
    (["/x/a.txt/./*"], ["p/a.txt"]),
    (["/*/./"], ["p/hom1.txt", "p/home.md"]),
    (["/l/./y/*.txt"], ["p/y/b.txt"]),
    (["/none*"], []),
    (["/x/./none*"], []),
]


@pytest.mark.parametrize(("paths", "expected"), PARENTS, ids=[" ".join(row[0]) for row in PARENTS])
def test_parents(paths, expected):
    """--parents keeps the path behind the pivot; `**` works there; dest is always made (CP05)."""
    writer = copy("/p/", *paths, parents=True)
    assert sorted(files(writer)) == expected
    assert "p" in writer.entries


@pytest.mark.parametrize(("path", "mtime"), [("/x/./b.txt", 77), ("/x/b.txt", 5)])
def test_parents_destination_has_the_time_of_the_pivot(path, mtime):
    """What is behind a pivot is merged, so the destination gets its time (C12, CP05)."""
    context = {"x": Entry("x", Kind.DIRECTORY, 0o700, mtime=77), "x/b.txt": "b"}
    writer = copy("/p/", path, context=context, parents=True)
    assert writer.entries["p"].mtime == mtime


@pytest.mark.parametrize(
    "path",
    [
        "/none/x",
        "/x/./none",
        "/none/./x",
        "/l/./y/b.txt",
        "/l/y/b.txt",
        "/x/a.txt/./b",
        "/",
        "/x/./",
    ],
)
def test_parents_missing(path):
    """A literal path that is not there, or spelled with links, is an error with --parents (CP05)."""
    with pytest.raises(CopyError, match="not found"):
        copy("/p/", path, parents=True)


def test_parents_all_excluded():
    """A literal path of which --exclude leaves nothing is an error; a pattern may match nothing (CP06)."""
    with pytest.raises(CopyError, match="not found") as caught:
        copy("/p/", "/x/y", parents=True, excludes=("x",))
    assert "--exclude" in caught.value.hint
    assert files(copy("/p/", "/x/y", parents=True, excludes=("x", "!x/y/c.md"))) == ["p/x/y/c.md"]
    assert files(copy("/p/", "/x/y*", parents=True, excludes=("x",))) == []


def test_parents_metadata():
    """Directories that --parents makes take the metadata of the source's (CP05)."""
    context = {**CONTEXT, "x": Entry("x", Kind.DIRECTORY, 0o711, 3, 4, mtime=9)}
    made = copy("/p/", "/x/y/b.txt", context=context, parents=True).entries["p/x"]
    assert (made.mode, made.uid, made.mtime) == (0o711, 3, 9)


def test_parents_takes_nothing_else():
    """Directories without anything wanted are not made, nor are siblings (CP05)."""
    writer = copy("/p/", "/x/**/b.txt", parents=True)
    assert list(writer.entries) == ["p", "p/x", "p/x/y", "p/x/y/b.txt"]


EXCLUDES = [
    (["x"], ["*.txt"], ["d/y/b.txt", "d/y/c.md", "d/z/d.txt"]),
    (["x"], ["**/*.txt"], ["d/y/c.md"]),
    (["x"], ["**", "!y/b.txt"], ["d/y/b.txt"]),
    (["x"], ["y"], ["d/a.txt", "d/z/d.txt"]),
    (["x"], ["/y"], ["d/a.txt", "d/y/b.txt", "d/y/c.md", "d/z/d.txt"]),
    (["hom*"], ["*.txt"], ["d/hom1.txt", "d/home.md"]),
    (["hom1.txt"], ["*.txt"], ["d/hom1.txt"]),
    (["x*"], ["*.txt"], ["d/y/b.txt", "d/y/c.md", "d/z/d.txt"]),
    (["x"], ["*"], []),
]


@pytest.mark.parametrize(("paths", "excludes", "expected"), EXCLUDES)
def test_exclude(paths, excludes, expected):
    """--exclude is relative to the copied directory, and not for what sources name (CP06)."""
    assert files(copy("/d/", *paths, excludes=tuple(excludes))) == expected


def test_exclude_keeps_directories():
    """Directories of excluded files are still made, and the destination too (CP06, T60)."""
    assert list(copy("/d", "x", excludes=("**/*.txt", "**/*.md")).entries) == ["d", "d/y", "d/z"]
    assert list(copy("/d", "x", excludes=("*",)).entries) == ["d"]


def test_exclude_with_parents():
    """With --parents excludes are relative to the pivot (CP06)."""
    writer = copy("/p/", "/x/./y", parents=True, excludes=("y/*.md",))
    assert files(writer) == ["p/y/b.txt"]


def test_exclude_malformed():
    """A pattern that is none is an error (B19)."""
    with pytest.raises(PybuildError, match="pattern"):
        copy("/d", "x", excludes=("[a-",))


def test_excluded_files_are_no_identity():
    """What is excluded does not count, the patterns themselves do (CP06, K04)."""

    def key(context, *excludes):
        op = CopyOp((PathSource(1, "x"),), "/d", excludes=excludes)
        return copy_key_parts(op, {1: FakeTree(context)}, {})

    changed = {**CONTEXT, "x/y/c.md": "else"}
    assert key(CONTEXT, "**/*.md") == key(changed, "**/*.md")
    assert key(CONTEXT) != key(changed)
    assert key(CONTEXT, "**/*.md") != key(CONTEXT, "**/c.md")


MATCHES = [
    ("*", "", True), ("*", "abc", True), ("a*c", "abbc", True), ("a*c", "ab", False),
    ("?", "é", True), ("?", "", False), ("[a-c]x", "bx", True), ("[^a-c]x", "bx", False),
    ("[!a]", "!", True), ("\\*", "*", True), ("\\*", "a", False), ("[\\]]", "]", True),
    ("[a\\-c]", "-", True), ("*a*b*", "xaxxb", True), ("**", "any", True), ("a", "ab", False),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "name", "expected"), MATCHES)
def test_wildcard(pattern, name, expected):
    """Components match as Go's filepath.Match says (C22)."""
    assert Wildcard.parse(pattern).matches(name) is expected


@pytest.mark.parametrize("pattern", ["[", "[]", "[]a]", "[-a]", "[a-]", "[a", "a\\", "[\\", "[^]"])
def test_malformed_wildcard(pattern):
    """Malformed patterns are refused, not guessed at (B05)."""
    with pytest.raises(CopyError, match="malformed pattern"):
        Wildcard.parse(pattern)


def test_wildcard_is_quick():
    """Many stars cost no more than pattern times name (B11)."""
    assert not Wildcard.parse("*a" * 200 + "b").matches("a" * 4000)


def test_unescape():
    """Backslashes take the next character literally."""
    assert not is_wildcard("a\\*b\\[")
    assert unescape("a\\*b\\\\c\\") == "a*b\\c"


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab*?[]\\^-", max_size=8), st.text(alphabet="ab]-", max_size=6))
def test_wildcard_never_crashes(pattern, name):
    """Any pattern either matches, does not, or is refused."""
    with contextlib.suppress(CopyError):
        assert Wildcard.parse(pattern).matches(name) in {True, False}


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=10))
def test_literal_names_match_themselves(name):
    """A name with every character escaped matches itself only."""
    wildcard = Wildcard.parse("".join(f"\\{char}" for char in name))
    assert wildcard.matches(name)
    assert not wildcard.matches(name + "x")
