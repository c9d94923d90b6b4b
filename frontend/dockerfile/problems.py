"""What goes wrong while lowering: one mistake, all mistakes of a file, a base that fails.

Knows places and messages only; no instruction, no graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.errors import PybuildError
from frontend.source import Diagnostic, DockerfileError, printable

if TYPE_CHECKING:
    from frontend.source import SourceFile, Span

MAX_PRODUCED = 32 * 1024 * 1024  # characters of all texts one Dockerfile may expand to (G01)
MAX_PROBLEMS = 100  # errors reported of one file; the rest would only scroll them away


class MistakeError(PybuildError):
    """A mistake of the instruction at hand; whoever walks the instructions adds its place."""


class LoweringError(PybuildError):
    """Something outside of the Dockerfile failed on behalf of one instruction (a base image).

    `cause` is the original error, also chained, for decisions about exit status and retries.
    """

    def __init__(self, source: SourceFile, span: Span, cause: PybuildError) -> None:
        """Give an error a place."""
        super().__init__(f"{source.name}:{span.start}: {cause.message}", hint=cause.hint)
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


class Problems:
    """Collects errors and warnings of one file; errors are raised together at the end."""

    def __init__(self, source: SourceFile, check: str = "") -> None:
        """Start without any; `check` is the directive that chooses rules (P15)."""
        self._source = source
        self._errors: dict[Diagnostic, None] = {}
        self._warnings: dict[Diagnostic, None] = {}
        options = dict(_option(part) for part in check.split(";"))
        self._skipped = frozenset(rule.strip() for rule in options.get("skip", "").split(","))
        self._strict = options.get("error", "") == "true"

    def add(self, span: Span, error: PybuildError) -> None:
        """Keep an error of an instruction."""
        self._errors[Diagnostic(error.message, span, error.hint)] = None

    def warn(self, rule: str, message: str, span: Span) -> None:
        """Keep a warning unless its rule is skipped; the same one twice counts once (T14)."""
        if not self._skipped & {"all", rule.lower()}:
            self._warnings[Diagnostic(message, span, rule=rule)] = None

    @property
    def many(self) -> bool:
        """Whether going on would find no more that is worth showing."""
        return len(self._errors) >= MAX_PROBLEMS

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """The warnings in file order."""
        return tuple(sorted(self._warnings, key=lambda d: d.span))

    def finish(self) -> None:
        """Stop if anything is wrong; with `error=true` warnings are errors.

        Raises:
            DockerfileError: with every error, or else every warning.
        """
        self.check()
        if self._strict:
            for warning in self.warnings:
                found = MistakeError(
                    f"{warning.rule}: {warning.message}", hint="the file asks for check=error=true"
                )
                self.add(warning.span, found)
            self.check()

    def check(self) -> None:
        """Stop if anything is wrong.

        Raises:
            DockerfileError: with every error so far, in file order.
        """
        if self._errors:
            raise DockerfileError(
                self._source, tuple(sorted(self._errors, key=lambda d: d.span))[:MAX_PROBLEMS]
            )


def _option(part: str) -> tuple[str, str]:
    key, _, value = part.partition("=")
    return key.strip().lower(), value.strip().lower()


def nearest(name: str, known: tuple[str, ...]) -> str | None:
    """Name the known word that was probably meant, None when none is close (P05)."""
    from difflib import get_close_matches  # noqa: PLC0415 - only needed to word an error

    close = get_close_matches(name[:64].lower(), known[:200], n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else None
