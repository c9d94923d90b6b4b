"""Name files of a step: what its /etc/resolv.conf and /etc/hosts say (R06).

Pure text. Which host file was read is the caller's business, except for `resolver_source`,
which says whether the stub file must be replaced by systemd's upstream list.
"""

from __future__ import annotations

from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

RESOLV_CONF = "/etc/resolv.conf"
SYSTEMD_RESOLV_CONF = "/run/systemd/resolve/resolv.conf"
_SYSTEMD_STUB = "127.0.0.53"
_FALLBACK = ("8.8.8.8", "8.8.4.4")
_KEPT = ("search", "domain", "options")


def _nameservers(text: str) -> tuple[str, ...]:
    rows = (line.split() for line in text.splitlines())
    return tuple(row[1] for row in rows if len(row) > 1 and row[0] == "nameserver")


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address.partition("%")[0] == "::1"


def resolver_source(text: str, own_network: bool) -> str:
    """Which host file to pass to resolv_conf(), given the text of /etc/resolv.conf."""
    stub_only = set(_nameservers(text)) == {_SYSTEMD_STUB}
    return SYSTEMD_RESOLV_CONF if own_network and stub_only else RESOLV_CONF


def resolv_conf(text: str, own_network: bool) -> bytes:
    """The step's resolv.conf from a host's text.

    With a network of its own, a step cannot reach resolvers on the host's loopback: they are
    dropped, and public ones stand in when none is left. On the host's network all are kept.
    """
    servers = _nameservers(text)
    if own_network:
        servers = tuple(s for s in servers if not _is_loopback(s)) or _FALLBACK
    rows = (line.split() for line in text.splitlines())
    kept = [" ".join(row) for row in rows if row and row[0] in _KEPT]
    lines = [*(f"nameserver {server}" for server in servers), *kept]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def resolv_conf_of(server: str, made: bytes) -> bytes:
    """What resolv_conf() made, with another server in place of all."""
    text = made.decode("utf-8", "surrogateescape")
    kept = [line for line in text.splitlines() if not line.startswith("nameserver ")]
    lines = [f"nameserver {server}", *kept]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def hosts(hostname: str, extra: Iterable[tuple[str, str]] = ()) -> bytes:
    """The step's hosts file; `extra` are (name, address) pairs of --add-host."""
    lines = [f"127.0.0.1\tlocalhost {hostname}", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{address}\t{name}" for name, address in extra]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
