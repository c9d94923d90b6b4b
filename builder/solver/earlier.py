"""The layer that a COPY wrote the last time: what did not change is taken from it, not read again.

Every byte taken is hashed and compared with the digest the file is known by, so that a damaged
or foreign layer costs time, never correctness. Must not know how layers are kept.
"""

from __future__ import annotations

import contextlib
import json

from cache.archive.entry import Kind, encode
from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING, BinaryIO, Protocol
from cache.spec import hashes
from cache.spec.digest import Digest, framed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from builder.context.memo import StatCache
    from builder.context.source import SourceTree
    from cache.archive.entry import Entry
    from frontend.graph import CopyOp

_TAG = "pybuild.earlier.v1"
_PIECE = 1 << 20  # bytes hashed at once


class KeptLayers(Protocol):
    """What is needed of a LayerStore."""

    def kept(self, diff_id: Digest, /) -> AbstractContextManager[tuple[Sequence[Entry], BinaryIO]]:
        """A layer's entries and its tar as it lies in the store, unverified.

        Raises:
            PybuildError: it is not there.
        """


class EarlierLayer:
    """Payloads by the path of their entry."""

    def __init__(self, entries: Sequence[Entry], tar: BinaryIO) -> None:
        """Read from `tar`, which stays the caller's to close."""
        self._files = {entry.path: entry for entry in entries if entry.kind is Kind.FILE}
        self._tar = tar

    def payload(self, entry: Entry, digest: bytes | None) -> bytes | None:
        """The bytes of a small file if this layer has them at the same path."""
        at = self._offset(entry, digest)
        if at is None:
            return None
        self._tar.seek(at)
        data = self._tar.read(entry.size)
        return data if hashes.sha256(data).digest() == digest else None

    def stream(self, entry: Entry, digest: bytes | None) -> BinaryIO | None:
        """The same for a file of any size: looked through first, then given as a stream."""
        at = self._offset(entry, digest)
        if at is None:
            return None
        self._tar.seek(at)
        state, left = hashes.sha256(), entry.size
        while left and (piece := self._tar.read(min(left, _PIECE))):
            state.update(piece)
            left -= len(piece)
        if left or state.digest() != digest:
            return None
        self._tar.seek(at)
        return self._tar

    def _offset(self, entry: Entry, digest: bytes | None) -> int | None:
        known = self._files.get(entry.path)
        if digest is None or known is None or known.size != entry.size or known.offset < 0:
            return None
        return known.offset


class EarlierLayers:
    """Finds and remembers what each COPY wrote."""

    def __init__(self, layers: KeptLayers, memo: StatCache) -> None:
        """Remember diff_ids in `memo`."""
        self._layers = layers
        self._memo = memo

    def key(self, op: CopyOp, sources: Mapping[int, SourceTree]) -> bytes | None:
        """Name a COPY from build to build by its places; None if nothing it reads can change."""
        places = [tree.place for _, tree in sorted(sources.items())]
        if not any(places):
            return None
        texts = [op.dest, json.dumps([repr(source) for source in op.sources]), *places]
        return bytes.fromhex(framed(_TAG, map(encode, texts)).hex)

    @contextlib.contextmanager
    def opened(self, key: bytes | None) -> Iterator[EarlierLayer | None]:
        """Open what a COPY wrote the last time; None when that is unknown or gone."""
        known = self._memo.selection(key) if key is not None else None
        if known is None:
            yield None
            return
        with contextlib.ExitStack() as stack:
            earlier = None
            with contextlib.suppress(PybuildError, OSError):
                digest = Digest("sha256", known.hex())
                entries, tar = stack.enter_context(self._layers.kept(digest))
                earlier = EarlierLayer(entries, tar)
            yield earlier

    def remember(self, key: bytes | None, diff_id: Digest) -> None:
        """Note what a COPY wrote."""
        if key is not None:
            self._memo.put_selection(key, bytes.fromhex(diff_id.hex))
