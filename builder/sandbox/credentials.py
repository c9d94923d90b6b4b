"""Who a step runs as: USER text resolved in the image's own passwd and group files (I06).

Pure functions over file contents, which are hostile: lines that do not parse are skipped, the
first match wins, and only plain decimal numbers below 2**31 are ids (D14). Opens nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import SandboxError
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ID = 2**31 - 1  # what container runtimes accept; above lie -1 and its wraps
_MAX_DIGITS = 10
_PASSWD_FIELDS = 6  # up to the home directory; the shell may be missing
_GROUP_FIELDS = 4


@value
class Credentials:
    """Ids to take on. `groups` are supplementary, the primary gid first."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def _number(text: str) -> int | None:
    text = text.removeprefix("+")
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS:
        return None
    return int(text) if int(text) <= MAX_ID else None


def _rows(data: bytes, fields: int) -> Iterator[list[str]]:
    for line in data.split(b"\n"):
        row = line.strip().decode("utf-8", "surrogateescape").split(":")
        if len(row) >= fields and row[0]:
            yield row


@value
class _Account:
    name: str
    uid: int
    gid: int
    home: str


def _account(passwd: bytes, text: str) -> _Account | None:
    number = _number(text)
    for row in _rows(passwd, _PASSWD_FIELDS):
        uid, gid = _number(row[2]), _number(row[3])
        if uid is None or gid is None:
            continue
        if row[0] == text or uid == number:
            return _Account(row[0], uid, gid, row[5])
    return None


def _group(group: bytes, text: str) -> int | None:
    number = _number(text)
    for row in _rows(group, _GROUP_FIELDS):
        gid = _number(row[2])
        if gid is not None and (row[0] == text or gid == number):
            return gid
    return number


def _memberships(group: bytes, name: str) -> Iterator[int]:
    for row in _rows(group, _GROUP_FIELDS):
        gid = _number(row[2])
        if gid is not None and name in row[3].split(","):
            yield gid


def _refuse_out_of_range(kind: str, text: str) -> None:
    # An all-digit text that is no id must not be looked up as a name either.
    if text.lstrip("+-").isdigit() and _number(text) is None:
        raise SandboxError(f"{kind} {text[:64]} is not in the range 0 to {MAX_ID}")


def resolve(user: str, passwd: bytes, group: bytes) -> Credentials:
    """Ids, groups and home of `user[:group]`; empty text is uid 0.

    Raises:
        SandboxError: the name is not in the file, or the number is no id.
    """
    name, separator, rest = user.partition(":")
    group_text = rest.partition(":")[0]
    name = name or "0"
    _refuse_out_of_range("user", name)
    account = _account(passwd, name)
    if account is None:
        number = _number(name)
        if number is None:
            raise SandboxError(
                f"unable to find user {name[:64]}: no matching entries in passwd file"
            )
        account = _Account("", number, 0, "/")
    home = account.home or "/"
    if separator and group_text:
        _refuse_out_of_range("group", group_text)
        gid = _group(group, group_text)
        if gid is None:
            raise SandboxError(
                f"unable to find group {group_text[:64]}: no matching entries in group file"
            )
        return Credentials(account.uid, gid, (gid,), home)
    extra = _memberships(group, account.name) if account.name else ()
    return Credentials(account.uid, account.gid, tuple(dict.fromkeys((account.gid, *extra))), home)
