"""The --chmod text: octal or symbolic, and what it makes of a mode (CP03).

Must not know entries or trees.
"""

from __future__ import annotations

import re

from builder.context.source import CopyError
from cache.value import value
from frontend.source import printable

_ALL = 0o7777
_SET_IDS = 0o6000
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": _ALL}
_PERMS = {"r": 0o444, "w": 0o222, "x": 0o111, "s": _SET_IDS, "t": 0o1000, "X": 0}
_SHIFT = {"u": 6, "g": 3, "o": 0}
_CLAUSE = re.compile(r"(?P<who>[ugoa]*)(?P<actions>(?:[-+=](?:[rwxXst]*|[ugo]))+)\Z")
_ACTION = re.compile(r"([-+=])([rwxXst]*)([ugo]?)")
_OCTAL = re.compile(r"[0-7]{1,16}\Z")


@value
class _Action:
    who: int  # the bits it may touch
    operator: str
    permissions: str
    copied: str  # u, g or o: permissions come from there

    def apply(self, mode: int, *, directory: bool) -> int:
        value = self._value(mode, directory=directory)
        # Set-id bits of directories change only when they are named, as chmod(1) does.
        kept = _SET_IDS if directory and "s" not in self.permissions else 0
        value &= self.who & ~kept
        if self.operator == "+":
            return mode | value
        if self.operator == "-":
            return mode & ~value
        return mode & (~self.who | kept) & _ALL | value

    def _value(self, mode: int, *, directory: bool) -> int:
        if self.copied:
            return (mode >> _SHIFT[self.copied] & 0o7) * 0o111
        value = 0
        for letter in self.permissions:
            value |= _PERMS[letter]
        if "X" in self.permissions and (directory or mode & 0o111):
            value |= 0o111
        return value


@value
class ModeChange:
    """What --chmod asks for: an absolute mode, or actions on the present one."""

    octal: int | None
    actions: tuple[_Action, ...] = ()

    def apply(self, mode: int, *, directory: bool) -> int:
        """The new mode of a file or directory that has `mode`."""
        if self.octal is not None:
            return self.octal
        for action in self.actions:
            mode = action.apply(mode, directory=directory)
        return mode


def parse_mode(text: str) -> ModeChange | None:
    """Read a --chmod text; None for an empty one.

    Raises:
        CopyError: neither an octal number up to 7777 nor symbolic.
    """
    if not text:
        return None
    if text[0].isdigit():
        if _OCTAL.match(text) is None or int(text, 8) > _ALL:
            msg = f"invalid chmod parameter: {printable(text[:60])!r}"
            raise CopyError(msg, hint="it should be an octal string and between 0 and 07777")
        return ModeChange(int(text, 8))
    actions: list[_Action] = []
    for clause in text.split(","):
        actions.extend(_clause(clause, text))
    return ModeChange(None, tuple(actions))


def _clause(clause: str, text: str) -> list[_Action]:
    match = _CLAUSE.match(clause)
    if match is None:
        raise CopyError(
            f"invalid chmod parameter: {printable(text[:60])!r}",
            hint="write it as octal (755) or symbolic (u=rwX,go=rX)",
        )
    who = 0
    for letter in match["who"] or "a":
        who |= _WHO[letter]
    return [_Action(who, *found.groups()) for found in _ACTION.finditer(match["actions"])]
