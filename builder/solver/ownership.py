"""The --chown text and the user database of an image (CP02, I05, B15).

Owns reading /etc/passwd and /etc/group of a tree as data. The host's users are never asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.context.source import CopyError
from cache.archive.entry import Kind
from cache.value import value
from frontend.source import printable

if TYPE_CHECKING:
    from builder.context.source import SourceTree

MAX_ID = (1 << 32) - 2  # 2^32-1 means "no change" to the kernel
_MAX_DATABASE = 16 * 1024 * 1024  # bytes of one passwd or group file
_PASSWD_ID, _PASSWD_GROUP, _GROUP_ID = 2, 3, 2


@value
class Owner:
    """Numeric owner."""

    uid: int = 0
    gid: int = 0


def parse_owner(text: str, tree: SourceTree) -> Owner | None:
    """Read `user[:group]`, names looked up in the tree; None for an empty text.

    A user without a group brings its primary group, or its own number when it is numeric.

    Raises:
        CopyError: a number out of range, or a name the tree does not know.
    """
    if not text:
        return None
    user, _, group = text.partition(":")
    owner = _user(user, text, tree)
    return Owner(owner.uid, _group(group, text, tree)) if group else owner


def uses_names(text: str) -> bool:
    """Whether the text needs a user database."""
    return any(part and not _is_number(part) and part != "root" for part in text.split(":", 1))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str, whole: str) -> int:
    if len(text) > len(str(MAX_ID)) + 20 or int(text) > MAX_ID:
        raise CopyError(
            f"invalid owner {printable(whole[:60])!r}: {text[:20]} is out of range",
            hint=f"IDs go from 0 to {MAX_ID}",
        )
    return int(text)


def _user(user: str, whole: str, tree: SourceTree) -> Owner:
    if user in {"", "root"}:
        return Owner()
    if _is_number(user):
        return Owner(_number(user, whole), _number(user, whole))
    for fields in _records(tree, "etc/passwd"):
        if fields[0] == user and len(fields) > _PASSWD_GROUP:
            uid, gid = fields[_PASSWD_ID], fields[_PASSWD_GROUP]
            if _is_number(uid) and _is_number(gid):
                return Owner(_number(uid, whole), _number(gid, whole))
    raise _unknown("user", user, "/etc/passwd")


def _group(group: str, whole: str, tree: SourceTree) -> int:
    if group == "root":
        return 0
    if _is_number(group):
        return _number(group, whole)
    for fields in _records(tree, "etc/group"):
        if fields[0] == group and len(fields) > _GROUP_ID and _is_number(fields[_GROUP_ID]):
            return _number(fields[_GROUP_ID], whole)
    raise _unknown("group", group, "/etc/group")


def _records(tree: SourceTree, path: str) -> list[list[str]]:
    place = tree.resolve(path)
    entry = tree.get(place)
    if entry is None or entry.kind is not Kind.FILE:
        return []
    if entry.size > _MAX_DATABASE:
        raise CopyError(f"/{path} of the image is over the limit of {_MAX_DATABASE} bytes")
    text = tree.read(place).decode("utf-8", "surrogateescape")
    return [line.strip().split(":") for line in text.split("\n")]


def _unknown(kind: str, name: str, database: str) -> CopyError:
    return CopyError(
        f"unable to find {kind} {printable(name[:60])}: no matching entries in {database}",
        hint="create it in an earlier RUN, or give a number",
    )
