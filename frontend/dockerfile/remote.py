"""Which ADD sources are URLs or git repositories, and the file name a URL gives (A04, A07)."""

from __future__ import annotations

import posixpath
import re

from frontend.source import printable

_GIT_SCHEME = re.compile(r"(?:git|ssh|git\+ssh|git\+https?)://", re.IGNORECASE)
_GIT_SSH = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:(?!//)")
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_UNNAMED = "__unnamed__"
_LONGEST_FILE_NAME = 255


def is_git(source: str) -> bool:
    """Whether a source is a git repository: git@host:path, git://, ssh://, https://….git."""
    if _GIT_SCHEME.match(source) or _GIT_SSH.match(source):
        return True
    path = re.split(r"[?#]", source, maxsplit=1)[0]
    return is_http(source) and path.endswith(".git")


def is_http(source: str) -> bool:
    """Whether a source is fetched by http(s)."""
    return _HTTP.match(source) is not None


def filename(url: str) -> str:
    """Give the last part of a URL's path, decoded; unsafe or empty ones get a fixed name."""
    from urllib.parse import unquote  # noqa: PLC0415 - few files fetch

    path = re.split(r"[?#]", url, maxsplit=1)[0].split("://", 1)[1].partition("/")[2]
    name = posixpath.basename(unquote(path).rstrip("/"))
    if name in {"", ".", ".."} or printable(name) != name:
        return _UNNAMED
    return _UNNAMED if len(name.encode(errors="surrogatepass")) > _LONGEST_FILE_NAME else name
