"""What a step is called in reports: its position and its text with variables expanded (O15)."""

from __future__ import annotations

import re
from contextlib import suppress

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING
from frontend.dockerfile import shell
from frontend.source import redacted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_LONGEST = 4096  # characters of a step's display name
_ONBUILD = "ONBUILD "
_QUOTED = '"$'  # with the escape itself what an escape can stand before in double quotes


def step_text(
    text: str, scope: Mapping[str, str], escape: str, masked: Collection[str] = ()
) -> str:
    """Show an instruction: expanded, the keyword in capitals; RUN keeps its quotes."""
    text = text[:_LONGEST]
    prefix = _ONBUILD if text.startswith(_ONBUILD) else ""
    text = text.removeprefix(prefix)
    if text[:3].upper() != "RUN":
        with suppress(PybuildError):  # shown as written: building it says what is wrong
            text = shell.expand(text, scope, escape=escape)
        text = redacted(text)
    elif "$" in text or escape in text:
        text = _run_text(text, scope, escape, masked)
    keyword, blank, rest = text.partition(" ")
    return f"{prefix}{keyword.upper()}{blank}{rest}"[:_LONGEST]


def _run_text(text: str, scope: Mapping[str, str], escape: str, masked: Collection[str]) -> str:
    """Expand plain variables and take escapes away; as written if a quote stays open."""
    esc = re.escape(escape)
    inner = rf"{esc}.?|\$(?:\{{(?P<braced>\w+)\}}|(?P<name>\w+))"
    parts = re.compile(
        rf"'[^']*'|(?P<dq>\"(?:[^\"{esc}]|{esc}.)*\")|(?P<open>['\"])|{inner}", re.DOTALL
    )
    within = re.compile(inner, re.DOTALL)
    open_quote = False

    def variable(match: re.Match[str]) -> str:
        name = match["braced"] or match["name"]
        return "****" if name in masked else scope.get(name, match[0])

    def quoted(match: re.Match[str]) -> str:
        if match[0][0] != escape:
            return variable(match)
        return match[0][1:] if match[0][1:] in (*_QUOTED, escape) else match[0]

    def shown(match: re.Match[str]) -> str:
        nonlocal open_quote
        if match["dq"]:
            return within.sub(quoted, match[0])
        if match["open"]:
            open_quote = True
        elif match[0][0] == escape:
            return match[0][1:]
        elif match[0][0] == "$":
            return variable(match)
        return match[0]

    result = parts.sub(shown, text)
    return text if open_quote else result
