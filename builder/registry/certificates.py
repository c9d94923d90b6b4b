"""TLS contexts: the system's authorities, SSL_CERT_FILE, and certs.d directories per host.

Owns what is trusted for which host. Opens no connection.
"""

from __future__ import annotations

import os
import ssl

from builder.errors import RegistryError
from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.registry.settings import RegistryConfig


def is_plain(authority: str, config: RegistryConfig) -> bool:
    """Whether a host has nothing of its own, so that its context may be shared."""
    folders = (os.path.join(folder, authority) for folder in config.certs_dirs)
    return authority not in config.unverified and not any(map(os.path.isdir, folders))


def context(authority: str, config: RegistryConfig) -> ssl.SSLContext:
    """Make the context for one host; a host's own certificates are for that host only.

    Raises:
        RegistryError: a certificate file cannot be read.
    """
    made = ssl.create_default_context()
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    try:
        if config.ca_file:
            made.load_verify_locations(cafile=config.ca_file)
        for folder in config.certs_dirs:
            _load_folder(made, os.path.join(folder, authority))
    except (OSError, ssl.SSLError) as error:
        msg = f"certificates for {authority} cannot be loaded: {error.strerror or error}"
        raise RegistryError(msg, hint="check SSL_CERT_FILE and the certs.d directories") from error
    if authority in config.unverified:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def _load_folder(made: ssl.SSLContext, folder: str) -> None:
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for name in names:
        path = os.path.join(folder, name)
        if name.endswith(".crt"):
            made.load_verify_locations(cafile=path)
        elif name.endswith(".cert"):
            made.load_cert_chain(path, f"{path.removesuffix('.cert')}.key")
