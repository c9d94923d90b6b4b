"""Compressing a layer while it is being written: another thread, and no second reading.

Knows bytes and media types. Whether anybody will want the result is its caller's guess; a wrong
or failed one costs time only.
"""

from __future__ import annotations

import queue
import threading

from cache.errors import PybuildError, StoreError
from cache.hints import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache.archive.writer import Sink
    from cache.localstore import BlobWriter, LocalStore
    from cache.spec.oci import Descriptor

    Follow = Callable[[Callable[[], int]], "Follower | None"]

_PIECES = 8  # of about a mebibyte that may wait to be compressed


class Follower(Protocol):
    """Who reads a blob while it is written, and is told how far it is."""

    def grown(self, size: int, /) -> None:
        """So many bytes can be read."""

    def ended(self, descriptor: Descriptor, /) -> None:
        """That was all."""

    def dropped(self) -> None:
        """No more will come; after `ended` without meaning."""


class Ahead:
    """A blob in the making: write, end, then ask for its descriptor; or drop it."""

    def __init__(self, store: LocalStore, media_type: str, follow: Follow | None = None) -> None:
        """Start the thread; `follow` is asked who wants to read along."""
        self.media_type = media_type
        self._follow: Follow = follow or _nobody
        self._store = store
        self._queue: queue.Queue[bytes | None] = queue.Queue(_PIECES)
        self._made: Descriptor | None = None
        self._failure: OSError | PybuildError | MemoryError | None = None
        self._ended = False
        self._dropped = False
        self._drained = False
        self._thread = threading.Thread(target=self._run, name="compress", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Take more of the layer; waits while much is waiting."""
        self._queue.put(data)

    def end(self) -> None:
        """Say that all was written; idempotent."""
        if not self._ended:
            self._ended = True
            self._queue.put(None)

    def drop(self) -> None:
        """Forget what is not finished, and wait for the thread; idempotent."""
        self._dropped = True
        self.end()
        self._thread.join()

    def result(self) -> Descriptor | None:
        """Wait for the compressed blob; None if it did not come about."""
        self._thread.join()
        return self._made

    def made(self) -> Descriptor:
        """Wait for the compressed blob, which must come about.

        Raises:
            PybuildError: what went wrong instead.
        """
        self._thread.join()
        if self._made is None:
            raise self._failure or StoreError("nothing was compressed")
        return self._made

    def _run(self) -> None:
        try:
            with self._store.writer() as blob:
                self._compress(blob)
        except (OSError, PybuildError, MemoryError) as error:
            # Who can do without makes the blob again if need be, and hears of it then.
            self._failure = error
            while not self._drained:
                self._next()

    def _next(self) -> bytes | None:
        piece = self._queue.get()
        self._drained = piece is None
        return piece

    def _compress(self, blob: BlobWriter) -> None:
        from cache import compress  # noqa: PLC0415 - a cached build compresses nothing

        follower = self._follow(blob.reader)
        ended = False
        try:
            sink = compress.compressor(self.media_type, blob)
            while (piece := self._next()) is not None:
                if not self._dropped:
                    sink.write(piece)
                    if follower is not None:
                        blob.flush()
                        follower.grown(blob.size)
            if self._dropped:
                return
            sink.finish()
            if follower is not None:
                follower.ended(blob.described(self.media_type))
                ended = True
            self._made = blob.commit(self.media_type)
        finally:
            if follower is not None and not ended:
                follower.dropped()


def _nobody(_reader: Callable[[], int]) -> Follower | None:
    """Nobody reads along."""
    return None


class Tee:
    """A sink that passes on to what takes a layer and to what is made of it beside."""

    __slots__ = ("_ahead", "_blob")

    def __init__(self, blob: Sink, ahead: Ahead) -> None:
        """Write to both."""
        self._blob = blob
        self._ahead = ahead

    def write(self, data: bytes | memoryview, /) -> None:
        """Take all of the bytes."""
        self._ahead.write(bytes(data))
        self._blob.write(data)
