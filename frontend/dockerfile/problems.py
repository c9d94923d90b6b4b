"""What goes wrong while lowering: one mistake, all mistakes of a file, a base that fails.

Knows places and messages only; no instruction, no graph.
"""

from __future__ import annotations

import itertools

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING, Protocol
from frontend.source import Diagnostic, DockerfileError, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from frontend.source import SourceFile, Span

MAX_PRODUCED = 32 * 1024 * 1024  # characters of all texts one Dockerfile may expand to (G01)
MAX_PROBLEMS = 100  # errors reported of one file; the rest would only scroll them away
MAX_WARNINGS = 1000  # the same for warnings, which tools may count
_FARTHEST = 2  # letters that a suggestion may differ in
_LONGEST_NAME = 64  # characters of a name that is looked for
_MOST_NAMES = 100  # that it is compared with
_MOST_GUESSES = 100  # of a file: each compares many names
_LONGEST_WARNING = 4096  # characters of a warning, which may quote the file


class MistakeError(PybuildError):
    """A mistake of the instruction at hand; whoever walks the instructions adds its place."""


class LoweringError(PybuildError):
    """Something outside of the Dockerfile failed on behalf of one instruction (a base image).

    `cause` is the original error, also chained, for decisions about exit status and retries.
    """

    def __init__(
        self, source: SourceFile, span: Span, cause: PybuildError, *, guess: str = ""
    ) -> None:
        """Give an error a place, and perhaps the name that was meant."""
        super().__init__(f"{source.name}:{span.start}: {cause.message}", hint=_hint(cause, guess))
        self.source = source
        self.span = span
        self.cause = cause

    def render(self) -> str:
        """Show the message, the excerpt of the instruction and the hint, as DockerfileError does."""
        head = f"{self.source.name}:{self.span.start}: {printable(self.cause.message)}"
        hint = [f"hint: {self.hint}"] if self.hint else []
        return "\n".join([head, self.source.excerpt(self.span), *hint])


class Budget:
    """Bounds all text that one lowering makes, so that doubling variables cannot fill memory."""

    def __init__(self, limit: int = MAX_PRODUCED) -> None:
        """Start with the whole allowance."""
        self._left = limit

    def spend(self, amount: int) -> None:
        """Take some of it.

        Raises:
            MistakeError: nothing is left.
        """
        self._left -= amount
        if self._left < 0:
            raise MistakeError(
                "the Dockerfile expands to too much text",
                hint="shorten values that are repeated by variables or in many steps",
            )


class LintError(PybuildError):
    """The file asks for warnings to be errors, and has some; the build has not begun (P15)."""

    def __init__(self, warnings: tuple[Diagnostic, ...]) -> None:
        """Name the rules."""
        rules = ", ".join(sorted({warning.rule for warning in warnings}))
        super().__init__(
            f"lint violation found for rules: {rules}",
            hint="correct them, or remove error=true from the check options",
        )


class RuleFilter(Protocol):
    """Says which lint rules are heard; stays the same for a file."""

    @property
    def strict(self) -> bool:
        """Whether warnings are errors."""

    def hears(self, rule: str, line: int) -> bool:
        """Whether a rule is on for the instruction at a line."""


class Problems:
    """Collects errors and warnings of one file; errors are raised together at the end."""

    def __init__(self, source: SourceFile, config: RuleFilter) -> None:
        """Start without any; `config` says which rules are heard (P15, P27)."""
        self._source = source
        self._errors: dict[Diagnostic, None] = {}
        self._warnings: list[Diagnostic] = []
        self._config = config
        self._guesses = _MOST_GUESSES

    def add(self, span: Span, error: PybuildError, *, guess: str = "") -> None:
        """Keep an error of an instruction, and perhaps the name that was meant."""
        self._errors[Diagnostic(error.message, span, _hint(error, guess))] = None

    def warn(self, rule: str, message: str, span: Span, *, asked_by: Span | None = None) -> None:
        """Keep a warning unless its rule is off for the instruction, which `asked_by` may name."""
        if self.hears(rule, asked_by or span):
            self._warnings.append(Diagnostic(message[:_LONGEST_WARNING], span, rule=rule))

    def hears(self, rule: str, span: Span) -> bool:
        """Whether a warning of this rule would be kept."""
        return len(self._warnings) < MAX_WARNINGS and self._config.hears(rule, span.start)

    def closest(self, name: str, known: Iterable[str]) -> str:
        """Guess the name that was meant, unless there were too many guesses already."""
        self._guesses -= 1
        return closest(name, known) if self._guesses >= 0 else ""

    @property
    def many(self) -> bool:
        """Whether going on would find no more that is worth showing."""
        return len(self._errors) >= MAX_PROBLEMS

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """The warnings by first line, those of one line in the order they were found."""
        return tuple(sorted(self._warnings, key=lambda d: d.span.start))

    def finish(self) -> None:
        """Stop if anything is wrong; with `error=true` warnings are.

        Raises:
            DockerfileError: with every error.
            LintError: there are warnings.
        """
        self.check()
        if self._config.strict and self._warnings:
            raise LintError(self.warnings)

    def check(self) -> None:
        """Stop if anything is wrong.

        Raises:
            DockerfileError: with every error so far, in file order.
        """
        if self._errors:
            raise DockerfileError(
                self._source, tuple(sorted(self._errors, key=lambda d: d.span))[:MAX_PROBLEMS]
            )


def _hint(error: PybuildError, guess: str) -> str | None:
    if not guess:
        return error.hint
    return f'did you mean "{guess}"?' + (f" or else: {error.hint}" if error.hint else "")


def closest(name: str, known: Iterable[str]) -> str:
    """Give the known word at most two letters away, "" for none; letters' case counts (P05)."""
    if len(name) > _LONGEST_NAME:
        return ""
    best, least = "", _FARTHEST + 1
    for word in itertools.islice(known, _MOST_NAMES):
        if word == name:
            return ""
        if abs(len(word) - len(name)) < least:
            distance = _distance(name, word)
            if distance < least:
                best, least = word, distance
    return best


def _ends(one: str, other: str) -> tuple[str, str]:
    """Take away what two words begin and end with alike."""
    shorter = min(len(one), len(other))
    start = next((i for i in range(shorter) if one[i] != other[i]), shorter)
    one, other, shorter = one[start:], other[start:], shorter - start
    end = next((i for i in range(shorter) if one[-1 - i] != other[-1 - i]), shorter)
    return one[: len(one) - end], other[: len(other) - end]


def _distance(one: str, other: str) -> int:
    """Count the letters to insert, remove or replace; what is too far apart is only that."""
    one, other = _ends(one, other)
    far = _FARTHEST + 1
    row = [min(j, far) for j in range(len(other) + 1)]
    for i, a in enumerate(one, 1):
        first, last = max(1, i - _FARTHEST), min(len(other), i + _FARTHEST)
        above, row[first - 1] = row[first - 1], i if first == 1 else far
        for j in range(first, last + 1):
            beside = row[j] if j - i < _FARTHEST else far
            above, row[j] = row[j], min(beside + 1, row[j - 1] + 1, above + (a != other[j - 1]))
        if min(row[first - 1 : last + 1]) >= far:
            return far
    return min(row[-1], far)


def nearest(name: str, known: tuple[str, ...]) -> str | None:
    """Name the known word that was probably meant, None when none is close (P05)."""
    from difflib import get_close_matches  # noqa: PLC0415 - only needed to word an error

    close = get_close_matches(name[:64].lower(), known[:200], n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else None
