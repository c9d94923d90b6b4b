"""Answering challenges: Basic, and Bearer with tokens (distribution-spec, token and OAuth2).

Owns the token cache and the rules about realms. A token is kept for one registry, one set of
scopes and one credential; a credential goes to its registry and to the realm it names, if the
realm is fit, and nowhere else.
"""

from __future__ import annotations

import re
import threading
import time

from builder.errors import RegistryError
from builder.registry.location import Location, Origin, plain_allowed
from builder.registry.reply import printable, refusal
from builder.registry.transport import Request, check_downgrade
from cache.errors import InvalidDocumentError
from cache.hints import TYPE_CHECKING
from cache.spec.oci import load_object
from cache.value import field, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.registry.challenge import Challenge
    from builder.registry.credentials import Credential, CredentialSource, Lookup
    from builder.registry.reply import Reply
    from builder.registry.transport import Transport

_MAX_REPLY = 1024 * 1024  # bytes of a token reply
_MAX_TOKEN = 48 * 1024  # characters; a header line holds 64 KiB
_TOKEN = re.compile(r"[\x21-\x7e]+\Z")
_DEFAULT_LIFE = 60.0  # seconds, as the token spec says
_LONGEST_LIFE = 3600.0
_CLIENT = "pybuild"
_FORM = "application/x-www-form-urlencoded"


@value
class Access:
    """What a request needs: the registry as named, its origin, and token scopes."""

    registry: str
    origin: Origin
    scopes: tuple[str, ...] = ()


@value
class _Token:
    header: str = field(repr=False)
    expires: float


class Authenticator:
    """Authorization headers for one client; safe for several threads."""

    def __init__(
        self,
        transport: Transport,
        credentials: CredentialSource,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without knowledge; credentials are looked up when a registry asks."""
        self._transport = transport
        self._source = credentials
        self._clock = clock
        self._lock = threading.RLock()
        self._challenges: dict[Origin, Challenge] = {}
        self._found: dict[str, Lookup] = {}
        self._tokens: dict[tuple[Access, Credential | None], _Token] = {}

    def header(self, access: Access) -> str | None:
        """The header to send at once, None while nothing was asked for.

        Raises:
            RegistryError: the token server refused or broke.
        """
        with self._lock:
            challenge = self._challenges.get(access.origin)
            if challenge is None:
                return None
            credential = self._lookup(access.registry).credential
            if credential is not None and credential.bearer:
                return f"Bearer {_checked(credential.bearer)}"
            if challenge.scheme == "basic":
                return credential.basic if credential is not None else None
            return self._bearer(challenge, access, credential)

    def answer(self, reply: Reply, access: Access, used: str | None) -> str | None:
        """Read a 401's challenge and make a new header; None when we have no answer.

        `used` is the header that was refused: a token like it is dropped, so that one 401 makes
        one new token, whatever other threads do.

        Raises:
            RegistryError: the challenge is malformed or its realm unfit, or the token failed.
        """
        from builder.registry import challenge as challenges  # noqa: PLC0415 - its patterns cost

        asked = challenges.choose(challenges.parse(reply.headers("WWW-Authenticate")))
        with self._lock:
            if asked is None:
                return None
            self._challenges[access.origin] = asked
            if used is not None:
                stale = [key for key, token in self._tokens.items() if token.header == used]
                for key in stale:
                    del self._tokens[key]
                if not stale and asked.scheme == "basic":
                    self._found.pop(access.registry, None)
            return self.header(access)

    def explain(self, access: Access) -> str:
        """Say for a 401 or 403 what was tried and what to do next; no secret in it."""
        found = self._found.get(access.registry)
        tried = f"tried {found.where}; " if found is not None else ""
        return f"{tried}log in with: pybuild login {access.registry}"

    def _lookup(self, registry: str) -> Lookup:
        if registry not in self._found:
            self._found[registry] = self._source.lookup(registry)
        return self._found[registry]

    def _bearer(self, asked: Challenge, access: Access, credential: Credential | None) -> str:
        key = (access, credential)
        token = self._tokens.get(key)
        if token is None or token.expires <= self._clock():
            token = self._tokens[key] = self._fetch(asked, access, credential)
        return token.header

    def _fetch(self, asked: Challenge, access: Access, credential: Credential | None) -> _Token:
        realm = self._realm(asked["realm"], access.origin)
        pairs = [("service", asked["service"])] if asked["service"] else []
        if credential is not None and credential.identity_token:
            request = _oauth(realm, pairs, access.scopes, credential)
        else:
            request = _token_request(realm, pairs, access.scopes, credential)
        with self._transport.send(request, guard=access.origin) as reply:
            if reply.status in {401, 403}:
                raise refusal(reply, f"token for {access.registry}", self.explain(access))
            if reply.status != 200:  # noqa: PLR2004 - OK; a redirect is refused too (F04)
                raise refusal(reply, f"token for {access.registry}")
            return self._read(reply.body(_MAX_REPLY), access)

    def _realm(self, text: str, origin: Origin) -> Location:
        if "#" in text:
            msg = f"token realm of {origin.authority} has a fragment"
            raise RegistryError(msg)
        try:
            realm = Location.parse(text)
        except RegistryError as error:
            msg = f"token realm of {origin.authority} is refused: {error.message}"
            raise RegistryError(msg) from error
        check_downgrade(origin, realm.origin)
        same = realm.origin.host == origin.host
        if realm.origin.scheme == "http" and not (
            same or plain_allowed(realm.origin, self._transport.config)
        ):
            msg = f"token realm {realm.shown} of {origin.authority} is plain http on another host"
            raise RegistryError(msg)
        return realm

    def _read(self, data: bytes, access: Access) -> _Token:
        try:
            found = load_object(data, f"token reply for {access.registry}")
        except InvalidDocumentError as error:
            raise RegistryError(printable(error.message)) from error
        text = found.get("token") or found.get("access_token")
        if not isinstance(text, str):
            msg = f"token reply for {access.registry} holds no token"
            raise RegistryError(msg)
        life = found.get("expires_in")
        seconds = float(life) if type(life) is int and 0 < life < 1 << 40 else _DEFAULT_LIFE
        # Our own clock from now on: the server's `issued_at` may be hours off (R30).
        expires = self._clock() + min(seconds, _LONGEST_LIFE) * 0.9
        return _Token(f"Bearer {_checked(text)}", expires)


def _checked(token: str) -> str:
    if len(token) > _MAX_TOKEN or _TOKEN.match(token) is None:
        msg = f"bearer token of {len(token)} characters is malformed"
        raise RegistryError(msg)
    return token


def _token_request(
    realm: Location,
    pairs: list[tuple[str, str]],
    scopes: tuple[str, ...],
    credential: Credential | None,
) -> Request:
    pairs = [*pairs, *(("scope", scope) for scope in scopes)]
    headers = {}
    if credential is not None:
        pairs.append(("account", credential.username))
        headers["Authorization"] = credential.basic
    return Request("GET", realm.with_query(pairs) if pairs else realm, headers)


def _oauth(
    realm: Location,
    pairs: list[tuple[str, str]],
    scopes: tuple[str, ...],
    credential: Credential,
) -> Request:
    from urllib.parse import urlencode  # noqa: PLC0415 - few tokens are had this way

    form = [
        ("grant_type", "refresh_token"),
        *pairs,
        ("client_id", _CLIENT),
        ("scope", " ".join(scopes)),
        ("refresh_token", credential.identity_token),
    ]
    body = urlencode([pair for pair in form if pair[1]]).encode()
    return Request("POST", realm, {"Content-Type": _FORM}, body)
