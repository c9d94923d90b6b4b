"""Go's filepath.Match for one path component, in time linear in pattern times name (C22, B05).

Must not know trees.
"""

from __future__ import annotations

from builder.context.source import CopyError
from cache.value import value
from frontend.source import printable

_META = frozenset("*?[")


def is_wildcard(text: str) -> bool:
    """Whether a text has an unescaped `*`, `?` or `[`."""
    escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char in _META:
            return True
    return False


def unescape(text: str) -> str:
    """Take the backslashes out of a component without wildcards."""
    kept: list[str] = []
    escaped = False
    for char in text:
        if char == "\\" and not escaped:
            escaped = True
            continue
        kept.append(char)
        escaped = False
    return "".join(kept)


@value
class _Class:
    negated: bool
    ranges: tuple[tuple[str, str], ...]

    def takes(self, char: str) -> bool:
        return self.negated != any(low <= char <= high for low, high in self.ranges)


_ANY = _Class(negated=True, ranges=())


@value
class Wildcard:
    """A compiled component pattern: single-character classes, None for `*`."""

    tokens: tuple[_Class | None, ...]

    @classmethod
    def parse(cls, pattern: str) -> Wildcard:
        """Compile.

        Raises:
            CopyError: the pattern is malformed.
        """
        tokens: list[_Class | None] = []
        at = 0
        while at < len(pattern):
            char = pattern[at]
            if char == "*":
                tokens.append(None)
                at += 1
            elif char == "?":
                tokens.append(_ANY)
                at += 1
            elif char == "[":
                token, at = _parse_class(pattern, at + 1)
                tokens.append(token)
            else:
                char, at = _parse_char(pattern, at)
                tokens.append(_Class(negated=False, ranges=((char, char),)))
        return cls(tuple(tokens))

    def matches(self, name: str) -> bool:
        """Match a whole name; only the last star is ever reconsidered."""
        tokens = self.tokens
        at = token = 0
        star, resume = -1, 0
        while at < len(name):
            if token < len(tokens) and tokens[token] is None:
                star, resume = token, at
                token += 1
                continue
            if token < len(tokens):
                here = tokens[token]
                if here is not None and here.takes(name[at]):
                    at += 1
                    token += 1
                    continue
            if star < 0:
                return False
            resume += 1
            at, token = resume, star + 1
        return all(rest is None for rest in tokens[token:])


def _bad(pattern: str) -> CopyError:
    return CopyError(
        f"malformed pattern {printable(pattern)!r} in a source path",
        hint="a literal [ is written [[]",
    )


def _parse_char(pattern: str, at: int) -> tuple[str, int]:
    if pattern[at] == "\\":
        at += 1
        if at == len(pattern):
            raise _bad(pattern)
    return pattern[at], at + 1


def _parse_class(pattern: str, at: int) -> tuple[_Class, int]:
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[tuple[str, str]] = []
    while at < len(pattern):
        if pattern[at] == "]" and ranges:
            return _Class(negated, tuple(ranges)), at + 1
        if pattern[at] in "-]":
            break
        low, at = _parse_char(pattern, at)
        high = low
        if pattern.startswith("-", at):
            if at + 1 >= len(pattern) or pattern[at + 1] in "-]":
                break
            high, at = _parse_char(pattern, at + 1)
        ranges.append((low, high))
    raise _bad(pattern)
