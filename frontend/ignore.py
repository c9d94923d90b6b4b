"""Ignore rules: which paths of a directory tree patterns exclude (D03-D07, CP06).

Owns the order of patterns, `!`, and what a directory hands down to its entries. Must not know
where the text comes from, and never touches a file system. The results are those of moby's
patternmatcher for a walk, its skipping of patterns that cannot change the verdict included.

A walk asks name by name: `root` and `enter` give the state of a directory, `excludes` the verdict
on an entry. All patterns alive in a directory are looked up at once: names in a dictionary,
`*.ext` and `prefix*` by one `endswith` or `startswith`, other globs by regular expressions that
cannot go back. Time is linear in the length of patterns and names (B11).

`pathspec` is not used for that: its patterns know nothing of a parent's results, cost the walk
one regular expression per pattern and file, and importing it takes longer than a cached build may.
It serves `path_spec`, questions about single complete paths, and is imported by that alone.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cache.errors import PybuildError
from frontend import ignorepattern
from frontend.ignorepattern import ACCEPT, STAR

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pathspec import PathSpec, Pattern

MAX_PATTERNS = 100_000  # of one file; more is no list a person wrote
MAX_GLOBS = 1000  # of them that need a regular expression, each a step for every file
_MANY_AFFIXES = 32  # from here on a dictionary beats trying one after the other
_MAX_CACHED = 4096  # tables or verdicts kept; the rest is worked out again

_Place = tuple[int, int]  # number of a pattern, item it stands at


class IgnoreSyntaxError(PybuildError):
    """A line of an ignore file, or a pattern of a flag, that cannot be a pattern."""


@dataclass(frozen=True, slots=True)
class IgnorePattern:
    """A cleaned pattern; `reincludes` when it was written behind `!`."""

    text: str
    reincludes: bool
    items: tuple[str, ...] = field(repr=False)
    line: int = 0


def parse_ignore(text: str, name: str) -> tuple[IgnorePattern, ...]:
    """Read an ignore file: comments, blanks, `!`, cleaning (D03).

    Raises:
        IgnoreSyntaxError: naming file and line; the line itself is not shown, for it may come
            from a file that was never meant to be read.
    """
    patterns: list[IgnorePattern] = []
    globs = 0
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        written = line.strip()
        if line.startswith("#") or not written:
            continue
        reincludes = written[0] == "!"
        body = written[1:].strip() if reincludes else written
        cleaned = _clean(body) if body else ""
        if len(cleaned) > 1 and cleaned[0] == "/":
            cleaned = cleaned[1:]
        patterns.append(_pattern(cleaned, reincludes, number, f"{name}:{number}: "))
        globs += ignorepattern.needs_regex(patterns[-1].items)
        if len(patterns) > MAX_PATTERNS or globs > MAX_GLOBS:
            raise IgnoreSyntaxError(
                f"{name}:{number}: more than {MAX_PATTERNS} patterns, or {MAX_GLOBS} with "
                "? or [ ] or a * inside a name"
            )
    return tuple(patterns)


def parse_patterns(texts: Iterable[str]) -> tuple[IgnorePattern, ...]:
    """Read patterns of flags (`--exclude`); a leading slash stays and matches nothing (CP06).

    Raises:
        IgnoreSyntaxError: naming the pattern.
    """
    patterns: list[IgnorePattern] = []
    for text in texts:
        written = text.strip()
        if not written:
            continue
        reincludes = written[0] == "!"
        body = written[1:] if reincludes else written
        cleaned = _clean(body) if body else ""
        patterns.append(_pattern(cleaned, reincludes, 0, f'pattern "{written[:64]}": '))
    return tuple(patterns)


def _clean(path: str) -> str:
    """Resolve `.`, `..` and doubled slashes as Go does."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def _pattern(cleaned: str, reincludes: bool, line: int, where: str) -> IgnorePattern:
    if not cleaned:
        raise IgnoreSyntaxError(
            f'{where}illegal exclusion pattern "!"', hint="write the pattern behind the !"
        )
    try:
        items = ignorepattern.parse_items(cleaned)
    except ValueError as error:
        raise IgnoreSyntaxError(
            f"{where}syntax error in pattern: {error}", hint="put \\ before a literal [ ] * ? or \\"
        ) from error
    return IgnorePattern(cleaned, reincludes, items, line)


@dataclass(slots=True)
class _Hits:
    """What one glob gives: patterns that match completely, and places further on."""

    mask: int = 0
    places: list[_Place] = field(default_factory=list)

    def add(self, number: int, target: int) -> None:
        if target == ACCEPT:
            self.mask |= 1 << number
        else:
            self.places.append((number, target))


class _Table:
    """All edges that leave a group of places, arranged for looking up a name."""

    __slots__ = (
        "affixes",
        "always",
        "anywhere",
        "exact",
        "globs",
        "is_large",
        "places",
        "prefixes",
        "reincludes",
        "staying",
        "sticky",
        "suffixes",
    )

    def __init__(self, places: frozenset[_Place], patterns: tuple[IgnorePattern, ...]) -> None:
        self.places = places
        self.exact: dict[str, _Hits] = {}
        self.affixes: dict[tuple[str, str], _Hits] = {}  # (prefix, suffix), one of them empty
        self.always = _Hits()
        self.reincludes = any(patterns[number].reincludes for number, _ in places)
        self.sticky: _Table | None = None
        globs: dict[tuple[str, ...], _Hits] = {}
        staying: set[_Place] = set()
        for number, index in places:
            position = ignorepattern.position_at(patterns[number].items, index)
            if position.loops:
                staying.add((number, index))
            for edge in position.edges:
                self._hits(edge.glob, globs).add(number, edge.target)
        self.staying = frozenset(staying)
        self.is_large = len(self.affixes) > _MANY_AFFIXES
        few = () if self.is_large else self.affixes
        self.suffixes = tuple(suffix for _, suffix in few if suffix)
        self.prefixes = tuple(prefix for prefix, _ in few if prefix)
        self.globs = [
            (re.compile(ignorepattern.as_regex(glob), re.DOTALL), hits)
            for glob, hits in globs.items()
        ]
        self.anywhere = self._alternation()

    def _hits(self, glob: tuple[str, ...], globs: dict[tuple[str, ...], _Hits]) -> _Hits:
        name = ignorepattern.literal(glob)
        if name is not None:
            return self.exact.setdefault(name, _Hits())
        if glob == (STAR,):
            return self.always
        if ignorepattern.is_affix(glob):
            if glob[0] == STAR:
                affix = "", ignorepattern.literal(glob[1:]) or ""
            else:
                affix = ignorepattern.literal(glob[:-1]) or "", ""
            return self.affixes.setdefault(affix, _Hits())
        return globs.setdefault(glob, _Hits())

    def _alternation(self) -> re.Pattern[str] | None:
        """One expression that says whether any glob matches, when there are several."""
        if not self.globs:
            return None
        if len(self.globs) == 1:
            return self.globs[0][0]
        return re.compile("|".join(f"(?:{glob.pattern})" for glob, _ in self.globs), re.DOTALL)

    def knows(self, name: str) -> bool:
        """Whether anything but `*` matches the name."""
        return bool(
            name in self.exact
            or (self.suffixes and name.endswith(self.suffixes))
            or (self.prefixes and name.startswith(self.prefixes))
            or (self.anywhere and self.anywhere.fullmatch(name))
            or (self.is_large and self._affixed(name))
        )

    def hits(self, name: str) -> list[_Hits]:
        """Everything that matches the name."""
        found = [self.always]
        if name in self.exact:
            found.append(self.exact[name])
        if self.affixes:
            found += self._affixed(name)
        if self.anywhere and self.anywhere.fullmatch(name):
            found += [hits for glob, hits in self.globs if glob.fullmatch(name)]
        return found

    def _affixed(self, name: str) -> list[_Hits]:
        cuts = range(len(name) + 1)
        candidates = (*(("", name[cut:]) for cut in cuts), *((name[:cut], "") for cut in cuts))
        return [self.affixes[affix] for affix in candidates if affix in self.affixes]


class IgnoreDirectory:
    """What is known on entering a directory; made by a matcher, only handed back to it."""

    __slots__ = ("excluded", "may_reinclude", "recorded", "tables", "usual")

    def __init__(
        self, tables: tuple[_Table, ...], recorded: int, *, excluded: bool, usual: bool
    ) -> None:
        """Keep the patterns still alive below and those that matched the directory."""
        self.tables = tables
        self.recorded = recorded
        self.excluded = excluded
        self.usual = usual  # the verdict on names no pattern knows
        self.may_reinclude = any(table.reincludes for table in tables)


class IgnoreMatcher:
    """Patterns made ready for walks. Caches what it works out; the verdicts never change.

    Safe to use from several threads: the caches are only ever filled with equal values.
    """

    def __init__(self, patterns: tuple[IgnorePattern, ...]) -> None:
        """Take patterns in their order."""
        self._patterns = patterns
        self._reincluding = _mask_of(patterns)
        self._tables: dict[frozenset[_Place], _Table] = {}
        self._verdicts: dict[tuple[int, int], tuple[bool, int]] = {}
        self._directories: dict[str, IgnoreDirectory] = {}
        start = self._table(frozenset((number, 0) for number in range(len(patterns))))
        self.root = self._directory((start,) if patterns else (), 0, excluded=False)

    @property
    def exceptions(self) -> bool:
        """Whether any pattern takes something back in."""
        return bool(self._reincluding)

    def excludes(self, parent: IgnoreDirectory, name: str) -> bool:
        """Say whether an entry of a directory is excluded."""
        for table in parent.tables:
            if table.knows(name):
                return self._verdict(self._own(parent, name), parent.recorded)[0]
        return parent.usual

    def enter(self, parent: IgnoreDirectory, name: str) -> IgnoreDirectory:
        """Step into a subdirectory; its `excluded` says the same as `excludes`."""
        places: set[_Place] = set()
        tables: dict[_Table, None] = {}
        mask = 0
        for table in parent.tables:
            for hits in table.hits(name):
                mask |= hits.mask
                places.update(hits.places)
            staying = self._sticky(table)
            if staying is not None:
                tables[staying] = None
        if places:
            tables[self._table(frozenset(places))] = None
        excluded, recorded = self._verdict(mask, parent.recorded)
        return self._directory(tuple(tables), recorded, excluded=excluded)

    def may_reinclude_below(self, directory: IgnoreDirectory) -> bool:
        """Say whether a `!` pattern can still match something below; if not, prune (D07)."""
        return directory.may_reinclude

    def ignores(self, path: str) -> bool:
        """Say whether a path relative to the root is excluded, its parents considered.

        The root itself never is (D07). Directories are remembered, so asking for one entry after
        the other costs little more than a walk.
        """
        if not path or path == ".":
            return False
        above, _, name = path.rpartition("/")
        return self.excludes(self._at(above), name)

    def _at(self, path: str) -> IgnoreDirectory:
        if not path:
            return self.root
        known = self._directories.get(path)
        if known is None:
            missing = [path]
            above = path.rpartition("/")[0]
            while above and above not in self._directories:
                missing.append(above)
                above = above.rpartition("/")[0]
            known = self._directories[above] if above else self.root
            for below in reversed(missing):
                known = self.enter(known, below.rpartition("/")[2])
                self._directories[below] = known
        return known

    def _own(self, parent: IgnoreDirectory, name: str) -> int:
        mask = 0
        for table in parent.tables:
            for hits in table.hits(name):
                mask |= hits.mask
        return mask

    def _verdict(self, own: int, inherited: int) -> tuple[bool, int]:
        """Go through matching patterns in order; the last one wins (D04).

        A pattern that matches but could not change the verdict is not looked at, hence not
        recorded for entries below, unless a parent recorded it.
        """
        known = self._verdicts.get((own, inherited))
        if known is not None:
            return known
        excluded = False
        recorded = inherited
        remaining = own | inherited
        while remaining:
            bit = remaining & -remaining
            remaining ^= bit
            reincludes = bool(bit & self._reincluding)
            if bit & inherited or reincludes == excluded:
                recorded |= bit
                excluded = not reincludes
        if len(self._verdicts) >= _MAX_CACHED:
            self._verdicts.clear()
        self._verdicts[(own, inherited)] = excluded, recorded
        return excluded, recorded

    def _directory(
        self, tables: tuple[_Table, ...], recorded: int, *, excluded: bool
    ) -> IgnoreDirectory:
        always = 0
        for table in tables:
            always |= table.always.mask
        usual = self._verdict(always, recorded)[0]
        return IgnoreDirectory(tables, recorded, excluded=excluded, usual=usual)

    def _sticky(self, table: _Table) -> _Table | None:
        """The part of a table that stays alive below every name."""
        if not table.staying:
            return None
        if table.sticky is None:
            table.sticky = table if table.staying == table.places else self._table(table.staying)
        return table.sticky

    def _table(self, places: frozenset[_Place]) -> _Table:
        known = self._tables.get(places)
        if known is None:
            if len(self._tables) >= _MAX_CACHED:
                self._tables.clear()
            known = self._tables[places] = _Table(places, self._patterns)
        return known


def _mask_of(patterns: tuple[IgnorePattern, ...]) -> int:
    """Bits of the patterns behind `!`, built from text to stay linear."""
    return int("0" + "".join("1" if p.reincludes else "0" for p in reversed(patterns)), 2)


def path_spec(patterns: tuple[IgnorePattern, ...]) -> PathSpec[Pattern]:
    """Make a pathspec of the patterns, for single complete paths; a match means excluded.

    Every pattern is tried on the path and on each parent, and the last match wins.
    """
    from pathspec import PathSpec, Pattern  # noqa: PLC0415 - takes longer than a cached build

    class _Adapter(Pattern):
        """One of our patterns in the shape pathspec asks for."""

        def __init__(self, pattern: IgnorePattern) -> None:
            super().__init__(not pattern.reincludes)
            self._matcher = IgnoreMatcher((replace(pattern, reincludes=False),))

        def match_file(self, file: str) -> bool | None:
            return self._matcher.ignores(file) or None

    return PathSpec([_Adapter(pattern) for pattern in patterns])
