"""URLs as values and the question where a request may go.

Owns the strict URL parser, address zones and the proxy choice. Knows no HTTP library.
"""

from __future__ import annotations

import ipaddress
import re
from enum import IntEnum
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from builder.errors import RegistryError
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.registry.settings import RegistryConfig

MAX_URL = 16 * 1024  # bytes; signed storage URLs run to a few thousand
_CLEAN = re.compile(r"[\x21-\x5b\x5d-\x7e]+\Z")  # printable ASCII, no blank, no backslash
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PORTS = {"http": 80, "https": 443}
_MAX_HOST = 253
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Zone(IntEnum):
    """How close to this machine an address is; a reply may not lead to a closer one."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    LINK_LOCAL = 3


@value
class Origin:
    """Scheme, canonical host and port: the unit that credentials belong to."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """`host[:port]`, the default port left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        """Render as `scheme://host[:port]`."""
        return f"{self.scheme}://{self.authority}"


@value
class Location:
    """An absolute http or https URL without userinfo or fragment."""

    origin: Origin
    target: str

    @classmethod
    def parse(cls, text: str, base: Location | None = None) -> Self:
        """Read a URL, relative to `base` where one is given; a fragment is dropped.

        Raises:
            RegistryError: not a plain http(s) URL; the message holds no query and no userinfo.
        """
        if len(text) > MAX_URL or _CLEAN.match(text) is None:
            msg = f"malformed URL of {len(text)} characters"
            raise RegistryError(msg)
        try:
            parts = urlsplit(urljoin(str(base), text) if base else text)
            port = parts.port
        except ValueError as error:
            msg = "malformed URL"
            raise RegistryError(msg) from error
        if parts.scheme not in _PORTS:
            msg = f"URL scheme {parts.scheme[:20]!r} is not http or https"
            raise RegistryError(msg)
        if "@" in parts.netloc:
            msg = "URL with user information is refused"
            raise RegistryError(msg)
        host = canonical_host(parts.hostname or "")
        origin = Origin(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)
        return cls(origin, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))

    def with_query(self, pairs: Sequence[tuple[str, str]]) -> Self:
        """Set query parameters; others that are there stay, equal names are replaced."""
        path, _, query = self.target.partition("?")
        names = {name for name, _ in pairs}
        kept = [pair for pair in query.split("&") if pair and not _named(pair, names)]
        return type(self)(self.origin, "?".join([path, "&".join([*kept, urlencode(pairs)])]))

    @property
    def shown(self) -> str:
        """The URL for messages: no query, which may hold a signature."""
        return f"{self.origin}{self.target.partition('?')[0]}"[:200]

    def __str__(self) -> str:
        """Render in full."""
        return f"{self.origin}{self.target}"


def _named(pair: str, names: set[str]) -> bool:
    return any(name in names for name, _ in parse_qsl(pair, keep_blank_values=True))


def canonical_host(text: str) -> str:
    """Lower case, one trailing dot off, addresses in their one spelling.

    Raises:
        RegistryError: not a host name, or a number that a resolver would read as an address.
    """
    host = text.lower().removesuffix(".")
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address(host if "%" not in host else ""))
        except ValueError as error:
            msg = f"malformed address {text[:60]!r}"
            raise RegistryError(msg) from error
    if len(host) > _MAX_HOST or _HOST.match(host) is None:
        msg = f"malformed host name {text[:60]!r}"
        raise RegistryError(msg)
    if _NUMBER.match(host.rpartition(".")[2]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            msg = f"ambiguous address {text[:60]!r}"
            raise RegistryError(msg) from error
    return host


def zone_of_address(text: str) -> Zone:
    """Classify an address literal, looking through IPv4 inside IPv6."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    if address.is_link_local:
        return Zone.LINK_LOCAL
    if address.is_loopback or address.is_unspecified:
        return Zone.LOOPBACK
    return Zone.PUBLIC if address.is_global and not address.is_multicast else Zone.PRIVATE


def zone_of_host(host: str) -> Zone | None:
    """Classify a canonical host where its name alone tells; None when it must be resolved."""
    if host == "localhost" or host.endswith(".localhost"):
        return Zone.LOOPBACK
    try:
        return zone_of_address(host)
    except ValueError:
        return None


def endpoint(registry: str, config: RegistryConfig, secured: frozenset[str]) -> Origin:
    """Where a registry is reached; `secured` are hosts with a certificate directory.

    Raises:
        RegistryError: the host is malformed.
    """
    if registry == "docker.io":
        return Origin("https", "registry-1.docker.io", 443)
    origin = Location.parse(f"https://{registry}/").origin
    names = {registry, origin.authority, f"{origin.authority}:{origin.port}"}
    if names & config.insecure:
        return Location.parse(f"http://{registry}/").origin
    local = zone_of_host(origin.host) is Zone.LOOPBACK
    if local and not names & (config.tls | config.unverified | secured):
        return Location.parse(f"http://{registry}/").origin
    return origin


def plain_allowed(origin: Origin, config: RegistryConfig) -> bool:
    """Whether http to this host was asked for or stays on this machine."""
    names = {origin.authority, f"{origin.authority}:{origin.port}", origin.host}
    return bool(names & config.insecure) or zone_of_host(origin.host) is Zone.LOOPBACK


def proxy_for(origin: Origin, config: RegistryConfig) -> str | None:
    """Choose the proxy URL; loopback is never sent through one."""
    url = config.proxies.get(origin.scheme)
    if not url or zone_of_host(origin.host) is Zone.LOOPBACK:
        return None
    return None if any(_exempt(origin, item.lower()) for item in config.no_proxy) else url


def _exempt(origin: Origin, item: str) -> bool:
    if item == "*":
        return True
    if "/" in item:
        try:
            return ipaddress.ip_address(origin.host) in ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
    host, colon, port = item.rpartition(":")
    if colon and port.isdigit() and ":" not in host:
        if int(port) != origin.port:
            return False
        item = host
    item = item.strip("[]").removeprefix("*").removeprefix(".")
    return bool(item) and (origin.host == item or origin.host.endswith(f".{item}"))
