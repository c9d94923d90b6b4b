"""What a user may decide about registries: hosts, certificates, proxies, patience.

Owns the frozen settings and how they follow from an environment. Opens nothing.
"""

from __future__ import annotations

from cache.hints import TYPE_CHECKING, Self
from cache.value import field, value

if TYPE_CHECKING:
    from collections.abc import Mapping

SYSTEM_CERTS_DIRS = ("/etc/containers/certs.d", "/etc/docker/certs.d")


@value
class RegistryConfig:
    """Settings of one client. Hosts are written `host[:port]` as in an image name.

    `insecure` hosts are spoken to in plain http, as loopback hosts are unless they stand in
    `tls` or have a certificate directory; `unverified` hosts use https without a certificate
    check. Nothing falls back from https to http by itself.
    """

    insecure: frozenset[str] = frozenset()
    unverified: frozenset[str] = frozenset()
    tls: frozenset[str] = frozenset()
    config_dir: str = ""  # where docker's config.json is; empty for none
    environ: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    proxies: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    no_proxy: tuple[str, ...] = ()
    ca_file: str = ""
    certs_dirs: tuple[str, ...] = ()
    connect_timeout: float = 10.0  # seconds for one address
    idle_timeout: float = 30.0  # seconds without a byte
    attempts: int = 5  # tries of one request
    backoff: float = 0.5  # seconds before the first retry; doubles
    patience: float = 120.0  # seconds that the tries of one request may take together
    helper_timeout: float = 5.0  # seconds for a credential helper
    uploads: int = 4  # blobs pushed at the same time
    chunk: int = 0  # bytes of one upload request; 0 sends a blob in one
    user_agent: str = "pybuild"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], **chosen: object) -> Self:
        """Read DOCKER_CONFIG, HOME and the proxy and certificate variables."""
        home = environ.get("HOME", "")
        folder = environ.get("DOCKER_CONFIG") or (f"{home}/.docker" if home else "")
        proxies = {scheme: _either(environ, f"{scheme}_proxy") for scheme in ("http", "https")}
        if environ.get("REQUEST_METHOD"):
            # Under CGI, HTTP_PROXY is the client's "Proxy" header and not ours.
            proxies["http"] = environ.get("http_proxy", "")
        skipped = _either(environ, "no_proxy").replace(" ", "").split(",")
        found: dict[str, object] = {
            "config_dir": folder,
            "environ": dict(environ),
            "proxies": {scheme: url for scheme, url in proxies.items() if url},
            "no_proxy": tuple(item for item in skipped if item),
            "ca_file": environ.get("SSL_CERT_FILE", ""),
            "certs_dirs": SYSTEM_CERTS_DIRS,
        }
        return cls(**{**found, **chosen})  # type: ignore[arg-type] # names are checked by the class


def _either(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper()) or ""
