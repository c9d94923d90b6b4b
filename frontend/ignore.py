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
"""

from __future__ import annotations

import posixpath
import re

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING
from cache.value import field, value
from frontend import ignorepattern
from frontend.ignoretable import Table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from frontend.ignoretable import Place

MAX_PATTERNS = 100_000  # of one file; more is no list a person wrote
MAX_GLOBS = 1000  # of them that need a regular expression, each a step for every file
_MAX_CACHED = 4096  # tables or verdicts kept; the rest is worked out again

_UNCLEAN = re.compile(r"//|/\Z|(?:\A|/)\.\.?(?:/|\Z)")
_Numbers = tuple[int, ...]  # of patterns, ascending


class IgnoreSyntaxError(PybuildError):
    """A line of an ignore file, or a pattern of a flag, that cannot be a pattern."""


@value
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
        if cleaned != cleaned.strip():  # `./ a`: what cleaning laid bare is trimmed again
            cleaned = _clean(cleaned.strip())
        if reincludes and cleaned == "/":  # cleaned once more, with its `!`
            cleaned = ""
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
        cleaned = _clean(written)  # with its `!`, which the reference takes for part of a name
        reincludes = cleaned[0] == "!"
        body = cleaned[1:] if reincludes else cleaned
        patterns.append(_pattern(body, reincludes, 0, f'pattern "{written[:64]}": '))
    return tuple(patterns)


def _clean(path: str) -> str:
    """Resolve `.`, `..` and doubled slashes as Go does."""
    if not _UNCLEAN.search(path):
        return path
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


class IgnoreDirectory:
    """What is known on entering a directory; made by a matcher, only handed back to it."""

    __slots__ = ("excluded", "may_reinclude", "recorded", "tables", "usual")

    def __init__(
        self,
        tables: tuple[Table, ...],
        recorded: _Numbers,
        *,
        excluded: bool,
        usual: bool,
        may_reinclude: bool,
    ) -> None:
        """Keep the patterns still alive below and those that matched the directory."""
        self.tables = tables
        self.recorded = recorded
        self.excluded = excluded
        self.usual = usual  # the verdict on names no pattern knows
        self.may_reinclude = may_reinclude


class IgnoreMatcher:
    """Patterns made ready for walks. Caches what it works out; the verdicts never change.

    Safe to use from several threads: the caches are only ever filled with equal values.
    """

    def __init__(self, patterns: tuple[IgnorePattern, ...]) -> None:
        """Take patterns in their order."""
        self._patterns = patterns
        self._reincludes = tuple(pattern.reincludes for pattern in patterns)
        self._exceptions = any(self._reincludes)
        self._tables: dict[frozenset[Place], Table] = {}
        self._verdicts: dict[tuple[_Numbers, _Numbers], tuple[bool, _Numbers]] = {}
        self._directories: dict[str, IgnoreDirectory] = {}
        start = self._table(frozenset((number, 0) for number in range(len(patterns))))
        self.root = self._directory((start,) if patterns else (), (), excluded=False)

    @property
    def exceptions(self) -> bool:
        """Whether any pattern takes something back in."""
        return self._exceptions

    def excludes(self, parent: IgnoreDirectory, name: str) -> bool:
        """Say whether an entry of a directory is excluded."""
        for table in parent.tables:
            if table.knows(name):
                return self._verdict(self._own(parent, name), parent.recorded)[0]
        return parent.usual

    def excluded(self, parent: IgnoreDirectory, names: AbstractSet[str]) -> set[str]:
        """Say which entries of a directory are excluded; the same as asking for each."""
        known: set[str] = set()
        for table in parent.tables:
            known |= table.known(names)
        found = {
            name for name in known if self._verdict(self._own(parent, name), parent.recorded)[0]
        }
        return found | (names - known) if parent.usual else found

    def directory(self, path: str) -> IgnoreDirectory:
        """What is known on entering a directory by its path; remembered."""
        return self._at(path)

    def enter(self, parent: IgnoreDirectory, name: str) -> IgnoreDirectory:
        """Step into a subdirectory; its `excluded` says the same as `excludes`."""
        places: set[Place] = set()
        tables: dict[Table, None] = {}
        numbers: set[int] = set()
        for table in parent.tables:
            for hits in table.hits(name):
                numbers.update(hits.numbers)
                places.update(hits.places)
            staying = self._sticky(table)
            if staying is not None:
                tables[staying] = None
        if places:
            tables[self._table(frozenset(places))] = None
        excluded, recorded = self._verdict(numbers, parent.recorded)
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

    def _own(self, parent: IgnoreDirectory, name: str) -> set[int]:
        return {
            number
            for table in parent.tables
            for hits in table.hits(name)
            for number in hits.numbers
        }

    def _verdict(self, own: set[int], inherited: _Numbers) -> tuple[bool, _Numbers]:
        """Go through matching patterns in order; the last one wins (D04).

        A pattern that matches but could not change the verdict is not looked at, hence not
        recorded for entries below, unless a parent recorded it.
        """
        key = tuple(sorted(own)), inherited
        known = self._verdicts.get(key)
        if known is not None:
            return known
        from_above = frozenset(inherited)
        excluded = False
        recorded: list[int] = []
        for number in sorted(own.union(inherited)):
            reincludes = self._reincludes[number]
            if number in from_above or reincludes == excluded:
                recorded.append(number)
                excluded = not reincludes
        if len(self._verdicts) >= _MAX_CACHED:
            self._verdicts.clear()
        found = self._verdicts[key] = excluded, tuple(recorded)
        return found

    def _directory(
        self, tables: tuple[Table, ...], recorded: _Numbers, *, excluded: bool
    ) -> IgnoreDirectory:
        always = {number for table in tables for number in table.always.numbers}
        usual = self._verdict(always, recorded)[0]
        return IgnoreDirectory(
            tables,
            recorded,
            excluded=excluded,
            usual=usual,
            may_reinclude=self._exceptions and any(map(self._may_reinclude, tables)),
        )

    def _may_reinclude(self, table: Table) -> bool:
        return any(self._reincludes[number] for number, _ in table.places)

    def _sticky(self, table: Table) -> Table | None:
        """The part of a table that stays alive below every name."""
        if table.staying is table.places:
            return table
        return self._table(table.staying) if table.staying else None

    def _table(self, places: frozenset[Place]) -> Table:
        known = self._tables.get(places)
        if known is None:
            if len(self._tables) >= _MAX_CACHED:
                self._tables.clear()
            known = self._tables[places] = Table(
                {place: self._patterns[place[0]].items for place in places}
            )
        return known
