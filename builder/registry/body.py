"""Blobs as streams: verified at their end, resumed where a connection broke.

Owns the reading side of a transfer. How a part of a blob is requested is handed in.
"""

from __future__ import annotations

import io
import re

from builder.errors import RegistryError
from builder.registry.retry import TemporaryError
from cache.errors import DigestMismatchError, SizeMismatchError
from cache.hints import TYPE_CHECKING, BinaryIO, Protocol, cast
from cache.spec import hashes

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

    from builder.registry.reply import Reply
    from builder.registry.retry import Retry
    from cache.spec.oci import Descriptor

_STEP = 256 * 1024
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(?:([0-9]{1,18})|\*)\Z")
_MAX_RESUMES = 50  # broken connections that one blob survives, each after some progress
_PARTIAL = 206
_UNSATISFIABLE = 416


class Part(Protocol):
    """A request for a blob from an offset on; the reply's status is 200, 206 or 416."""

    def __call__(self, offset: int, /) -> Reply:
        """Send it."""


class ResumingBody:
    """The bytes of a blob over as many connections as it takes."""

    def __init__(self, descriptor: Descriptor, part: Part, retry: Retry) -> None:
        """Send the first request, so that a refusal shows at once."""
        self._descriptor = descriptor
        self._part = part
        self._retry = retry
        self._offset = 0
        self._failures = 0
        self._resumes = 0
        self._reply: Reply | None = self._request(0)

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes as they come; empty only at the blob's end.

        Raises:
            RegistryError: broken once too often.
        """
        while True:
            try:
                if self._reply is None:
                    self._reply = self._request(self._offset)
                data = self._reply.read(size)
                if not data and self._offset < self._descriptor.size:
                    raise TemporaryError(self._short())
            except RegistryError as error:
                self._broken(error)
                continue
            self._offset += len(data)
            self._failures = 0 if data else self._failures
            return data

    def close(self) -> None:
        """End the connection."""
        if self._reply is not None:
            self._reply.close()
            self._reply = None

    def _broken(self, error: RegistryError) -> None:
        self.close()
        self._resumes += 1
        if self._resumes > _MAX_RESUMES:
            raise error
        self._retry.pause(self._failures, error)
        self._failures += 1

    def _short(self) -> str:
        return f"blob {self._descriptor.digest} ended at byte {self._offset}"

    def _request(self, offset: int) -> Reply:
        reply = self._part(offset)
        try:
            if offset and reply.status == _PARTIAL and self._fits(reply, offset):
                return reply
            if offset and reply.status in {_PARTIAL, _UNSATISFIABLE}:
                reply.close()
                reply = self._part(0)
            self._check_length(reply)
            _discard(reply, offset)
        except BaseException:
            reply.close()
            raise
        return reply

    def _fits(self, reply: Reply, offset: int) -> bool:
        match = _CONTENT_RANGE.match(reply.header("Content-Range"))
        size = self._descriptor.size
        return (
            match is not None
            and (int(match[1]), int(match[2])) == (offset, size - 1)
            and match[3] in {None, str(size)}
        )

    def _check_length(self, reply: Reply) -> None:
        if reply.status in {_PARTIAL, _UNSATISFIABLE}:
            msg = (
                f"blob {self._descriptor.digest}: status {reply.status} to a request without range"
            )
            raise RegistryError(msg, status=reply.status)
        if reply.length is not None and reply.length != self._descriptor.size:
            msg = (
                f"blob {self._descriptor.digest} has {reply.length} bytes, "
                f"{self._descriptor.size} announced"
            )
            raise SizeMismatchError(msg)


def _discard(reply: Reply, count: int) -> None:
    while count:
        data = reply.read(min(count, _STEP))
        if not data:
            msg = f"{reply.location.origin.authority}: body ended too early"
            raise TemporaryError(msg)
        count -= len(data)


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class VerifiedReader(io.RawIOBase):
    """A stream that lets its last byte out only after size and digest were found right."""

    def __init__(
        self, source: _Source, descriptor: Descriptor, seen: Callable[[int], None] | None = None
    ) -> None:
        """Own the source; `seen` is told the count of bytes after each read."""
        self._source = source
        self._descriptor = descriptor
        self._state = hashes.new(descriptor.digest.algorithm)
        self._count = 0
        self._checked = False
        self._seen = seen

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer with what has come.

        Raises:
            DigestMismatchError: the whole has another digest.
            SizeMismatchError: there is more or less than announced.
        """
        view = memoryview(buffer).cast("B")
        if self._checked or not len(view):
            return 0
        left = self._descriptor.size - self._count
        data = self._source.read(min(len(view), left)) if left else b""
        if left and not data:
            msg = f"blob {self._descriptor.digest} has {self._count} bytes, {left} are missing"
            raise SizeMismatchError(msg)
        self._state.update(data)
        self._count += len(data)
        if self._count == self._descriptor.size:
            self._check()
        if self._seen is not None:
            self._seen(self._count)
        view[: len(data)] = data
        return len(data)

    def _check(self) -> None:
        if self._source.read(1):
            msg = f"blob {self._descriptor.digest} is longer than {self._descriptor.size} bytes"
            raise SizeMismatchError(msg)
        if self._state.hexdigest() != self._descriptor.digest.hex:
            msg = f"blob {self._descriptor.digest} has the digest {self._state.hexdigest()}"
            raise DigestMismatchError(msg, hint="the registry or something before it is broken")
        self._checked = True

    def close(self) -> None:
        """Close the source too; idempotent."""
        if not self.closed:
            self._source.close()
        super().close()


def buffered(reader: VerifiedReader) -> BinaryIO:
    """Give a verified stream the whole file interface."""
    return cast("BinaryIO", io.BufferedReader(reader, _STEP))
