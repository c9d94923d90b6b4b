"""The --chmod text: octal or symbolic, and what it makes of a mode (CP03).

Symbols mean what they mean to the reference, which is BSD's setmode(3): set-id bits of directories
are no exception, and `o+t` is nothing. Must not know Dockerfiles, entries or trees.
"""

from __future__ import annotations

import re

from cache.value import value

MAX_MODE = 0o7777
_STICKY = 0o1000
_SET_IDS = 0o6000
_OTHER = 0o007
_EXECUTE = 0o111
_WHO = {"u": 0o4700, "g": 0o2070, "o": _OTHER, "a": 0o6777}
_BITS = {"r": 0o444, "w": 0o222, "x": _EXECUTE}
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_DIGITS = frozenset("0123456789")
_CLAUSE = re.compile(r"(?P<who>[ugoa]*)(?P<actions>(?:[-+=][rwxXstugo]*)+)")
_ACTION = re.compile(r"([-+=])([rwxXstugo]*)")


@value
class _Change:
    """Bits cleared, then bits set; `if_executable` as `X` wants it."""

    clear: int = 0
    set: int = 0
    if_executable: bool = False

    def apply(self, mode: int, *, executable: bool) -> int:
        if self.if_executable and not executable:
            return mode
        return mode & ~self.clear | self.set


@value
class _CopyChange:
    """The permissions of one class copied to others."""

    source: str
    targets: int  # what one class's bits are multiplied with to cover them
    operator: str

    def apply(self, mode: int, *, executable: bool) -> int:
        del executable
        bits = (mode >> _SHIFTS[self.source] & _OTHER) * self.targets
        if self.operator == "+":
            return mode | bits
        if self.operator == "-":
            return mode & ~bits
        return mode & ~(_OTHER * self.targets) | bits


@value
class ModeChange:
    """What --chmod asks for: an absolute mode, or changes of the present one."""

    octal: int | None
    changes: tuple[_Change | _CopyChange, ...] = ()

    def apply(self, mode: int, *, directory: bool) -> int:
        """The new mode of a file or directory that has `mode`."""
        if self.octal is not None:
            return self.octal
        executable = directory or bool(mode & _EXECUTE)
        for change in self.changes:
            mode = change.apply(mode, executable=executable)
        return mode


def parse_mode(text: str) -> ModeChange:
    """Read a --chmod text.

    Raises:
        ValueError: saying how it should have been written.
    """
    if text[:1] in _DIGITS:
        if text.strip("01234567") or int(text, 8) > MAX_MODE:
            raise ValueError("it should be an octal string and between 0 and 07777")
        return ModeChange(int(text, 8))
    changes: list[_Change | _CopyChange] = []
    for clause in text.split(","):
        changes += _clause(clause)
    return ModeChange(None, tuple(changes))


def _clause(clause: str) -> list[_Change | _CopyChange]:
    match = _CLAUSE.fullmatch(clause)
    if match is None:
        raise ValueError("write it as octal (755) or symbolic (u=rwX,go=rX)")
    who = 0
    for letter in match["who"]:
        who |= _WHO[letter]
    changes: list[_Change | _CopyChange] = []
    for action in _ACTION.finditer(match["actions"]):
        changes += _action(action[1], action[2], who)
    return changes


def _action(operator: str, letters: str, who: int) -> list[_Change | _CopyChange]:
    changes: list[_Change | _CopyChange] = []
    bits = if_executable = 0
    cleared = operator != "="

    def flush() -> None:
        nonlocal bits, if_executable
        if bits or not cleared:
            changes.append(_change(operator, bits, who))
        if if_executable:
            changes.append(_Change(set=who & _EXECUTE if who else _EXECUTE, if_executable=True))
        bits = if_executable = 0

    for letter in letters:
        if letter in _SHIFTS:
            cleared = True
            flush()
            changes.append(_CopyChange(letter, _targets(who), operator))
        elif letter == "X" and operator != "-":
            if_executable = _EXECUTE
        elif letter in "st":
            if not who or who & ~_OTHER:  # others alone have neither
                bits |= _SET_IDS if letter == "s" else _STICKY
                who |= _STICKY if letter == "t" else 0
        else:
            bits |= _BITS[letter.lower()]
    flush()
    return changes


def _change(operator: str, bits: int, who: int) -> _Change:
    bits = who & bits if who else bits
    if operator == "+":
        return _Change(set=bits)
    if operator == "-":
        return _Change(clear=bits)
    return _Change(clear=who or _WHO["a"], set=bits)


def _targets(who: int) -> int:
    if not who:
        return _EXECUTE
    return (who >> 8 & 1) << 6 | (who >> 5 & 1) << 3 | who >> 2 & 1
