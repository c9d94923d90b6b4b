"""Credentials out of docker's config.json and its helpers, found by exact host.

Owns the lookup and the canonical form of a host. Never falls from one source to a credential
meant for something else, and puts no secret into a message.
"""

from __future__ import annotations

import os
import stat

from builder.errors import RegistryError
from builder.registry.location import canonical_host
from cache.errors import InvalidDocumentError
from cache.hints import TYPE_CHECKING, Protocol
from cache.spec.fields import Fields
from cache.spec.oci import load_object
from cache.value import field, value

if TYPE_CHECKING:
    from builder.registry.settings import RegistryConfig

HUB_KEY = "https://index.docker.io/v1/"
_HUB = "index.docker.io"
_HUB_NAMES = frozenset({"docker.io", _HUB, "registry-1.docker.io"})
_PATHS = frozenset({"", "v1", "v2"})
_MAX_CONFIG = 1024 * 1024  # bytes of config.json
_TOKEN_USER = "<token>"  # noqa: S105 - docker's mark, no secret


@value
class Credential:
    """User and password, or an identity (refresh) token, or a ready bearer token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    bearer: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The Authorization header for Basic."""
        from base64 import b64encode  # noqa: PLC0415 - most builds know no password

        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {b64encode(pair).decode()}"


@value
class Lookup:
    """A credential, if any, and where we looked, for the message of a 401."""

    credential: Credential | None
    where: str


class CredentialSource(Protocol):
    """Where credentials come from."""

    def lookup(self, registry: str) -> Lookup:
        """Find the credential of exactly this registry host; a miss is an anonymous lookup."""


def canonical_key(text: str) -> str | None:
    """Reduce a registry or config.json key to `host[:port]`; None for what names no registry.

    All spellings of Docker Hub become one; a path other than /v1/ or /v2/ is not a registry.
    """
    rest = text.removeprefix("https://").removeprefix("http://")
    authority, _, path = rest.partition("/")
    if path.strip("/") not in _PATHS:
        return None
    host, port = authority, ""
    head, colon, tail = authority.rpartition(":")
    if colon and tail.isascii() and tail.isdigit():
        host, port = head, tail
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        host = canonical_host(host)
    except RegistryError:
        return None
    if host in _HUB_NAMES and port in {"", "443"}:
        return _HUB
    host = f"[{host}]" if ":" in host else host
    return host if port in {"", "443"} else f"{host}:{int(port)}"


def server_key(registry: str) -> str:
    """The key docker stores a registry's credential under."""
    key = canonical_key(registry)
    return HUB_KEY if key == _HUB else key or registry


def config_path(config: RegistryConfig) -> str:
    """Where config.json is."""
    return os.path.join(config.config_dir, "config.json")


def load_config(path: str) -> dict[str, object]:
    """Read config.json; a missing file is an empty one.

    Raises:
        RegistryError: not a regular file, too large, unreadable or no JSON object.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise RegistryError(msg) from error
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            msg = f"{path} is not a regular file"
            raise RegistryError(msg)
        data = file.read(_MAX_CONFIG + 1)
    if len(data) > _MAX_CONFIG:
        msg = f"{path} is larger than {_MAX_CONFIG} bytes"
        raise RegistryError(msg)
    try:
        return load_object(data, path) if data.strip() else {}
    except InvalidDocumentError as error:
        msg = f"{path} is not a JSON object"
        raise RegistryError(msg, hint="repair it or log in anew") from error


@value
class DockerCredentials:
    """The credentials `docker login` keeps: credHelpers, then credsStore, then auths."""

    config: RegistryConfig

    def lookup(self, registry: str) -> Lookup:
        """Find the credential of a registry.

        A helper that fails means no credential: the reason stands in `where`, and no other
        source is asked in its place.
        """
        key = canonical_key(registry)
        if key is None or not self.config.config_dir:
            return Lookup(None, "no docker configuration")
        path = config_path(self.config)
        try:
            top = Fields(load_config(path), path)
            name = _match(top.text_map("credHelpers"), key)
            if name is not None:
                return self._ask(name[1], registry, path)
            store = top.text("credsStore")
            if store:
                found = self._ask(store, registry, path)
                if found.credential is not None:
                    return found
            return _from_auths(top, key, path)
        except InvalidDocumentError as error:
            return Lookup(None, error.message)
        except RegistryError as error:
            return Lookup(None, error.message)

    def _ask(self, name: str, registry: str, path: str) -> Lookup:
        from builder.registry.helper import Helper  # noqa: PLC0415 - few hosts have helpers

        server = server_key(registry)
        where = f"docker-credential-{name[:64]} for {server} (named in {path})"
        helper = Helper(name, self.config.environ, self.config.helper_timeout)
        answer = helper.fetch(server)
        if answer is None:
            return Lookup(None, where)
        if answer.username == _TOKEN_USER:
            return Lookup(Credential(identity_token=answer.secret), where)
        return Lookup(Credential(answer.username, answer.secret), where)


def _match(entries: dict[str, str], key: str) -> tuple[str, str] | None:
    if key in entries:
        return key, entries[key]
    found = sorted(name for name in entries if canonical_key(name) == key)
    return (found[0], entries[found[0]]) if found else None


def _from_auths(top: Fields, key: str, path: str) -> Lookup:
    auths = top.child("auths")
    names = sorted(auths.value) if auths is not None else []
    found = [name for name in names if canonical_key(name) == key]
    found.sort(key=lambda name: name != key)
    for name in found:
        entry = auths.child(name) if auths is not None else None
        credential = _decode(entry, name, path) if entry is not None else None
        if credential is not None:
            return Lookup(credential, f"auths entry {name[:100]!r} of {path}")
    return Lookup(None, f"no auths entry for {key} in {path}")


def _decode(entry: Fields, name: str, path: str) -> Credential | None:
    identity, bearer = entry.text("identitytoken"), entry.text("registrytoken")
    username, password = entry.text("username"), entry.text("password")
    packed = entry.text("auth")
    if packed:
        from base64 import b64decode  # noqa: PLC0415 - most builds know no password

        try:
            text = b64decode(packed, validate=True).decode().rstrip("\0")
        except ValueError:
            text = ""
        username, colon, password = text.partition(":")
        if not colon:
            msg = f"auths entry {name[:100]!r} of {path} is not base64 of user:password"
            raise RegistryError(msg)
    if identity or bearer:
        return Credential(username, password, identity, bearer)
    return Credential(username, password) if username and password else None
