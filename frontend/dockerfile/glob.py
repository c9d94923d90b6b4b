"""Patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: literals, `?` and `*`, in linear time (V05-V07).

Works on runs between stars: each run is taken at its first place and never reconsidered (atomic
groups), so a hostile pattern costs at most pattern length times value length, which is capped.
Neither wildcard crosses a newline.
"""

from __future__ import annotations

import re

from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_WORK = 1 << 27  # pattern length times value length: under a second
MAX_TOKENS = 1 << 14  # of one pattern: compiling more takes noticeable time
STAR = "*"
ANY = "?"
_LITERAL = "="  # a literal token is "=" and its character


def parse_glob(pattern: str, escape: str) -> tuple[str, ...]:
    """Turn a pattern into tokens; ValueError for an escape that escapes nothing (V07)."""
    if len(pattern) > MAX_TOKENS:
        raise ValueError(f"longer than {MAX_TOKENS} characters")
    tokens: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character in (STAR, ANY):
            if character == ANY or tokens[-1:] != [STAR]:
                tokens.append(character)
            continue
        if character == escape:
            character = pattern[position : position + 1]
            position += 1
            if not character or character not in ("*", "?", escape, "/", "}"):
                raise ValueError(f"invalid escape '{escape}{character}'")
        tokens.append(_LITERAL + character)
    return tuple(tokens)


def is_affordable(tokens: Sequence[str], value: str) -> bool:
    """Whether matching stays quick in the worst case; ask before matching."""
    return len(tokens) * len(value) <= MAX_WORK


def prefix_end(tokens: Sequence[str], value: str, *, longest: bool) -> int:
    """Where the shortest or longest prefix that matches ends; 0 when none does."""
    match = _compile(_runs(tokens), greedy=longest).match(value)
    return match.end() if match else 0


def matches(tokens: Sequence[str], value: str, *, every: bool) -> Iterator[tuple[int, int]]:
    """Yield the leftmost match with greedy stars, or all that do not overlap."""
    first, *rest = _runs(tokens)
    head = re.compile(first)
    tail = _compile(["", *rest], greedy=True) if rest else None
    position, previous_end = 0, -1
    while position <= len(value):
        found = _find(head, tail, value, position)
        if found is None:
            return
        start, end = found
        if start < end or start != previous_end:  # no empty match right behind a match
            yield start, end
            if not every:
                return
        previous_end = end
        position = end if end > start else end + 1


def _find(
    head: re.Pattern[str], tail: re.Pattern[str] | None, value: str, position: int
) -> tuple[int, int] | None:
    while True:
        start = head.search(value, position)
        if start is None:
            return None
        if tail is None:
            return start.span()
        end = tail.match(value, start.end())
        if end is not None:
            return start.start(), end.end()
        # What failed here fails from every later start whose star begins on the same line.
        newline = value.find("\n", start.end())
        if newline < 0:
            return None
        position = max(start.start() + 1, newline + 1 - (start.end() - start.start()))


def _runs(tokens: Sequence[str]) -> list[str]:
    runs: list[list[str]] = [[]]
    for token in tokens:
        if token == STAR:
            runs.append([])
        else:
            runs[-1].append("." if token == ANY else re.escape(token[1:]))
    return ["".join(run) for run in runs]


def _compile(runs: list[str], *, greedy: bool) -> re.Pattern[str]:
    first, *rest = runs
    if not rest:
        return re.compile(first)
    *middle, last = rest
    parts = [first, *(f"(?>.*?{run})" for run in middle)]
    parts.append(f".*{last}" if greedy else f"(?>.*?{last})")
    return re.compile("".join(parts))
