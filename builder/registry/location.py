"""URLs as values and the question where a request may go.

Owns the strict URL parser, address zones and the proxy choice. Knows no HTTP library.
"""

from __future__ import annotations

from enum import IntEnum

from builder.errors import RegistryError
from cache.hints import TYPE_CHECKING, Self
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.registry.settings import RegistryConfig

MAX_URL = 16 * 1024  # bytes; signed storage URLs run to a few thousand
_HEX = frozenset("0123456789abcdef")
_PORTS = {"http": 80, "https": 443}
_MAX_HOST = 253
_NAT64 = 0x64FF9B << 96  # 64:ff9b::/96
_MAX_PORT = 65535
_QUAD = 4  # numbers of an IPv4 address


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

    @classmethod
    def of(cls, scheme: str, authority: str) -> Self:
        """Read `host[:port]`.

        Raises:
            RegistryError: it is malformed.
        """
        host, colon, digits = authority.partition(":")
        fits = True
        if authority.startswith("["):
            host, closed, rest = authority[1:].partition("]")
            colon, digits = rest[:1], rest[1:]
            fits = ":" in host and bool(closed) and colon in {"", ":"}
        if digits:
            fits = fits and digits.isascii() and digits.isdigit() and len(digits) <= len("65535")
        port = int(digits) if digits and fits else _PORTS[scheme]
        if not fits or port > _MAX_PORT:
            msg = "malformed URL"
            raise RegistryError(msg)
        return cls(scheme, canonical_host(host), port)

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
        # Printable ASCII, no blank, no backslash.
        clean = text.isascii() and text.isprintable() and " " not in text and "\\" not in text
        if len(text) > MAX_URL or not clean or not text:
            msg = f"malformed URL of {len(text)} characters"
            raise RegistryError(msg)
        from urllib.parse import urljoin, urlsplit  # noqa: PLC0415 - slow to import

        try:
            parts = urlsplit(urljoin(str(base), text) if base else text)
        except ValueError as error:
            msg = "malformed URL"
            raise RegistryError(msg) from error
        if parts.scheme not in _PORTS:
            msg = f"URL scheme {parts.scheme[:20]!r} is not http or https"
            raise RegistryError(msg)
        if "@" in parts.netloc:
            msg = "URL with user information is refused"
            raise RegistryError(msg)
        origin = Origin.of(parts.scheme, parts.netloc)
        return cls(origin, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))

    def with_query(self, pairs: Sequence[tuple[str, str]]) -> Self:
        """Set query parameters; others that are there stay, equal names are replaced."""
        from urllib.parse import urlencode  # noqa: PLC0415 - slow to import

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
    from urllib.parse import parse_qsl  # noqa: PLC0415 - slow to import

    return any(name in names for name, _ in parse_qsl(pair, keep_blank_values=True))


def canonical_host(text: str) -> str:
    """Lower case, one trailing dot off, addresses in their one spelling.

    Raises:
        RegistryError: not a host name, or a number that a resolver would read as an address.
    """
    host = text.lower().removesuffix(".")
    if ":" in host:
        from ipaddress import IPv6Address  # noqa: PLC0415 - slow to import

        try:
            return str(IPv6Address(host if "%" not in host else ""))
        except ValueError as error:
            msg = f"malformed address {text[:60]!r}"
            raise RegistryError(msg) from error
    if len(host) > _MAX_HOST or not host.isascii() or not all(map(_is_label, host.split("."))):
        msg = f"malformed host name {text[:60]!r}"
        raise RegistryError(msg)
    last = host.rpartition(".")[2]
    is_number = last.isdigit() or (last[:2] == "0x" and _HEX.issuperset(last[2:]))
    if is_number and not _is_quad(host):
        msg = f"ambiguous address {text[:60]!r}"
        raise RegistryError(msg)
    return host


def _is_label(text: str) -> bool:
    """Whether ASCII text may stand between the dots of a host name."""
    return text[:1] != "-" != text[-1:] and text.replace("-", "x").replace("_", "x").isalnum()


def _is_quad(host: str) -> bool:
    """Whether this is an IPv4 address in its one spelling."""
    parts = host.split(".")
    digits = host.isascii() and all(part.isdigit() for part in parts)
    return (
        digits
        and len(parts) == _QUAD
        and all(
            len(part) <= len("255") and part == str(int(part)) and int(part) < 1 << 8
            for part in parts
        )
    )


def zone_of_address(text: str) -> Zone:
    """Classify an address literal, looking through IPv4 inside IPv6."""
    import ipaddress  # noqa: PLC0415 - slow to import

    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and int(address) >> 32 == _NAT64 >> 32:
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
    if ":" not in host:
        if not _is_quad(host):
            return None
        if host.startswith("127."):
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
    registry = registry.partition("/")[0]  # a login may name a path
    origin = Origin.of("https", registry)
    names = {registry, origin.authority, f"{origin.authority}:{origin.port}"}
    if names & config.insecure:
        return Origin.of("http", registry)
    local = zone_of_host(origin.host) is Zone.LOOPBACK
    if local and not names & (config.tls | config.unverified | secured):
        return Origin.of("http", registry)
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
        import ipaddress  # noqa: PLC0415 - slow to import

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
