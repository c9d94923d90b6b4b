"""The outline of a zstd stream: where frames begin and end.

Owns just enough of RFC 8878 to tell a finished stream from a truncated one and to see a frame's
window before a decoder does, because the decoder reports neither. It decodes nothing.
"""

from __future__ import annotations

from cache.errors import ArchiveError

MAX_WINDOW = 128 * 1024 * 1024  # bytes a decoder may have to keep for one frame
_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50
_SKIPPABLE_MASK = 0xFFFFFFF0
_ID_SIZES = (0, 1, 2, 4)
_CONTENT_SIZES = (0, 2, 4, 8)
_RLE = 1
_RESERVED = 3


class FrameOutline:
    """Follows a stream that is fed in pieces of any size."""

    __slots__ = ("_has_checksum", "_need", "_pending", "_skip", "_step")

    def __init__(self) -> None:
        """Begin before the first frame."""
        self._pending = b""
        self._need = 4  # bytes the next step looks at
        self._skip = 0  # bytes to pass over before it
        self._step = self._magic
        self._has_checksum = False

    @property
    def is_complete(self) -> bool:
        """Whether the stream may end here: between frames."""
        return self._step == self._magic and not self._skip and not self._pending

    def feed(self, data: bytes) -> None:
        """Follow the next bytes.

        Raises:
            ArchiveError: this is no zstd stream, or a frame needs too large a window.
        """
        at = 0
        total = len(data)
        while at < total:
            if self._skip:
                passed = min(self._skip, total - at)
                self._skip -= passed
                at += passed
                continue
            piece = data[at : at + self._need - len(self._pending)]
            at += len(piece)
            field = self._pending + piece
            if len(field) < self._need:
                self._pending = field
                return
            self._pending = b""
            self._step(field)

    def _magic(self, field: bytes) -> None:
        magic = int.from_bytes(field, "little")
        if magic == _MAGIC:
            self._step, self._need = self._descriptor, 1
        elif magic & _SKIPPABLE_MASK == _SKIPPABLE:
            self._step, self._need = self._skippable, 4
        else:
            raise ArchiveError("zstd data is followed by something else")

    def _skippable(self, field: bytes) -> None:
        self._skip = int.from_bytes(field, "little")
        self._step, self._need = self._magic, 4

    def _descriptor(self, field: bytes) -> None:
        flags = field[0]
        is_single = bool(flags & 0x20)
        self._has_checksum = bool(flags & 0x04)
        size_code = flags >> 6
        content = _CONTENT_SIZES[size_code] or is_single
        rest = _ID_SIZES[flags & 3] + content
        if is_single:
            # The window is the content, whose size the decoder checks against its own limit.
            self._skip = rest
            self._step, self._need = self._block, 3
        else:
            self._step, self._need = self._window, 1 + rest

    def _window(self, field: bytes) -> None:
        base = 1 << (10 + (field[0] >> 3))
        window = base + (base >> 3) * (field[0] & 7)
        if window > MAX_WINDOW:
            raise ArchiveError(
                f"zstd data needs a window of {window} bytes; the limit is {MAX_WINDOW}",
                hint="compress it again without --long or --ultra",
            )
        self._step, self._need = self._block, 3

    def _block(self, field: bytes) -> None:
        head = int.from_bytes(field, "little")
        kind = head >> 1 & 3
        if kind == _RESERVED:
            raise ArchiveError("zstd data is damaged: reserved block type")
        self._skip = 1 if kind == _RLE else head >> 3
        if head & 1:  # the last block
            self._skip += 4 if self._has_checksum else 0
            self._step, self._need = self._magic, 4
