"""Blobs on their way into a store: several at once, each only once, readable while they come.

Owns the threads that fetch. It must not know what blobs hold or where they come from.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING

from cache.errors import PybuildError, SizeMismatchError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cache.content import ContentProvider
    from cache.localstore import BlobWriter, LocalStore
    from cache.spec.oci import Descriptor

    Progress = Callable[[str, int, int], None]
    Key = tuple[str, int]

_AT_ONCE = 3  # transfers side by side, as many as docker and BuildKit have
_PIECE = 256 * 1024  # bytes taken at once
_REPORT = 0.1  # seconds between reports to one who waits
_PATIENCE = 2.0  # seconds given to a transfer that is to stop


class Arrival:
    """A blob being fetched: what has come of it can be read, and its end be waited for."""

    def __init__(self, blob: Descriptor) -> None:
        """Nothing has come yet."""
        self.blob = blob
        self._news = threading.Condition()
        self._fd = -1
        self._size = 0
        self._is_done = False
        self._error: BaseException | None = None

    def report(self, progress: Progress) -> None:
        """Say how much has come."""
        progress(str(self.blob.digest), self._size, self.blob.size)

    def wait(self, progress: Progress) -> None:
        """Return when the blob is stored.

        Raises:
            PybuildError: it could not be fetched, or is another than was asked for.
        """
        while True:
            with self._news:
                if not self._is_done:
                    self._news.wait(_REPORT)
                is_done = self._is_done
            self.report(progress)
            if is_done:
                break
        if self._error is not None:
            raise self._error

    def read(self, offset: int, limit: int) -> bytes:
        """Bytes from an offset on as soon as there are some; none at the end of a stored blob.

        Raises:
            PybuildError: as `wait`.
        """
        with self._news:
            while self._size <= offset and not self._is_done:
                self._news.wait()
            if self._error is not None:
                raise self._error
            count = min(limit, self._size - offset)
        return os.pread(self._fd, count, offset) if count > 0 else b""

    def take_from(self, stream_fd: int) -> None:
        """Own a descriptor of the growing file."""
        self._fd = stream_fd

    def grow(self, count: int) -> None:
        """More bytes are in the file."""
        with self._news:
            self._size += count
            self._news.notify_all()

    def end(self, error: BaseException | None) -> None:
        """All is stored, or nothing will be."""
        with self._news:
            self._error = error
            self._is_done = True
            self._news.notify_all()

    def __del__(self) -> None:
        """Close the file when the last reader is gone."""
        if self._fd >= 0:
            os.close(self._fd)


class ArrivalReader:
    """A blob's bytes from its beginning, while it arrives or after."""

    def __init__(self, arrival: Arrival) -> None:
        """Begin at its first byte."""
        self._arrival = arrival
        self._offset = 0

    def read(self, size: int = _PIECE, /) -> bytes:
        """Some bytes; none at the end, and then the blob is verified and stored."""
        data = self._arrival.read(self._offset, size)
        self._offset += len(data)
        return data


class Arrivals:
    """Fetches from `remote` into a store; safe for threads."""

    def __init__(self, store: LocalStore, remote: ContentProvider) -> None:
        """Start nothing."""
        self._store = store
        self._remote = remote
        self._lock = threading.Lock()
        self._coming: dict[Key, Arrival] = {}
        self._queued: deque[Arrival] = deque()
        self._threads: list[threading.Thread] = []
        self._working = 0
        self._stopped = False

    def begin(self, blobs: Iterable[Descriptor]) -> None:
        """Fetch what the store lacks, in this order, and do not wait."""
        with self._lock:
            for blob in blobs:
                self._begin(blob)

    def get(self, blob: Descriptor) -> Arrival | None:
        """The arrival of a blob, begun if need be; None when the blob is stored."""
        with self._lock:
            return self._begin(blob)

    def _begin(self, blob: Descriptor) -> Arrival | None:
        key = _key(blob)
        if key in self._coming:
            return self._coming[key]
        if self._store.size(blob.digest) == blob.size:
            return None
        arrival = self._coming[key] = Arrival(blob)
        self._queued.append(arrival)
        if self._working < _AT_ONCE:
            self._working += 1
            thread = threading.Thread(target=self._work, name="fetch", daemon=True)
            self._threads.append(thread)
            thread.start()
        return arrival

    def close(self) -> None:
        """Stop fetching; what is not complete is dropped."""
        self._stopped = True
        for thread in self._threads:
            thread.join(_PATIENCE)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queued:
                    self._working -= 1
                    return
                arrival = self._queued.popleft()
            error: BaseException | None = None
            try:
                self._fetch(arrival)
            except (OSError, MemoryError, PybuildError) as caught:
                error = caught
            except BaseException as caught:
                error = caught
                raise
            finally:
                with self._lock:
                    del self._coming[_key(arrival.blob)]
                arrival.end(error)

    def _fetch(self, arrival: Arrival) -> None:
        self._check()
        with self._remote.open(arrival.blob) as stream, self._store.writer() as writer:
            arrival.take_from(writer.reader())
            while data := stream.read(_PIECE):
                self._check()
                writer.write(data)
                writer.flush()
                arrival.grow(len(data))
            _commit(writer, arrival.blob)

    def _check(self) -> None:
        if self._stopped:
            raise StoreError("the download was stopped")


def _commit(writer: BlobWriter, blob: Descriptor) -> None:
    stored = writer.commit(blob.media_type, blob.digest)
    if stored.size != blob.size:
        msg = f"blob {blob.digest} has {stored.size} bytes, {blob.size} announced"
        raise SizeMismatchError(msg)


def _key(blob: Descriptor) -> Key:
    return str(blob.digest), blob.size
