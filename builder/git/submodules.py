"""Submodules: which commits of which repositories belong where, from .gitmodules (A09)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.git.program import GitError, GitFailedError
from cache.archive.entry import decode
from cache.value import value
from frontend.source import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.git.repository import Item, Repository

MAX_SUBMODULES = 1000  # of one checkout, those of submodules included
_GITLINK, _TYPE = 0o160000, 0o170000
_FILE = b".gitmodules"
_PREFIX = b"submodule."


@value
class Submodule:
    """A submodule: its name and path in its parent, where it comes from, its commit."""

    name: str
    path: str
    url: str
    commit: str


def submodules(repository: Repository, items: Sequence[Item]) -> dict[bytes, Submodule]:
    """Find what .gitmodules says of every commit that a tree links to, by path.

    Raises:
        GitError: a link without URL, as for git, or an unreadable .gitmodules.
    """
    sections = _sections(repository, items)
    by_path = {
        text[b"path"].rstrip(b"/"): name for name, text in sections.items() if b"path" in text
    }
    found: dict[bytes, Submodule] = {}
    for item in items:
        if item.mode & _TYPE != _GITLINK:
            continue
        name = by_path.get(item.path)
        section = sections.get(name, {}) if name is not None else {}
        if section.get(b"update") == b"none":
            continue
        url = section.get(b"url", b"")
        if name is None or not url:
            shown = printable(decode(item.path))[:200]
            raise GitError(
                f"no url found for submodule path '{shown}' in .gitmodules",
                hint="add ?submodules=false to the URL to do without submodules",
            )
        found[item.path] = Submodule(decode(name), decode(item.path), decode(url), item.object)
    return found


def _sections(repository: Repository, items: Sequence[Item]) -> dict[bytes, dict[bytes, bytes]]:
    """Read .gitmodules with git, which runs nothing of it and includes no other file."""
    blob = next((item.object for item in items if item.path == _FILE), None)
    if blob is None:
        return {}
    try:
        text = repository.run("config", "--blob", blob, "--no-includes", "-z", "--list")
    except GitFailedError as error:
        raise GitError("cannot read .gitmodules of the repository") from error
    sections: dict[bytes, dict[bytes, bytes]] = {}
    for line in text.split(b"\0"):
        key, _, value_text = line.partition(b"\n")
        if key.startswith(_PREFIX) and key.count(b".") > 1:
            name, _, variable = key[len(_PREFIX) :].rpartition(b".")
            sections.setdefault(name, {})[variable] = value_text
    return sections
