"""The proxies of docker's config.json, which its builds get as build arguments.

Owns where they are written and what they are called; knows no registry and no request.
"""

from __future__ import annotations

import json
import os

from builder.dockerfile_input import read_regular
from builder.errors import UsageError
from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MAX_CONFIG = 1024 * 1024  # bytes of config.json
_NAMES = {
    "HTTP_PROXY": "httpProxy",
    "HTTPS_PROXY": "httpsProxy",
    "NO_PROXY": "noProxy",
    "FTP_PROXY": "ftpProxy",
    "ALL_PROXY": "allProxy",
}


def configured(environ: Mapping[str, str], given: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Give the build arguments that the config sets and `given` does not, in any case of letters.

    Raises:
        UsageError: config.json cannot be read or is not what docker writes.
    """
    home = environ.get("HOME", "")
    folder = environ.get("DOCKER_CONFIG") or (f"{home}/.docker" if home else "")
    path = os.path.join(folder, "config.json")
    if not folder or not os.path.exists(path):
        return ()
    text = read_regular(path, _MAX_CONFIG) or b""
    if b'"proxies"' not in text:
        return ()
    proxies = _default_proxies(path, text)
    taken = {name.upper() for name in given}
    found = {name: proxies.get(key) for name, key in _NAMES.items() if name not in taken}
    pairs = [
        (name, value)
        for name, value in found.items()
        if isinstance(value, str) and value and "\0" not in value
    ]
    return tuple((spelt, value) for name, value in pairs for spelt in (name, name.lower()))


def _default_proxies(path: str, text: bytes) -> Mapping[str, object]:
    """The proxies of "default"; the other entries are for named daemons."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{path} is not JSON: {error}"
        raise UsageError(msg, hint="mend it, or set DOCKER_CONFIG to another directory") from error
    proxies = document.get("proxies") if isinstance(document, dict) else None
    default = proxies.get("default") if isinstance(proxies, dict) else None
    return default if isinstance(default, dict) else {}
