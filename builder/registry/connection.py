"""One connection: a request out, a reply in, bounded in time and size; then the next one.

Owns the buffer, the pacing and the reading of bodies. How the connection came about is dial's,
what the bytes mean is wire's.
"""

from __future__ import annotations

import select
import time
from contextlib import suppress

from builder.registry import wire
from builder.registry.wire import CHUNKED, TO_THE_END, Head, ProtocolError
from cache.hints import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_GRACE = 60.0  # seconds a peer may keep us waiting in all, whatever it sent
_SLOWEST = 1024.0  # bytes that buy one further second
_STEP = 16 * 1024  # bytes asked for where a line is expected


class Channel(Protocol):
    """What bytes go through: a socket, or TLS over one."""

    def recv(self, size: int, /) -> bytes:
        """Receive some bytes; none at the end."""

    def sendall(self, data: bytes, /) -> None:
        """Send all of it."""

    def settimeout(self, seconds: float, /) -> None:
        """Bound each of the two."""

    def fileno(self) -> int:
        """The descriptor to wait on."""

    def close(self) -> None:
        """End it."""


class Source:
    """The bytes a peer sends; time spent waiting for them must be earned by bytes received."""

    def __init__(self, channel: Channel) -> None:
        """Read from a channel."""
        self._channel = channel
        self._waited = 0.0
        self._received = 0
        self.buffer = b""

    def begin(self) -> None:
        """A new reply with a new allowance of time."""
        self._waited, self._received = 0.0, 0

    def some(self, size: int) -> bytes:
        """What is there, up to `size` bytes; waits for at least one, none at the end.

        Raises:
            TimeoutError: the peer is silent or too slow.
        """
        if self.buffer:
            data, self.buffer = self.buffer[:size], self.buffer[size:]
            return data
        return self._receive(size)

    def line(self, limit: int) -> bytes:
        """One line without its end.

        Raises:
            ProtocolError: longer than `limit`, with a stray line end in it, or cut off.
            TimeoutError: the peer is silent or too slow.
        """
        while (end := self.buffer.find(b"\n", 0, limit + 2)) < 0:
            if len(self.buffer) > limit + 1:
                msg = f"a line of the reply is longer than {limit} bytes"
                raise ProtocolError(msg)
            data = self._receive(_STEP)
            if not data:
                msg = "the connection was closed before the reply was whole"
                raise ProtocolError(msg)
            self.buffer += data
        found, self.buffer = self.buffer[:end].removesuffix(b"\r"), self.buffer[end + 1 :]
        return found

    def _receive(self, size: int) -> bytes:
        start = time.monotonic()
        data = self._channel.recv(size)
        self._waited += time.monotonic() - start
        self._received += len(data)
        if self._waited > _GRACE + self._received / _SLOWEST:
            msg = "the reply comes too slowly"
            raise TimeoutError(msg)
        return data


class Connection:
    """A connection to an origin or a proxy; one exchange at a time."""

    def __init__(self, channel: Channel, idle_timeout: float) -> None:
        """Own the channel."""
        channel.settimeout(idle_timeout)
        self._channel = channel
        self._source = Source(channel)

    @property
    def fit(self) -> bool:
        """Whether another request may be sent: open, and nothing came that nobody asked for."""
        # TLS may have taken more off the socket than was received.
        if self._source.buffer or getattr(self._channel, "pending", int)():
            return False
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        return not poll.poll(0)

    def exchange(
        self,
        method: str,
        target: str,
        fields: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        done: Callable[[Connection], None],
    ) -> Incoming:
        """Send a request and read the head of its reply; `done` gets the connection back.

        A body given in pieces is sent as it is under a Content-Length of the caller's, else in
        chunks. The connection is closed when anything fails.

        Raises:
            ProtocolError: the reply is none.
            OSError: the connection broke, or timed out.
            ValueError: the request cannot be sent.
        """
        try:
            whole = self._send(method, target, fields, body)
            self._source.begin()
            head = wire.read_head(self._source.line)
            framing = head.body(method)
        except BaseException:
            self.close()
            raise
        return Incoming(head, framing, self._source, self, done if whole and head.keeps else None)

    def channel(self) -> Channel:
        """Give up the channel, for a tunnel that was asked for.

        Raises:
            ProtocolError: the peer spoke before it was its turn.
        """
        if self._source.buffer:
            msg = "the proxy sent bytes of its own into the tunnel"
            raise ProtocolError(msg)
        return self._channel

    def close(self) -> None:
        """End it; again does no harm."""
        with suppress(OSError):
            self._channel.close()

    def _send(
        self,
        method: str,
        target: str,
        fields: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
    ) -> bool:
        """Send; False when the peer stopped listening, in which case it may have said why."""
        names = {name.lower() for name in fields}
        if isinstance(body, bytes):
            if "content-length" not in names:
                fields = {**fields, "Content-Length": str(len(body))}
            pieces: Iterable[bytes] = (wire.request_head(method, target, fields) + body,)
        else:
            if body is not None and "content-length" not in names:
                fields = {**fields, "Transfer-Encoding": "chunked"}
                body = wire.chunks(body)
            pieces = (wire.request_head(method, target, fields),)
        try:
            for piece in pieces:
                self._channel.sendall(piece)
            if body is not None and not isinstance(body, bytes):
                for piece in body:
                    self._channel.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True


class Incoming:
    """A reply under way: its head, and its body as it comes."""

    def __init__(
        self,
        head: Head,
        framing: int,
        source: Source,
        connection: Connection,
        done: Callable[[Connection], None] | None,
    ) -> None:
        """Read the body from `source`; `done` takes a connection that may be used again."""
        self.head = head
        self._source = source
        self._connection: Connection | None = connection
        self._done = None if framing == TO_THE_END else done
        self._framing = framing
        self._left = max(framing, 0)  # of the body or, when there are chunks, of this one
        self._ended = framing == 0
        self._inside = False

    def read(self, size: int) -> bytes:
        """Read what has come, up to `size` bytes; none at the body's end.

        Raises:
            ProtocolError: the body ends early or is malformed.
            OSError: the connection broke, or timed out.
        """
        if self._ended or size <= 0:
            return b""
        if self._connection is None:
            msg = "the reply was closed"
            raise ProtocolError(msg)
        if self._framing == TO_THE_END:
            data = self._source.some(size)
            self._ended = not data
            return data
        if self._framing == CHUNKED and not self._left and not self._next_chunk():
            return b""
        data = self._source.some(min(size, self._left))
        if not data:
            msg = f"the body ended {self._left} bytes too early"
            raise ProtocolError(msg)
        self._left -= len(data)
        self._ended = self._framing != CHUNKED and not self._left
        return data

    def close(self) -> None:
        """Give the connection back if the body was read or is small and here, else close it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._framing > 0 and 0 < self._left <= len(self._source.buffer):
            self._source.some(self._left)
            self._ended = True
        if self._ended and self._done is not None:
            self._done(connection)
        else:
            connection.close()

    def _next_chunk(self) -> bool:
        """Go to the next chunk; False when there is none."""
        if self._inside and self._source.line(0):
            msg = "a chunk is longer than its size"
            raise ProtocolError(msg)
        self._inside = True
        self._left = wire.read_chunk_size(self._source.line)
        if not self._left:
            wire.read_fields(self._source.line)
            self._ended = True
        return not self._ended
