"""A stream read by a thread of its own, so that who makes the bytes and who takes them both work.

Owns the thread and a bounded queue. It must not know what the bytes are.
"""

from __future__ import annotations

import io
import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import WriteableBuffer

_PIECES = 16  # pieces that may wait; a layer's are of 256 KiB


def _unwatched() -> None:
    """Nobody looks."""


class ReadAhead(io.RawIOBase):
    """The bytes of an iterator of pieces; what goes wrong there is raised when it is reached."""

    def __init__(self, pieces: Iterator[bytes], watched: Callable[[], None] = _unwatched) -> None:
        """Start; `watched` is called by the reader's thread for every piece it takes."""
        super().__init__()
        self._pieces = pieces
        self._watched = watched
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_PIECES)
        self._data = b""
        self._end: BaseException | None = None
        self._is_ended = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)
        self._thread.start()

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes, at most `size`, none at the end; all that is left for a negative size."""
        if size is None or size < 0:
            return self.readall()
        data = self._data or self._next()
        if len(data) <= size:
            self._data = b""
            return data
        self._data = data[size:]
        return data[:size]

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Some bytes into a buffer."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Stop the thread and wait for it; idempotent."""
        if not self.closed:
            self._stopped = True
            while not self._is_ended:
                self._take()
            self._thread.join()
        super().close()

    def _next(self) -> bytes:
        data = b"" if self._is_ended else self._take()
        self._watched()
        if self._end is not None:
            raise self._end
        return data

    def _take(self) -> bytes:
        """The next piece; empty at the end, good or bad."""
        found = self._queue.get()
        if isinstance(found, BaseException):
            self._end, found = found, b""
        self._is_ended = not found
        return found

    def _run(self) -> None:
        last: bytes | BaseException = b""
        try:
            for piece in self._pieces:
                if self._stopped:
                    break
                if piece:
                    self._queue.put(piece)
        except BaseException as error:  # noqa: BLE001 - the reader is to hear of whatever it is
            last = error
        self._queue.put(last)
