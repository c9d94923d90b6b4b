"""Compressed streams: recognised, bounded, checked and reproducible."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tracemalloc
import zlib
from hashlib import shake_128

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from support.tars import archive, file, member

from cache.archive.zstd_frames import FrameOutline
from cache.compress import compressor, decompressed, open_archive, sniff
from cache.errors import ArchiveError

LAYER = "application/vnd.oci.image.layer.v1.tar"
TYPES = [LAYER, LAYER + "+gzip", LAYER + "+zstd"]
TAR = archive(file("a", shake_128(b"a").digest(3000) + bytes(5000))).getvalue()
PACKED = {
    "gzip": gzip.compress(TAR),
    "bzip2": bz2.compress(TAR),
    "xz": lzma.compress(TAR),
    "zstd": zstandard.compress(TAR),
    "tar": TAR,
}


def compressed(data: bytes, media_type: str, step: int = 1 << 30, **options) -> bytes:
    sink = io.BytesIO()
    packer = compressor(media_type, sink, **options)
    for start in range(0, len(data), step):
        packer.write(memoryview(data)[start : start + step])
    packer.finish()
    return sink.getvalue()


def opened(data: bytes, media_type: str = LAYER + "+gzip") -> bytes:
    return decompressed(io.BytesIO(data), media_type).read()


@pytest.fixture(params=["isal", "zlib"])
def engine(request, monkeypatch):
    """Run with isal, and as if it were not installed."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    return request.param


@pytest.mark.parametrize(("name", "data"), PACKED.items())
def test_formats_are_told_by_their_first_bytes(name, data):
    """A35: the content decides, not a name."""
    assert sniff(data[:512]) == name


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"PK\3\4" + bytes(600),
        b"7z\xbc\xaf\x27\x1c" + bytes(600),
        b"070701" + b"0" * 600,
        b"!<arch>\n" + bytes(600),
        bytes(2048),
    ],
)
def test_other_formats_are_not_recognised(data):
    """A35: zip, 7z, cpio, ar and zeros are none of ours."""
    assert sniff(data[:512]) == ""
    assert open_archive(io.BytesIO(data)) is None


def test_skippable_frames_are_zstd():
    """A31: a stream may begin with a skippable frame."""
    skippable = b"\x5f\x2a\x4d\x18\x03\0\0\0abc"
    assert sniff(skippable) == "zstd"
    assert opened(skippable * 1000 + PACKED["zstd"] + skippable) == TAR


@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("level", [None, 1, 9])
def test_round_trip(engine, media_type, portable, level):
    """P: what was compressed comes back."""
    assert opened(compressed(TAR, media_type, level=level, portable=portable), media_type) == TAR


@pytest.mark.parametrize("media_type", TYPES)
def test_output_does_not_depend_on_pieces(engine, media_type):
    """P: equal input gives equal bytes however it is divided, threads or not."""
    noise = shake_128(b"b").digest(200_000)
    data = b"".join(noise[at : at + 9] * (noise[at] % 30) for at in range(0, len(noise), 10))
    outcomes = {compressed(data, media_type, step) for step in (1 << 30, 1_000_003, 262_144, 4_099)}
    assert len(outcomes) == 1


def test_gzip_headers_hold_no_time_and_no_name(engine):
    """P: no flags, no time."""
    assert compressed(TAR, LAYER + "+gzip")[:8] == b"\x1f\x8b\x08" + bytes(5)


def test_portable_gzip_is_zlibs():
    """P: the portable form is what zlib gives at level 6."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    assert compressed(TAR, LAYER + "+gzip", portable=True) == packer.compress(TAR) + packer.flush()


def test_members_and_padding(engine):
    """A31: gzip members and zstd frames follow one another; zeros may pad a gzip."""
    assert opened(PACKED["gzip"] * 3 + bytes(700)) == TAR * 3
    assert opened(PACKED["zstd"] * 3) == TAR * 3
    assert opened(gzip.compress(b"") * 20_000 + PACKED["gzip"]) == TAR


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_every_truncation_is_noticed(engine, name):
    """A32: a stream that ends early is an error wherever it is cut."""
    data = PACKED[name]
    for length in [*range(20, len(data), 97), *range(len(data) - 12, len(data))]:
        with pytest.raises(ArchiveError, match="truncated"):
            opened(data[:length])


@pytest.mark.parametrize("position", [-8, -5, -4, -1])
def test_wrong_gzip_trailers_are_noticed(engine, position):
    """A32: CRC and size are checked."""
    data = bytearray(PACKED["gzip"])
    data[position] ^= 1
    with pytest.raises(ArchiveError, match="gzip data is"):
        opened(bytes(data))


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_garbage_behind_the_data_is_noticed(engine, name):
    """A32: nothing else follows compressed data."""
    with pytest.raises(ArchiveError):
        opened(PACKED[name] + b"garbage behind the end" * 10)


def test_wrong_zstd_checksums_are_noticed():
    """A32: the frame checksum is checked."""
    data = bytearray(compressed(TAR, LAYER + "+zstd"))
    data[-1] ^= 1
    with pytest.raises(ArchiveError, match="damaged"):
        opened(bytes(data))


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_bombs_cost_no_memory(engine, name):
    """A31: what unpacks to a thousand times its size is read in bounded memory."""
    zeros = bytes(1 << 20)
    if name == "gzip":
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    else:
        packer = zstandard.ZstdCompressor(3).compressobj()
    data = b"".join([packer.compress(zeros) for _ in range(64)]) + packer.flush()
    tracemalloc.start()
    stream = decompressed(io.BytesIO(data), LAYER + "+gzip")
    total = 0
    while piece := stream.read(1 << 20):
        total += len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 64 << 20
    assert peak < 16 << 20


def test_large_zstd_windows_are_refused():
    """A31: a frame that wants more than 128 MiB of window is refused, before memory is taken."""
    for exponent, is_fine in ((27, True), (28, False), (31, False), (41, False)):
        frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(exponent - 10) << 3]) + b"\x01\0\0"
        if is_fine:
            assert opened(frame) == b""
        else:
            with pytest.raises(ArchiveError, match="window"):
                opened(frame)


def test_zstd_content_sizes_are_not_believed():
    """A31: a single-segment frame that claims 2^40 bytes allocates nothing."""
    frame = b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + b"\x01\0\0"
    with pytest.raises(ArchiveError):
        opened(frame)


def test_large_xz_dictionaries_are_refused():
    """A31: an xz file that wants a dictionary of a gibibyte is no archive to us."""
    packer = lzma.LZMACompressor(
        filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    )
    data = bytearray(packer.compress(TAR) + packer.flush())
    assert open_archive(io.BytesIO(bytes(data))).read() == TAR
    # the dictionary's size is one byte of the block header, which a CRC covers
    at = 12
    size = (data[at] + 1) * 4
    data[at + 4] = 37
    data[at + size - 4 : at + size] = zlib.crc32(data[at : at + size - 4]).to_bytes(4, "little")
    assert open_archive(io.BytesIO(bytes(data))) is None


@pytest.mark.parametrize("data", PACKED.values(), ids=PACKED)
def test_local_archives_of_every_compression_open(engine, data):
    """A35: ADD unpacks tars, compressed or not."""
    assert open_archive(io.BytesIO(data)).read() == TAR


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_compressed_files_that_hold_no_tar_are_no_archives(pack):
    """A35: a compressed something else is copied verbatim."""
    assert open_archive(io.BytesIO(pack(b"just text" * 100))) is None
    assert open_archive(io.BytesIO(pack(TAR)[:30])) is None


def test_a_tar_that_looks_compressed_is_a_tar_where_the_type_says_so():
    """A35: a first name of gzip's magic bytes does not confuse a plain layer."""
    data = member(b"\x1f\x8b\x08name") + bytes(1024)
    assert opened(data, LAYER) == data
    with pytest.raises(ArchiveError):
        opened(data, LAYER + "+gzip")


def test_wrong_media_types_do_not_matter():
    """R: registries hold layers whose type lies about the compression."""
    assert opened(PACKED["gzip"], LAYER) == TAR
    assert opened(TAR, LAYER + "+gzip") == TAR
    assert opened(PACKED["zstd"], LAYER + "+gzip") == TAR


@pytest.mark.parametrize("name", ["gzip", "zstd", "tar"])
def test_streams_read_into_buffers(name):
    """P: readinto and small reads give the same bytes."""
    stream = decompressed(io.BytesIO(PACKED[name]), LAYER)
    assert stream.readable()
    buffer = bytearray(100)
    found = bytearray()
    while count := stream.readinto(buffer):
        found += buffer[:count]
    assert bytes(found) == TAR
    stream = decompressed(io.BytesIO(PACKED[name]), LAYER)
    assert b"".join(iter(lambda: stream.read(7), b"")) == TAR


@given(st.binary(max_size=300), st.sampled_from(["gzip", "zstd"]), st.integers(0, 3000))
def test_damage_gives_archive_errors_only(noise, name, position):
    """A32: whatever is overwritten, the only failure is ours."""
    data = bytearray(PACKED[name])
    data[position : position + len(noise)] = noise
    try:
        opened(bytes(data))
    except ArchiveError as error:
        assert error.message  # noqa: PT017  success is fine too


@given(st.lists(st.binary(max_size=400), max_size=4), st.integers(1, 50))
def test_outlines_follow_any_division(contents, step):
    """A32: frame boundaries are found whatever the pieces."""
    data = b"".join(zstandard.compress(content) for content in contents)
    outline = FrameOutline()
    for start in range(0, len(data), step):
        outline.feed(data[start : start + step])
    assert outline.is_complete
    if data:
        outline.feed(b"\x28")
        assert not outline.is_complete
