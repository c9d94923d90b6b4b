"""Writing tars: deterministic, minimal, and readable by peers."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tars import archive, directory, file, hardlink, symlink

from cache.archive.entry import Entry, Kind, decode, encode
from cache.archive.index import MAGIC_SIZE, dump_index, load_index, names_devices
from cache.archive.reader import read_entries
from cache.archive.writer import TarWriter, _headers, _quick_headers
from cache.errors import ArchiveError, CorruptRecordError
from cache.value import replace

SECOND = 10**9

NAMES = st.binary(min_size=1, max_size=255).map(
    lambda raw: raw.replace(b"\0", b"n").replace(b"/", b"s")
)
NAMES = NAMES.filter(lambda raw: raw not in {b".", b".."})
PATHS = st.lists(NAMES, min_size=1, max_size=6).map(lambda names: decode(b"/".join(names)))
TEXTS = st.binary(min_size=1, max_size=300).map(lambda raw: decode(raw.replace(b"\0", b"n")))
IDS = st.integers(0, 2**32 - 2)
XATTRS = st.dictionaries(
    TEXTS.map(lambda text: "user." + text[:60].replace("=", "e")),
    st.binary(max_size=50),
    max_size=3,
)


@st.composite
def entries(draw):
    """Any entry a tar can hold."""
    kind = draw(st.sampled_from(list(Kind)))
    linkname = ""
    if kind is Kind.SYMLINK:
        linkname = draw(TEXTS)
    elif kind is Kind.HARDLINK:
        linkname = draw(PATHS)
    number = st.integers(0, 0o7777777)
    return Entry(
        draw(PATHS),
        kind,
        draw(st.integers(0, 0o7777)),
        draw(IDS),
        draw(IDS),
        draw(st.integers(0, 2000)) if kind is Kind.FILE else 0,
        draw(st.integers(-(2**62), 2**62)),
        linkname,
        draw(st.tuples(number, number)) if kind in {Kind.CHAR, Kind.BLOCK} else (0, 0),
        tuple(sorted(draw(XATTRS).items())),
    )


def written(*items: Entry, payload: bytes = b"") -> bytes:
    return archive(*((item, payload) for item in items)).getvalue()


@given(st.lists(entries(), max_size=5))
def test_what_is_written_is_read_and_written_again(listed):
    """P: write, read, write is a fixpoint for any entries; the index keeps them too."""
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    given_back = [writer.add(entry, b"x" * entry.size) for entry in listed]
    writer.finish()
    assert writer.position == len(buffer.getvalue())
    found = [
        (entry, payload.read()) for entry, payload in read_entries(io.BytesIO(buffer.getvalue()))
    ]
    assert [entry for entry, _ in found] == given_back
    assert [replace(entry, offset=-1) for entry in given_back] == listed
    again = io.BytesIO()
    writer = TarWriter(again)
    for entry, payload in found:
        assert writer.add(entry, io.BytesIO(payload) if payload else payload) == entry
    writer.finish()
    assert again.getvalue() == buffer.getvalue()
    assert load_index(dump_index(given_back)) == tuple(given_back)


@st.composite
def ordinary(draw):
    """Files and directories, most of them such as a build context has."""
    kind = draw(st.sampled_from([Kind.FILE, Kind.DIRECTORY]))
    path = draw(st.one_of(PATHS, st.sampled_from(["", "a", "a" * 99, "a" * 100, "a" * 101])))
    near = st.sampled_from(
        [0, 1, -1, SECOND, 15 * SECOND // 10, 2**33 * SECOND - 1, 2**33 * SECOND]
    )
    owner = st.one_of(st.sampled_from([0, 1000, 0o7777777, 0o10000000]), IDS)
    return Entry(
        path,
        kind,
        draw(st.integers(0, 0o7777)),
        draw(owner),
        draw(owner),
        draw(st.sampled_from([0, 1, 511, 2**33 - 1, 2**33])) if kind is Kind.FILE else 0,
        draw(st.one_of(near, st.integers(0, 2**61))),
    )


@given(ordinary())
def test_the_quick_way_gives_the_same_headers(entry):
    """What is written for ordinary files and directories is what the general way writes."""
    quick = _quick_headers(entry, entry.size)
    if quick:
        assert quick == _headers(entry, entry.size)


def test_the_quick_way_serves_ordinary_entries():
    """Files with times in nanoseconds, and directories, need not go the long way."""
    for entry in (
        Entry("a/b", Kind.FILE, 0o644, mtime=1_700_000_000_123_456_789, size=3300),
        Entry("a", Kind.DIRECTORY, 0o755, mtime=1_700_000_000 * SECOND),
    ):
        assert _quick_headers(entry, entry.size) == _headers(entry, entry.size)


def test_plain_entries_need_no_records():
    """P: a file ustar can describe takes one header block."""
    assert len(written(Entry("a", Kind.FILE))) == 512 + 1024
    assert len(written(Entry("d/" * 70 + "n" * 90, Kind.FILE))) == 512 + 1024


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (Entry("a", Kind.FILE, mtime=1600000000123456789), b" mtime=1600000000.123456789\n"),
        (Entry("a", Kind.FILE, mtime=-1500000000), b" mtime=-1.5\n"),
        (Entry("a", Kind.FILE, uid=2097152), b" uid=2097152\n"),
        (Entry("a", Kind.FILE, gid=2097152), b" gid=2097152\n"),
        (Entry("n" * 101, Kind.FILE), b" path=" + b"n" * 101 + b"\n"),
        (Entry("a", Kind.SYMLINK, linkname="t" * 101), b" linkpath=" + b"t" * 101 + b"\n"),
        (Entry("a", Kind.FILE, xattrs=(("user.k", b"\0v"),)), b" SCHILY.xattr.user.k=\0v\n"),
    ],
)
def test_records_say_what_ustar_cannot(entry, text):
    """R: a PAX record stands only for the field that needs it."""
    data = written(entry)
    assert data[156:157] == b"x"
    length = len(text) + len(b"%d" % len(text))
    while len(b"%d" % length) + len(text) != length:
        length += 1
    assert data[512:1024].rstrip(b"\0") == b"%d" % length + text


def test_sizes_over_eight_gibibytes_are_records():
    """R: the size of a large file is kept exactly; its payload must come."""
    entry = Entry("a", Kind.FILE, size=2**33)
    sink = io.BytesIO()
    writer = TarWriter(sink)
    with pytest.raises(ArchiveError, match="ended after 3 of 8589934592"):
        writer.add(entry, io.BytesIO(b"abc"))
    writer.finish()
    assert b" size=8589934592\n" in sink.getvalue()


def test_directories_end_in_a_slash_and_the_root_is_a_dot():
    """R: names as peers write them."""
    data = written(directory(""), directory("d"))
    assert data[:3] == b"./\0"
    assert data[512:515] == b"d/\0"
    assert data[265:329] == bytes(64)


@pytest.mark.parametrize(
    ("entry", "payload"),
    [
        (Entry("a", Kind.FILE, size=5), b"four"),
        (Entry("a", Kind.FILE, size=5), None),
        (Entry("a", Kind.FILE, size=5), io.BytesIO(b"four")),
        (Entry("a", Kind.DIRECTORY), b"content"),
        (Entry("a\0b", Kind.FILE), b""),
        (Entry("a" * 5000, Kind.FILE), b""),
        (Entry("", Kind.FILE), b""),
        (Entry("a", Kind.SYMLINK, linkname="b\0c"), b""),
        (Entry("a", Kind.FILE, uid=-1), b""),
        (Entry("a", Kind.FILE, gid=2**32 - 1), b""),
        (Entry("a", Kind.CHAR, device=(1 << 22, 0)), b""),
        (Entry("a", Kind.FILE, xattrs=(("user.a", bytes(2**20)),)), b""),
    ],
)
def test_writer_refuses_what_cannot_be_read_back(entry, payload):
    """A27: no damaged archive is begun by bad entries."""
    with pytest.raises(ArchiveError):
        TarWriter(io.BytesIO()).add(entry, payload)


def test_streams_are_read_for_their_size_only():
    """R: a file that grew gives what its entry says."""
    sink = io.BytesIO()
    writer = TarWriter(sink)
    entry = writer.add(Entry("a", Kind.FILE, size=2_000_000), io.BytesIO(b"x" * 3_000_000))
    writer.finish()
    assert len(sink.getvalue()) == entry.offset + 2_000_384 + 1024 - 384 + (-2_000_000 % 512)


PEER_ENTRIES = (
    directory("", 0o755),
    directory("d", 0o750, mtime=SECOND),
    file("d/plain", b"hello", mode=0o4755, uid=3_000_000, gid=7, mtime=5 * SECOND + 1),
    file("d/" + "n" * 200, b"long"),
    file("d/\udcff\udcfe", b"raw"),
    file("d/" + "\udcff" * 150, b"raw and long"),
    file("d/é" + "ü" * 90, b"utf"),
    symlink("s", "t" * 150),
    hardlink("h", "d/" + "n" * 200),
)


def test_python_reads_what_we_write():
    """R: the standard library agrees on names, numbers and content."""
    with tarfile.open(fileobj=archive(*PEER_ENTRIES)) as tar:
        members = tar.getmembers()
        assert [encode(member.name) for member in members[1:]] == [
            encode((item[0] if isinstance(item, tuple) else item).path) for item in PEER_ENTRIES[1:]
        ]
        plain = members[2]
        assert (plain.uid, plain.gid, plain.mode) == (3_000_000, 7, 0o4755)
        assert tar.extractfile(members[5]).read() == b"raw and long"
        assert members[8].linkname == "d/" + "n" * 200


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
def test_gnu_tar_reads_what_we_write(tmp_path):
    """R: names arrive as the bytes they are, long or not, valid or not."""
    entries_without_ids = [
        (replace(item[0], uid=0, gid=0), item[1]) if isinstance(item, tuple) else item
        for item in PEER_ENTRIES
    ]
    data = archive(*entries_without_ids).getvalue()
    done = subprocess.run(
        ["tar", "-x", "--no-same-owner", "-C", tmp_path],
        input=data,
        check=True,
        capture_output=True,
    )
    assert done.stderr == b""
    for entry, content in (item for item in PEER_ENTRIES if isinstance(item, tuple)):
        with open(encode(str(tmp_path)) + b"/" + encode(entry.path), "rb") as found:
            assert found.read() == content


def test_index_is_compact():
    """P: an index takes a small part of its tar."""
    listed = [
        Entry(f"usr/share/doc/p{n}/copyright", Kind.FILE, offset=n * 2048, size=n)
        for n in range(1000)
    ]
    assert len(dump_index(listed)) < 20 * len(listed)
    assert load_index(dump_index(iter(listed))) == tuple(listed)
    assert load_index(dump_index([])) == ()


def test_an_index_tells_of_devices_at_its_start():
    """F3: what steps may see of a layer is known without reading all of it; /dev is their own."""

    def told(*entries):
        return names_devices(dump_index([file("a")[0], *entries])[:MAGIC_SIZE])

    assert told(Entry("n", Kind.CHAR, device=(1, 3)))
    assert told(Entry("x/dev/n", Kind.BLOCK))
    assert not told(Entry("dev/n", Kind.CHAR, device=(1, 3)), Entry("p", Kind.FIFO))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_damaged_indexes_are_refused(position, flip):
    """R: any changed byte is noticed."""
    data = bytearray(
        dump_index([file("a")[0], symlink("s", "t"), Entry("c", Kind.CHAR, device=(1, 3))])
    )
    data[position % len(data)] ^= flip
    with pytest.raises(CorruptRecordError):
        load_index(bytes(data))


@pytest.mark.parametrize("data", [b"", b"pbx1", b"{}" * 50])
def test_foreign_indexes_are_refused(data):
    """R: what is no index is a damaged record, not another error."""
    with pytest.raises(CorruptRecordError):
        load_index(data)


def test_truncated_indexes_are_refused():
    """R: every shorter record is refused."""
    data = dump_index([file("a")[0]])
    for length in range(len(data)):
        with pytest.raises(CorruptRecordError):
            load_index(data[:length])
