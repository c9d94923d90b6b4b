"""Which ADD sources are URLs or git repositories, and the file name a URL gives (A04, A07)."""

from __future__ import annotations

import posixpath
import re

from frontend.source import printable

_GIT_SCHEMES = ("git://", "ssh://", "git+ssh://", "git+http://", "git+https://")
_HTTP_SCHEMES = ("http://", "https://")
# Compiled when first needed: start-up time counts, and few files fetch anything.
_GIT_OVER_SSH = r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:(?!//)"
_TAIL = r"[?#]"
_UNNAMED = "__unnamed__"
_LONGEST_FILE_NAME = 255


def is_git(source: str) -> bool:
    """Whether a source is a git repository: git@host:path, git://, ssh://, https://….git."""
    if source.lower().startswith(_GIT_SCHEMES):
        return True
    if "@" in source and re.match(_GIT_OVER_SSH, source):
        return True
    return is_http(source) and re.split(_TAIL, source, maxsplit=1)[0].endswith(".git")


def is_http(source: str) -> bool:
    """Whether a source is fetched by http(s)."""
    return source[:8].lower().startswith(_HTTP_SCHEMES)


def filename(url: str) -> str:
    """Give the last part of a URL's path, decoded; unsafe or empty ones get a fixed name."""
    from urllib.parse import unquote  # noqa: PLC0415 - few files fetch

    path = re.split(_TAIL, url, maxsplit=1)[0].split("://", 1)[1].partition("/")[2]
    name = posixpath.basename(unquote(path).rstrip("/"))
    if name in {"", ".", ".."} or printable(name) != name:
        return _UNNAMED
    return _UNNAMED if len(name.encode(errors="surrogatepass")) > _LONGEST_FILE_NAME else name
