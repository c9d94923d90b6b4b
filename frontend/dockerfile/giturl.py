"""Git references as BuildKit writes them: what is one, its fragment and its query (A07, A08, B06).

Reads text only; whether the repository exists is not known here.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, unquote_plus

from cache.value import replace, value
from frontend.dockerfile.problems import MistakeError
from frontend.graph import GitOp

if TYPE_CHECKING:
    from collections.abc import Callable

_SCHEME = re.compile(r"\A([A-Za-z0-9]+)://")
_SCP = re.compile(r"\A([A-Za-z0-9_-]+)@([A-Za-z0-9.-]+):([^\n?#]*)(?:\?([^\n#]*))?(?:#([^\n]*))?\Z")
_SCHEMES = ("http", "https", "ssh", "git")
_SHORTHAND = "github.com/"
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_AUTHORITY = re.compile(r"\A(?:[^/@]*@)?([^@\s%:\[\]\\^`{|}]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?\Z")
_SAFE_IN_URL = "/:@!$&'()*+,;=%~[]"
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_TAGS = "refs/tags/"
_HEADS = "refs/heads/"
_SHOWN = 100  # characters of somebody's text in a message


@value
class GitReference:
    """A git reference taken apart; None where it does not say."""

    url: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None
    mtime: str = ""
    fetch_by_commit: bool = False
    shorthand: bool = False

    def operation(self) -> GitOp:
        """The fetch that it asks for."""
        return GitOp(
            url=self.url,
            ref=self.ref,
            subdir=posixpath.normpath(f"/{self.subdir}").strip("/"),
            keep_git_dir=bool(self.keep_git_dir),
            submodules=self.submodules is not False,
            checksum=self.checksum,
            mtime="" if self.mtime == "checkout" else self.mtime,
            fetch_by_commit=self.fetch_by_commit,
        )


def parse_git(text: str) -> GitOp | None:
    """Read a git context, named or not; `github.com/user/name` is one too. None: it is not git.

    Raises:
        MistakeError: it is git, and its query or its ref is wrong.
    """
    reference = git_reference(text)
    return None if reference is None else reference.operation()


def git_reference(text: str) -> GitReference | None:
    """Take a git reference apart; None if the text is something else.

    Raises:
        MistakeError: its query or its ref is wrong.
    """
    found = _split(text)
    if found is None:
        return None
    reference, pairs = found
    if pairs:
        reference = _with_query(reference, _unique(pairs))
    if reference.ref.startswith("-") or _CONTROL.search(reference.ref):
        raise MistakeError(f"invalid git ref {reference.ref[:_SHOWN]!r}")
    return reference


def _split(text: str) -> tuple[GitReference, list[tuple[str, str]]] | None:
    """The remote with what its fragment says, and the pairs of its query."""
    if text.startswith(("./", "../")):
        return None
    scheme = _SCHEME.match(text)
    if scheme is not None:
        if scheme[1].lower() not in _SCHEMES:
            return None
        return _split_url(scheme[1].lower(), text[scheme.end() :], shorthand=False)
    if text.startswith(_SHORTHAND):
        return _split_url("https", text, shorthand=True)
    return _split_scp(text)


def _split_url(
    scheme: str, rest: str, *, shorthand: bool
) -> tuple[GitReference, list[tuple[str, str]]] | None:
    before, _, fragment = rest.partition("#")
    location, _, query = before.partition("?")
    authority, slash, path = location.partition("/")
    if _CONTROL.search(before) or _BAD_ESCAPE.search(path) or _BAD_ESCAPE.search(fragment):
        return None
    host = _AUTHORITY.match(authority)
    if host is None or host[1].startswith("-"):
        return None
    is_web = scheme in {"http", "https"}
    if is_web and not shorthand and not unquote(path).endswith(".git"):
        return None
    url = f"{scheme}://{authority}{slash}{quote(path, safe=_SAFE_IN_URL)}"
    reference = _with_fragment(url, unquote(fragment))
    return replace(reference, shorthand=shorthand), _pairs(query, lenient=True) or []


def _split_scp(text: str) -> tuple[GitReference, list[tuple[str, str]]] | None:
    match = _SCP.match(text) if "@" in text else None
    if match is None or match[2].startswith("-"):
        return None
    pairs = _pairs(match[4] or "", lenient=False)
    if pairs is None:
        return None
    return _with_fragment(f"{match[1]}@{match[2]}:{match[3]}", match[5] or ""), pairs


def _with_fragment(url: str, fragment: str) -> GitReference:
    ref, _, subdir = fragment.partition(":")
    return GitReference(url, ref, posixpath.normpath(f"/{subdir}").strip("/"))


def _pairs(query: str, *, lenient: bool) -> list[tuple[str, str]] | None:
    """Names and values of a query; what is malformed is passed over, or makes it no query."""
    pairs: list[tuple[str, str]] = []
    for part in query.split("&"):
        if not part:
            continue
        if ";" in part or _BAD_ESCAPE.search(part):
            if lenient:
                continue
            return None
        name, _, text = part.partition("=")
        pairs.append((unquote_plus(name), unquote_plus(text)))
    return pairs


def _unique(pairs: list[tuple[str, str]]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, text in pairs:
        if name in given:
            raise MistakeError(f"query {_quoted(name)} has multiple values")
        if not text and name not in _SWITCHES:
            raise MistakeError(f"query {_quoted(name)} has no value")
        given[name] = text
    return given


def _with_query(reference: GitReference, given: dict[str, str]) -> GitReference:
    for name, text in given.items():
        apply = _KEYS.get(name)
        if apply is None:
            raise MistakeError(
                f"unexpected query {_quoted(name)}", hint=f"known are {', '.join(_KEYS)}"
            )
        reference = apply(reference, text)
    tag, branch = given.get("tag"), given.get("branch")
    if tag is not None and branch is not None:
        raise MistakeError("branch conflicts with tag")
    if tag is not None:
        reference = _set_ref(reference, tag if tag.startswith(_TAGS) else _TAGS + tag)
    if branch is not None:
        reference = _set_ref(reference, branch if branch.startswith(_HEADS) else _HEADS + branch)
    return reference


def _set_ref(reference: GitReference, ref: str) -> GitReference:
    if reference.ref not in {"", ref}:
        raise MistakeError(f"ref conflicts: {_quoted(reference.ref)} vs {_quoted(ref)}")
    return replace(reference, ref=ref)


def _set_subdir(reference: GitReference, subdir: str) -> GitReference:
    if reference.subdir not in {"", subdir}:
        raise MistakeError(f"subdir conflicts: {_quoted(reference.subdir)} vs {_quoted(subdir)}")
    return replace(reference, subdir=subdir)


def _set_mtime(reference: GitReference, text: str) -> GitReference:
    if text not in {"checkout", "commit"}:
        raise MistakeError(f'invalid mtime value: {_quoted(text)} (must be "checkout" or "commit")')
    return replace(reference, mtime=text)


def _set_checksum(reference: GitReference, text: str) -> GitReference:
    return replace(reference, checksum=text)


def _unchanged(reference: GitReference, text: str) -> GitReference:
    del text
    return reference


def _switch(name: str, text: str) -> bool:
    if text in {"", *_TRUE}:
        return True
    if text in _FALSE:
        return False
    raise MistakeError(f"invalid {name} value: {_quoted(text)}", hint="give true or false")


def _quoted(text: str) -> str:
    return f'"{text[:_SHOWN]}"'


_SWITCHES = ("submodules", "keep-git-dir", "fetch-by-commit")
_KEYS: dict[str, Callable[[GitReference, str], GitReference]] = {
    "ref": _set_ref,
    "tag": _unchanged,  # meets `ref` and `branch` when all keys were read
    "branch": _unchanged,
    "subdir": _set_subdir,
    "checksum": _set_checksum,
    "commit": _set_checksum,
    "keep-git-dir": lambda at, text: replace(at, keep_git_dir=_switch("keep-git-dir", text)),
    "submodules": lambda at, text: replace(at, submodules=_switch("submodules", text)),
    "mtime": _set_mtime,
    "fetch-by-commit": lambda at, text: replace(
        at, fetch_by_commit=_switch("fetch-by-commit", text)
    ),
}
