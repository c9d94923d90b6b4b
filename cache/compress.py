"""Compressed streams: told apart by their first bytes, read and written in bounded memory.

Owns the formats layers and local archives come in. Decoders are held to limits, check what the
format lets them check, and never run another program. It must not know of tar beyond
recognising a header, nor of stores.
"""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from cache.archive.header import BLOCK, is_header
from cache.archive.zstd_frames import MAX_WINDOW, FrameOutline
from cache.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

    from cache.archive.writer import Sink

HEAD = BLOCK  # bytes `sniff` wants to see
_CHUNK = 64 * 1024  # compressed bytes read at once
_FEED = 256 * 1024  # bytes an encoder gets at once
_OUTPUT = 256 * 1024  # most bytes a decoder gives at once
_MEMORY = 128 * 1024 * 1024  # bytes an xz decoder may take
_GZIP = 31  # zlib's window bits for a gzip container
_QUICK = 2  # isal's level of 0 to 3 that we use
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # follows a byte 0x50 to 0x5f
_MAGICS = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (_ZSTD_MAGIC, "zstd"),
)


class Compressor(Protocol):
    """Compresses onto a sink; equal input gives equal bytes however it is divided."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Compress more bytes."""

    def finish(self) -> None:
        """Write what is left; the sink stays open."""


def sniff(head: bytes) -> str:
    """Name what begins with these bytes: gzip, bzip2, xz, zstd, tar, or "" for anything else."""
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    if head[1:4] == _SKIPPABLE and head[0] & 0xF0 == 0x50:  # noqa: PLR2004  zstd's skippable frames
        return "zstd"
    return "tar" if is_header(head[:BLOCK]) else ""


def decompressed(stream: BinaryIO, media_type: str) -> BinaryIO:
    """A layer blob as the plain stream inside, told by its first bytes.

    The media type decides only where the bytes are ambiguous: a tar that looks compressed.
    Reading to the end of the result reads the blob to its end.

    Raises:
        ArchiveError: not at once, but when damaged or truncated data is read.
    """
    head = _read_head(stream)
    found = sniff(head)
    if is_header(head) and "gzip" not in media_type and "zstd" not in media_type:
        found = "tar"
    if found not in {"gzip", "zstd"}:  # registries hold no other compression
        return _stream(_Prefixed(head, stream))
    return _stream(_decoder(found, _Prefixed(head, stream)))


def open_archive(stream: BinaryIO) -> BinaryIO | None:
    """A local file as the tar stream inside, whatever its compression; None if it is no tar.

    The stream was read from either way, so copy the file verbatim from a fresh one.
    """
    head = _read_head(stream)
    found = sniff(head)
    plain: _Plain = _Prefixed(head, stream)
    if found in {"", "tar"}:
        return _stream(plain) if found else None
    decoder = _decoder(found, plain)
    try:
        inner = _exactly(decoder.read, BLOCK)
    except ArchiveError:
        return None
    return _stream(_Prefixed(inner, decoder)) if is_header(inner) else None


def compressor(
    media_type: str, sink: Sink, level: int | None = None, *, portable: bool = False
) -> Compressor:
    """A compressor for a layer media type.

    Deterministic for one machine type; `portable` asks for zlib, which is slower and gives the
    same gzip bytes where isal is not to be had.
    """
    if media_type.endswith("gzip"):
        return _Encoded(sink, _deflate(level, portable=portable))
    if media_type.endswith("zstd"):
        return _Encoded(sink, _zstd_encoder(3 if level is None else level))
    return _Verbatim(sink)


class _Plain(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


def _stream(reader: _Plain) -> BinaryIO:
    return cast("BinaryIO", reader)


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    """`count` bytes; fewer at the end of the stream."""
    pieces: list[bytes] = []
    while count and (data := read(count)):
        pieces.append(data)
        count -= len(data)
    return b"".join(pieces)


def _read_head(stream: BinaryIO) -> bytes:
    return _exactly(stream.read, HEAD)


class _Readable(io.RawIOBase):
    """What streams need besides `_piece`, which gives some bytes, or none at the end."""

    def readable(self) -> bool:
        return True

    def _piece(self, limit: int) -> bytes:
        raise NotImplementedError

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes, at most `size`; everything when it is negative."""
        if size is not None and size >= 0:
            return self._piece(size) if size else b""
        pieces: list[bytes] = []
        while data := self._piece(_OUTPUT):
            pieces.append(data)
        return b"".join(pieces)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._piece(len(view))
        view[: len(data)] = data
        return len(data)


class _Prefixed(_Readable):
    """Bytes already read, then the stream they came from."""

    def __init__(self, head: bytes, rest: _Plain) -> None:
        self._head = head
        self._rest = rest

    def _piece(self, limit: int) -> bytes:
        if not self._head:
            return self._rest.read(limit) or b""
        data = self._head[:limit]
        self._head = self._head[len(data) :]
        return data


class _Engine(Protocol):
    """One member of a compressed stream being decoded."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class _Members(_Readable):
    """A stream of one or more members, each decoded by a fresh engine."""

    def __init__(
        self, name: str, source: _Plain, begin: Callable[[], _Engine], failures: tuple[type, ...]
    ) -> None:
        self._name = name
        self._source = source
        self._begin = begin
        self._failures = failures
        self._engine: _Engine | None = begin()
        self._input = b""

    def _piece(self, limit: int) -> bytes:
        while self._engine is not None:
            engine = self._engine
            if engine.eof:
                self._next_member(engine.unused_data)
                continue
            if not self._input and _wants_input(engine):
                self._input = self._source.read(_CHUNK)
                is_last = not self._input
            else:
                is_last = False
            data = self._decode(engine, min(limit, _OUTPUT))
            if data:
                return data
            if is_last and not engine.eof:
                raise ArchiveError(
                    f"{self._name} data is truncated", hint="the file or download is incomplete"
                )
        return b""

    def _decode(self, engine: _Engine, limit: int) -> bytes:
        try:
            data = engine.decompress(self._input, limit)
        except Exception as error:
            if isinstance(error, self._failures):
                raise ArchiveError(f"{self._name} data is damaged: {error}") from error
            raise
        # zlib hands back what it did not take; the others keep it themselves
        self._input = getattr(engine, "unconsumed_tail", b"")
        return data

    def _next_member(self, rest: bytes) -> None:
        """Begin the next member, or end the stream; zeros may pad it."""
        while not rest.strip(b"\0"):
            rest = self._source.read(_CHUNK)
            if not rest:
                self._engine = None
                return
        self._input = rest
        self._engine = self._begin()


def _wants_input(engine: _Engine) -> bool:
    return bool(getattr(engine, "needs_input", True))


class _Zstd(_Readable):
    """All frames of a zstd stream, told apart from a truncated one."""

    def __init__(self, source: _Plain) -> None:
        import zstandard  # noqa: PLC0415  costs start-up time

        self._source = source
        self._outline = FrameOutline()
        self._failure = zstandard.ZstdError
        decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._reader = decoder.stream_reader(
            cast("BinaryIO", _Watched(source, self._outline)),
            read_size=_CHUNK,
            read_across_frames=True,
        )

    def _piece(self, limit: int) -> bytes:
        try:
            data = self._reader.read(min(limit, _OUTPUT))
        except self._failure as error:
            raise ArchiveError(f"zstd data is damaged: {error}") from error
        if not data and not self._outline.is_complete:
            raise ArchiveError("zstd data is truncated", hint="the file or download is incomplete")
        return data


class _Watched:
    """A stream whose bytes an outline follows."""

    __slots__ = ("_outline", "_source")

    def __init__(self, source: _Plain, outline: FrameOutline) -> None:
        self._source = source
        self._outline = outline

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._outline.feed(data)
        return data


def _decoder(name: str, source: _Plain) -> _Readable:
    if name == "zstd":
        return _Zstd(source)
    if name == "bzip2":
        import bz2  # noqa: PLC0415  rare

        return _Members(name, source, bz2.BZ2Decompressor, (OSError, ValueError))
    if name == "xz":
        import lzma  # noqa: PLC0415  rare

        return _Members(
            name,
            source,
            lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY),
            (lzma.LZMAError, ValueError),
        )
    begin, failure = _inflate()
    return _Members(name, source, begin, (failure, zlib.error, ValueError))


def _inflate() -> tuple[Callable[[], _Engine], type[Exception]]:
    try:
        from isal import isal_zlib  # noqa: PLC0415  costs start-up time
    except ImportError:
        return lambda: zlib.decompressobj(_GZIP), zlib.error
    failure = cast("type[Exception]", isal_zlib.error)
    return lambda: cast("_Engine", isal_zlib.decompressobj(_GZIP)), failure


class _Encoder(Protocol):
    def compress(self, data: bytes | memoryview, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Encoded:
    """An encoder writing to a sink, fed in pieces of one size: isal's output depends on it."""

    __slots__ = ("_encoder", "_held", "_sink")

    def __init__(self, sink: Sink, encoder: _Encoder) -> None:
        self._sink = sink
        self._encoder = encoder
        self._held = bytearray()

    def write(self, data: bytes | memoryview, /) -> None:
        """Compress more bytes."""
        view = memoryview(data)
        if self._held:
            fits = _FEED - len(self._held)
            self._held += view[:fits]
            view = view[fits:]
            if len(self._held) < _FEED:
                return
            self._emit(bytes(self._held))
            self._held.clear()
        while len(view) >= _FEED:
            self._emit(view[:_FEED])
            view = view[_FEED:]
        self._held += view

    def finish(self) -> None:
        """Write what is left."""
        self._emit(bytes(self._held))
        self._held.clear()
        self._sink.write(self._encoder.flush())

    def _emit(self, data: bytes | memoryview) -> None:
        if out := self._encoder.compress(data):
            self._sink.write(out)


class _Verbatim:
    """No compression."""

    __slots__ = ("_sink",)

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, data: bytes | memoryview, /) -> None:
        """Pass bytes on."""
        self._sink.write(data)

    def finish(self) -> None:
        """Do nothing."""


def _deflate(level: int | None, *, portable: bool) -> _Encoder:
    """A gzip encoder; neither library writes a name or a time into the header.

    A level that was asked for has zlib's meaning; isal knows its own four only.
    """
    if not portable and level is None:
        try:
            from isal import isal_zlib  # noqa: PLC0415  costs start-up time
        except ImportError:
            pass
        else:
            return cast("_Encoder", isal_zlib.compressobj(_QUICK, zlib.DEFLATED, _GZIP))
    return zlib.compressobj(6 if level is None else level, zlib.DEFLATED, _GZIP)


def _zstd_encoder(level: int) -> _Encoder:
    import zstandard  # noqa: PLC0415  costs start-up time

    # The output depends on whether there are worker threads, not on how many or how fast.
    encoder = zstandard.ZstdCompressor(level, threads=2, write_checksum=True)
    return encoder.compressobj()
