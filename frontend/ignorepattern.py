r"""One ignore pattern as steps over path segments (D03, D05, D06).

Owns the syntax: `*`, `?`, `[…]`, `\c` inside a name, `**` across names. Must not know about
files of patterns, their order or `!`.

A pattern is a small automaton. Between two names of a path it stands at positions; each position
has edges, each a glob for one name. `**` is a position that may also skip a name. Two differences
to the reference, both where it hands the pattern to Go's regular expressions unchanged: `\d` is
a `d`, and `*` or `?` inside brackets are themselves.
"""

from __future__ import annotations

import re

from cache.value import value

STAR = "*"
ANY = "?"
SLASH = "/"
CROSS = "**"  # any number of whole names, zero included; at the end any rest
ACCEPT = -1  # where the edge of a complete match leads

MAX_CROSSINGS = 32  # `**` that touch other characters, per pattern: each multiplies edges
_MAX_NAME = 255  # NAME_MAX: globs that need longer names match nothing
_MAX_MEMBERS = 1000  # characters and ranges in one [ ]
_SPECIAL = re.compile(r"[*?\[\]\\]")
_CLASSES = {
    "d": "[0-9]", "D": "[^0-9]", "w": "[0-9A-Za-z_]", "W": "[^0-9A-Za-z_]",
    "s": "[\t\n\f\r ]", "S": "[^\t\n\f\r ]",
}  # fmt: skip
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_PLAIN = re.compile(r"[^*?\[\\/]+")


@value
class Edge:
    """A glob for one name and the position behind it."""

    glob: tuple[str, ...]
    target: int


@value
class Position:
    """What can happen to the next name; `loops` when any name may be skipped."""

    loops: bool
    edges: tuple[Edge, ...]


def parse_items(pattern: str) -> tuple[str, ...]:
    """Cut a cleaned pattern into `/`, `**`, `*`, `?`, `=abc` for text and `[…]` as a regex.

    Raises:
        ValueError: what is wrong with the pattern, without quoting it.
    """
    if pattern.startswith(CROSS) and _is_plain_suffix(pattern[len(CROSS) :]):
        return (CROSS, STAR, *_literals(pattern[len(CROSS) :]))  # `**x`: any path ending in x
    if pattern.startswith("**/") and not _SPECIAL.search(pattern, len(CROSS)):
        return (CROSS, *_literals(pattern[len("**/") :]))
    if not _SPECIAL.search(pattern):
        return _literals(pattern)
    items: list[str] = []
    position = crossings = 0
    while position < len(pattern):
        item, position = _item(pattern, position)
        if item == CROSS and items and items[-1] not in (SLASH, CROSS):
            crossings += 1
        if item in (STAR, CROSS) and items[-1:] == [item]:
            continue  # a repetition says nothing new
        items.append(item)
    if crossings > MAX_CROSSINGS:
        raise ValueError(f"more than {MAX_CROSSINGS} times ** inside names")
    return tuple(items)


def _is_plain_suffix(rest: str) -> bool:
    return bool(rest) and rest[0] != SLASH and not _SPECIAL.search(rest)


def _literals(text: str) -> tuple[str, ...]:
    if SLASH not in text:
        return (f"={text}",)
    items = [item for name in text.split(SLASH) for item in (f"={name}", SLASH)]
    return tuple(item for item in items[:-1] if item != "=")


def _item(pattern: str, position: int) -> tuple[str, int]:
    plain = _PLAIN.match(pattern, position)
    if plain:
        return f"={plain.group()}", plain.end()
    character = pattern[position]
    position += 1
    if character == STAR and pattern[position : position + 1] == STAR:
        position += 1
        return CROSS, position + (pattern[position : position + 1] == SLASH)
    if character in (STAR, ANY, SLASH):
        return character, position
    if character == "[":
        return _bracket(pattern, position)
    if character == "\\":
        character = pattern[position : position + 1]
        position += 1
        if not character:
            raise ValueError("nothing follows the last \\")
        if character == SLASH:
            return SLASH, position
        return _escaped(character), position
    return f"={character}", position


def _escaped(character: str) -> str:
    r"""What `\d` and the like are to the reference, which hands them on to regular expressions."""
    if character in _CLASSES:
        return _CLASSES[character]
    if character in _CONTROLS:
        return f"={_CONTROLS[character]}"
    if character.isascii() and character.isalnum():
        raise ValueError(f"\\{character} is not a character")
    return f"={character}"


def _bracket(pattern: str, position: int) -> tuple[str, int]:
    r"""Read `[^a-z\]]` up to its end into a regular expression."""
    parts = ["["]
    if pattern[position : position + 1] == "^":
        parts.append("^")
        position += 1
    empty = len(parts)
    while pattern[position : position + 1] != "]" or len(parts) == empty:
        low, position = _member(pattern, position)
        high = low
        if pattern[position : position + 1] == "-":
            high, position = _member(pattern, position + 1)
        if high < low:
            raise ValueError("a range in [ ] ends before it begins")
        if len(parts) > _MAX_MEMBERS:
            raise ValueError(f"more than {_MAX_MEMBERS} characters inside [ ]")
        parts.append(re.escape(low) if low == high else f"{re.escape(low)}-{re.escape(high)}")
    return "".join((*parts, "]")), position + 1


def _member(pattern: str, position: int) -> tuple[str, int]:
    character = pattern[position : position + 1]
    if character == "\\":
        position += 1
        character = pattern[position : position + 1]
    elif character and character in "-]":
        raise ValueError(f"misplaced {character} inside [ ]")
    if not character:
        raise ValueError("unclosed [")
    return character, position + 1


def position_at(items: tuple[str, ...], start: int) -> Position:
    """Work out what may follow once everything before item `start` has matched whole names."""
    edges: list[Edge] = []
    glob: list[str] = []
    loops = False
    for index in range(start, len(items)):
        item = items[index]
        if item == SLASH:
            edges.append(Edge(tuple(glob), index + 1))
            return _position(loops, edges)
        if item != CROSS:
            glob.append(item)
            continue
        last = index + 1 == len(items)
        if not glob:
            loops = True
        else:
            # The name goes on here and then others follow; or, below, nothing is crossed.
            edges.append(Edge((*glob, STAR), index))
        if last:
            glob.append(STAR)
    edges.append(Edge(tuple(glob), ACCEPT))
    return _position(loops, edges)


def _position(loops: bool, edges: list[Edge]) -> Position:
    possible = (edge for edge in edges if edge.glob and _shortest(edge.glob) <= _MAX_NAME)
    return Position(loops, tuple(possible))


def _shortest(glob: tuple[str, ...]) -> int:
    return sum(len(item) - 1 if item[0] == "=" else item != STAR for item in glob)


def literal(glob: tuple[str, ...]) -> str | None:
    """The one name a glob without wildcards matches."""
    if all(item[0] == "=" for item in glob):
        return "".join(item[1:] for item in glob)
    return None


def is_affix(glob: tuple[str, ...]) -> bool:
    """Whether one star begins or ends the glob and all else is literal."""
    return STAR in glob and (literal(glob[1:]) is not None or literal(glob[:-1]) is not None)


def needs_regex(items: tuple[str, ...]) -> bool:
    """Whether any name of a pattern is more than a literal, `*`, `*x` or `x*`."""
    if all(item[0] in "=/" or item == CROSS for item in items):
        return False
    glob: list[str] = []
    for item in (*items, SLASH):
        if item not in (SLASH, CROSS):
            glob.append(item)
            continue
        if literal(tuple(glob)) is None and not is_affix(tuple(glob)):
            return True
        glob.clear()
    return False


def as_regex(glob: tuple[str, ...]) -> str:
    """Translate for `fullmatch`, in linear time: each run between stars takes its first place.

    The groups are atomic, so nothing is tried twice.
    """
    runs: list[list[str]] = [[]]
    for item in glob:
        if item == STAR:
            runs.append([])
        else:
            runs[-1].append("." if item == ANY else re.escape(item[1:]) if item[0] == "=" else item)
    first, *rest = ("".join(run) for run in runs)
    if not rest:
        return first
    *middle, last = rest
    return "".join((first, *(f"(?>.*?{run})" for run in middle), ".*", last))
