"""Connections whose replies are bounded in time and size below the HTTP parser.

Owns the pacing of a socket and the urllib3 classes that use it. This is the one module that
imports urllib3 at its top; import it only when a request is about to be made.
"""

from __future__ import annotations

import http.client
import io
import time
from typing import TYPE_CHECKING, Any, cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from _typeshed import WriteableBuffer

_GRACE = 60.0  # seconds a peer may keep us waiting in all, whatever it sent
_SLOWEST = 1024.0  # bytes that buy one further second
_MAX_LINES = 1000  # header, 1xx and trailer lines in a row


class _PacedSocket(io.RawIOBase):
    """Raw bytes of one reply; time spent waiting must be earned by bytes received."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self._waited = 0.0
        self._received = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        start = time.monotonic()
        count: int | None = cast("Any", self._raw).readinto(buffer)
        self._waited += time.monotonic() - start
        self._received += count or 0
        if self._waited > _GRACE + self._received / _SLOWEST:
            msg = "the reply comes too slowly"
            raise TimeoutError(msg)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _CountedLines(io.BufferedReader):
    """A buffered reader that refuses endless lines: 1xx floods, trailers, empty chunks."""

    _lines = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        self._lines += 1
        if self._lines > _MAX_LINES:
            msg = "too many header lines"
            raise http.client.HTTPException(msg)
        return super().readline(size)

    def read(self, size: int | None = -1, /) -> bytes:
        self._lines = 0
        return super().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        self._lines = 0
        return super().read1(size)


class BoundedResponse(http.client.HTTPResponse):
    """A reply read through the bounds above."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        """Replace the reader the base class made by a bounded one."""
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()
        self.fp = cast("Any", _CountedLines(_PacedSocket(raw)))


class PlainConnection(HTTPConnection):
    """An http connection with bounded replies."""

    response_class: Any = BoundedResponse


class SecureConnection(HTTPSConnection):
    """An https connection with bounded replies."""

    response_class: Any = BoundedResponse


class PlainPool(HTTPConnectionPool):
    """Connections to one http origin."""

    ConnectionCls: Any = PlainConnection


class SecurePool(HTTPSConnectionPool):
    """Connections to one https origin."""

    def _validate_conn(self, conn: Any) -> None:
        # urllib3 would warn of every request to a host the user said need not be verified.
        if conn.is_closed:
            conn.connect()

    ConnectionCls: Any = SecureConnection


POOLS: Mapping[str, Any] = {"http": PlainPool, "https": SecurePool}
