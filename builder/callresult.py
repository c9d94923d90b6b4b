"""What --call found, as text for people and as the documents that tools of docker read (O77).

Renders only; nothing here looks at a Dockerfile.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from builder.progress.text import harmless
from frontend.dockerfile.rules import rule
from frontend.source import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from frontend.dockerfile.check import Checked
    from frontend.dockerfile.outline import Need, Outline
    from frontend.dockerfile.targets import Target
    from frontend.source import Diagnostic, SourceFile, Span

VERSION = "1.0.0"  # of the form of all results
_RULE = "-" * 20
_WIDE, _NARROW = 3, 1  # blanks between the columns of a table
# Those that the reference lists; it knows `frontend.lint` without saying so.
_CALLS = (
    ("frontend.outline", "List all parameters current build target supports"),
    ("frontend.targets", "List all targets current build supports"),
    ("frontend.subrequests.describe", "List available subrequest types"),
)


def check_text(source: SourceFile, found: Checked) -> str:
    """Each warning with its rule, page, text and lines."""
    count = len(found.warnings)
    if not count:
        return "" if found.errors else "Check complete, no warnings found.\n"
    amount = "1 warning has" if count == 1 else f"{count} warnings have"
    parts = [f"Check complete, {amount} been found!\n"]
    for warning in found.warnings:
        described = rule(warning.rule)
        page = f" - {described.url}" if described.url else ""
        parts.append(f"\nWARNING: {described.name}{page}\n{harmless(warning.message)}\n")
        parts.append(_excerpt(source, warning.span))
    return "".join(parts)


def _excerpt(source: SourceFile, span: Span) -> str:
    return f"{source.name}:{span.start}\n{_RULE}\n{source.excerpt(span)}\n{_RULE}\n"


def check_complaint(source: SourceFile, found: Checked) -> str:
    """What a build would end with, on its own: errors with places, then those without."""
    placed = tuple(error for error in found.errors if error.span.start)
    lines = [DockerfileError(source, placed).render()] if placed else []
    for error in found.errors:
        if not error.span.start:
            lines.append(f"pybuild: error: {harmless(error.message)}")
            lines += [f"hint: {error.hint}"] if error.hint else []
    text = "".join(f"{line}\n" for line in lines)
    return f"\n{text}" if text and found.warnings else text


def check_json(source: SourceFile, found: Checked) -> str:
    """Warnings, the source, and the first error as `buildError`."""
    document: dict[str, object] = {
        "warnings": [_warning(warning) for warning in found.warnings],
        "sources": [
            {"filename": source.name, "data": _base64(source.text), "language": "Dockerfile"}
        ],
    }
    if found.errors:
        first = found.errors[0]
        document["buildError"] = {
            "message": _message(first, parse_error=found.parse_error),
            "location": _location(first.span) if first.span.start else {},
        }
    return _dumped(document)


def _message(error: Diagnostic, *, parse_error: bool) -> str:
    prefix = f"dockerfile parse error on line {error.span.start}: " if parse_error else ""
    guess = (error.hint or "").replace('"', "")
    return f"{prefix}{error.message}" + (f" ({guess})" if guess.startswith("did you mean") else "")


def _warning(warning: Diagnostic) -> dict[str, object]:
    described = rule(warning.rule)
    return {
        "ruleName": described.name,
        "description": described.description,
        **({"url": described.url} if described.url else {}),
        "detail": warning.message,
        "location": _location(warning.span),
    }


def _location(span: Span) -> dict[str, object]:
    return {"ranges": [{"start": {"line": span.start}, "end": {"line": span.end}}]}


def outline_text(found: Outline) -> str:
    """The name and description, then a table for each kind of thing a target takes."""
    parts = []
    if found.name:
        rows: list[tuple[str, ...]] = [("TARGET:", found.name)]
        rows += [("DESCRIPTION:", found.description)] if found.description else []
        parts.append(_table(rows, _NARROW))
    if found.arguments:
        rows = [("BUILD ARG", "VALUE", "DESCRIPTION")]
        rows += [(arg.name, arg.value, arg.description) for arg in found.arguments]
        parts.append(_table(rows, _WIDE))
    for title, needs in (("SECRET", found.secrets), ("SSH", found.ssh)):
        if needs:
            rows = [(title, "REQUIRED")]
            rows += [(need.name, "true" if need.required else "") for need in needs]
            parts.append(_table(rows, _WIDE))
    return "".join(f"{part}\n" for part in parts)


def outline_json(source: SourceFile, found: Outline) -> str:
    """The same as a document; what is empty is left out."""
    document: dict[str, object] = {"name": found.name, "description": found.description}
    document["args"] = [
        _kept({"name": arg.name, "description": arg.description, "value": arg.value})
        | {"location": _location(arg.span)}
        for arg in found.arguments
    ]
    document["secrets"] = _needs(found.secrets)
    document["ssh"] = _needs(found.ssh)
    document["sources"] = [_base64(source.text)]
    return _dumped(_kept(document))


def _needs(needs: Sequence[Need]) -> list[object]:
    return [
        {"name": need.name}
        | ({"required": True} if need.required else {})
        | {"location": _location(need.span)}
        for need in needs
    ]


def targets_text(targets: Sequence[Target]) -> str:
    """A table of the stages; the one built by default is marked."""
    rows = [("TARGET", "DESCRIPTION")]
    for target in targets:
        mark = "(default)" if target.default else ""
        rows.append((f"{target.name} {mark}".strip(), target.description))
    return _table(rows, _NARROW)


def targets_json(source: SourceFile, targets: Sequence[Target]) -> str:
    """The same as a document."""
    documents = [
        _kept(
            {
                "name": target.name,
                "default": target.default,
                "description": target.description,
                "base": target.base,
                "platform": target.platform,
                "location": _location(target.span),
            }
        )
        for target in targets
    ]
    return _dumped({"targets": documents, "sources": [_base64(source.text)]})


def described_text() -> str:
    """A table of the calls there are."""
    rows = [("NAME", "VERSION", "DESCRIPTION")]
    rows += [(name.removeprefix("frontend."), VERSION, about) for name, about in _CALLS]
    return _table(rows, _NARROW)


def described_json() -> str:
    """The same as a document."""
    return _dumped(
        [
            {
                "name": name,
                "version": VERSION,
                "type": "rpc",
                "description": about,
                "metadata": [{"name": "result.json"}, {"name": "result.txt"}],
            }
            for name, about in _CALLS
        ]
    )


def _table(rows: Sequence[tuple[str, ...]], gap: int) -> str:
    shown = [tuple(harmless(cell) for cell in row) for row in rows]
    widths = [max(len(row[column]) for row in shown) + gap for column in range(len(shown[0]) - 1)]
    lines = []
    for row in shown:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("".join((*cells, row[-1])))
    return "".join(f"{line}\n" for line in lines)


def _kept(document: dict[str, object]) -> dict[str, object]:
    return {key: item for key, item in document.items() if item}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def _dumped(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)
