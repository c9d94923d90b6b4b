"""The grammar of a command line: long and short flags, switches, values, positional words.

What docker's command line accepts (pflag): `--name value`, `--name=value`, `-n value`, `-nvalue`,
`-n=value`, bundled switches, `--push=false`, flags after positional words, and `--`, after which
nothing is a flag. Knows no flag by name and gives no value a meaning.
"""

from __future__ import annotations

from builder.errors import UsageError
from cache.hints import TYPE_CHECKING
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_SHORTEST = 3  # characters, hyphens included: what is shorter resembles everything
_SEE_HELP = "see `pybuild --help`"


@value
class Grammar:
    """The flags of a command: `valued` need a value, `switches` are true or false."""

    valued: frozenset[str]
    switches: frozenset[str]
    shorts: Mapping[str, str]


class Words:
    """A parsed command line: what each flag was given, in order, and the positional words."""

    def __init__(self) -> None:
        """Start empty."""
        self.positional: list[str] = []
        self.order: list[str] = []
        self._given: dict[str, list[str]] = {}

    def add(self, name: str, text: str) -> None:
        """Note one more value of a flag."""
        self.order.append(name)
        self._given.setdefault(name, []).append(text)

    def every(self, name: str) -> list[str]:
        """All values of a flag that may be repeated."""
        return self._given.get(name, [])

    def last(self, name: str, default: str = "") -> str:
        """The value of a flag that counts once: the last one given."""
        return self._given.get(name, (default,))[-1]

    def switch(self, name: str) -> bool:
        """Whether a switch is on: the last one given decides."""
        return self.last(name, "false") in TRUE


def parse(argv: Sequence[str], grammar: Grammar) -> Words:
    """Read words.

    Raises:
        UsageError: an unknown flag, a flag without its value, or a switch that is no boolean.
    """
    words = Words()
    rest = iter(argv)
    for word in rest:
        if word == "--":
            words.positional += rest
        elif word.startswith("--"):
            _long(word, rest, grammar, words)
        elif word.startswith("-") and word != "-":
            _short(word, rest, grammar, words)
        else:
            words.positional.append(word)
    return words


def _long(word: str, rest: Iterable[str], grammar: Grammar, words: Words) -> None:
    name, equals, text = word[2:].partition("=")
    if name in grammar.switches:
        words.add(name, _boolean(f"--{name}", text) if equals else "true")
    elif name in grammar.valued:
        words.add(name, text if equals else _following(f"--{name}", rest))
    else:
        raise _unknown(f"--{name}", grammar, f"--{name}")


def _short(word: str, rest: Iterable[str], grammar: Grammar, words: Words) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        name = grammar.shorts.get(letter)
        if name is None:
            raise _unknown(f"-{letter}", grammar, word)
        # `-t=` alone means the value "=", as pflag has it.
        text = letters[1:] if len(letters) > 1 and letters[0] == "=" else letters
        if name in grammar.valued:
            words.add(name, text or _following(f"-{letter}", rest))
            return
        if text != letters:
            words.add(name, _boolean(f"-{letter}", text))
            return
        words.add(name, "true")


def _following(flag: str, rest: Iterable[str]) -> str:
    for word in rest:
        return word
    msg = f"{flag} needs a value"
    raise UsageError(msg, hint=_SEE_HELP)


def _boolean(flag: str, text: str) -> str:
    if text not in TRUE | FALSE:
        msg = f"{flag}={text[:40]}: neither true nor false"
        raise UsageError(msg, hint=f"write {flag} or {flag}=false")
    return text


def _unknown(flag: str, grammar: Grammar, word: str) -> UsageError:
    from difflib import get_close_matches  # noqa: PLC0415 - for the error path only

    known = sorted(f"--{name}" for name in grammar.valued | grammar.switches)
    meant = f"--{word[:60].lstrip('-')}"
    close = get_close_matches(meant, known, n=1) if len(meant) > _SHORTEST else []
    hint = f"did you mean {close[0]}?" if close else _SEE_HELP
    inside = f" in {word[:40]}" if word != flag else ""
    return UsageError(f"unknown flag {flag[:60]}{inside}", hint=hint)
