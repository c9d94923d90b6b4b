"""Cutting a logical line: keyword, flags, arguments, heredoc words (P26, P30, P31, P51).

Knows characters only: no instruction, no place in a file.
"""

from __future__ import annotations

import re

from cache.value import value
from frontend.dockerfile.shell import ExpansionError, expand_words

_BLANKS = re.compile(r"[\t\v\f\r ]+")
# A shell word with its quotes; blanks behind `<<` belong to it (P51). None of the parts can match
# what another one does (possessive). A quote that is never closed is a match of its own.
# In early releases of 3.11 (Debian 12 has one), a possessive group whose last try got part of the
# way stays there; a last alternative that never matches brings it back.
_RAW_WORD = r"""(?:[^\s'"\\<]++|<<[\t\n\v\f\r ]*+|<|'[^']*+'|"(?:[^"\\]++|\\.|(?!))*+"|\\.|\\\Z|(?!))++|(?P<open>['"])"""
_HEREDOC = r"([0-9]*)<<(-?)\s*([^<]*)\Z"


@value
class Command:
    """A logical line cut in three."""

    keyword: str
    flags: tuple[str, ...]
    rest: str


@value
class HeredocWord:
    """`3<<-EOF`: what announces a heredoc."""

    name: str
    expand: bool
    chomp: bool
    descriptor: str


def split_blanks(text: str) -> tuple[str, ...]:
    """Split at blanks without any quoting (COPY, ADD, FROM, EXPOSE, VOLUME)."""
    return tuple(word for word in _BLANKS.split(text) if word)


def cut(line: str, escape: str) -> Command:
    """Cut a logical line into keyword, flags and the rest, both ends of the rest trimmed."""
    parts = _BLANKS.split(line.strip(), maxsplit=1)
    if len(parts) == 1:
        return Command(parts[0], (), "")
    flags, rest = cut_flags(parts[1], escape)
    return Command(parts[0], flags, rest.strip())


def cut_flags(text: str, escape: str) -> tuple[tuple[str, ...], str]:
    """Take leading words that start with `--`; a lone `--` ends them and disappears (P30)."""
    if not text.startswith("--"):
        text = text.lstrip()
        if not text.startswith("--"):
            return (), text
    flags: list[str] = []
    position = _skip_blanks(text, 0)
    while text.startswith("--", position):
        word, position = _flag_word(text, position, escape)
        if word == "--":
            return tuple(flags), text[position:]
        flags.append(word)
        position = _skip_blanks(text, position)
    return tuple(flags), text[position:]


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _flag_word(text: str, position: int, escape: str) -> tuple[str, int]:
    """Read one word, removing quotes and escapes; an escape works inside any quotes (P31)."""
    word: list[str] = []
    quote = ""
    while position < len(text):
        character = text[position]
        if not quote and character.isspace():
            break
        position += 1
        if character == escape:
            word.append(text[position : position + 1])
            position += 1
        elif character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        else:
            word.append(character)
    return "".join(word), min(position, len(text))


def heredoc_words(text: str) -> tuple[HeredocWord, ...]:
    """Find the words that announce heredocs, in order; none if a quote stays open (P52)."""
    matches = list(re.finditer(_RAW_WORD, text, re.DOTALL))
    if any(match["open"] for match in matches):
        return ()
    found = (parse_heredoc_word(match.group()) for match in matches)
    return tuple(word for word in found if word)


def parse_heredoc_word(word: str) -> HeredocWord | None:
    """Read `<<NAME`, `<<-'NAME'`, `3<<NAME`; None for anything else."""
    match = re.match(_HEREDOC, word, re.ASCII) if "<<" in word else None
    if not match or not match[3]:
        return None
    name = _unquoted(match[3])
    if name is None:
        return None
    return HeredocWord(
        name=name,
        expand=_quotes(name) == _quotes(match[3]),  # escapes alone do not stop expansion (P52)
        chomp=bool(match[2]),
        descriptor=match[1],
    )


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')


def _unquoted(text: str) -> str | None:
    """Remove quotes and escapes of one word; None if it is several, or a quote stays open.

    The name is never expanded, so its dollars are hidden meanwhile (P52).
    """
    try:
        plain = expand_words(text.replace("$", "\ue000"), {})
    except ExpansionError:
        return None
    return plain[0].replace("\ue000", "$") if len(plain) == 1 else None
