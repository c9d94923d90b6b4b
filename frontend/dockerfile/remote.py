"""Which ADD sources are URLs or git repositories, and the file name a URL gives (A04, A07)."""

from __future__ import annotations

import posixpath
import re

from cache.hints import TYPE_CHECKING
from frontend.dockerfile.problems import MistakeError
from frontend.source import printable

if TYPE_CHECKING:
    from frontend.dockerfile.giturl import GitReference

_HTTP_SCHEMES = ("http://", "https://")
# Compiled when first needed: start-up time counts, and few files fetch anything.
_TAIL = r"[?#]"
_END_OF_AUTHORITY = r"[/?#]"
_LONGEST_SHOWN = 1000  # characters of a URL in names and messages
_UNNAMED = "__unnamed__"
_UPWARDS = "download"  # the reference's name for what would climb
_LONGEST_FILE_NAME = 255


def git(source: str) -> GitReference | None:
    """Read a source as a git reference; the shorthand without a scheme is a path (A07).

    Raises:
        MistakeError: it is git, and its query or its ref is wrong.
    """
    if "://" not in source and not ("@" in source and ":" in source):
        return None
    from frontend.dockerfile.giturl import git_reference  # noqa: PLC0415 - start-up time

    reference = git_reference(source)
    return None if reference is None or reference.shorthand else reference


def is_git(source: str) -> bool:
    """Whether a source is a git repository, even one with a wrong query."""
    try:
        return git(source) is not None
    except MistakeError:
        return True


def is_http(source: str) -> bool:
    """Whether a source that is not git is fetched by http(s); the scheme is in lower case."""
    return source.startswith(_HTTP_SCHEMES)


def shown(url: str) -> str:
    """Give a URL as it may be shown: without a user's name and password, and not too long."""
    scheme, mark, rest = url.partition("://")
    place = re.split(_END_OF_AUTHORITY, rest, maxsplit=1)[0]
    return f"{scheme}{mark}{rest[place.rfind('@') + 1 :]}"[:_LONGEST_SHOWN] if mark else url


def filename(url: str) -> str:
    """Give the last part of a URL's path, decoded; unsafe or empty ones get a fixed name."""
    from urllib.parse import unquote  # noqa: PLC0415 - few files fetch

    path = re.split(_TAIL, url, maxsplit=1)[0].split("://", 1)[1].partition("/")[2]
    name = posixpath.basename(unquote(path).rstrip("/"))
    if name == "..":
        return _UPWARDS
    if name in {"", "."} or printable(name) != name:
        return _UNNAMED
    return _UNNAMED if len(name.encode(errors="surrogatepass")) > _LONGEST_FILE_NAME else name
