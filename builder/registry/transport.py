"""Requests and replies: connections kept, certificates, proxies, redirects.

Owns which connection a request takes, keeps what can be used again, and follows redirects under
the rules of Zone; knows nothing of tokens, images or retries.
"""

from __future__ import annotations

import os
import threading

from builder.errors import RegistryError
from builder.registry import dial
from builder.registry import location as place
from builder.registry.location import Location, Origin, Zone
from builder.registry.reply import LOOK_AT, Reply, mapped
from builder.registry.retry import TemporaryError
from cache.hints import TYPE_CHECKING, Any, Self
from cache.value import field, replace, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from builder.registry.connection import Connection
    from builder.registry.settings import RegistryConfig

    Resolver = Callable[[str, int], Sequence[str]]

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SECRET = frozenset({"authorization", "cookie", "proxy-authorization"})
_MAX_IDLE = 8  # connections kept to one place


@value
class Request:
    """One request. A body given as a function is made anew for each sending."""

    method: str
    location: Location
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Callable[[], Iterator[bytes]] | None = None

    def with_header(self, name: str, value: str | None) -> Request:
        """Add a header, or none for None."""
        return self if value is None else replace(self, headers={**self.headers, name: value})


def resolve(host: str, port: int) -> Sequence[str]:
    """Look a host up; the addresses in the resolver's order, each once.

    Raises:
        RegistryError: no address.
    """
    import socket  # noqa: PLC0415 - slow to import

    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        msg = f"host {host[:100]} was not found"
        raise TemporaryError(msg, hint=LOOK_AT) from error
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


class Transport:
    """Connections to many origins, kept and reused; safe for several threads."""

    def __init__(self, config: RegistryConfig, resolver: Resolver = resolve) -> None:
        """Keep the settings; nothing is imported or opened before the first request."""
        self.config = config
        self._resolve = resolver
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, ...], list[Connection]] = {}
        self._shared: Any = None
        self._secured: frozenset[str] | None = None

    def send(self, request: Request, guard: Origin | None = None) -> Reply:
        """Send once, follow nothing.

        With a guard, the place was named by a reply of that origin: the addresses are looked up,
        all must be at least as far away as the guard's, and the connection goes to them.

        Raises:
            RegistryError: refused, unreachable or broken; `temporary` tells which.
        """
        origin = request.location.origin
        proxy = place.proxy_for(origin, self.config)
        if guard is None or guard.host == origin.host:
            return self._once(request, origin.host, proxy)
        addresses = self._admitted(origin, guard, proxy)
        for last, address in enumerate(addresses, 1 - len(addresses)):
            try:
                return self._once(request, address, proxy)
            except TemporaryError:
                if last == 0:
                    raise
        msg = f"host {origin.host[:100]} has no address"
        raise TemporaryError(msg)

    def follow(self, request: Request, guard: Origin | None = None) -> Reply:
        """Send a GET or HEAD and follow its redirects; secrets stay with the first origin.

        Raises:
            RegistryError: as `send`; too many redirects, or one that leads where it must not.
        """
        first = request.location.origin
        for _ in range(_MAX_REDIRECTS + 1):
            reply = self.send(request, guard)
            if reply.status not in _REDIRECTS:
                return reply
            with reply:
                request = _redirected(request, reply, first)
            guard = guard or first
        msg = f"{first.authority}: more than {_MAX_REDIRECTS} redirects"
        raise RegistryError(msg)

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            kept, self._kept = self._kept, {}
        for connection in (item for waiting in kept.values() for item in waiting):
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def secured_hosts(self) -> frozenset[str]:
        """Hosts that have a certificate directory; looked up once."""
        if self._secured is not None:
            return self._secured
        found: set[str] = set()
        for folder in self.config.certs_dirs:
            try:
                found.update(os.listdir(folder))
            except OSError:
                continue
        self._secured = frozenset(found)
        return self._secured

    def _admitted(self, origin: Origin, guard: Origin, proxy: str | None) -> Sequence[str]:
        zone = place.zone_of_host(origin.host)
        if zone is not None or proxy is not None:
            addresses: Sequence[str] = (origin.host,)
            zone = zone or Zone.PUBLIC
        else:
            addresses = self._resolve(origin.host, origin.port)
            zone = max((place.zone_of_address(text) for text in addresses), default=Zone.PUBLIC)
        if zone is Zone.LINK_LOCAL or zone > self._zone(guard):
            msg = f"{guard.authority} points to {origin.authority}, a {_named(zone)} address"
            raise RegistryError(msg)
        return addresses

    def _zone(self, origin: Origin) -> Zone:
        known = place.zone_of_host(origin.host)
        if known is not None:
            return known
        try:
            addresses = self._resolve(origin.host, origin.port)
        except RegistryError:
            return Zone.PUBLIC
        return min((place.zone_of_address(text) for text in addresses), default=Zone.PUBLIC)

    def _once(self, request: Request, address: str, proxy: str | None) -> Reply:
        location = request.location
        fields = {
            "User-Agent": self.config.user_agent,
            "Accept-Encoding": "identity",
            "Host": location.origin.authority,
            **request.headers,
        }
        target = location.target
        key = (str(location.origin), address, proxy or "")
        with mapped(location):
            connection = self._idle(key)
            if connection is None:
                connection = self._dialled(location.origin, address, proxy)
            if proxy is not None and location.origin.scheme == "http":
                fields |= dial.Proxy.parse(proxy).fields
                target = str(location)
            body = request.body() if callable(request.body) else request.body
            raw = connection.exchange(
                request.method, target, fields, body, lambda done: self._keep(key, done)
            )
        return Reply(raw, location)

    def _idle(self, key: tuple[str, ...]) -> Connection | None:
        """A kept connection that is still good."""
        while True:
            with self._lock:
                waiting = self._kept.get(key)
                connection = waiting.pop() if waiting else None
            if connection is None or connection.fit:
                return connection
            connection.close()

    def _keep(self, key: tuple[str, ...], connection: Connection) -> None:
        with self._lock:
            waiting = self._kept.setdefault(key, [])
            if len(waiting) < _MAX_IDLE:
                waiting.append(connection)
                return
        connection.close()

    def _dialled(self, origin: Origin, address: str, proxy: str | None) -> Connection:
        via = None if proxy is None else dial.Proxy.parse(proxy)
        timeouts = (self.config.connect_timeout, self.config.idle_timeout)
        return dial.Dialler(origin, self._context, *timeouts).connect(address, via)

    def _context(self, authority: str) -> Any:
        from builder.registry import certificates  # noqa: PLC0415 - imports ssl

        if not certificates.is_plain(authority, self.config):
            return certificates.context(authority, self.config)
        if self._shared is None:
            # Reading the system's authorities takes tens of milliseconds.
            self._shared = certificates.context(authority, self.config)
        return self._shared


def _redirected(request: Request, reply: Reply, first: Origin) -> Request:
    if request.method not in {"GET", "HEAD"}:
        msg = f"{first.authority}: redirect of {request.method} is not followed"
        raise RegistryError(msg, status=reply.status)
    target = Location.parse(reply.header("Location") or "", request.location)
    check_downgrade(request.location.origin, target.origin)
    headers = request.headers
    if target.origin != first:
        headers = {k: v for k, v in headers.items() if k.lower() not in _SECRET}
    return replace(request, location=target, headers=headers)


def check_downgrade(source: Origin, target: Origin) -> None:
    """Refuse a step from https to http.

    Raises:
        RegistryError: it is one.
    """
    if source.scheme == "https" and target.scheme == "http":
        msg = f"{source.authority} points from https to http at {target.authority}"
        raise RegistryError(msg, hint="name the final address itself if you trust it")


def _named(zone: Zone) -> str:
    return zone.name.lower().replace("_", "-")
