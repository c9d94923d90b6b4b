"""The WWW-Authenticate header (RFC 9110, 11.6.1), read strictly.

Owns the grammar only; what to do about a challenge is decided elsewhere.
"""

from __future__ import annotations

import re

from builder.errors import RegistryError
from cache.hints import TYPE_CHECKING
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MAX_HEADER = 16 * 1024  # bytes of all challenges together
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's name for this rule
_BLANK = re.compile(r"[ \t,]*")
_SCHEME = re.compile(rf"({_TOKEN})(?=[ \t,]|\Z)")
_PARAMETER = re.compile(
    rf'[ \t]*({_TOKEN})[ \t]*=[ \t]*(?:({_TOKEN})|"((?:[^"\\\x00-\x1f\x7f-\U0010ffff]'
    rf'|\\[\x20-\x7e])*)")[ \t]*(?=,|\Z)'
)
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|\Z)")


@value
class Challenge:
    """One challenge: scheme and parameter names in lower case."""

    scheme: str
    parameters: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        """Give a parameter, empty when it is not there."""
        return self.parameters.get(name, "")


def parse(values: Iterable[str]) -> tuple[Challenge, ...]:
    """Read the challenges of all header lines.

    Raises:
        RegistryError: over the limit, junk, unbalanced quotes or a repeated parameter.
    """
    text = ", ".join(values)
    if len(text) > _MAX_HEADER:
        msg = f"authentication challenge of {len(text)} bytes is over the limit of {_MAX_HEADER}"
        raise RegistryError(msg)
    found: list[Challenge] = []
    position = _skip(text, 0)
    while position < len(text):
        scheme = _SCHEME.match(text, position)
        if scheme is None:
            msg = f"malformed authentication challenge at character {position}"
            raise RegistryError(msg)
        parameters, position = _parameters(text, scheme.end())
        found.append(Challenge(scheme[1].lower(), parameters))
    return tuple(found)


def _skip(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _parameters(text: str, position: int) -> tuple[dict[str, str], int]:
    found: dict[str, str] = {}
    blob = _TOKEN68.match(text, position)
    if blob is not None and _PARAMETER.match(text, position) is None:
        after = blob[0].strip()
        # "Basic, Bearer x=y": a lone token here would be the next scheme, not a token68.
        if _SCHEME.match(after) is None or position != _skip(text, position):
            return found, _skip(text, blob.end())
    position = _skip(text, position)
    while (match := _PARAMETER.match(text, position)) is not None:
        name = match[1].lower()
        if name in found:
            msg = f"authentication challenge repeats {name[:40]!r}"
            raise RegistryError(msg)
        quoted = match[3]
        found[name] = match[2] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position = _skip(text, match.end())
    return found, position


def choose(challenges: Iterable[Challenge]) -> Challenge | None:
    """Prefer Bearer with a realm, then Basic; other schemes are not ours."""
    ranked = {challenge.scheme: challenge for challenge in reversed(tuple(challenges))}
    bearer = ranked.get("bearer")
    if bearer is not None and bearer["realm"]:
        return bearer
    return ranked.get("basic")
