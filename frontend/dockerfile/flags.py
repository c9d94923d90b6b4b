"""Flags of instructions: which exist, what they hold, what is wrong with them (P32-P34)."""

from __future__ import annotations

from cache.hints import TYPE_CHECKING
from cache.value import value
from frontend.dockerfile.problems import MistakeError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping


@value
class FlagSet:
    """The flags one instruction takes."""

    texts: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()


@value
class Flags:
    """The flags one instruction was given."""

    values: Mapping[str, tuple[str, ...]]

    def text(self, name: str) -> str:
        """The text of a flag, "" when not given."""
        return self.values.get(name, ("",))[0]

    def every(self, name: str) -> tuple[str, ...]:
        """All texts of a list flag."""
        return self.values.get(name, ())

    def switch(self, name: str) -> bool | None:
        """Whether a switch is on; None when not given."""
        values = self.values.get(name)
        return values[0] == "true" if values else None


_NONE = Flags({})


def parse_flags(written: tuple[str, ...], known: FlagSet) -> Flags:
    """Sort flags by name.

    Raises:
        MistakeError: unknown, repeated, or without the value it needs.
    """
    if not written:
        return _NONE
    values: dict[str, list[str]] = {}
    for flag in written:
        name, equals, text = flag[2:].partition("=")
        every = (*known.texts, *known.switches, *known.lists)
        if name not in every:
            raise MistakeError(
                f"unknown flag: --{name[:64]}",
                hint=nearest(name, every) or "this instruction takes no such flag",
            )
        if name in values and name not in known.lists:
            raise MistakeError(f"duplicate flag specified: --{name}")
        values.setdefault(name, []).append(_text(name, text, bool(equals), known))
    return Flags({name: tuple(given) for name, given in values.items()})


def _text(name: str, text: str, given: bool, known: FlagSet) -> str:
    if name not in known.switches:
        if not given:
            raise MistakeError(
                f"missing a value on flag: --{name}", hint=f"write --{name}=value, without a blank"
            )
        return text
    if not given:
        return "true"
    if not text:
        raise MistakeError(f"missing a value on flag: --{name}")
    if text.lower() not in ("true", "false"):
        raise MistakeError(f"expecting boolean value for flag: --{name}, not: {text[:64]}")
    return text.lower()
