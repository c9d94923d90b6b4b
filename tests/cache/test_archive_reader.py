"""Reading tars: what peers write, and what attackers write."""

from __future__ import annotations

import contextlib
import gc
import io
import tarfile
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tars import END, archive, directory, file, member, pax, record, symlink

from cache.archive.entry import Kind
from cache.archive.reader import read_entries, scan_entries
from cache.errors import ArchiveError

KINDS = (b"1", b"2", b"3", b"4", b"5", b"6", b"7")


def read(data: bytes):
    """Entries with their payloads."""
    return [(entry, payload.read()) for entry, payload in read_entries(io.BytesIO(data))]


def paths(data: bytes) -> list[str]:
    return [entry.path for entry, _ in read(data)]


class Trickle(io.RawIOBase):
    """A stream that cannot seek and gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._inner = io.BytesIO(data)
        self._step = step

    def readable(self):
        return True

    def read(self, size=-1):
        return self._inner.read(min(self._step, size) if size >= 0 else self._step)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"./a//b/", "a/b"),
        (b"/a", "a"),
        (b"a/../b", "b"),
        (b"./c", "c"),
        (b"../x", "x"),
        (b"/../x", "x"),
        (b"a/../../x", "x"),
        (b"./../x", "x"),
        (b"a/.b", "a/.b"),
        (b"..a", "..a"),
        (b"-rf", "-rf"),
        (b"a\\b:c", "a\\b:c"),
        (b"\x01\n\x1b\r", "\x01\n\x1b\r"),
        (b"\xff\xc3", "\udcff\udcc3"),
        ("é".encode(), "é"),
        ("e\u0301".encode(), "e\u0301"),
    ],
)
def test_reader_normalises_names_below_the_root(name, path):
    """A01, A34: names keep every byte and never leave the root."""
    assert paths(member(name) + END) == [path]


@pytest.mark.parametrize("name", [b"..", b".", b"./", b"/", b"", b"a/.."])
@pytest.mark.parametrize("kind", [b"0", b"1", b"2", b"3", b"6"])
def test_reader_refuses_a_root_that_is_no_directory(name, kind):
    """A10: the root is a directory or the archive is refused."""
    with pytest.raises(ArchiveError):
        read(member(name, kind, link=b"x") + END)


def test_reader_accepts_a_root_directory():
    """A10, twin: `./` as a directory is an entry for the root."""
    (entry, _), *_ = read(member(b"./", b"5") + END)
    assert (entry.path, entry.kind) == ("", Kind.DIRECTORY)


def test_reader_refuses_nul_in_extended_names():
    """A01: a NUL does not cut a PAX path short."""
    with pytest.raises(ArchiveError, match="NUL"):
        read(pax((b"path", b"..\0x")) + member(b"a") + END)
    with pytest.raises(ArchiveError, match="NUL"):
        read(member(b"././@LongLink", b"L", b"a\0b\0") + member(b"a") + END)


def test_reader_limits_paths_and_components():
    """A34: 255 and 4096 bytes are fine, one more is refused and named."""
    name = b"/".join([b"n" * 255] * 16)
    assert len(name) == 4095
    assert paths(pax((b"path", name)) + member(b"a") + END) == [name.decode()]
    with pytest.raises(ArchiveError, match="component longer than 255"):
        read(pax((b"path", b"n" * 256)) + member(b"a") + END)
    with pytest.raises(ArchiveError, match="longer than 4096"):
        read(pax((b"path", b"a/" * 2049)) + member(b"a") + END)


def test_reader_escapes_control_characters_in_messages():
    """A34: a name cannot write to the terminal."""
    with pytest.raises(ArchiveError) as caught:
        read(member(b"\x1b[2J\xff\xe2\x80\xae", size=b"%011o\0" % 5))
    assert "\x1b" not in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("stop", range(0, 4096, 512))
@pytest.mark.parametrize("extra", [1, 511])
def test_reader_reports_truncation(stop, extra):
    """A27: a stream that ends inside anything but between entries is refused."""
    data = member(b"first", payload=b"1" * 700) + pax((b"path", b"second")) + member(b"x")
    data += member(b"third", payload=b"3")
    cut = data[: stop + extra]
    with pytest.raises(ArchiveError, match=r"ends|damaged"):
        read(cut)
    with pytest.raises(ArchiveError, match=r"ends|damaged"):
        list(scan_entries(io.BytesIO(cut)))


def test_truncation_names_the_entry():
    """A27: the message names the entry that is cut off."""
    with pytest.raises(ArchiveError, match="'etc/passwd'"):
        read(member(b"etc/passwd", payload=b"x" * 600)[:-512])


@pytest.mark.parametrize(
    "data",
    [b"", bytes(512), bytes(1024), member(b"g", b"g", b"") + END],
    ids=["nothing", "one zero block", "only the end", "global header only"],
)
def test_reader_accepts_empty_archives(data):
    """A27: an archive may have no entries, and no end."""
    assert read(data) == []


def test_reader_refuses_a_lone_zero_block():
    """A27: a zero block is followed by another or by nothing."""
    with pytest.raises(ArchiveError, match="zero block"):
        read(member(b"a") + bytes(512) + member(b"b") + END)


@pytest.mark.parametrize(
    "fields",
    [
        {"checksum": b"0000000\0"},
        {"checksum": b"nonsense"},
        {"checksum": b"99999999"},
        {"size": b"\xff" * 12},
        {"size": b"\x80" + b"\xff" * 11},
        {"size": b"77777777777\0"},
        {"size": b"-0000000001\0"},
        {"size": b"0000_000001\0"},
        {"size": b"00000000009\0"},
        {"uid": b"\xff" * 8},
        {"uid": b"\x80\0\0\0\xff\xff\xff\xff"},
        {"gid": b"\x80\0\0\1\0\0\0\0"},
        {"mtime": b"\x80" + b"\xff" * 11},
        {"mode": b"00x0644\0"},
    ],
)
def test_reader_refuses_headers_that_lie(fields):
    """A27, A30: wrong checksums, negative, huge and malformed numbers."""
    with pytest.raises(ArchiveError):
        read(member(b"a", **fields) + END)


def test_reader_clamps_the_mode():
    """A30: only permission and special bits of a mode count."""
    assert read(member(b"a", mode=b"77777777") + END)[0][0].mode == 0o7777


def test_reader_takes_base_256_numbers():
    """A30, twin: large ids and times before the epoch as GNU tar writes them."""
    data = member(b"a", uid=b"\x80\0\0\0\xff\xff\xff\xfe", mtime=b"\xff" * 11 + b"\xfe")
    entry = read(data + END)[0][0]
    assert (entry.uid, entry.mtime) == (2**32 - 2, -2 * 10**9)


@pytest.mark.parametrize("number", [-1, 2**32, 2**63 - 1])
def test_reader_refuses_device_numbers_out_of_range(number):
    """A15: no truncation of device numbers."""
    field = (number & (2**64 - 1)).to_bytes(8, "big")
    field = bytes([field[0] | 0x80]) + field[1:]
    with pytest.raises(ArchiveError, match="out of range"):
        read(member(b"d", b"3", device=field + b"0000000\0") + END)


def test_reader_takes_kinds_as_engines_do():
    """A14: the kinds of POSIX; contiguous files are files; v7 marks directories by a slash."""
    data = b"".join(member(b"n" + kind, kind, link=b"t") for kind in KINDS)
    data += member(b"old/", b"\0", magic=b"") + member(b"file/", b"0")
    kinds = [entry.kind for entry, _ in read(data + END)]
    assert kinds == [
        Kind.HARDLINK,
        Kind.SYMLINK,
        Kind.CHAR,
        Kind.BLOCK,
        Kind.DIRECTORY,
        Kind.FIFO,
        Kind.FILE,
        Kind.DIRECTORY,
        Kind.FILE,
    ]


@pytest.mark.parametrize("kind", [b"Z", b"M", b"D", b"S", b"s", b"X"])
def test_reader_refuses_kinds_it_does_not_know(kind):
    """A14, A29: unknown types and old GNU sparse files are refused by name."""
    with pytest.raises(ArchiveError, match="'odd'"):
        read(member(b"odd", kind) + END)


@pytest.mark.parametrize("key", [b"GNU.sparse.map", b"GNU.sparse.major", b"GNU.sparse.size"])
def test_reader_refuses_pax_sparse_files(key):
    """A29: sparse files of all PAX versions are refused."""
    with pytest.raises(ArchiveError, match="sparse"):
        read(pax((key, b"1")) + member(b"a") + END)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
@pytest.mark.parametrize("size", [2**20 + 1, 2**30, 2**33 - 1])
def test_reader_never_allocates_by_claim(kind, size):
    """A28: an extended header over the limit is refused at once."""
    data = member(b"x", kind, size=b"%011o\0" % size) + END
    gc.collect()
    tracemalloc.start()
    with pytest.raises(ArchiveError, match=r"limit|ends"):
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_reader_never_allocates_by_file_size():
    """A27: a file that claims 8 GiB costs what is there."""
    data = member(b"a", size=b"77777777777\0") + b"x" * 1000
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="ends inside 'a'"):
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    "payload",
    [
        b"0 path=a\n",
        b"-5 path=a\n",
        b"100000000000000000000 path=a\n",
        b"9 path=aa",
        b"8 path=a\n",
        b"11 path=a\n",
        b"5 =a\n",
        b"3 \n",
        b"path=a\n",
        b" 9 path=a\n",
        b"1_0 path=a\n",
        b"9 p\0th=a\n",
        b"6 path",
    ],
)
def test_reader_refuses_malformed_records(payload):
    """A28: PAX lengths that are zero, negative, huge, short or not numbers."""
    with pytest.raises(ArchiveError, match="extended tar header"):
        read(member(b"x", b"x", payload) + member(b"b") + END)


@pytest.mark.parametrize(
    "value", [b"nan", b"inf", b"1e400", b"-1e18", b"9" * 31, b"1_000", b"+1", b"1.x", b" 1"]
)
def test_reader_refuses_times_that_are_none(value):
    """A30: PAX times are plain decimals in range."""
    with pytest.raises(ArchiveError):
        read(pax((b"mtime", value)) + member(b"a") + END)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"uid", b"4294967295"),
        (b"gid", b"-1"),
        (b"uid", b"9" * 30),
        (b"size", b"-1"),
        (b"size", b"9" * 19),
    ],
)
def test_reader_refuses_pax_numbers_out_of_range(key, value):
    """A30: an owner that cannot exist never becomes another one."""
    with pytest.raises(ArchiveError):
        read(pax((key, value)) + member(b"a") + END)


def test_reader_takes_pax_times_exactly():
    """A30, twin: nanoseconds survive, digits beyond are dropped, negative times are fine."""
    times = [b"1600000000.123456789", b"-1.5", b"3.0000000019", b"7."]
    data = b"".join(pax((b"mtime", time)) + member(b"a") for time in times)
    found = [entry.mtime for entry, _ in read(data + END)]
    assert found == [1600000000123456789, -1500000000, 3000000001, 7000000000]


def test_reader_ignores_global_headers():
    """A28: global headers change nothing, however often they come."""
    data = pax((b"path", b"evil"), kind=b"g") * 50 + member(b"good") + END
    assert paths(data) == ["good"]


def test_reader_handles_a_full_block_of_records():
    """A28: the most records that fit are read in linear time; the last of a key wins."""
    payload = record(b"a", b"b") * 170_000 + record(b"path", b"one") + record(b"path", b"two")
    assert len(payload) < 2**20
    assert paths(member(b"x", b"x", payload) + member(b"n") + END) == ["two"]


def test_reader_refuses_what_only_announces():
    """A28: an extended header without an entry is a truncated archive."""
    with pytest.raises(ArchiveError, match="after an extended header"):
        read(pax((b"path", b"a")) + END)


def test_reader_limits_xattrs():
    """A19: names of 255 bytes and binary values are kept; larger ones are refused."""
    name, value = b"user." + b"n" * 250, bytes(range(256))
    data = pax((b"SCHILY.xattr." + name, value)) + member(b"a") + END
    assert read(data)[0][0].xattrs == ((name.decode(), value),)
    for key, content in ((name + b"n", b""), (b"user.x", bytes(65537)), (b"", b"")):
        with pytest.raises(ArchiveError, match="xattr"):
            read(pax((b"SCHILY.xattr." + key, content)) + member(b"a") + END)


def test_reader_ignores_names_of_owners():
    """A36: numeric ids count, names are not looked up."""
    data = pax((b"uname", b"root")) + member(b"a", uid=b"0001750\0") + END
    assert read(data)[0][0].uid == 1000


def test_reader_drains_the_stream():
    """A32: bytes behind the end are read, so that a digest covers them."""
    stream = io.BytesIO(member(b"a") + END + b"junk" * 500_000)
    list(read_entries(stream))
    assert stream.read() == b""


def test_reader_takes_sizes_of_links_as_engines_do():
    """A25: links and directories have no payload whatever they claim."""
    data = member(b"l", b"2", link=b"t", size=b"00000001000\0") + member(b"b") + END
    assert paths(data) == ["l", "b"]


def test_reader_joins_the_prefix():
    """A34: ustar and star divide long names differently."""
    star = b"p".ljust(131, b"\0") + b"00000000000\x0000000000000\0"
    star = star.ljust(163, b"\0") + b"tar\0"
    data = member(b"b", prefix=b"a") + member(b"c", prefix=star) + END
    assert paths(data) == ["a/b", "p/c"]


@pytest.mark.parametrize("step", [1, 7, 513, 100_000])
def test_reader_works_with_streams_that_trickle(step):
    """A27: offsets and payloads do not depend on how the stream is divided."""
    whole = archive(file("a", b"1" * 1000), directory("d"), file("d/b", b"2"), symlink("s", "a"))
    expected = read(whole.getvalue())
    stream = Trickle(whole.getvalue(), step)
    assert [(entry, payload.read()) for entry, payload in read_entries(stream)] == expected
    for entry, content in expected:
        assert whole.getvalue()[entry.offset : entry.offset + entry.size] == content


def test_scan_gives_what_reading_gives():
    """P: the fast path over a seekable file finds the same entries."""
    whole = archive(file("a", b"1" * 70_000), directory("d"), file("b", b"2" * 5), file("c"))
    assert list(scan_entries(whole)) == [entry for entry, _ in read(whole.getvalue())]


def test_payload_ends_with_its_entry():
    """A27: a payload kept beyond its turn gives nothing of the next entry."""
    kept = []
    for _, payload in read_entries(archive(file("a", b"AAA"), file("b", b"BBB"))):
        kept.append(payload)
        assert payload.readable()
        buffer = bytearray(2)
        assert payload.readinto(buffer) == 2
    assert [payload.read(5) for payload in kept] == [b"", b""]


@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_reader_agrees_with_the_standard_library(fmt):
    """A36: what Python's writer says in each format is what we read."""
    buffer = io.BytesIO()
    long = "d/" * 40 + "n" * 90
    with tarfile.open(fileobj=buffer, mode="w", format=fmt) as tar:
        for name in ("short", long):
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid, info.mtime = 3, 0o640, 10, 20, 1234567890
            tar.addfile(info, io.BytesIO(b"abc"))
    found = read(buffer.getvalue())
    assert [
        (entry.path, entry.mode, entry.uid, entry.gid, content) for entry, content in found
    ] == [(name, 0o640, 10, 20, b"abc") for name in ("short", long)]


@given(st.binary(max_size=2048), st.integers(0, 1500))
def test_reader_never_fails_otherwise(noise, position):
    """A27: any damage gives entries or an ArchiveError, never another exception."""
    data = bytearray(pax((b"mtime", b"1.5")) + member(b"a", payload=b"xyz") + END)
    data[position : position + len(noise)] = noise
    with contextlib.suppress(ArchiveError):
        read(bytes(data))


@given(
    st.lists(st.sampled_from([b"mode", b"uid", b"size", b"mtime", b"device"])),
    st.binary(min_size=12, max_size=12),
)
def test_header_fields_hold_anything(fields, noise):
    """A27: any bytes in a numeric field, with a right checksum, are read or refused."""
    sizes = {b"mode": 8, b"uid": 8, b"size": 12, b"mtime": 12, b"device": 16}
    given_fields = {name.decode(): (noise * 2)[: sizes[name]] for name in fields}
    with contextlib.suppress(ArchiveError):
        read(member(b"a", b"3", **given_fields) + END)
