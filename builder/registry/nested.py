"""TLS inside TLS: an https origin behind a proxy that is itself spoken to in https.

Owns the shuffling of records between the two. Python's TLS sockets want a plain socket below
them, hence this one.
"""

from __future__ import annotations

import ssl
import time

from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from builder.registry.connection import Channel

    T = TypeVar("T")

_STEP = 64 * 1024  # bytes received at once; a record has at most 16 KiB


class NestedTLS:
    """A channel under TLS over any other channel."""

    def __init__(self, outer: Channel, context: ssl.SSLContext, host: str, seconds: float) -> None:
        """Shake hands within `seconds`; owns `outer` from then on.

        Raises:
            OSError: TLS failed, or the outer channel.
        """
        self._outer = outer
        self._seconds = seconds
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._run(self._tls.do_handshake)

    def recv(self, size: int) -> bytes:
        """Receive some bytes; none at the end."""
        try:
            return self._run(lambda: self._tls.read(size))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        view = memoryview(data)
        while view:
            piece = view[:_STEP]
            count = self._run(lambda piece=piece: self._tls.write(piece))  # type: ignore[misc]
            view = view[count:]

    def settimeout(self, seconds: float) -> None:
        """Bound each call, and each wait of the outer channel."""
        self._seconds = seconds
        self._outer.settimeout(seconds)

    def pending(self) -> int:
        """Bytes that came and were not received yet, as those of a TLS socket."""
        outer: int = getattr(self._outer, "pending", int)()
        return self._tls.pending() + self._incoming.pending + outer

    def fileno(self) -> int:
        """The outer channel's."""
        return self._outer.fileno()

    def close(self) -> None:
        """Close the outer channel."""
        self._outer.close()

    def _run(self, action: Callable[[], T]) -> T:
        """Do it, moving records both ways until it is done, if that comes within our time.

        A record that drips in, byte by byte, never makes the outer channel wait for long.
        """
        end = time.monotonic() + self._seconds
        while True:
            try:
                result = action()
            except ssl.SSLWantReadError:
                self._flush()
                if time.monotonic() > end:
                    msg = "a TLS record comes too slowly"
                    raise TimeoutError(msg) from None
                data = self._outer.recv(_STEP)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._outer.sendall(data)
