"""Advice on ignore files: patterns written as if they were git's.

In .dockerignore a pattern is anchored at the context: `node_modules` means the top one only
(D05), where .gitignore means every one. What git's rules, as `pathspec` knows them, would leave
out of the context and docker's do not is worth a word. Reads names only, and not without end.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pathspec import PathSpec, Pattern

    from frontend.ignore import IgnoreMatcher, IgnorePattern

MAX_NAMES = 20_000  # names looked at: advice is not worth waiting for


@value
class Advice:
    """A pattern on a line, a path that it does not exclude, and what would."""

    line: int
    pattern: str
    path: str

    def __str__(self) -> str:
        return (
            f"`{self.pattern}` excludes only what lies at the top of the context, not"
            f" {self.path} as in .gitignore; write `**/{self.pattern}` for all"
        )


def advise(context: str, patterns: Sequence[IgnorePattern]) -> list[Advice]:
    """Advice on the patterns of a context directory, each at most once, in the file's order."""
    suspects = [
        p for p in patterns if not p.reincludes and "/" not in p.text and "**" not in p.text
    ]
    if not suspects:
        return []
    from pathspec import PathSpec  # noqa: PLC0415 - takes longer than a cached build

    from frontend.ignore import IgnoreMatcher  # noqa: PLC0415 - only with an ignore file

    specs = [(p, PathSpec.from_lines("gitignore", [p.text])) for p in suspects]
    found: dict[int, Advice] = {}
    for path in _nested(context, IgnoreMatcher(tuple(patterns))):
        for pattern, spec in specs:
            if pattern.line not in found and _names(spec, path):
                found[pattern.line] = Advice(pattern.line, pattern.text, path)
        if len(found) == len(specs):
            break
    return [found[line] for line in sorted(found)]


def _names(spec: PathSpec[Pattern], path: str) -> bool:
    """Whether git's rules name the path itself, not only something above it."""
    return spec.match_file(path) and not spec.match_file(path.rpartition("/")[0])


def _nested(context: str, rules: IgnoreMatcher) -> Iterator[str]:
    """Paths below the top that are in the context, directories before what they hold."""
    pending = [("", rules.root)]
    left = MAX_NAMES
    while pending and left:
        here, state = pending.pop()
        try:
            with os.scandir(os.path.join(context, here)) as listing:
                items = sorted(listing, key=lambda item: item.name)
        except OSError:
            continue  # what cannot be read is the build's to complain of
        for item in items[:left]:
            left -= 1
            if rules.excludes(state, item.name):
                continue
            path = f"{here}/{item.name}" if here else item.name
            if here:
                yield path
            if item.is_dir(follow_symlinks=False):
                pending.append((path, rules.enter(state, item.name)))
