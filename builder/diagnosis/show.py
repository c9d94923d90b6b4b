"""A diagnosis as text for a terminal of 80 columns, and as JSON that stays as it is."""

from __future__ import annotations

import itertools
import json
import textwrap
from typing import TYPE_CHECKING

from builder.sandbox.host import Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.diagnosis.finding import Diagnosis, Finding, Remedy

VERSION = 1  # of the JSON: a field that is taken away or changes its meaning makes it 2
MEANING = {
    Tier.USERNS: "namespaces with a full range of ids",
    Tier.SINGLE: "namespaces with one id, owners recorded",
    Tier.CHROOT: "root without mounts",
    Tier.EMULATE: "no privilege at all, system calls answered by pybuild",
}
_TITLES = {
    "sandbox": "Kinds of sandbox, best first",
    "ids": "Ids",
    "rights": "Rights without a namespace",
    "namespaces": "Namespaces",
    "engine": "What answers system calls where rights are missing",
    "limits": "Limits of steps",
    "network": "Networks of steps",
    "machines": "Other machines' programs",
    "programs": "Programs",
    "state": "State directory",
}
_WIDTH = 80
_COLUMN = 18  # of what was found, after the name
_INDENT = 7
_GREEN, _YELLOW, _BOLD, _PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[1m", "\x1b[0m"


def as_json(found: Diagnosis) -> str:
    """Everything, with names that scripts may rely on."""
    document = {
        "version": VERSION,
        "tier": found.tier,
        "state": found.place,
        "findings": [
            {
                "group": f.group,
                "name": f.name,
                "works": f.works,
                "detail": f.detail,
                "error": f.error,
                "hint": f.hint,
            }
            for f in found.findings
        ],
        "remedies": [
            {"tier": r.tier, "obstacle": r.obstacle, "where": r.where, "setting": r.setting}
            for r in found.remedies
        ],
        "notes": list(found.notes),
    }
    return json.dumps(document, indent=2) + "\n"


def as_text(found: Diagnosis, *, colour: bool = False) -> str:
    """What a person reads: findings by group, what would help, and the verdict last."""
    lines: list[str] = []
    hinted: set[str] = set()
    for group, title in _TITLES.items():
        rows = [finding for finding in found.findings if finding.group == group]
        if rows:
            lines += [_bold(title, colour), *_rows(rows, hinted, colour), ""]
    if found.remedies:
        lines += [_bold("Why not more, and what would change that", colour)]
        lines += [line for remedy in found.remedies for line in _remedy(remedy)]
    for note in found.notes:
        text, _, setting = note.partition("\n")
        lines += [*_wrapped("  ", text, "  "), *_indented(setting), ""]
    lines += [_bold(line, colour) for line in _wrapped("", _verdict(found.tier), "")]
    return "".join(f"{line}\n" for line in lines)


def _rows(rows: Iterable[Finding], hinted: set[str], colour: bool) -> list[str]:
    """One line for those that follow each other and say the same; no hint twice."""
    lines: list[str] = []
    for (works, detail, hint), same in itertools.groupby(
        rows, lambda finding: (finding.works, finding.detail, finding.hint)
    ):
        mark = ("yes" if works else "no").ljust(3)
        first, *rest = _row(f"  {mark}  ", ", ".join(finding.name for finding in same), detail)
        painted = f"{_GREEN if works else _YELLOW}{mark}{_PLAIN}" if colour else mark
        lines += [first.replace(mark, painted, 1), *rest]
        if hint and hint not in hinted:
            hinted.add(hint)
            lines += _wrapped(f"{'':{_INDENT}}-> ", hint, " " * (_INDENT + 3))
    return lines


def _row(start: str, names: str, detail: str) -> list[str]:
    """Names and what was found, in two columns where the names are short."""
    if not detail:
        return _wrapped(start, names, " " * _INDENT)
    if len(names) > _COLUMN:
        return _wrapped(start, f"{names}: {detail}", " " * _INDENT)
    return _wrapped(f"{start}{names:{_COLUMN}}  ", detail, " " * (_INDENT + _COLUMN + 2))


def _remedy(remedy: Remedy) -> list[str]:
    return [
        *_wrapped("  ", f"{remedy.tier}: {remedy.obstacle}", "    "),
        *_wrapped("    ", f"{remedy.where}:", "    "),
        *_indented(remedy.setting),
        "",
    ]


def _indented(text: str) -> list[str]:
    """Text to paste: never wrapped."""
    return [f"        {line}".rstrip() for line in text.rstrip("\n").split("\n")]


def _wrapped(first: str, text: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _bold(text: str, colour: bool) -> str:
    return f"{_BOLD}{text}{_PLAIN}" if colour else text


def _verdict(tier: str) -> str:
    if tier:
        return f"RUN works here: {MEANING[Tier(tier)]} ({tier})"
    return "RUN does not work here; Dockerfiles without RUN build anyway"


def wants_colour(environ: Mapping[str, str], is_terminal: bool) -> bool:
    """Colours are for terminals, and for those who did not forbid them."""
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"
