"""Files made in C: never another tree, index or error than those that Python makes."""

from __future__ import annotations

import io
import os
import resource
import stat
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tars import END, archive, directory, file, hardlink, member, pax, symlink
from support.twins import compile_twins

from cache import native
from cache.archive import bulk
from cache.archive.entry import Entry, Kind
from cache.archive.extract import extract_layer
from cache.archive.reader import read_entries
from cache.archive.rooted import remove_tree
from cache.archive.tree import Tree
from cache.errors import PybuildError

IS_ROOT = os.geteuid() == 0
NAMES = st.sampled_from(
    [
        *(
            b"a",
            b"b",
            b"a/",
            b"./a",
            b"a/b",
            b"a/c",
            b"a/b/c",
            b"a/b/",
            b"b/a",
            b"link/x",
            b"./a/d/",
        ),
        *(
            b"a//b",
            b"a/./b",
            b"././a",
            b"../x",
            b"/a",
            b"a/..",
            b"a/../b",
            b"",
            b".",
            b"./",
            b"a/.",
        ),
        *(
            b".wh.a",
            b"a/.wh.b",
            b"a/.wh..wh..opq",
            b".wh..wh..opq",
            b"a/.wh.x/y",
            b".hidden",
            b"a/.b",
        ),
        *(b"a/..b", b"\xff\xfe", b"a/\xc3", b"n" * 100, b"a/" + b"n" * 98, b"d/d/d/d", b"link"),
    ]
)
KINDS = st.sampled_from([*([b"0"] * 6), *([b"5"] * 4), *([b"2"] * 3), *b"\0 1 1 3 4 6 7 S".split()])
MODES = st.sampled_from(
    [
        *(b"0000644\0", b"0000755\0", b"0100640\0", b"0004755\0", b"0001777\0", b"0000000\0"),
        *(
            b"000644 \0",
            b"   644\0 ",
            b"        ",
            b"0000648\0",
            b"644\0junk",
            b"\x00000644\0",
            b"\x80" + bytes(7),
        ),
    ]
)
IDS = st.sampled_from(
    [
        *(
            b"0000000\0",
            b"0001750\0",
            b"\x80" + bytes(5) + b"\x01\x02",
            b"",
            b"0x",
            b"7777777\0",
            b"77777777",
        ),
    ]
)
TIMES = st.sampled_from(
    [
        *(
            b"00000000000\0",
            b"14524301371\0",
            b"77777777777\0",
            b"\xff" * 12,
            b"1 1",
            b"            ",
        ),
    ]
)
SIZES = st.sampled_from([0, 1, 511, 512, 513, 2000])
RECORDS = st.lists(
    st.sampled_from(
        [
            *(
                (b"mtime", b"1700000000.123456789"),
                (b"mtime", b"12"),
                (b"mtime", b"12."),
                (b"mtime", b"-1.5"),
            ),
            *(
                (b"mtime", b""),
                (b"mtime", b"9223372036.9"),
                (b"mtime", b"1.0000000009"),
                (b"mtime", b"x"),
            ),
            *(
                (b"atime", b"1"),
                (b"ctime", b"what"),
                (b"mtimes", b"3"),
                (b"path", b"a/long"),
                (b"uid", b"7"),
            ),
            *(
                (b"SCHILY.xattr.user.x", b"1"),
                (b"size", b"3"),
                (b"linkpath", b"b"),
                (b"comment", b"c" * 600),
            ),
            *((b"atime", b""), (b"GNU.sparse.major", b"1"), (b"LIBARCHIVE.creationtime", b"3")),
        ]
    ),
    max_size=3,
)


@st.composite
def members(draw):
    """Bytes of an entry that is ordinary, or nearly so, or not at all."""
    head = b""
    if draw(st.integers(0, 3)) == 0:
        head = pax(*draw(RECORDS), kind=draw(st.sampled_from([b"x", b"x", b"x", b"g"])))
    if draw(st.integers(0, 2)):
        return head + _plain(draw)
    size = draw(SIZES)
    return head + member(
        draw(NAMES),
        draw(KINDS),
        bytes([65 + size % 7]) * size,
        link=draw(st.sampled_from([b"b", b"a", b"/a", b"../b", b"", b"l" * 100])),
        mode=draw(MODES),
        uid=draw(IDS).ljust(8, b"\0"),
        gid=draw(IDS).ljust(8, b"\0"),
        mtime=draw(TIMES).ljust(12, b"\0"),
        magic=draw(st.sampled_from([b"ustar\x0000", b"ustar  \0", b""])),
        prefix=draw(st.sampled_from([b"", b"", b"a", b"a/b", b"p" * 155, b"a\0b"])),
        checksum=draw(st.sampled_from([None, None, None, b"0000000\0", b"  12345\0"])),
    )


def _plain(draw):
    """An entry as most are."""
    kind = draw(st.sampled_from([b"0", b"0", b"2", b"5"]))
    payload = bytes(draw(SIZES)) if kind == b"0" else b""
    link = b"b" if kind == b"2" else b""
    return member(draw(NAMES), kind, payload, link=link, mode=draw(MODES.filter(bytes.strip)))


class Chopped(io.BytesIO):
    """A stream that gives so many bytes at a time."""

    def __init__(self, data, most):
        super().__init__(data)
        self._most = most

    def read(self, size=-1, /):
        return super().read(min(size, self._most) if size >= 0 else self._most)


def look(top):
    """All that is in a directory and how."""
    found = []
    for here, dirs, files in os.walk(top):
        for name in [*dirs, *files]:
            path = os.path.join(here, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            text = os.readlink(path) if kind == stat.S_IFLNK else ""
            if kind == stat.S_IFREG:
                with open(path, "rb") as content:
                    text = content.read()
            xattrs = (
                {x: os.getxattr(path, x) for x in os.listxattr(path, follow_symlinks=False)}
                if text != "" or kind == stat.S_IFDIR
                else {}
            )
            times = (
                0 if kind == stat.S_IFCHR else status.st_mtime_ns
            )  # a whiteout's is that of its making
            links = 0 if kind == stat.S_IFDIR else status.st_nlink
            found.append(
                (
                    os.path.relpath(path, top),
                    status.st_mode,
                    status.st_uid,
                    status.st_gid,
                    times,
                    links,
                    text,
                    xattrs,
                )
            )
    return sorted(found, key=lambda item: item[0])


def unpacked(data, most, lower, keep_owner, umask):
    """What comes of a tar: the entries or the error, and the tree."""
    before = os.umask(umask)
    top = tempfile.mkdtemp()
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            result = extract_layer(Chopped(data, most), fd, lower, keep_owner=keep_owner)
        except PybuildError as error:
            return str(error), None  # what is there then is thrown away
        return result, look(top)
    finally:
        os.close(fd)
        os.umask(before)
        above = os.open(os.path.dirname(top), os.O_RDONLY | os.O_DIRECTORY)
        remove_tree(above, os.path.basename(top))
        os.close(above)


@pytest.fixture(autouse=True, scope="module")
def _twins():
    compile_twins()
    assert native.library(bulk.__file__, "bulkfiles", bulk._REVISION) is not None


def agree(data, *, most=1 << 18, lower=None, keep_owner=False, umask=0o022):
    """Compare the two; gives what both made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYBUILD_NATIVE", raising=False)
        compiled = unpacked(data, most, lower, keep_owner, umask)
        patch.setenv("PYBUILD_NATIVE", "0")
        assert compiled == unpacked(data, most, lower, keep_owner, umask)
    return compiled


LOWER = Tree.of(
    [
        [
            Entry("", Kind.DIRECTORY, 0o755),
            Entry("link", Kind.SYMLINK, linkname="a"),
            Entry("a", Kind.DIRECTORY, 0o700, mtime=5),
            Entry("a/b", Kind.FILE),
            Entry("a/c", Kind.DIRECTORY),
            Entry("a/c/d", Kind.FILE),
        ]
    ]
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(members(), max_size=9),
    st.sampled_from([700, 4096, 1 << 18]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0o022, 0o077, 0]),
)
def test_agrees_with_python(items, most, has_lower, keeps, umask):
    """A08, A22: trees, indexes and errors are those of the reference for any bytes."""
    lower = LOWER if has_lower and IS_ROOT else None
    agree(b"".join(items) + END, most=most, lower=lower, keep_owner=keeps and IS_ROOT, umask=umask)


def ordinary():
    """What most archives consist of, in their usual forms."""
    return archive(
        directory("d", 0o750, mtime=3 * 10**9 + 7),
        file("d/f", b"1" * 600, mode=0o4711, mtime=10**18 + 1),
        file("d/empty", b""),
        symlink("d/l", "f"),
        directory("d/e"),
        file("d/e/" + "n" * 98, b"2", uid=7, gid=8),
        file("large", b"3" * 400_000),
    ).getvalue()


@pytest.mark.parametrize("most", [600, 1 << 18, 1 << 20])
def test_takes_all_that_is_ordinary(tmp_path, most):
    """Nothing of an ordinary archive is left to Python, however it arrives."""
    fd = os.open(tmp_path, os.O_RDONLY)
    made = []
    try:
        taker = bulk.bulk_taker(fd, (False, (0, 0), 0o755), made.extend)
        assert list(read_entries(Chopped(ordinary(), most), taker)) == []
    finally:
        os.close(fd)
    assert made == [entry for entry, _ in read_entries(io.BytesIO(ordinary()))]
    entries, _ = agree(ordinary(), most=most, keep_owner=IS_ROOT)
    assert entries == made


@pytest.mark.parametrize("size", [511 * 1024, 512 * 1024, 513 * 1024, 3 << 20])
def test_entries_of_all_sizes(size):
    """A payload of more than a window is Python's, between others that are not."""
    items = file("a", b"1"), file("b", b"2" * size), file("c", b"3" * 700)
    entries, found = agree(archive(*items).getvalue())
    assert [item[0] for item in found] == [entry.path for entry in entries] == ["a", "b", "c"]


def test_what_is_not_ordinary_between_what_is():
    """Links, attributes and second entries of a name end up as if nobody had helped."""
    items = (
        directory("d"),
        file("d/f", b"old"),
        hardlink("d/h", "d/f"),
        file("d/f", b"new"),
        file("d/x", b"", xattrs=(("user.x", b"1"),)),
        symlink("s", "d"),
        file("s/through", b"4"),
        directory("s"),
        file("s/f", b"5"),
        Entry("p", Kind.FIFO, 0o640),
        file("d", b"no directory any more"),
        *(file(f"many/{number}", b"6") for number in range(3000)),
    )
    entries, found = agree(archive(*items).getvalue(), keep_owner=IS_ROOT)
    assert len(entries) == len(items)
    assert ("s/f", b"5") in [(item[0], item[6]) for item in found]


def test_cut_anywhere():
    """A06: an archive that ends in the middle of something is the same error."""
    data = ordinary()
    for end in [*range(0, 4096, 128), len(data) - 3000, len(data) - 1024 - 500]:
        agree(data[:end])


def test_a_full_disk():
    """What cannot be written is the reference's error, not a file that is too short."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        said, _ = agree(ordinary())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot unpack 'large': File too large" in str(said)


@pytest.mark.skipif(IS_ROOT, reason="root needs no leave to give files away")
def test_an_owner_that_cannot_be_given():
    """What cannot be given to its owner is the reference's error."""
    said, _ = agree(archive(file("f", b"", uid=12345)).getvalue(), keep_owner=True)
    assert "to 12345" in str(said)


def test_a_default_acl_decides(tmp_path):
    """Where new files do not get the permissions they are made with, these are set."""
    made = []
    fd = os.open(tmp_path, os.O_RDONLY)
    before = os.umask(0o077)
    try:
        taker = bulk.bulk_taker(fd, (False, None, 0), made.extend)
        list(read_entries(archive(file("f", b"", mode=0o664)), taker))
    finally:
        os.umask(before)
        os.close(fd)
    assert made
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o664
