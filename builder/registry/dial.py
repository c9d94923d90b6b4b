"""Making connections: addresses in turn, through a proxy, under TLS.

Owns the way to an origin. Whether a request may go there was decided before, and what is sent
is not its concern. Imports sockets and TLS when they are needed.
"""

from __future__ import annotations

from contextlib import contextmanager

from builder.errors import RegistryError
from builder.registry.connection import Channel, Connection
from builder.registry.location import Origin
from builder.registry.reply import LOOK_AT, printable
from builder.registry.retry import TEMPORARY, TemporaryError
from builder.registry.wire import ProtocolError
from cache.hints import TYPE_CHECKING, Any, Self, cast
from cache.value import value

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Iterator

_PROXY_LOGIN = 407


@value
class Proxy:
    """A proxy and what it wants to be told with each request."""

    origin: Origin
    fields: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a proxy's URL as HTTPS_PROXY has it: the scheme may be missing.

        Raises:
            RegistryError: it is none; the message does not hold it, since it may hold a secret.
        """
        scheme, mark, rest = text.partition("://")
        if not mark:
            scheme, rest = "http", text
        if scheme.lower() not in {"http", "https"}:
            msg = f"proxy scheme {scheme[:20]!r} is not http or https"
            raise RegistryError(msg)
        login, _, authority = rest.partition("/")[0].rpartition("@")
        try:
            origin = Origin.of(scheme.lower(), authority)
        except RegistryError as error:
            msg = f"the proxy's URL is malformed: {error.message}"
            raise RegistryError(msg, hint="check HTTP_PROXY and HTTPS_PROXY") from error
        if not login:
            return cls(origin, {})
        from base64 import b64encode  # noqa: PLC0415 - for proxies only
        from urllib.parse import unquote  # noqa: PLC0415 - likewise

        pair = b64encode(unquote(login).encode()).decode()
        return cls(origin, {"Proxy-Authorization": f"Basic {pair}"})


@value
class Dialler:
    """Connects to one origin; `trust` gives the TLS context for a host."""

    origin: Origin
    trust: Callable[[str], Any]
    connect_timeout: float
    idle_timeout: float

    def connect(self, address: str, proxy: Proxy | None) -> Connection:
        """Connect to an address of the origin, or through a proxy to the origin by its name.

        Raises:
            RegistryError: nobody there.
            OSError: TLS failed or timed out.
        """
        if proxy is not None:
            return self._through(proxy)
        channel = self._tcp(address, self.origin.port)
        if self.origin.scheme == "https":
            channel = self._secured(channel, self.origin)
        return Connection(channel, self.idle_timeout)

    def _tcp(self, host: str, port: int) -> Channel:
        # Without `socket` around it, whose enumerations take longer to make than a request.
        import _socket  # noqa: PLC0415 - not every build connects

        try:
            # As bytes, since text would be put through a slow codec for names beyond ASCII.
            found = _socket.getaddrinfo(host.encode("ascii"), port, type=_socket.SOCK_STREAM)
        except OSError as error:
            msg = f"host {host[:100]} was not found"
            raise TemporaryError(msg, hint=LOOK_AT) from error
        failed: OSError | None = None
        for family, kind, protocol, _, place in found:
            try:
                return self._connected(_socket.socket(family, kind, protocol), place)
            except OSError as error:
                failed = failed or error
        reason = printable(failed.strerror or str(failed)) if failed else "no address"
        msg = f"{self.origin.authority}: cannot connect: {reason}"
        raise TemporaryError(msg, hint=LOOK_AT) from failed

    def _connected(self, made: _socket.socket, place: Any) -> Channel:
        from _socket import IPPROTO_TCP, TCP_NODELAY  # noqa: PLC0415 - not every build connects

        try:
            made.settimeout(self.connect_timeout)
            made.connect(place)
            made.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        except BaseException:
            made.close()
            raise
        return made

    def _secured(self, channel: Channel, origin: Origin) -> Channel:
        try:
            context = self.trust(origin.authority)
            return cast("Channel", context.wrap_socket(channel, server_hostname=origin.host))
        except BaseException:
            channel.close()
            raise

    def _through(self, proxy: Proxy) -> Connection:
        """Connect to a proxy, and through it under TLS where the origin speaks that."""
        with self._named():
            channel = self._tcp(proxy.origin.host, proxy.origin.port)
            if proxy.origin.scheme == "https":
                channel = self._secured(channel, proxy.origin)
            connection = Connection(channel, self.idle_timeout)
            if self.origin.scheme == "http":
                return connection
            channel = self._tunnel(connection, proxy)
        channel.settimeout(self.connect_timeout)
        if proxy.origin.scheme == "https":
            return Connection(self._nested(channel), self.idle_timeout)
        return Connection(self._secured(channel, self.origin), self.idle_timeout)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say of a failure that it was the proxy's."""
        try:
            yield
        except (OSError, ProtocolError, TemporaryError) as error:
            detail = printable(str(error), 200) or type(error).__name__
            raise TemporaryError(self._failed(detail), hint=LOOK_AT) from error

    def _failed(self, detail: str) -> str:
        return f"proxy in front of {self.origin.authority} failed: {detail}"

    def _tunnel(self, connection: Connection, proxy: Proxy) -> Channel:
        host = f"[{self.origin.host}]" if ":" in self.origin.host else self.origin.host
        place = f"{host}:{self.origin.port}"
        fields = {"Host": place, **proxy.fields}
        reply = connection.exchange("CONNECT", place, fields, None, Connection.close)
        status = reply.head.status
        if status // 100 == 2:  # noqa: PLR2004 - any success opens the tunnel
            return connection.channel()
        connection.close()
        if status in TEMPORARY:
            raise TemporaryError(f"status {status}")
        hint = (
            "give the proxy's user and password in HTTPS_PROXY" if status == _PROXY_LOGIN else None
        )
        raise RegistryError(self._failed(f"status {status}"), status=status, hint=hint)

    def _nested(self, channel: Channel) -> Channel:
        from builder.registry.nested import NestedTLS  # noqa: PLC0415 - few proxies speak TLS

        try:
            context = self.trust(self.origin.authority)
            return NestedTLS(channel, context, self.origin.host, self.connect_timeout)
        except BaseException:
            channel.close()
            raise
