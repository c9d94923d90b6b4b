"""What the build context's ignore file says to the linter; loaded when a COPY first asks."""

from __future__ import annotations

from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from frontend.ignore import IgnoreMatcher, IgnorePattern

_EVERYTHING = frozenset({"*", "**", "**/*"})


class IgnoreFile:
    """The patterns of the context, got at most once.

    Without any, or with exceptions, nothing is said to be ignored: what `!` brings back cannot be
    told from names alone.
    """

    def __init__(self, load: Callable[[], tuple[IgnorePattern, ...]] | None) -> None:
        """Take what gives the patterns."""
        self._load = load
        self._patterns: tuple[IgnorePattern, ...] = ()
        self._matcher: IgnoreMatcher | None = None
        self._anywhere: IgnoreMatcher | None = None

    def ignores(self, path: str) -> bool:
        """Say whether a cleaned path or a directory above it is ignored; the root if everything is.

        A pattern has no leading slash, so only one that may begin anywhere meets a path with one.
        """
        self._begin()
        if self._matcher is None or self._anywhere is None:
            return False
        if path in {".", "/"}:
            return any(pattern.text in _EVERYTHING for pattern in self._patterns)
        if path.startswith("/"):
            return self._anywhere.ignores(path[1:])
        return self._matcher.ignores(path)

    def _begin(self) -> None:
        if self._load is None:
            return
        patterns, self._load = self._load(), None
        if patterns and not any(pattern.reincludes for pattern in patterns):
            from frontend.ignore import IgnoreMatcher  # noqa: PLC0415 - start-up time

            self._patterns = patterns
            self._matcher = IgnoreMatcher(patterns)
            chosen = (p for p in patterns if p.text.startswith("**") or p.text == "*")
            self._anywhere = IgnoreMatcher(tuple(chosen))
