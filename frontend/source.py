"""Dockerfile text with places in it: files, spans, diagnostics and their excerpts."""

from __future__ import annotations

from cache.errors import PybuildError
from cache.value import value

MAX_SOURCE = 16 * 1024 * 1024  # bytes of one Dockerfile
_CONTEXT_LINES = 2
_MAX_LINES = 60  # lines of one excerpt
_MAX_SHOWN = 400  # characters of one excerpt line


@value
class Span:
    """A range of lines, 1-based and inclusive."""

    start: int
    end: int

    def __lt__(self, other: Span) -> bool:
        """Order by first, then by last line."""
        return (self.start, self.end) < (other.start, other.end)


@value
class SourceFile:
    """A Dockerfile: the name to show and its text, line endings kept."""

    name: str
    text: str

    def excerpt(self, span: Span) -> str:
        """Number the lines around a span and mark the guilty ones with `>>>`."""
        lines = self.text.split("\n")
        first = max(1, span.start - _CONTEXT_LINES)
        last = min(len(lines), span.end + _CONTEXT_LINES)
        if last == len(lines) and not lines[-1] and last > span.end:
            last -= 1
        shown = list(range(first, last + 1))
        if len(shown) > _MAX_LINES:
            shown = shown[:_MAX_LINES]
        rows = []
        for number in shown:
            mark = ">>>" if span.start <= number <= span.end else "   "
            rows.append(f"{number:4d} | {mark} {_cut(lines[number - 1])}".rstrip())
        if last > shown[-1]:
            rows.append(f"     | ... {last - shown[-1]} more lines")
        return "\n".join(rows)


def _cut(line: str) -> str:
    """Show a line's beginning when it is too long to read anyway."""
    if len(line) <= _MAX_SHOWN:
        return printable(redacted(line))
    return f"{printable(redacted(line)[:_MAX_SHOWN])}... ({len(line)} characters)"


def redacted(text: str) -> str:
    """Take user names, passwords and tokens out of web addresses in a text (S-I09)."""
    if "@" not in text or "://" not in text:
        return text
    import re  # noqa: PLC0415 - start-up time, and few texts come here

    return re.sub(r"(https?://)[^/?#\s]*@", r"\1", text, flags=re.IGNORECASE)


def printable(text: str) -> str:
    """Make control characters of untrusted text visible, so that no terminal obeys them."""
    return "".join(
        c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text.rstrip("\r")
    )


@value
class Diagnostic:
    """One problem at one place. `rule` names a lint rule; empty for errors."""

    message: str
    span: Span
    hint: str | None = None
    rule: str = ""


class DockerfileError(PybuildError):
    """Every problem that made a Dockerfile unusable, each with its place (P05)."""

    def __init__(self, source: SourceFile, diagnostics: tuple[Diagnostic, ...]) -> None:
        """Take at least one diagnostic."""
        first = diagnostics[0]
        super().__init__(f"{source.name}:{first.span.start}: {first.message}", hint=first.hint)
        self.source = source
        self.diagnostics = diagnostics

    def render(self) -> str:
        """Show each problem as `Dockerfile:12: message`, its excerpt and its hint."""
        blocks = []
        for diagnostic in self.diagnostics:
            head = f"{self.source.name}:{diagnostic.span.start}: {printable(diagnostic.message)}"
            hint = [f"hint: {diagnostic.hint}"] if diagnostic.hint else []
            blocks.append("\n".join([head, self.source.excerpt(diagnostic.span), *hint]))
        return "\n\n".join(blocks)
