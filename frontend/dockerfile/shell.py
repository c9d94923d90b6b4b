"""Word expansion: `$name`, `${name…}`, quotes and escapes over an immutable environment.

Owns the small shell language of Dockerfile words (V01-V12, P55) and the splitting of words.
Must not know which instruction it works for, nor where the environment comes from.
"""

from __future__ import annotations

import re

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING
from frontend.dockerfile import glob

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_EXPANDED = 1024 * 1024  # characters of one expanded word (G01)
MAX_EXPANDED_HEREDOC = 16 * 1024 * 1024  # the same for a heredoc body: as large as a Dockerfile
MAX_DEPTH = 64  # `${a:-${b:-…}}` levels (G02); each costs a few Python frames

_SPECIAL_PARAMETERS = frozenset("@*#?-$!")
_NAME = r"[0-9]+|[^\W\d]\w*"  # patterns are compiled when they are first needed
_SPACES = r"\s+"
# Words of ENV, LABEL and ARG: quotes and escapes stay, blanks inside them do not split.
# Possessive, so that no input makes the pattern go back. `E` stands for the escape.
_WORD = r"""(?:[^\s'"E]++|'[^']*+'?|"(?:[^"E]++|E.)*+(?:"|E?\Z)|E.|E\Z)++"""
_PLAIN = r"""[^E'"$}/]+"""
_PLAIN_WITHOUT_QUOTES = r"[^E$}/]+"
_SEVERAL = frozenset("'\"$\\`")


class ExpansionError(PybuildError):
    """A word that cannot be expanded: bad substitution, unset `${v:?}`, over a limit."""


def expand(
    text: str,
    env: Mapping[str, str],
    *,
    escape: str = "\\",
    undefined: Callable[[str], None] | None = None,
) -> str:
    """Expand one word and remove its quotes; `undefined` hears of every unset name (V12)."""
    if _SEVERAL.isdisjoint(text):
        return text
    scanner = _Scanner(text, env, escape, undefined, quotes=True, limit=MAX_EXPANDED)
    return "".join(piece for piece, _ in scanner.until("", raw=False))


def expand_words(
    text: str,
    env: Mapping[str, str],
    *,
    escape: str = "\\",
    undefined: Callable[[str], None] | None = None,
) -> tuple[str, ...]:
    """Expand and split at blanks, also those that come out of variables (EXPOSE)."""
    scanner = _Scanner(text, env, escape, undefined, quotes=True, limit=MAX_EXPANDED)
    words: list[str] = []
    current: list[str] = []
    for piece, splits in scanner.until("", raw=False):
        if not splits:
            current.append(piece)
            continue
        first, *rest = re.split(_SPACES, piece)
        current.append(first)
        for part in rest:
            words.append("".join(current))
            current = [part]
    words.append("".join(current))
    return tuple(word for word in words if word)


def expand_heredoc(
    body: str, env: Mapping[str, str], *, undefined: Callable[[str], None] | None = None
) -> str:
    """Expand the body of an unquoted heredoc: quotes are text, the escape is a backslash (P55)."""
    scanner = _Scanner(body, env, "\\", undefined, quotes=False, limit=MAX_EXPANDED_HEREDOC)
    return "".join(piece for piece, _ in scanner.until("", raw=False))


def split_words(text: str, escape: str = "\\") -> tuple[str, ...]:
    """Split into shell-like words that keep quotes and escapes (ENV, LABEL, ARG)."""
    if _SEVERAL.isdisjoint(text):
        return tuple(text.split())
    return tuple(
        word
        for match in _compiled(_WORD, escape).finditer(text)
        if (word := _without_lone_escape(match.group(), escape, at_end=match.end() == len(text)))
    )


def _compiled(pattern: str, escape: str) -> re.Pattern[str]:
    return re.compile(pattern.replace("E", re.escape(escape)), re.DOTALL)  # which keeps them


def _without_lone_escape(word: str, escape: str, *, at_end: bool) -> str:
    # An escape with nothing behind it escapes nothing and is dropped.
    trailing = len(word) - len(word.rstrip(escape))
    return word[:-1] if at_end and trailing % 2 else word


class _Scanner:
    """One pass over one text; lives for one call."""

    def __init__(
        self,
        text: str,
        env: Mapping[str, str],
        escape: str,
        undefined: Callable[[str], None] | None,
        *,
        quotes: bool,
        limit: int,
    ) -> None:
        self._text = text
        self._env = env
        self._escape = escape
        self._undefined = undefined
        self._quotes = quotes
        self._budget = limit
        self._limit = limit
        self._position = 0
        self._depth = 0
        self._plain = _compiled(_PLAIN if quotes else _PLAIN_WITHOUT_QUOTES, escape)

    def until(self, stop: str, *, raw: bool) -> list[tuple[str, bool]]:
        """Return expanded pieces up to `stop`, each with whether its blanks split words.

        With `raw`, escapes stay in the result, for patterns to interpret.
        """
        pieces: list[tuple[str, bool]] = []
        text = self._text
        while self._position < len(text):
            plain = self._plain.match(text, self._position)
            if plain:
                self._position = plain.end()
                pieces.append((self._charge(plain.group()), True))
                continue
            character = text[self._position]
            if character == stop:
                self._position += 1
                return pieces
            if character == "$":
                pieces.append((self._dollar(), True))
            elif self._quotes and character in "'\"":
                pieces.append((self._quoted(character, raw=raw), False))
            elif character == self._escape:
                pieces.append((self._charge(self._escaped(raw=raw)), False))
            else:
                self._position += 1
                pieces.append((self._charge(character), True))
        if stop:
            missing = "'/' in ${}" if stop == "/" else f"'{stop}'"
            raise ExpansionError(f"syntax error: missing {missing}")
        return pieces

    def _joined(self, stop: str, *, raw: bool) -> str:
        return "".join(piece for piece, _ in self.until(stop, raw=raw))

    def _charge(self, piece: str) -> str:
        self._budget -= len(piece)
        if self._budget < 0:
            raise ExpansionError(f"expanded text is longer than {self._limit} characters")
        return piece

    def _escaped(self, *, raw: bool) -> str:
        pair = self._text[self._position : self._position + 2]
        self._position += 2
        return pair if raw else pair[1:]

    def _quoted(self, quote: str, *, raw: bool) -> str:
        if quote == "'":
            end = self._text.find("'", self._position + 1)
            if end < 0:
                raise ExpansionError(
                    "unexpected end of statement while looking for matching single-quote"
                )
            piece = self._text[self._position + 1 : end]
            self._position = end + 1
            return self._charge(piece)
        self._position += 1
        return self._double_quoted(raw=raw)

    def _double_quoted(self, *, raw: bool) -> str:
        pieces: list[str] = []
        text = self._text
        while self._position < len(text):
            plain = self._plain.match(text, self._position)
            if plain:
                self._position = plain.end()
                pieces.append(self._charge(plain.group()))
                continue
            character = text[self._position]
            if character == '"':
                self._position += 1
                return "".join(pieces)
            if character == "$":
                pieces.append(self._dollar())
                continue
            self._position += 1
            if character == self._escape and text[self._position : self._position + 1] in (
                '"',
                "$",
                self._escape,
            ):
                following = text[self._position]
                self._position += 1
                character = character + following if raw else following
            pieces.append(self._charge(character))
        raise ExpansionError("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        self._position += 1
        if self._text[self._position : self._position + 1] != "{":
            name = self._name()
            return self._charge(self._lookup(name) or "") if name else self._charge("$")
        if self._depth >= MAX_DEPTH:
            raise ExpansionError(f"substitutions are nested more than {MAX_DEPTH} levels deep")
        self._depth += 1
        self._position += 1
        result = self._braces()
        self._depth -= 1
        return self._charge(result)

    def _name(self) -> str:
        """Read a name, a position or a special parameter; "" when there is none."""
        text, start = self._text, self._position
        match = re.compile(_NAME).match(text, start)
        if match:
            self._position = match.end()
            return match.group()
        if text[start : start + 1] in _SPECIAL_PARAMETERS:
            self._position += 1
            return text[start]
        return ""

    def _lookup(self, name: str) -> str | None:
        value = self._env.get(name)
        if value is None and self._undefined and name:
            self._undefined(name)
        return value

    def _next(self) -> str:
        character = self._text[self._position : self._position + 1]
        self._position += 1
        return character

    def _braces(self) -> str:
        first = self._text[self._position : self._position + 1]
        if not first:
            raise ExpansionError("syntax error: missing '}'")
        if first in "{}:":
            raise ExpansionError("syntax error: bad substitution")
        name = self._name()
        modifier = self._next()
        match modifier:
            case "}":
                return self._lookup(name) or ""
            case "":
                raise ExpansionError("syntax error: missing '}'")
            case "/":
                return self._replaced(name)
            case "#" | "%":
                return self._trimmed(name, modifier)
            case ":":
                modifier += self._next()
            case _:
                pass
        if modifier[-1] not in "-+?":
            raise ExpansionError(f"unsupported modifier ({modifier}) in substitution")
        return self._conditional(name, modifier)

    def _conditional(self, name: str, modifier: str) -> str:
        word = self._joined("}", raw=False)
        value = self._lookup(name)
        present = bool(value) if modifier[0] == ":" else value is not None
        match modifier[-1]:
            case "-":
                return value or "" if present else word
            case "+":
                return word if present else ""
            case _:
                if present:
                    return value or ""
        reason = "unset" if value is None else "empty"
        raise ExpansionError(f"{name}: {word or f'is not allowed to be {reason}'}")

    def _trimmed(self, name: str, modifier: str) -> str:
        pattern = self._joined("}", raw=True)
        longest = pattern.startswith(modifier)
        value = self._lookup(name) or ""
        tokens = self._pattern(pattern[1:] if longest else pattern, value)
        if modifier == "#":
            return value[glob.prefix_end(tokens, value, longest=longest) :]
        backwards = value[::-1]
        end = glob.prefix_end(tuple(reversed(tokens)), backwards, longest=longest)
        return value[: len(value) - end]

    def _replaced(self, name: str) -> str:
        every = self._text[self._position : self._position + 1] == "/"
        self._position += every
        pattern = self._joined("/", raw=True)
        replacement = self._joined("}", raw=True)
        value = self._lookup(name) or ""
        tokens = self._pattern(pattern, value)
        pieces: list[str] = []
        done = 0
        for start, end in glob.matches(tokens, value, every=every):
            pieces.append(value[done:start])
            pieces.append(self._charge(replacement))
            done = end
        return "".join((*pieces, value[done:]))

    def _pattern(self, pattern: str, value: str) -> tuple[str, ...]:
        try:
            tokens = glob.parse_glob(pattern, "\\")  # whatever the file escapes with
        except ValueError as error:
            shown = pattern[:64]
            raise ExpansionError(f"invalid pattern ({shown}) in substitution: {error}") from error
        if not glob.is_affordable(tokens, value):
            raise ExpansionError("pattern and value of a substitution are too long to be matched")
        return tokens
