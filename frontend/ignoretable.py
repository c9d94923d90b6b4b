"""All that patterns say about the next name, arranged for one look-up (B11).

Owns how the edges of many patterns are searched at once; must not know their order, `!`, or
what a match means.
"""

from __future__ import annotations

import re

from cache.hints import TYPE_CHECKING
from frontend import ignorepattern
from frontend.ignorepattern import ACCEPT, STAR

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from collections.abc import Set as AbstractSet

_FEW = 64  # up to here `endswith` with a tuple beats slices and a dictionary

Place = tuple[int, int]  # number of a pattern, item it stands at
_Glob = tuple[str, ...]


class Hits:
    """What one glob gives: patterns that match completely, and places further on."""

    __slots__ = ("numbers", "places")

    def __init__(self) -> None:
        """Start empty."""
        self.numbers: list[int] = []
        self.places: list[Place] = []

    def add(self, number: int, target: int) -> None:
        """Add where an edge of a pattern leads."""
        if target == ACCEPT:
            self.numbers.append(number)
        else:
            self.places.append((number, target))


class Table:
    """The edges that leave a group of places."""

    __slots__ = (
        "_anywhere",
        "_exact",
        "_few_prefixes",
        "_few_suffixes",
        "_globs",
        "_heads",
        "_many",
        "_prefixes",
        "_suffixes",
        "_tails",
        "always",
        "places",
        "staying",
    )

    def __init__(self, places: Mapping[Place, tuple[str, ...]]) -> None:
        """Take places with the items of their patterns."""
        self.places = frozenset(places)
        self.always = Hits()  # `*`
        self._exact: dict[str, Hits] = {}
        self._prefixes: dict[str, Hits] = {}
        self._suffixes: dict[str, Hits] = {}
        globs: dict[_Glob, Hits] = {}
        staying: set[Place] = set()
        for (number, index), items in places.items():
            position = ignorepattern.position_at(items, index)
            if position.loops:
                staying.add((number, index))
            for edge in position.edges:
                self._hits(edge.glob, globs).add(number, edge.target)
        # Alive below every name. The same object if all are, so that asking costs nothing.
        self.staying = self.places if len(staying) == len(places) else frozenset(staying)
        many = len(self._prefixes) + len(self._suffixes) > _FEW
        self._few_prefixes = () if many else tuple(self._prefixes)
        self._few_suffixes = () if many else tuple(self._suffixes)
        self._many = many and _lengths(self._prefixes, self._suffixes)
        self._globs = [
            (re.compile(ignorepattern.as_regex(glob), re.DOTALL), hits)
            for glob, hits in globs.items()
        ]
        self._anywhere = _alternation([glob.pattern for glob, _ in self._globs])
        self._heads = _ends(tuple(globs), 0)
        self._tails = _ends(tuple(globs), -1)

    def _hits(self, glob: _Glob, globs: dict[_Glob, Hits]) -> Hits:
        name = ignorepattern.literal(glob)
        if name is not None:
            return self._exact.setdefault(name, Hits())
        if glob == (STAR,):
            return self.always
        if not ignorepattern.is_affix(glob):
            return globs.setdefault(glob, Hits())
        if glob[0] == STAR:
            return self._suffixes.setdefault(ignorepattern.literal(glob[1:]) or "", Hits())
        return self._prefixes.setdefault(ignorepattern.literal(glob[:-1]) or "", Hits())

    def knows(self, name: str) -> bool:
        """Whether anything but `*` matches the name."""
        return bool(
            name in self._exact
            or (self._few_suffixes and name.endswith(self._few_suffixes))
            or (self._few_prefixes and name.startswith(self._few_prefixes))
            or (self._anywhere and self._is_glob(name))
            or (self._many and self._affixed(name))
        )

    def known(self, names: AbstractSet[str]) -> set[str]:
        """Which of the names in a directory anything but `*` matches."""
        found = self._exact.keys() & names
        if self._few_suffixes:
            found.update([name for name in names if name.endswith(self._few_suffixes)])
        if self._few_prefixes:
            found.update([name for name in names if name.startswith(self._few_prefixes)])
        if self._anywhere:
            found.update([name for name in self._ending(names) if self._is_glob(name)])
        if self._many:
            found.update([name for name in names if self._affixed(name)])
        return found

    def _ending(self, names: Collection[str]) -> Collection[str]:
        """Those that no first and last character tells from globs."""
        heads, tails = self._heads, self._tails
        if heads:
            names = [name for name in names if name[0] in heads]
        return [name for name in names if name[-1] in tails] if tails else names

    def hits(self, name: str) -> list[Hits]:
        """Everything that matches the name."""
        found = [self.always]
        if name in self._exact:
            found.append(self._exact[name])
        if self._many:
            found += self._affixed(name)
        else:
            if self._few_suffixes and name.endswith(self._few_suffixes):
                found += [h for suffix, h in self._suffixes.items() if name.endswith(suffix)]
            if self._few_prefixes and name.startswith(self._few_prefixes):
                found += [h for prefix, h in self._prefixes.items() if name.startswith(prefix)]
        if self._anywhere and self._is_glob(name):
            found += [hits for glob, hits in self._globs if glob.fullmatch(name)]
        return found

    def _is_glob(self, name: str) -> bool:
        # Most names fall at their first or last character, which spares the expressions.
        if self._heads and name[0] not in self._heads:
            return False
        if self._tails and name[-1] not in self._tails:
            return False
        return self._anywhere is not None and self._anywhere.fullmatch(name) is not None

    def _affixed(self, name: str) -> list[Hits]:
        found = []
        for length in self._many or ():
            if length <= len(name):
                prefix, suffix = name[:length], name[len(name) - length :]
                if prefix in self._prefixes:
                    found.append(self._prefixes[prefix])
                if suffix in self._suffixes:
                    found.append(self._suffixes[suffix])
        return found


def _lengths(*affixes: dict[str, Hits]) -> tuple[int, ...]:
    return tuple(sorted({len(affix) for group in affixes for affix in group}))


def _alternation(globs: list[str]) -> re.Pattern[str] | None:
    """One expression that says whether any glob matches."""
    return re.compile("|".join(f"(?:{glob})" for glob in globs), re.DOTALL) if globs else None


def _ends(globs: tuple[_Glob, ...], end: int) -> frozenset[str]:
    """The first or last characters of globs; empty when one may be anything."""
    items = [glob[end] for glob in globs]
    if not all(item[0] == "=" for item in items):
        return frozenset()
    return frozenset(item[1] if end == 0 else item[-1] for item in items)
