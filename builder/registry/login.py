"""Logging in and out: credentials checked against the registry, then kept as docker keeps them.

Owns the writing of config.json: whole, atomic, readable by its owner only.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
from contextlib import contextmanager, suppress

from builder.errors import RegistryError
from builder.registry.auth import Access, Authenticator
from builder.registry.credentials import (
    Credential,
    Lookup,
    canonical_key,
    config_path,
    load_config,
    server_key,
)
from builder.registry.helper import Answer, Helper
from builder.registry.location import Location
from builder.registry.session import Session
from builder.registry.transport import Request
from cache.hints import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.registry.settings import RegistryConfig


class _Given:
    """A credential source that knows the one credential being tried."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    def lookup(self, registry: str) -> Lookup:
        return Lookup(self._credential, f"the given user name for {registry}")


def verify(session: Session, registry: str, credential: Credential) -> None:
    """Try a credential on a registry's base URL.

    Raises:
        RegistryError: it was refused, or the registry asks for none.
    """
    tried = Session(
        session.config,
        session.transport,
        Authenticator(session.transport, _Given(credential)),
        session.retry,
    )
    origin = session.origin(registry)
    request = Request("GET", Location(origin, "/v2/"))
    with tried.call(request, Access(registry, origin), {200}, f"login to {registry}"):
        return


def login(session: Session, registry: str, username: str, password: str) -> str:
    """Check and keep a credential; the place it was kept in is returned for a message.

    Raises:
        RegistryError: refused by the registry, or it cannot be kept.
    """
    if canonical_key(registry) is None or not username or ":" in username:
        msg = f"cannot log in to {registry[:100]!r} with this user name"
        raise RegistryError(msg)
    verify(session, registry, Credential(username, password))
    server = server_key(registry)
    with _changing(session.config) as (config, path, save):
        helper = _helper(config, registry, session.config)
        if helper is not None:
            helper.store(server, Answer(username, password))
            _section(config, "auths")[server] = {}
            save()
            return f"docker-credential-{helper.name}"
        pair = base64.b64encode(f"{username}:{password}".encode()).decode()
        _section(config, "auths")[server] = {"auth": pair}
        save()
        return path


def logout(config: RegistryConfig, registry: str) -> bool:
    """Forget a registry's credential; False when none was kept."""
    key = canonical_key(registry)
    with _changing(config) as (document, _, save):
        auths = _section(document, "auths")
        names = [name for name in auths if canonical_key(name) == key]
        for name in names:
            del auths[name]
        helper = _helper(document, registry, config)
        if helper is not None:
            helper.erase(server_key(registry))
        if names:
            save()
        return bool(names) or helper is not None


def _section(document: dict[str, object], name: str) -> dict[str, object]:
    section = document.setdefault(name, {})
    if not isinstance(section, dict):
        msg = f"field {name!r} of docker's config.json is not an object"
        raise RegistryError(msg)
    return cast("dict[str, object]", section)


def _helper(document: dict[str, object], registry: str, config: RegistryConfig) -> Helper | None:
    key = canonical_key(registry)
    helpers = document.get("credHelpers")
    names = helpers if isinstance(helpers, dict) else {}
    chosen = next((names[name] for name in sorted(names) if canonical_key(name) == key), None)
    name = chosen or document.get("credsStore")
    if not name:
        return None
    return Helper(str(name), config.environ, config.helper_timeout)


@contextmanager
def _changing(
    config: RegistryConfig,
) -> Iterator[tuple[dict[str, object], str, Callable[[], None]]]:
    """Hold config.json for changing; two logins at once both survive."""
    if not config.config_dir:
        msg = "there is no place for credentials"
        raise RegistryError(msg, hint="set HOME or DOCKER_CONFIG")
    path = config_path(config)
    try:
        os.makedirs(config.config_dir, mode=0o700, exist_ok=True)
        if os.path.islink(path):
            # Dotfile collections link it; the link stays and its target is replaced.
            path = os.path.join(config.config_dir, os.readlink(path))
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        msg = f"{config.config_dir} cannot be used: {error.strerror}"
        raise RegistryError(msg, hint="set DOCKER_CONFIG to a writable directory") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        document = load_config(path)
        yield document, path, lambda: _replace(folder, os.path.basename(path), document)
    finally:
        os.close(folder)


def _replace(folder: int, name: str, document: dict[str, object]) -> None:
    data = json.dumps(document, indent="\t", ensure_ascii=False).encode() + b"\n"
    temporary = f".{name}.{os.getpid()}.tmp"
    try:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except OSError as error:
        msg = f"{name} cannot be written: {error.strerror}"
        raise RegistryError(msg) from error
