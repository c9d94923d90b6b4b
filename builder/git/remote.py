"""Where a repository lives and how to prove who asks: URLs, their parts, their credentials.

Credentials never stay in the URL, as git's arguments are public: they become a header that git
is told through its environment.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from builder.git.program import GitError
from cache.value import field, value
from frontend.source import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_URL = re.compile(r"\A(https?|ssh|git)://([^/@]*@)?([^/@]*)(/.*)?\Z", re.DOTALL)
# Not `ext::…`, which names a program, and no word that a program could take for an option.
_SCP = re.compile(
    r"\A(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?"
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\]):(?!//|:|-).*\Z",
    re.DOTALL,
)
_HUBS = ("https://github.com/", "https://www.github.com/")
_HEADER, _TOKEN = "GIT_AUTH_HEADER", "GIT_AUTH_TOKEN"
_CREDENTIALS = re.compile(r"([a-z]+://)[^/@\s]*@")
_MAX_URL = 4096


@value
class Remote:
    """A repository: `url` as git gets it, `auth` as settings of git."""

    url: str
    userinfo: str = field(default="", repr=False)
    auth: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def shown(self) -> str:
        """The URL for a message."""
        return printable(self.url)[:200]

    @property
    def over_ssh(self) -> bool:
        """Whether ssh carries it."""
        return self.url.startswith("ssh://") or "://" not in self.url

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """How git is to ask: with the credentials, which then go nowhere else (F04)."""
        return (*self.auth, ("http.followRedirects", "false")) if self.auth else ()

    def at(self, url: str) -> Remote:
        """The same repository and credentials at another URL of its host."""
        auth = tuple((name.replace(self.url, url, 1), text) for name, text in self.auth)
        return Remote(url, self.userinfo, auth)

    @property
    def full(self) -> str:
        """The URL with its credentials, for what is relative to it."""
        scheme, mark, rest = self.url.partition("://")
        web = scheme in {"http", "https"}
        return f"{scheme}{mark}{self.userinfo}{rest}" if web else self.url


class Remotes:
    """Makes remotes of URLs, with the secrets that are for them."""

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        """Take the secrets of the build by id."""
        self._secrets = secrets

    def of(self, url: str, main: Remote | None = None) -> Remote:
        """Check a URL; a submodule's gets the secrets only if it lies below those of `main`.

        Raises:
            GitError: another kind of URL, or one that a program could take for an option.
        """
        if len(url) > _MAX_URL or not url.isprintable():
            raise _refused(url)
        match = _URL.match(url)
        if match is None:
            if _SCP.match(url) is None:
                raise _refused(url)
            return Remote(url)
        scheme, userinfo, host, path = match[1], match[2] or "", match[3], match[4] or ""
        if host.startswith("-") or userinfo.startswith("-") or not host:
            raise _refused(url)
        if scheme not in {"http", "https"}:
            return Remote(url)
        plain = f"{scheme}://{host}{path}"
        return Remote(plain, userinfo, self._auth(plain, host, userinfo, main))

    def _auth(
        self, url: str, host: str, userinfo: str, main: Remote | None
    ) -> tuple[tuple[str, str], ...]:
        scope = _scope(main.url if main is not None else url)
        header = self._header(host) if url == scope or _below(url, scope) else None
        if header is None and userinfo:
            header = f"basic {base64.b64encode(unquote_to_bytes(userinfo[:-1])).decode()}"
        if header is None:
            return ()
        return ((f"http.{url}.extraHeader", f"Authorization: {header}"),)

    def _header(self, host: str) -> str | None:
        for name in (f"{_HEADER}.{host}", f"{_TOKEN}.{host}", _HEADER, _TOKEN):
            secret = self._secrets.get(name)
            if secret is None:
                continue
            secret = secret.rstrip(b"\r\n")
            if b"\n" in secret or b"\r" in secret or b"\0" in secret:
                raise GitError(f"secret {name} holds more than one line")
            if name.startswith(_TOKEN):
                return f"basic {base64.b64encode(b'x-access-token:' + secret).decode()}"
            return secret.decode("utf-8", "surrogateescape")
        return None


def _scope(url: str) -> str:
    """What the secrets are for: the repository, but all of github.com if it lies there."""
    return next((hub for hub in _HUBS if url.startswith(hub)), url)


def _below(url: str, scope: str) -> bool:
    return url.startswith(scope if scope.endswith("/") else f"{scope}/")


def _refused(url: str) -> GitError:
    shown = printable(redacted(url))[:200]
    return GitError(f"git URL {shown!r} is refused", hint="use https://, ssh:// or git://")


def redacted(text: str) -> str:
    """Take user names and passwords out of URLs in a text."""
    return _CREDENTIALS.sub(r"\1", text)


def relative(base: str, url: str) -> str:
    """Resolve a submodule's URL, `./` and `../` as git does it; others stay as they are.

    Raises:
        GitError: it climbs above the repository's host.
    """
    if not url.startswith(("./", "../")):
        return url
    base = base.rstrip("/")
    floor = len(base[: base.find("://") + 3]) if "://" in base else 0
    separator = "/"
    while True:
        if url.startswith("./"):
            url = url[2:]
        elif url.startswith("../"):
            url = url[3:]
            cut = base.rfind("/", floor)
            if cut < 0 and not floor:
                cut, separator = base.rfind(":"), ":"
            if cut < 0:
                raise GitError(f"submodule URL {printable(url)[:100]!r} leaves its host")
            base = base[:cut]
        else:
            return f"{base}{separator}{url}".rstrip("/")
