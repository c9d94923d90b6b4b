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
    from collections.abc import Callable, Iterator

    from builder.context.source import SourceTree

_MAX_ID = (1 << 31) - 1  # larger numbers are names to the reference
_NO_CHANGE = (1 << 32) - 1  # what -1 is to the kernel: new files stay root's
_MAX_DIGITS = 20  # of a number in a user database
_MAX_DATABASE = 16 * 1024 * 1024  # bytes of one passwd or group file
_PASSWD_ID, _PASSWD_GROUP, _GROUP_ID = 2, 3, 2


@value
class Owner:
    """Numeric owner."""

    uid: int = 0
    gid: int = 0


def unheard(_: str, /) -> None:
    """Take a warning that nobody asked for."""


def parse_owner(text: str, tree: SourceTree, warn: Callable[[str], None] = unheard) -> Owner | None:
    """Read `user[:group]`, names looked up in the tree; None for an empty text.

    A user without a group brings its primary group, or its own number when it is numeric. An
    unknown user is root and an unknown group leaves the user's, which `warn` is told.

    Raises:
        CopyError: the user database is no file, or too large.
    """
    if not text:
        return None
    user, colon, group = text.partition(":")
    owner = _user(user, tree, warn)
    if not colon:
        return owner
    number = _number(group)
    if number is None:
        number = _lookup_group(group, tree, owner, warn)
    return Owner(owner.uid, number)


def _number(text: str) -> int | None:
    """What the kernel takes a number for; None for a name."""
    if text in {"", "root"}:
        return 0
    digits = text[1:] if text[:1] in {"+", "-"} else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    digits = digits.lstrip("0") or "0"
    if len(digits) > len(str(_MAX_ID)):
        return None
    number = -int(digits) if text[0] == "-" else int(digits)
    if not -_MAX_ID - 1 <= number <= _MAX_ID:
        return None
    number &= _NO_CHANGE
    return 0 if number == _NO_CHANGE else number


def _user(user: str, tree: SourceTree, warn: Callable[[str], None]) -> Owner:
    number = _number(user)
    if number is not None:
        return Owner(number, number)
    for fields in _records(tree, "etc/passwd"):
        if fields[0] == user:
            return Owner(_field(fields, _PASSWD_ID), _field(fields, _PASSWD_GROUP))
    warn(f"there is no user {printable(user[:60])} in /etc/passwd of the image: taking 0")
    return Owner()


def _lookup_group(group: str, tree: SourceTree, owner: Owner, warn: Callable[[str], None]) -> int:
    for fields in _records(tree, "etc/group"):
        if fields[0] == group:
            return _field(fields, _GROUP_ID)
    name = printable(group[:60])
    warn(f"there is no group {name} in /etc/group of the image: taking {owner.gid}")
    return owner.gid


def _field(fields: list[str], index: int) -> int:
    """A number of a record; what is none counts as 0, as for the reference."""
    text = fields[index] if index < len(fields) else ""
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS:
        return 0
    return int(text) & _NO_CHANGE


def _records(tree: SourceTree, path: str) -> Iterator[list[str]]:
    place = tree.resolve(path)
    entry = tree.get(place)
    if entry is None:
        return
    if entry.kind is not Kind.FILE:
        raise CopyError(f"/{path} of the image is not a regular file")
    if entry.size > _MAX_DATABASE:
        raise CopyError(f"/{path} of the image is over the limit of {_MAX_DATABASE} bytes")
    text = tree.read(place).decode("utf-8", "surrogateescape")
    for line in text.split("\n"):
        if record := line.strip():
            yield record.split(":")
